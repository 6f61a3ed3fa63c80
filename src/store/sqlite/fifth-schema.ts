// The fifth migration: since when a job is due that waited for others.

// promoted_at: when it was last let go; with run_at it tells since when the job is due. It stands
// in the index of claims so that the oldest due job is found there.
export const FIFTH_SCHEMA = `
alter table jobs add column promoted_at integer;
drop index jobs_claimable;
-- claim, countJobs, statsOf: of one endpoint, a priority at a time, in order of run_at
create index jobs_claimable on jobs (endpoint, priority, run_at, promoted_at)
  where state = 'queued' and held = 0;
`
