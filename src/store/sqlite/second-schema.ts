// The second migration: what endpoints and jobs learnt after the first release of the schema. Both
// tables are written anew, so that columns of few bytes stand before those that may fill pages.
import { DEFAULT_CIRCUIT_BREAKER, DEFAULT_COMPLETION_TIMEOUT_MS } from '../../endpoint/endpoint.ts'
import { RECORD_TABLES } from './record-tables.ts'

// held: out of the claim's index. recheck: the next sweep is to look at it. due_at: its run_at, or
// when it came back into the claim's index after that. turn: its ordering key, while it is the one
// of it that may be claimed. awaiting: its lease is judged by lease_wall alone, and lease_boot and
// lease_mono are null, so that no look for lapsed leases of senders meets it. pulled_ms: the length
// of its lease, if it was pulled. kept_until: its idempotency keys are kept at least until then.
const JOBS = `
create table jobs_2 (
  seq integer primary key,
  id text not null unique,
  endpoint text not null,
  state text not null default 'queued',
  held integer not null default 0,
  recheck integer not null default 0,
  priority integer not null,
  run_at integer not null,
  due_at integer not null,
  first_run_at integer not null,
  created_at integer not null,
  started_at integer,
  finished_at integer,
  expires_at integer,
  kept_until integer,
  purge_at integer,
  attempt_count integer not null default 0,
  attempts_left integer not null,
  max_attempts integer not null,
  free_attempts integer not null default 0,
  fence integer not null default 0,
  version integer not null default 1,
  finishes integer not null default 0,
  aftermath integer not null default 0,
  has_dependents integer not null default 0,
  superseded integer not null default 0,
  lease_id text,
  worker_id text,
  claimed_at integer,
  lease_boot integer,
  lease_mono integer,
  lease_ms integer,
  lease_wall integer,
  awaiting integer not null default 0,
  pulled_ms integer,
  timeout_ms integer,
  payload_bytes integer not null,
  idempotency_key text,
  request_hash text,
  dedupe_key text,
  ordering_key text,
  turn text,
  origin_key text,
  schedule_name text,
  notice_endpoint text,
  notice_states text,
  retry text,
  headers text,
  tags text,
  metadata text,
  depends_on text,
  waiting_for text,
  trace text,
  progress text,
  failure_reason text,
  failure_message text,
  result_truncated integer not null default 0,
  result text,
  attempts text
) strict;

insert into jobs_2 (seq, id, endpoint, state, priority, run_at, due_at, first_run_at, created_at,
  started_at, finished_at, expires_at, purge_at, attempt_count, attempts_left, max_attempts,
  free_attempts, fence, version, lease_id, worker_id, claimed_at, lease_boot, lease_mono, lease_ms,
  lease_wall, timeout_ms, payload_bytes, idempotency_key, request_hash, retry, headers, tags,
  metadata, failure_reason, failure_message, result_truncated, result, attempts)
select seq, id, endpoint, state, priority, run_at, run_at, first_run_at, created_at,
  started_at, finished_at, expires_at, purge_at, attempt_count, attempts_left, max_attempts,
  free_attempts, fence, version, lease_id, worker_id, claimed_at, lease_boot, lease_mono, lease_ms,
  lease_wall, timeout_ms, payload_bytes, idempotency_key, request_hash, retry, headers, tags,
  metadata, failure_reason, failure_message, result_truncated, result, attempts from jobs;

drop table jobs;
alter table jobs_2 rename to jobs;
`

// Of the new ones those of plain jobs are none: each is partial over what few jobs have.
const JOB_INDEXES = `
-- claim, countJobs: of one endpoint, a priority at a time, in order of run_at
create index jobs_claimable on jobs (endpoint, priority, run_at)
  where state = 'queued' and held = 0;
-- due: what became due since the last look, and when the next is due
create index jobs_due on jobs (due_at, endpoint)
  where state = 'queued' and held = 0;
-- countJobs, burial and the sweeper's way round the held ones
create index jobs_held on jobs (endpoint) where held = 1;
-- sweep: held jobs that are known to have no future
create index jobs_recheck on jobs (recheck) where recheck = 1;
-- sweep: lapsed leases
create index jobs_leased on jobs (lease_boot, lease_mono) where state = 'running';
-- overdue: those that wait for the report of their handler
create index jobs_awaiting on jobs (lease_wall) where awaiting = 1;
-- sweep: queued jobs past expires_at
create index jobs_expiring on jobs (expires_at)
  where state = 'queued' and expires_at is not null;
-- sweep: final jobs past their retention
create index jobs_purgeable on jobs (purge_at) where purge_at is not null and aftermath = 0;
-- every write that ends jobs, and sweep: what their ends lead to
create index jobs_aftermath on jobs (aftermath) where aftermath = 1;
-- listJobs of one endpoint, newest first
create index jobs_of_endpoint on jobs (endpoint, id);
-- listJobs of the states that are few, newest first; countJobs and evict of the running. Two
-- indexes, for one over three states makes every write of a job build a set of them to look into.
create index jobs_running on jobs (endpoint, id) where state = 'running';
create index jobs_unsuccessful on jobs (endpoint, state, id)
  where state = 'dead' or state = 'cancelled';
-- listJobs of one dedupe key
create index jobs_of_dedupe_key on jobs (dedupe_key, id) where dedupe_key is not null;
-- enqueue: one job for one key, or one origin, of an endpoint
create unique index jobs_idempotency on jobs (endpoint, idempotency_key)
  where idempotency_key is not null;
create unique index jobs_origin on jobs (endpoint, origin_key) where origin_key is not null;
create unique index jobs_dedupe on jobs (endpoint, dedupe_key)
  where dedupe_key is not null and superseded = 0 and (state = 'queued' or state = 'running');
-- promote: the earliest of an ordering key, and who has its turn
create index jobs_ordered on jobs (endpoint, ordering_key, seq)
  where ordering_key is not null and (state = 'queued' or state = 'running');
create unique index jobs_turn on jobs (endpoint, turn) where turn is not null;

-- idempotency keys of later requests that were answered with a job they found by its dedupe key
create table added_keys (
  endpoint text not null,
  key text not null,
  request_hash text not null,
  seq integer not null,
  primary key (endpoint, key)
) strict, without rowid;
create index added_keys_of on added_keys (seq);

-- who waits for whom; a row goes once the end of the awaited job was told. Ids, for a seq may be
-- used again.
create table dependencies (
  dependency text not null,
  dependent text not null,
  primary key (dependency, dependent)
) strict, without rowid;

create trigger jobs_deleted after delete on jobs begin
  delete from payloads where seq = old.seq;
  delete from added_keys where seq = old.seq;
  delete from dependencies where dependency = old.id;
end;
`

// rest_by_breaker: whoever takes the breaker away ends the rest. bucket_full_at: when the bucket of
// the rate limit will be full again; it says how many tokens are in it now.
const ENDPOINTS = `
create table endpoints_2 (
  name text primary key,
  deleting integer not null default 0,
  paused integer not null default 0,
  disabled_reason text,
  resting_until integer,
  rest_by_breaker integer not null default 0,
  throttle_streak integer not null default 0,
  failure_count integer not null default 0,
  probe_id text,
  probe_fence integer,
  bucket_full_at real,
  concurrency integer,
  rate_count integer,
  rate_per_ms integer,
  breaker_failures integer,
  breaker_cooldown_ms integer,
  max_attempts integer not null,
  timeout_ms integer not null,
  completion text not null default 'sync',
  completion_timeout_ms integer not null,
  created_at integer not null,
  updated_at integer not null,
  version integer not null,
  on_finish text,
  url text,
  description text not null,
  headers text,
  retry text not null,
  secrets text not null
) strict, without rowid;

insert into endpoints_2 (name, deleting, breaker_failures, breaker_cooldown_ms, max_attempts,
  timeout_ms, completion_timeout_ms, created_at, updated_at, version, url, description, headers,
  retry, secrets)
select name, deleting, ${DEFAULT_CIRCUIT_BREAKER.failures}, ${DEFAULT_CIRCUIT_BREAKER.cooldownMs},
  max_attempts, timeout_ms, ${DEFAULT_COMPLETION_TIMEOUT_MS}, created_at, updated_at, version, url,
  description, headers, retry, secrets from endpoints;

drop table endpoints;
alter table endpoints_2 rename to endpoints;
create index endpoints_deleting on endpoints (name) where deleting = 1;
`

export const SECOND_SCHEMA = JOBS + JOB_INDEXES + ENDPOINTS + RECORD_TABLES
