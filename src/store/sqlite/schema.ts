// The schema of the database file: the script that creates it, and the runner that brings a file
// from one schema number to the next. A file has its number in `pragma user_version`.
import type { DatabaseSync } from 'node:sqlite'
import { PARKED } from '../../job/turns.ts'
import { StoreUnusable } from '../store-errors.ts'
import {
  outstandingSteps,
  refuseSteps,
  refuseWhileInUse,
  type Step,
  type Upgrades,
  WORKER_RUNS_MS,
} from '../upgrade.ts'

/** "Post": marks a file as ours, so that Posthorn never writes to another program's database. */
export const APPLICATION_ID = 0x506f7374

// Columns that may fill pages come last: what stands before them is read without them. `attempts`
// holds JSON lines, oldest first, so that a line is added and the oldest is dropped without parsing
// any. Payloads are in a table of their own because claim and settle rewrite the row of a job.
const JOBS = `
create table jobs (
  seq integer primary key,
  id text not null unique,
  endpoint text not null,

  state text not null default 'queued',
  -- 1: queued and blocked. It waits for dependencies or for its ordering key.
  -- 2: queued and outside. It waits until its fairness key gives it a turn (turns.ts).
  blocked integer not null default 0,
  -- An index mark (see below): 1 while the job is queued, not blocked and not outside.
  claimable integer default 1,
  -- 1: the next sweep checks whether it is still blocked, or this transaction places it.
  recheck integer not null default 0,
  -- Of a queued job with a fairness key: its tag, or -1 for the alarm of its key. Else 0: it is an
  -- index mark, too.
  turn integer not null default 0,
  -- 1: jobs of its key are outside, and one gets a turn when this job is claimed.
  admits_next integer not null default 0,
  priority integer not null,
  run_at integer not null,
  -- run_at, or a later instant at which the job became claimable again.
  due_at integer not null,
  first_run_at integer not null,
  -- When it was last unblocked. With run_at it says since when the job is due.
  promoted_at integer,
  created_at integer not null,
  started_at integer,
  finished_at integer,
  expires_at integer,
  -- An index mark: expires_at, while the job is queued.
  expiring_at integer,

  attempt_count integer not null default 0,
  attempts_left integer not null,
  max_attempts integer not null,
  free_attempts integer not null default 0,
  fence integer not null default 0,
  version integer not null default 1,
  -- How often it became final: a retry can make that happen again.
  finishes integer not null default 0,
  -- 1: final, and its finish effects are not all done.
  effects_pending integer not null default 0,
  has_dependents integer not null default 0,
  -- 1: running, and a newer job has its dedupe key.
  superseded integer not null default 0,
  -- An index mark: 1 while the job is not final, and has a dedupe, ordering or fairness key.
  holds_keys integer,
  -- An index mark: the state, once it is dead or cancelled.
  unsuccessful text,

  lease_id text,
  worker_id text,
  claimed_at integer,
  -- A worker's lease ends by the monotonic clock of one start of the machine. Both columns are null
  -- while the job awaits completion, so that the search for expired leases does not find it.
  lease_boot integer,
  lease_mono integer,
  lease_ms integer,
  -- The same instant by the wall clock. It alone ends the lease of a job that awaits completion.
  lease_wall integer,
  -- An index mark: lease_wall, while the job awaits completion. It alone says the phase.
  awaiting_until integer,
  -- The length of the lease if the job was pulled.
  pulled_ms integer,
  -- By a heartbeat before the response: until when the lease lasts once the job awaits completion.
  extended_to integer,
  timeout_ms integer,
  payload_bytes integer not null,
  -- Null: it has no inputs, or they are not made yet.
  inputs_bytes integer,

  idempotency_key text,
  -- 1: a repeated request must find it by a key, which sets how long it is kept. Else null.
  has_key integer,
  request_hash text,
  dedupe_key text,
  ordering_key text,
  fairness_key text,
  cost integer not null default 1,
  -- An index mark: the ordering key, while this job is the one of the key that may be claimed.
  ordering_slot text,
  origin_key text,
  schedule_name text,
  group_id text,
  -- Of a member: the final state as which its group has counted it.
  counted text,
  -- An index mark: the group, while the job is running.
  running_in text,
  notice_endpoint text,
  notice_states text,

  retry text,
  headers text,
  tags text,
  metadata text,
  depends_on text,
  -- JSON: the results of other jobs that it needs.
  needs text,
  -- The dependencies that have not succeeded yet.
  waiting_for text,
  trace text,
  progress text,
  failure_reason text,
  failure_message text,
  -- The job because of which it is dead.
  failure_job_id text,
  result_truncated integer not null default 0,
  result text,
  attempts text
) strict;

create table payloads (seq integer primary key, bytes blob not null) strict;

-- Of jobs that need results of others (inputs.ts). After a retry, those of before until new ones
-- are made.
create table inputs (seq integer primary key, bytes blob not null) strict;

-- A row while the dependent waits for its inputs: the needed job is not purged.
create table needed_results (
  needed text not null,
  dependent text not null,
  primary key (needed, dependent)
) strict, without rowid;

-- Idempotency keys of requests that got a stored job because of its dedupe key.
create table added_keys (
  endpoint text not null,
  key text not null,
  request_hash text not null,
  seq integer not null,
  primary key (endpoint, key)
) strict, without rowid;

-- A row is deleted when the dependent knows that the dependency has ended. Ids, because SQLite may
-- use a seq again.
create table dependencies (
  dependency text not null,
  dependent text not null,
  primary key (dependency, dependent)
) strict, without rowid;

-- The order of the fairness keys of one endpoint and priority (turns.ts). There is a row once it
-- has had a job with a key.
create table lanes (
  endpoint text not null,
  priority integer not null,
  virtual_time integer not null,
  plain_start integer,
  primary key (endpoint, priority)
) strict, without rowid;

-- The settings of single fairness keys, the buckets of their rate limits, and their rests, each of
-- which there can be without the others.
create table fairness_keys (
  endpoint text not null,
  key text not null,
  settings text,
  version integer not null default 0,
  updated_at integer,
  bucket_full_at real,
  bucket_at real,
  bucket_tokens real,
  -- JSON
  rest text,
  rest_kept_until integer,
  primary key (endpoint, key)
) strict, without rowid;
-- sweep: keys without settings whose bucket is full and whose rest is over
create index fairness_keys_unneeded on fairness_keys (
  max(coalesce(bucket_full_at, 0), coalesce(rest_kept_until, 0))
) where settings is null;

create table groups (
  id text primary key,
  state text not null default 'open',
  member_count integer not null default 0,
  -- Members that are not counted as final.
  left_count integer not null default 0,
  succeeded_count integer not null default 0,
  dead_count integer not null default 0,
  cancelled_count integer not null default 0,
  finishes integer not null default 0,
  -- 1: the notices of the first dead member since the last finish are enqueued.
  dead_notified integer not null default 0,
  -- While a cancel or a retry goes on: since when, and the last member that was visited.
  command_at integer,
  command_after text,
  close_after_ms integer,
  closes_at integer,
  created_at integer not null,
  closed_at integer,
  closed_by text,
  finished_at integer,
  hops integer not null,
  idempotency_key text,
  request_hash text,
  name text,
  fairness_key text,
  -- JSON
  notices text,
  tags text,
  metadata text
) strict, without rowid;
-- createGroup
create unique index groups_idempotency on groups (idempotency_key)
  where idempotency_key is not null;
-- listGroups
create index groups_by_state on groups (state, id);
create index groups_by_name on groups (name, state, id) where name is not null;
-- sweep
create index groups_idle on groups (closes_at) where closes_at is not null;
create index groups_commanded on groups (command_at) where command_at is not null;
create index groups_purgeable on groups (state, (idempotency_key is not null), finished_at)
  where finished_at is not null;

create trigger groups_deleted after delete on groups begin
  delete from dependencies where dependency = old.id;
end;

create trigger jobs_deleted after delete on jobs begin
  delete from payloads where seq = old.seq;
  delete from added_keys where seq = old.seq;
  delete from dependencies where dependency = old.id;
end;

create trigger jobs_with_inputs_deleted after delete on jobs
when old.needs is not null or old.inputs_bytes is not null begin
  delete from inputs where seq = old.seq;
end;

-- Whatever ends the wait: its inputs, or an end without them.
create trigger jobs_unblocked after update of blocked on jobs
when old.blocked = 1 and new.blocked <> 1 and new.needs is not null begin
  delete from needed_results
  where dependent = new.id and needed in (select value ->> 'jobId' from json_each(new.needs));
end;
`

// Each index serves the verbs that are named. Those of queued jobs are partial: any number of final
// jobs costs a claim nothing. Plain jobs are in few of them, because the others are partial over
// what few jobs have.
//
// An update opens each index whose columns or condition name a column that it sets, even if the job
// is not in that index. Every claim and settlement sets `state`, so only jobs_leased and
// jobs_running name it. The other conditions name an index mark: a column that is null except while
// the job belongs in the index. Only the writes that move a job into the index or out of it set
// the mark. So the claim of a plain job opens 4 indexes, and its settlement 3 and that of ids.
// Searches use the marks. Guards prove the state itself, and awaiting_until, which is the phase.
const JOB_INDEXES = `
-- claim, countJobs, statsOf: one endpoint, a priority at a time, by turn, then in order of run_at.
-- promoted_at is here so that statsOf finds the oldest due job without reading rows.
create index jobs_claimable on jobs (endpoint, priority, turn, run_at, promoted_at)
  where claimable = 1;
-- due: what became due since the last look, and when the next job is due
create index jobs_due on jobs (due_at, endpoint) where claimable = 1;
-- countJobs, sweep: blocked jobs, and those of deleted endpoints
create index jobs_blocked on jobs (endpoint) where blocked = 1;
-- enqueue, claim, and each write that moves a job of a fairness key: the turns of the key, and the
-- next jobs that are outside; statsOf: the due jobs that are outside
create index jobs_turns on jobs (endpoint, fairness_key, priority, turn, admits_next)
  where turn <> 0 and effects_pending = 0;
create index jobs_outside on jobs (endpoint, fairness_key, priority, run_at) where blocked = 2;
-- every write that makes jobs final: the turns of a key that became free
create index jobs_left_turn on jobs (endpoint, fairness_key, priority)
  where effects_pending = 1 and turn <> 0;
-- claim: keys that are at their limit, and may have room; every write that ends an attempt: the
-- parked jobs of a key
create index jobs_parked on jobs (endpoint, priority, due_at)
  where turn = ${PARKED} and effects_pending = 0;
create index jobs_parked_of_key on jobs (endpoint, fairness_key)
  where turn = ${PARKED} and effects_pending = 0;
create index jobs_outside_due on jobs (endpoint, due_at) where blocked = 2;
-- fairnessKeysOf, claim: the jobs of a key that are in neither jobs_turns nor jobs_outside, because
-- they run or are blocked. A claim of a plain job sets none of these columns. The last two are here
-- so that SQLite counts without reading rows.
create index jobs_of_key on jobs (endpoint, fairness_key, blocked, turn, holds_keys)
  where fairness_key is not null and holds_keys = 1 and turn = 0 and blocked < 2;
-- sweep: blocked jobs that are known to have failed
create index jobs_recheck on jobs (recheck) where recheck = 1;
-- sweep: expired leases
create index jobs_leased on jobs (lease_boot, lease_mono) where state = 'running';
-- overdue
create index jobs_awaiting on jobs (awaiting_until) where awaiting_until is not null;
-- sweep: queued jobs past expires_at
create index jobs_expiring on jobs (expiring_at) where expiring_at is not null;
-- sweep: final jobs past their retention. Small numbers for the classes of src/job/retention.ts,
-- because every job that becomes final is written to this index.
create index jobs_purgeable on jobs ((unsuccessful is 'dead'), has_key, finished_at)
  where finished_at is not null and effects_pending = 0;
-- every write that makes jobs final, and sweep: the finish effects that are not done
create index jobs_effects_pending on jobs (effects_pending) where effects_pending = 1;
-- listJobs of one endpoint, newest first
create index jobs_of_endpoint on jobs (endpoint, id);
-- listJobs of the states that are few, newest first; countJobs, sweep. Two indexes, because for one
-- over three states each write of a job would build a set of them to look into.
create index jobs_running on jobs (endpoint, id) where state = 'running';
create index jobs_unsuccessful on jobs (endpoint, unsuccessful, id)
  where unsuccessful is not null;
-- listJobs of one dedupe key
create index jobs_of_dedupe_key on jobs (dedupe_key, id) where dedupe_key is not null;
-- dependentsOf: the jobs that are dead because of one
create index jobs_failed_because on jobs (failure_job_id, id) where failure_job_id is not null;
-- listJobs of one group, newest first; sweep: the members that a cancel visits
create index jobs_of_group on jobs (group_id, id) where group_id is not null;
-- getGroup: its running members
create index jobs_running_in on jobs (running_in) where running_in is not null;
-- notices of groups; sweep: the members that a retry visits
create index jobs_unsuccessful_of_group on jobs (group_id, unsuccessful, id)
  where unsuccessful is not null and group_id is not null;
-- enqueue: one job for an idempotency key, an origin or a dedupe key of an endpoint
create unique index jobs_idempotency on jobs (endpoint, idempotency_key)
  where idempotency_key is not null;
create unique index jobs_origin on jobs (endpoint, origin_key) where origin_key is not null;
create unique index jobs_dedupe on jobs (endpoint, dedupe_key)
  where dedupe_key is not null and superseded = 0 and holds_keys = 1;
-- the earliest job of an ordering key, and the one that has its ordering slot
create index jobs_ordered on jobs (endpoint, ordering_key, seq)
  where ordering_key is not null and holds_keys = 1;
create unique index jobs_ordering_slot on jobs (endpoint, ordering_slot)
  where ordering_slot is not null;
-- the trigger jobs_deleted
create index added_keys_of on added_keys (seq);
`

// The columns that a claim reads come first, and those that may fill pages come last.
const ENDPOINTS = `
create table endpoints (
  name text primary key,
  deleting integer not null default 0,
  paused integer not null default 0,
  disabled_reason text,
  resting_until integer,
  -- 1: the circuit breaker set resting_until, and removing the breaker ends the rest.
  rest_by_breaker integer not null default 0,
  ramp_slots integer,
  ramp_ends_at integer,
  throttle_streak integer not null default 0,
  failure_count integer not null default 0,
  -- When the bucket of the rate limit will be full again, which says how many tokens it has now.
  bucket_full_at real,
  concurrency integer,
  rate_count integer,
  rate_per_ms integer,
  per_key text,
  -- JSON: the names of the limits that it shares.
  limits text,
  breaker_failures integer,
  breaker_cooldown_ms integer,
  max_attempts integer not null,
  timeout_ms integer not null,
  completion text not null,
  completion_timeout_ms integer not null,
  created_at integer not null,
  updated_at integer not null,
  version integer not null,
  on_finish text,
  url text,
  description text not null,
  -- Encrypted.
  headers text,
  retry text not null,
  statuses text,
  -- Encrypted.
  secrets text not null
) strict, without rowid;

-- Limits that endpoints share.
create table limits (
  name text primary key,
  concurrency integer,
  rate_count integer,
  rate_per_ms integer,
  bucket_full_at real,
  -- JSON: the endpoints that wait for it. The first one comes next.
  waits text,
  created_at integer not null,
  updated_at integer not null,
  version integer not null
) strict, without rowid;

create table limit_endpoints (
  limit_name text not null,
  endpoint text not null,
  primary key (limit_name, endpoint)
) strict, without rowid;
-- putEndpoint, deleteEndpoint
create index limit_endpoints_of on limit_endpoints (endpoint);

-- sweep
create index endpoints_deleting on endpoints (name) where deleting = 1;
`

const RECORDS = `
create table schedules (
  name text primary key not null,
  endpoint text not null,
  paused integer not null,
  next_run_at integer,
  last_job_id text,
  last_error text,
  created_at integer not null,
  updated_at integer not null,
  version integer not null,
  -- Encrypted.
  settings text not null,
  payload blob not null
) strict;

-- dueSchedules
create index schedules_due on schedules (next_run_at)
  where paused = 0 and next_run_at is not null;
-- deleteEndpoint: does a schedule use it
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
  -- JSON: the ids of the keys with which it decrypts secrets.
  key_ids text not null,
  seen_at integer not null
) strict, without rowid;

-- listWorkers: those seen last; reportWorker: those not seen for long
create index workers_seen on workers (seen_at);

create table minute_stats (
  minute integer not null,
  endpoint text not null,
  succeeded integer not null,
  failed integer not null,
  -- JSON: a count for each bucket.
  durations text not null,
  primary key (minute, endpoint)
) strict, without rowid;

create table meta (key text primary key, value text not null) strict, without rowid;
`

/** A step between two schemas: `sql` brings a file from the number before to `number`. */
export interface Migration extends Step {
  sql: string
}

/** The first one creates a file. Numbers below 18 belong to versions that were never released. */
export const MIGRATIONS: readonly Migration[] = [
  { number: 18, online: true, sql: JOBS + JOB_INDEXES + ENDPOINTS + RECORDS },
]

/**
 * Brings a file to the last schema of the list. Any number of processes may do it at once: each
 * step is one transaction, and is taken once.
 *
 * @throws StoreUnusable when the file is not ours, its schema number is not in the list, or a step
 *   is not for a process with these rights
 */
export function migrate(
  db: DatabaseSync,
  path: string,
  upgrades: Upgrades = 'online',
  migrations: readonly Migration[] = MIGRATIONS,
): void {
  let number = readVersion(db)
  const steps = stepsOf(db, path, migrations)
  // The caller decides whether the file may be created.
  if (number !== 0) {
    refuseSteps(`the store ${path}`, steps, upgrades)
    refuseWhileInUse(steps, countRunningWorkers(db))
  } else {
    // Possible only before the first table exists; later it would take a `vacuum`.
    db.exec('pragma auto_vacuum = incremental')
  }
  for (const step of steps) {
    applyMigration(db, path, number, step)
    number = step.number
  }
}

/** Whether the file has the last schema of the list. */
export function isUpgraded(db: DatabaseSync, path: string): boolean {
  return stepsOf(db, path, MIGRATIONS).length === 0
}

function stepsOf(
  db: DatabaseSync,
  path: string,
  migrations: readonly Migration[],
): readonly Migration[] {
  refuseForeign(db, path)
  const number = readVersion(db)
  return number === 0 ? migrations : outstandingSteps(`the store ${path}`, number, migrations)
}

function countRunningWorkers(db: DatabaseSync): number {
  const since = Date.now() - WORKER_RUNS_MS
  const counted = db
    .prepare('select count(*) as count from workers where seen_at > $since')
    .get({ since })
  return counted?.count as number
}

function applyMigration(
  db: DatabaseSync,
  path: string,
  before: number,
  { number, sql }: Migration,
): void {
  db.exec('begin immediate')
  try {
    // Another process may have been faster: what was read outside the transaction is read again.
    refuseForeign(db, path)
    if (readVersion(db) === before) {
      db.exec(sql)
      db.exec(`pragma application_id = ${APPLICATION_ID}`)
      db.exec(`pragma user_version = ${number}`)
    }
    db.exec('commit')
  } finally {
    if (db.isTransaction) db.exec('rollback')
  }
}

function refuseForeign(db: DatabaseSync, path: string): void {
  if (readPragma(db, 'application_id') === APPLICATION_ID) {
    refuseEmptied(db, path)
    return
  }
  const tables = db.prepare('select count(*) as count from sqlite_schema').get()?.count
  if (readVersion(db) !== 0 || tables !== 0) {
    throw new StoreUnusable(
      `${path} is a database of another program: STORE_URL names the wrong file`,
    )
  }
}

/** Tables and number are written in one transaction, so that a store never has only one of them. */
function refuseEmptied(db: DatabaseSync, path: string): void {
  const jobs = db
    .prepare("select 1 from sqlite_schema where type = 'table' and name = 'jobs'")
    .get()
  if (readVersion(db) !== 0 && jobs !== undefined) return
  throw new StoreUnusable(
    `the store ${path} has lost its tables or its schema number: restore it from a backup, or remove ` +
      'the file to start with a new store',
  )
}

export function readVersion(db: DatabaseSync): number {
  return readPragma(db, 'user_version')
}

function readPragma(db: DatabaseSync, name: string): number {
  return db.prepare(`pragma ${name}`).get()?.[name] as number
}
