// The tables of schedules, keys, workers and figures, made by the second migration: a text that
// files have seen and that must never change.

export const RECORD_TABLES = `
create table schedules (
  name text primary key not null,
  endpoint text not null,
  paused integer not null,
  -- sealed
  settings text not null,
  next_run_at integer,
  last_job_id text,
  last_error text,
  created_at integer not null,
  updated_at integer not null,
  version integer not null,
  payload blob not null
) strict;

-- dueSchedules
create index schedules_due on schedules (next_run_at)
  where paused = 0 and next_run_at is not null;
-- deleteEndpoint: does a schedule name it
create index schedules_of_endpoint on schedules (endpoint, name);

create table api_keys (
  id text primary key,
  name text not null,
  scope text not null,
  hash text not null unique,
  created_at integer not null
) strict, without rowid;

-- listKeys: oldest first
create index api_keys_by_age on api_keys (created_at, id);

create table workers (
  id text primary key,
  version text not null,
  started_at integer not null,
  concurrency integer not null,
  in_flight integer not null,
  seen_at integer not null
) strict, without rowid;

-- listWorkers: those seen last; reportWorker: those not seen for long
create index workers_seen on workers (seen_at);

create table figures (
  minute integer not null,
  endpoint text not null,
  succeeded integer not null,
  failed integer not null,
  -- JSON: a count for each bucket
  durations text not null,
  primary key (minute, endpoint)
) strict, without rowid;
`
