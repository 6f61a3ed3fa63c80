// The tables and indexes, as migrations in order. `user_version` says how many a file has seen.

import type { DatabaseSync } from 'node:sqlite'
import { StoreUnusable } from '../store.ts'
import { FIFTH_SCHEMA } from './fifth-schema.ts'
import { FOURTH_SCHEMA } from './fourth-schema.ts'
import { SECOND_SCHEMA } from './second-schema.ts'
import { SIXTH_SCHEMA } from './sixth-schema.ts'
import { THIRD_SCHEMA } from './third-schema.ts'

/** "Post": marks a file as ours, so that another program's database is never written to. */
export const APPLICATION_ID = 0x506f7374

// Each index costs every write about a microsecond, so each serves a query that is named. Those of
// waiting jobs are partial: jobs that are final, however many, cost a claim nothing.
//
// jobs.attempts holds JSON lines, oldest first: a line is added and the oldest dropped without
// parsing any. Payloads stand apart: claim and settle rewrite the row of a job, and what they
// rewrite is a few hundred bytes whatever the payload is.
export const FIRST_SCHEMA = `
create table jobs (
  seq integer primary key,
  id text not null unique,
  endpoint text not null,
  state text not null default 'queued',
  priority integer not null,
  run_at integer not null,
  first_run_at integer not null,
  created_at integer not null,
  started_at integer,
  finished_at integer,
  expires_at integer,
  purge_at integer,
  attempt_count integer not null default 0,
  attempts_left integer not null,
  max_attempts integer not null,
  free_attempts integer not null default 0,
  fence integer not null default 0,
  version integer not null default 1,
  lease_id text,
  worker_id text,
  claimed_at integer,
  lease_boot integer,
  lease_mono integer,
  lease_ms integer,
  lease_wall integer,
  timeout_ms integer,
  retry text,
  headers text,
  tags text,
  metadata text,
  idempotency_key text,
  request_hash text,
  failure_reason text,
  failure_message text,
  result_truncated integer not null default 0,
  result text,
  attempts text,
  payload_bytes integer not null
) strict;

create table payloads (seq integer primary key, bytes blob not null) strict;

create trigger jobs_deleted after delete on jobs begin
  delete from payloads where seq = old.seq;
end;

-- claim, countJobs: of one endpoint, a priority at a time, in order of run_at
create index jobs_claimable on jobs (endpoint, priority, run_at) where state = 'queued';
-- due: what became due since the last look, and when the next is due
create index jobs_due on jobs (run_at, endpoint) where state = 'queued';
-- sweep: lapsed leases
create index jobs_leased on jobs (lease_boot, lease_mono) where state = 'running';
-- sweep: queued jobs past expires_at
create index jobs_expiring on jobs (expires_at)
  where state = 'queued' and expires_at is not null;
-- sweep: final jobs past their retention
create index jobs_purgeable on jobs (purge_at) where purge_at is not null;
-- listJobs of one endpoint, newest first
create index jobs_of_endpoint on jobs (endpoint, id);
-- listJobs of the states that are few, newest first; countJobs and evict of the running. Two
-- indexes, for one over three states makes every write of a job build a set of them to look into.
create index jobs_running on jobs (endpoint, id) where state = 'running';
create index jobs_unsuccessful on jobs (endpoint, state, id)
  where state = 'dead' or state = 'cancelled';
-- enqueue: one job for one key of an endpoint
create unique index jobs_idempotency on jobs (endpoint, idempotency_key)
  where idempotency_key is not null;

create table endpoints (
  name text primary key,
  url text not null,
  description text not null,
  headers text,
  timeout_ms integer not null,
  retry text not null,
  max_attempts integer not null,
  secrets text not null,
  deleting integer not null default 0,
  created_at integer not null,
  updated_at integer not null,
  version integer not null
) strict, without rowid;

create index endpoints_deleting on endpoints (name) where deleting = 1;

create table meta (key text primary key, value text not null) strict, without rowid;
`

const MIGRATIONS = [
  FIRST_SCHEMA,
  SECOND_SCHEMA,
  THIRD_SCHEMA,
  FOURTH_SCHEMA,
  FIFTH_SCHEMA,
  SIXTH_SCHEMA,
]

/** Brings the file up to this version of the schema. Throws StoreUnusable for a file not ours. */
export function migrate(db: DatabaseSync, path: string): void {
  refuseForeign(db, path)
  const version = readVersion(db)
  if (version > MIGRATIONS.length) {
    throw new StoreUnusable(
      `${path} was written by a newer Posthorn (schema ${version}; this one knows up to ` +
        `${MIGRATIONS.length}): run that version`,
    )
  }
  // Of a file that has no table yet; later only `vacuum` could change it.
  if (version === 0) db.exec('pragma auto_vacuum = incremental')
  for (let next = version; next < MIGRATIONS.length; next++) applyMigration(db, path, next)
}

function applyMigration(db: DatabaseSync, path: string, index: number): void {
  db.exec('begin immediate')
  try {
    // Another process may have been faster: what was read outside the transaction is read again.
    refuseForeign(db, path)
    if (readVersion(db) === index) {
      db.exec(MIGRATIONS[index] as string)
      db.exec(`pragma application_id = ${APPLICATION_ID}`)
      db.exec(`pragma user_version = ${index + 1}`)
    }
    db.exec('commit')
  } finally {
    if (db.isTransaction) db.exec('rollback')
  }
}

function refuseForeign(db: DatabaseSync, path: string): void {
  if (readPragma(db, 'application_id') === APPLICATION_ID) return
  const tables = db.prepare('select count(*) as count from sqlite_schema').get()?.count
  if (readVersion(db) !== 0 || tables !== 0) {
    throw new StoreUnusable(
      `${path} is a database of another program: STORE_URL names the wrong file`,
    )
  }
}

export function readVersion(db: DatabaseSync): number {
  return readPragma(db, 'user_version')
}

function readPragma(db: DatabaseSync, name: string): number {
  return db.prepare(`pragma ${name}`).get()?.[name] as number
}
