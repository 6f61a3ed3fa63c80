// Counts of the queued, due, running and dead jobs of endpoints, and of their fairness keys. Each
// count reads at most one index entry more than it can report, and no job itself except the one
// that has the alarm of a key.

import { setImmediate as nextTurn } from 'node:timers/promises'
import { ALARM, NO_TURN } from '../../job/turns.ts'
import {
  type EndpointStats,
  type KeyStats,
  type KeysByWait,
  type KeyWait,
  type PlaceInLine,
  pageByWait,
} from '../stats.ts'
import { MAX_COUNT, MAX_DELETED_NAMES, MAX_STATS_NAMES, type Page } from '../store.ts'
import { ABOVE_ALL, NEXT_PRIORITY } from './claim.ts'
import type { Database } from './connection.ts'
import { countRow } from './endpoints.ts'
import { NEXT_NAME_UNSUCCESSFUL } from './jobs.ts'
import { laneOf } from './turns.ts'

export const COUNT_DEAD = `
select count(*) as count from (
  select 1 from jobs where unsuccessful = 'dead' and endpoint = $name
  limit ${MAX_COUNT + 1})`
/** The entries are in order, so that the first one is the oldest. */
export const COUNT_DUE = `
select count(*) as count, min(since) as oldest from (
  select max(run_at, coalesce(promoted_at, 0)) as since from jobs
  where claimable = 1 and endpoint = $name and priority = $priority
    and turn = ${NO_TURN} and run_at <= $now
  order by run_at limit +$limit)`
/** With a fairness key: those with a turn, or with an alarm that no claim has seen. */
export const COUNT_TURNS = `
select count(*) as count, min(since) as oldest from (
  select max(run_at, coalesce(promoted_at, 0)) as since from jobs
  where claimable = 1 and endpoint = $name and priority = $priority
    and turn > ${NO_TURN} limit +$limit)`
export const COUNT_RIPE = `
select count(*) as count, min(since) as oldest from (
  select max(run_at, coalesce(promoted_at, 0)) as since from jobs
  where claimable = 1 and endpoint = $name and priority = $priority
    and turn = ${ALARM} and run_at <= $now
  order by run_at limit +$limit)`
export const COUNT_OUTSIDE_DUE = `
select count(*) as count, min(due_at) as oldest from (
  select due_at from jobs where blocked = 2 and endpoint = $name and due_at <= $now
  order by due_at limit +$limit)`

/** The conditions of the indexes that have the jobs of a key: each job is in one of them. */
const IN_LINE = 'turn <> 0 and effects_pending = 0 and endpoint = $endpoint'
const OUTSIDE = 'blocked = 2 and endpoint = $endpoint'
const OF_KEY =
  'fairness_key is not null and holds_keys = 1 and turn = 0 and blocked < 2 and endpoint = $endpoint'

/** The next key that has queued or running jobs: three seeks, for any number of jobs. */
export const NEXT_FAIRNESS_KEY = `
select min(key) as key from (
  select min(fairness_key) as key from jobs where ${IN_LINE} and fairness_key > $after
  union all select min(fairness_key) from jobs where ${OUTSIDE} and fairness_key > $after
  union all select min(fairness_key) from jobs where ${OF_KEY} and fairness_key > $after)`
export const COUNT_IN_LINE_OF_KEY = `
select count(*) as count, count(*) filter (where is_due) as due from (
  select iif(turn > ${NO_TURN}, 1, run_at <= $now) as is_due from jobs
  where ${IN_LINE} and fairness_key = $key limit ${MAX_COUNT + 1})`
export const COUNT_OUTSIDE_OF_KEY = `
select count(*) as count from (
  select 1 from jobs where ${OUTSIDE} and fairness_key = $key limit ${MAX_COUNT + 1})`
export const COUNT_OUTSIDE_DUE_OF_KEY = `
select count(*) as count from (
  select 1 from jobs where ${OUTSIDE} and fairness_key = $key and run_at <= $now
    and priority in (select priority from lanes where endpoint = $endpoint)
  limit ${MAX_COUNT + 1})`
/** With $blocked 1 the blocked jobs of the key, with 0 the running ones. */
export const COUNT_OF_KEY = `
select count(*) as count from (
  select 1 from jobs where ${OF_KEY} and fairness_key = $key and blocked = $blocked
  limit ${MAX_COUNT + 1})`

export const PLACE_OF_JOB = `
select seq, endpoint, priority, fairness_key as key, turn, run_at, promoted_at from jobs
where id = $id and state = 'queued' and blocked <> 1 and run_at <= $now`
const IN_LANE_OF_KEY = `${IN_LINE} and fairness_key = $key and priority = $priority`
export const COUNT_TURNS_BEFORE = `
select count(*) as count from (
  select 1 from jobs where ${IN_LANE_OF_KEY} and turn > ${NO_TURN} and turn < $turn
  limit ${MAX_COUNT})`
/** An alarm that no claim has seen, of a job that was due before. */
export const COUNT_ALARMS_BEFORE = `
select count(*) as count from jobs
where ${IN_LANE_OF_KEY} and turn = ${ALARM} and run_at <= $runAt`
const OUTSIDE_IN_LANE = `${OUTSIDE} and fairness_key = $key and priority = $priority`
export const COUNT_OUTSIDE_BEFORE = `
select (
  select count(*) from (
    select 1 from jobs where ${OUTSIDE_IN_LANE} and run_at < $runAt limit ${MAX_COUNT})) + (
  select count(*) from (
    select 1 from jobs where ${OUTSIDE_IN_LANE} and run_at = $runAt and seq < $seq
    limit ${MAX_COUNT})) as count`
const PLAIN_IN_LANE = `claimable = 1 and endpoint = $endpoint and priority = $priority
    and turn = ${NO_TURN}`
export const COUNT_PLAIN_BEFORE = `
select (
  select count(*) from (
    select 1 from jobs where ${PLAIN_IN_LANE} and run_at < $runAt limit ${MAX_COUNT})) + (
  select count(*) from (
    select 1 from jobs where ${PLAIN_IN_LANE} and run_at = $runAt and promoted_at is $promotedAt
      and seq < $seq limit ${MAX_COUNT})) as count`
export const ANY_PLAIN_DUE = `select 1 from jobs where ${PLAIN_IN_LANE} and run_at <= $now limit 1`

/** Keys whose wait one turn of the event loop reads. */
const KEYS_PER_TURN = 1_000
/**
 * The next keys that are in line, and since when the first due job of each is due in each priority:
 * one seek for each key, and one for each of its priorities.
 */
export const WAITS_OF_KEYS = `
with recursive named (key) as (
  select min(fairness_key) from jobs where ${IN_LINE} and fairness_key > $after
  union all
  select (select min(fairness_key) from jobs where ${IN_LINE} and fairness_key > named.key)
  from named where named.key is not null
  limit ${KEYS_PER_TURN})
select key, (
  select min((
    select max(run_at, coalesce(promoted_at, 0)) from jobs
    where ${IN_LINE} and fairness_key = named.key and jobs.priority = lanes.priority
      and iif(turn > ${NO_TURN}, 1, run_at <= $now)
    order by turn limit 1))
  from lanes where endpoint = $endpoint) as since
from named where key is not null`

export const NEXT_IN_LINE = `
select min(fairness_key) as key from jobs where ${IN_LINE} and fairness_key > $after`

/** One seek for each key of the endpoint that is in line, and one to see whether it is due. */
export const COUNT_KEYS_IN_LANE = countKeysSql('and priority = $priority')
/** The same over all priorities. */
export const COUNT_KEYS_DUE = countKeysSql('')

function countKeysSql(inLanes: string): string {
  return `
with recursive named (key) as (
  select min(fairness_key) from jobs where ${IN_LINE}
  union all
  select (select min(fairness_key) from jobs where ${IN_LINE} and fairness_key > named.key)
  from named where named.key is not null
  limit ${MAX_COUNT + 1})
select count(*) as count from named where key is not null and exists (
  select 1 from jobs where ${IN_LINE} and fairness_key = named.key ${inLanes}
    and iif(turn > ${NO_TURN}, 1, run_at <= $now))`
}

export const ENDPOINT_EXISTS = 'select 1 from endpoints where name = $name'
/** Limit of names that one turn of the event loop reads. */
const NAMES_PER_TURN = 500

export async function deletedEndpoints({ connection }: Database): Promise<string[]> {
  const deleted: string[] = []
  let after: string | null = ''
  for (let looked = 0; after !== null && looked < MAX_STATS_NAMES; looked += NAMES_PER_TURN) {
    const begin: string = after
    after = await connection.read(() => lookForDeleted(connection, begin, deleted))
    await nextTurn()
  }
  return deleted.slice(0, MAX_DELETED_NAMES)
}

/** Makes one seek for each name. Returns the last name; null: there is no further one. */
function lookForDeleted(
  { statement }: Database['connection'],
  after: string,
  deleted: string[],
): string | null {
  let name = after
  for (let i = 0; i < NAMES_PER_TURN; i++) {
    const next = statement(NEXT_NAME_UNSUCCESSFUL).get({ after: name })?.name
    if (typeof next !== 'string') return null
    name = next
    if (statement(ENDPOINT_EXISTS).get({ name }) !== undefined) continue
    if ((statement(COUNT_DEAD).get({ name })?.count as number) > 0) deleted.push(name)
  }
  return name
}

export async function statsOf(database: Database, names: string[]): Promise<EndpointStats[]> {
  if (names.length > MAX_STATS_NAMES) {
    throw new RangeError(`${names.length} names in a call of at most ${MAX_STATS_NAMES}`)
  }
  const stats: EndpointStats[] = []
  for (const name of names) {
    stats.push(await database.connection.read(() => statsOfOne(database, name)))
    // Each name may read 50,000 index entries, which takes some milliseconds. Other work runs in
    // between.
    await nextTurn()
  }
  return stats
}

function statsOfOne(database: Database, name: string): EndpointStats {
  const { claimable, outside, blocked, running } = countRow(database, name)
  const { due, oldestDueAt } = dueOf(database, name)
  const figures = {
    queued: claimable + outside + blocked,
    due,
    running,
    dead: database.connection.statement(COUNT_DEAD).get({ name })?.count as number,
  }
  return {
    queued: Math.min(figures.queued, MAX_COUNT),
    due: Math.min(figures.due, MAX_COUNT),
    running: Math.min(figures.running, MAX_COUNT),
    dead: Math.min(figures.dead, MAX_COUNT),
    oldestDueAt,
    keysDue: countKeysDue(database, name),
    more: Object.values(figures).some((figure) => figure > MAX_COUNT),
  }
}

function countKeysDue({ connection, clock }: Database, endpoint: string): number {
  const found = connection.statement(COUNT_KEYS_DUE).get({ endpoint, now: clock.now() })
  return Math.min(found?.count as number, MAX_COUNT)
}

/** Reads at least the oldest job of each priority: any of them may be the oldest of all. */
function dueOf(
  { connection, clock }: Database,
  name: string,
): { due: number; oldestDueAt: number | null } {
  const now = clock.now()
  let due = 0
  let oldestDueAt: number | null = null
  const add = (sql: string, values: { priority?: number; now?: number }) => {
    const limit = Math.max(1, MAX_COUNT + 1 - due)
    const found = connection.statement(sql).get({ name, ...values, limit })
    due += found?.count as number
    const oldest = found?.oldest
    if (typeof oldest === 'number') oldestDueAt = Math.min(oldest, oldestDueAt ?? oldest)
  }
  add(COUNT_OUTSIDE_DUE, { now })
  let priority = connection.ordered(NEXT_PRIORITY).get(name, ABOVE_ALL)?.priority
  while (typeof priority === 'number') {
    add(COUNT_DUE, { priority, now })
    add(COUNT_TURNS, { priority })
    add(COUNT_RIPE, { priority, now })
    priority = connection.ordered(NEXT_PRIORITY).get(name, priority)?.priority
  }
  return { due, oldestDueAt }
}

export async function fairnessKeysOf(
  database: Database,
  endpoint: string,
  after: string | null,
  limit: number,
): Promise<Page<KeyStats>> {
  const { connection } = database
  const items: KeyStats[] = []
  const next = () => {
    const last = items.at(-1)?.key ?? after ?? ''
    return connection.statement(NEXT_FAIRNESS_KEY).get({ endpoint, after: last })?.key
  }
  while (items.length < limit) {
    const found = await connection.read(() => {
      const key = next()
      return typeof key === 'string' ? statsOfKey(database, endpoint, key) : null
    })
    if (found === null) return { items, next: null }
    items.push(found)
    // As in statsOf.
    await nextTurn()
  }
  const isLast = await connection.read(() => typeof next() !== 'string')
  return { items, next: isLast ? null : (items.at(-1)?.key ?? null) }
}

function statsOfKey({ connection, clock }: Database, endpoint: string, key: string): KeyStats {
  const now = clock.now()
  const count = (sql: string, values: { now?: number; blocked?: 0 | 1 } = {}) =>
    connection.statement(sql).get({ endpoint, key, ...values }) as { count: number; due: number }
  const inLine = count(COUNT_IN_LINE_OF_KEY, { now })
  const outside = count(COUNT_OUTSIDE_OF_KEY).count
  const figures = {
    queued: inLine.count + outside + count(COUNT_OF_KEY, { blocked: 1 }).count,
    due: inLine.due + (outside > 0 ? count(COUNT_OUTSIDE_DUE_OF_KEY, { now }).count : 0),
    running: count(COUNT_OF_KEY, { blocked: 0 }).count,
  }
  return {
    key,
    queued: Math.min(figures.queued, MAX_COUNT),
    due: Math.min(figures.due, MAX_COUNT),
    running: Math.min(figures.running, MAX_COUNT),
    more: Object.values(figures).some((figure) => figure > MAX_COUNT),
  }
}

export async function keysByWait(
  database: Database,
  endpoint: string,
  after: KeyWait | null,
  limit: number,
): Promise<KeysByWait> {
  const { connection, clock } = database
  const waits: KeyWait[] = []
  const first = { endpoint, after: '' }
  let last: string | undefined = ''
  for (let looked = 0; looked < MAX_COUNT && last !== undefined; looked += KEYS_PER_TURN) {
    const rows = (await connection.read(() =>
      connection.statement(WAITS_OF_KEYS).all({ ...first, now: clock.now() }),
    )) as { key: string; since: number | null }[]
    for (const { key, since } of rows) if (since !== null) waits.push({ key, dueSince: since })
    last = rows.length === KEYS_PER_TURN ? rows.at(-1)?.key : undefined
    first.after = last ?? ''
    await nextTurn()
  }
  const isMore = () => connection.statement(NEXT_IN_LINE).get(first)?.key !== null
  const partial = last !== undefined && (await connection.read(isMore))
  const { keys, next } = pageByWait(waits, after, limit)
  const items: KeyStats[] = []
  for (const key of keys) {
    items.push(await connection.read(() => statsOfKey(database, endpoint, key)))
    await nextTurn()
  }
  return { items, next, partial }
}

export function placeInLine(database: Database, jobId: string): Promise<PlaceInLine | null> {
  const { connection, clock } = database
  return connection.read(() => {
    const now = clock.now()
    const job = connection.statement(PLACE_OF_JOB).get({ id: jobId, now }) as JobInLine | undefined
    if (job === undefined || laneOf(database, job.endpoint, job.priority) === null) return null
    const lane = { endpoint: job.endpoint, priority: job.priority }
    const keyed = connection.statement(COUNT_KEYS_IN_LANE).get({ ...lane, now })?.count as number
    if (keyed === 0 && job.key === null) return null
    const isAnyPlainDue = connection.statement(ANY_PLAIN_DUE).get({ ...lane, now }) !== undefined
    return {
      jobsBefore: Math.min(countBefore(database, job), MAX_COUNT),
      keyCount: Math.min(keyed + (isAnyPlainDue ? 1 : 0), MAX_COUNT),
    }
  })
}

interface JobInLine {
  seq: number
  endpoint: string
  priority: number
  key: string | null
  turn: number
  run_at: number
  promoted_at: number | null
}

function countBefore({ connection }: Database, job: JobInLine): number {
  const { seq, endpoint, priority, key, turn, run_at: runAt } = job
  const lane = { endpoint, priority }
  const count = (sql: string, values: Record<string, number | string | null>) =>
    connection.statement(sql).get({ ...lane, ...values })?.count as number
  if (key === null) {
    const { promoted_at: promotedAt } = job
    return count(COUNT_PLAIN_BEFORE, { runAt, promotedAt, seq })
  }
  if (turn > NO_TURN) return count(COUNT_TURNS_BEFORE, { key, turn })
  const outside = count(COUNT_OUTSIDE_BEFORE, { key, runAt, seq })
  if (turn === ALARM) return outside
  const turns = count(COUNT_TURNS_BEFORE, { key, turn: Number.MAX_SAFE_INTEGER })
  return turns + count(COUNT_ALARMS_BEFORE, { key, runAt }) + outside
}
