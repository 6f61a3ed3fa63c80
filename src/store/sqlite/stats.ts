// Counts of the queued, due, running and dead jobs of endpoints, and of their fairness keys. Each
// count reads at most one index entry more than it can report, and no job itself except the one
// that has the alarm of a key.

import { setImmediate as nextTurn } from 'node:timers/promises'
import { ALARM, NO_TURN } from '../../job/turns.ts'
import type { EndpointStats, FairnessKeyStats } from '../stats.ts'
import { MAX_COUNT, MAX_DELETED_NAMES, MAX_STATS_NAMES, type Page } from '../store.ts'
import { ABOVE_ALL, NEXT_PRIORITY } from './claim.ts'
import type { Database } from './connection.ts'
import { countRow } from './endpoints.ts'
import { NEXT_NAME_UNSUCCESSFUL } from './jobs.ts'

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
  select 1 from jobs where ${OUTSIDE} and fairness_key = $key and due_at <= $now
    and priority in (select priority from lanes where endpoint = $endpoint)
  limit ${MAX_COUNT + 1})`
/** With $blocked 1 the blocked jobs of the key, with 0 the running ones. */
export const COUNT_OF_KEY = `
select count(*) as count from (
  select 1 from jobs where ${OF_KEY} and fairness_key = $key and blocked = $blocked
  limit ${MAX_COUNT + 1})`

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
    more: Object.values(figures).some((figure) => figure > MAX_COUNT),
  }
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
): Promise<Page<FairnessKeyStats>> {
  const { connection } = database
  const items: FairnessKeyStats[] = []
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

function statsOfKey(
  { connection, clock }: Database,
  endpoint: string,
  key: string,
): FairnessKeyStats {
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
