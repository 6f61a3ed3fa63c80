// The fourth migration: how long a job is kept is decided when jobs are purged, not when they end.

// has_key: 1 when a repeat must find the job by a key. The index has small numbers for the classes
// of src/job/retention.ts: every job that ends is written to it.
export const FOURTH_SCHEMA = `
drop index jobs_purgeable;
alter table jobs drop column purge_at;
alter table jobs rename column kept_until to has_key;
update jobs set has_key = 1
where has_key is not null or idempotency_key is not null or origin_key is not null;
-- sweep: final jobs past their retention
create index jobs_purgeable on jobs ((state = 'dead'), has_key, finished_at)
  where finished_at is not null and aftermath = 0;
`
