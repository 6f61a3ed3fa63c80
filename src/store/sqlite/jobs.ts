// Reads jobs: one by id, its payload, lists by age, and which of many are final.

import type { Dependent } from '../../job/dependencies.ts'
import { dependencyState, type GroupState } from '../../job/groups.ts'
import {
  isFinal,
  type Job,
  type JobState,
  type JobSummary,
  type JobWithAttempts,
} from '../../job/job.ts'
import { firstIdAt, isGroupId } from '../../job/job-id.ts'
import { type JobQuery, MAX_ENTRIES_PER_PAGE, type Page } from '../store.ts'
import type { Database } from './connection.ts'
import { STATE_OF_GROUP } from './group-row.ts'
import { inStates } from './guards.ts'
import {
  JOB_COLUMNS,
  type JobRow,
  parsed,
  type RowWithAttempts,
  SUMMARY_COLUMNS,
  type SummaryRow,
  toJob,
  toSummary,
  withAttempts,
} from './job-row.ts'

export const JOB_OF_ID = `select ${JOB_COLUMNS} from jobs where id = $id`

export const JOB_WITH_ATTEMPTS = `select ${SUMMARY_COLUMNS}, attempts from jobs where id = $id`

export const PAYLOAD_OF = `
select bytes from payloads where seq = (select seq from jobs where id = $id)`

export const STATE_OF_JOB = 'select state from jobs where id = $id'

const DEPENDENT_COLUMNS = 'jobs.id, state, depends_on, needs'
export const DEAD_BECAUSE_OF = `
select ${DEPENDENT_COLUMNS} from jobs
where failure_job_id is not null and failure_job_id = $id limit +$limit`
export const WAITING_FOR = `
select ${DEPENDENT_COLUMNS} from dependencies cross join jobs on jobs.id = dependent
where dependency = $id and blocked = 1 limit +$limit`

/** With more lists, each would get too few entries of a page, so a walk is better. */
const MAX_LISTS = 100

/** Greater than every id. */
const ABOVE_ALL = '~'

export function getJob(database: Database, id: string): Promise<Job | null> {
  return database.connection.read(() => jobOfId(database, id))
}

export function getJobWithAttempts(
  { connection, keys }: Database,
  id: string,
): Promise<JobWithAttempts | null> {
  return connection.read(() => {
    const row = connection.statement(JOB_WITH_ATTEMPTS).get({ id })
    return row === undefined ? null : withAttempts(row as unknown as RowWithAttempts, keys)
  })
}

export function getPayload({ connection }: Database, id: string): Promise<Uint8Array | null> {
  return connection.read(() => {
    const row = connection.statement(PAYLOAD_OF).get({ id })
    return row === undefined ? null : (row.bytes as Uint8Array)
  })
}

export function finalAmong(database: Database, ids: string[]): Promise<string[]> {
  return database.connection.read(() =>
    ids.filter((id) => {
      const state = stateOf(database, id)
      return state === null || isFinal(state)
    }),
  )
}

export function dependentsOf(
  { connection }: Database,
  ids: string[],
  limit: number,
): Promise<Dependent[]> {
  return connection.read(() => {
    const found: Dependent[] = []
    for (const id of ids) {
      for (const sql of [DEAD_BECAUSE_OF, WAITING_FOR]) {
        if (found.length >= limit) return found
        const rows = connection.statement(sql).all({ id, limit: limit - found.length })
        found.push(...(rows as unknown as SummaryRow[]).map(toDependent))
      }
    }
    return found
  })
}

function toDependent({ id, state, depends_on, needs }: SummaryRow): Dependent {
  return { id, state, dependsOn: parsed(depends_on, []), needs: parsed(needs, []) }
}

export function jobOfId({ connection, keys }: Database, id: string): Job | null {
  const row = connection.statement(JOB_OF_ID).get({ id }) as JobRow | undefined
  return row === undefined ? null : toJob(row, keys)
}

export function stateOf({ connection }: Database, id: string): JobState | null {
  const row = connection.statement(STATE_OF_JOB).get({ id })
  return row === undefined ? null : (row.state as JobState)
}

/** Of a job or a group. */
export function stateOfDependency(database: Database, id: string): JobState | null {
  if (!isGroupId(id)) return stateOf(database, id)
  const row = database.connection.statement(STATE_OF_GROUP).get({ id })
  return row === undefined ? null : dependencyState(row.state as GroupState)
}

/** A stretch of ids, from `atLeast` on, before `below`. */
interface Stretch {
  below: string
  atLeast: string
}

export function listJobs(database: Database, query: JobQuery): Promise<Page<JobSummary>> {
  const stretch = stretchOf(query)
  return database.connection.read(() => {
    // Few jobs share a dedupe key: its index is the shortest way.
    const lists =
      query.dedupeKey === undefined && query.group === undefined && query.states?.every(isIndexed)
        ? listsOf(database, query.states, query.endpoint)
        : null
    return lists === null || lists.length > MAX_LISTS
      ? pageByWalking(database, query, stretch)
      : pageOfLists(database, query, lists, stretch)
  })
}

function stretchOf({ after, createdAfter, createdBefore, oldestFirst }: JobQuery): Stretch {
  const below = createdBefore === undefined ? ABOVE_ALL : firstIdAt(createdBefore)
  const atLeast = createdAfter === undefined ? '' : firstIdAt(createdAfter)
  if (after === undefined) return { below, atLeast }
  // All ids have the same length: no id sorts between an id and that id with one more character.
  if (oldestFirst) return { below, atLeast: after < atLeast ? atLeast : `${after}!` }
  return { below: after < below ? after : below, atLeast }
}

/** Which filters a query has; their values are parameters. */
type Filters = Pick<
  JobQuery,
  | 'endpoint'
  | 'states'
  | 'tag'
  | 'dedupeKey'
  | 'group'
  | 'fairnessKey'
  | 'failureReason'
  | 'oldestFirst'
>

function directionOf({ oldestFirst }: Pick<JobQuery, 'oldestFirst'>): 'asc' | 'desc' {
  return oldestFirst ? 'asc' : 'desc'
}

/**
 * The SQL of a walk. The inner query reads only what the filters need, and the rest is read for the
 * jobs that match. `cross join` keeps the order of the walk.
 */
export function walkSql(query: Filters): string {
  const filters = [
    query.states === undefined ? 'true' : inStates(query.states, 'found_state'),
    (query.dedupeKey === undefined && query.group === undefined) || query.endpoint === undefined
      ? 'true'
      : 'found_endpoint = $endpoint',
    query.dedupeKey === undefined || query.group === undefined ? 'true' : 'found_group = $group',
    query.fairnessKey === undefined ? 'true' : 'found_key = $fairnessKey',
    query.failureReason === undefined ? 'true' : 'found_reason = $failureReason',
    query.tag === undefined
      ? 'true'
      : 'exists (select 1 from json_each(found_tags) where value = $tag)',
  ]
  const found = `seq as found, state as found_state, endpoint as found_endpoint,
      group_id as found_group, fairness_key as found_key, failure_reason as found_reason,
      tags as found_tags`
  return `select ${SUMMARY_COLUMNS} from (
      select ${found} from jobs
      where ${rangeSql(query)} order by id ${directionOf(query)} limit ${MAX_ENTRIES_PER_PAGE})
    cross join jobs on seq = found
    where ${filters.join(' and ')} limit +$limit`
}

/** The id of the last entry that a walk reads, if it reads as many as it may. */
export function lastLookedAtSql(query: Filters): string {
  return `select id from jobs where ${rangeSql(query)}
    order by id ${directionOf(query)} limit 1 offset ${MAX_ENTRIES_PER_PAGE - 1}`
}

function rangeSql({ endpoint, dedupeKey, group }: Filters): string {
  const stretch = 'id < $below and id >= $atLeast'
  if (dedupeKey !== undefined) return `dedupe_key = $dedupeKey and ${stretch}`
  if (group !== undefined) return `group_id = $group and ${stretch}`
  return endpoint === undefined ? stretch : `endpoint = $endpoint and ${stretch}`
}

/** The parameter of rangeSql, beside the stretch. */
function rangeOf({ endpoint, dedupeKey, group }: Filters) {
  if (dedupeKey !== undefined) return { dedupeKey }
  return group === undefined ? { endpoint } : { group }
}

/** Reads jobs of all states in order of id, and stops at its limit of entries. */
function pageByWalking(database: Database, query: JobQuery, stretch: Stretch): Page<JobSummary> {
  const { connection, keys } = database
  const { endpoint, group, fairnessKey, failureReason, tag } = query
  const range = given({ ...stretch, ...rangeOf(query) })
  const rows = connection.statement(walkSql(query)).all({
    ...range,
    ...given({ endpoint, group, fairnessKey, failureReason, tag }),
    limit: query.limit + 1,
  }) as unknown as SummaryRow[]
  const items = rows.slice(0, query.limit).map((row) => toSummary(row, keys))
  if (rows.length > query.limit) return { items, next: items.at(-1)?.id ?? null }
  const last = connection.statement(lastLookedAtSql(query)).get(range)
  return { items, next: last === undefined ? null : (last.id as string) }
}

/** The keys are directions. */
export const IDS_IN_STATE = { desc: idsInState('desc'), asc: idsInState('asc') }
type IndexedState = keyof (typeof IDS_IN_STATE)['desc']

function idsInState(direction: 'asc' | 'desc') {
  const idsSql = (condition: string) => `
    select id from jobs where ${condition} and endpoint = $endpoint
      and id < $below and id >= $atLeast
    order by id ${direction} limit +$limit`
  return {
    running: idsSql("state = 'running'"),
    dead: idsSql("unsuccessful = 'dead'"),
    cancelled: idsSql("unsuccessful = 'cancelled'"),
  }
}

/** The next endpoint with running jobs, and with unsuccessful ones: one seek each. */
export const NEXT_NAME_RUNNING = `
select min(endpoint) as name from jobs where state = 'running' and endpoint > $after`
export const NEXT_NAME_UNSUCCESSFUL = `
select min(endpoint) as name from jobs where unsuccessful is not null and endpoint > $after`

export const SUMMARY_OF = `select ${SUMMARY_COLUMNS} from jobs where id = $id`

/** The jobs of one endpoint in one state, which an index has in order of id. */
interface List {
  endpoint: string
  state: IndexedState
}

function isIndexed(state: JobState): state is IndexedState {
  return state in IDS_IN_STATE.desc
}

function listsOf({ connection }: Database, states: IndexedState[], endpoint?: string): List[] {
  return [...new Set(states)].flatMap((state) => {
    const names = endpoint === undefined ? namesWith(state) : [endpoint]
    return names.map((name) => ({ endpoint: name, state }))
  })

  function namesWith(state: IndexedState): string[] {
    const next = connection.statement(
      state === 'running' ? NEXT_NAME_RUNNING : NEXT_NAME_UNSUCCESSFUL,
    )
    const names: string[] = []
    let name = next.get({ after: '' })?.name
    while (typeof name === 'string' && names.length <= MAX_LISTS) {
      names.push(name)
      name = next.get({ after: name })?.name
    }
    return names
  }
}

/**
 * Merges lists. Each contributes its first part. Its other entries come after the end of that part,
 * so the merged page is complete up to the first of these ends, and stops there.
 */
function pageOfLists(
  database: Database,
  query: JobQuery,
  lists: List[],
  { below, atLeast }: Stretch,
): Page<JobSummary> {
  const { connection, keys } = database
  const direction = directionOf(query)
  const comesAfter = (one: string, other: string) =>
    direction === 'asc' ? one > other : one < other
  const part = partSize(query, lists.length)
  const ids: string[] = []
  let end: string | null = null
  for (const { endpoint, state } of lists) {
    const statement = connection.statement(IDS_IN_STATE[direction][state])
    const found = statement.all({ endpoint, below, atLeast, limit: part })
    for (const { id } of found) ids.push(id as string)
    const last = found.at(-1)?.id as string | undefined
    if (last === undefined || found.length < part) continue
    if (end === null || comesAfter(end, last)) end = last
  }
  const items: JobSummary[] = []
  for (const id of ids.sort((a, b) => (comesAfter(a, b) ? 1 : -1))) {
    if (end !== null && comesAfter(id, end)) break
    const item = toSummary(
      connection.statement(SUMMARY_OF).get({ id }) as unknown as SummaryRow,
      keys,
    )
    if (!matches(item, query)) continue
    if (items.length === query.limit) return { items, next: items.at(-1)?.id ?? null }
    items.push(item)
  }
  return { items, next: end }
}

function matches(job: JobSummary, { tag, fairnessKey, failureReason }: JobQuery): boolean {
  if (tag !== undefined && !job.tags.includes(tag)) return false
  if (fairnessKey !== undefined && job.fairnessKey !== fairnessKey) return false
  return failureReason === undefined || job.failure?.reason === failureReason
}

/** An equal share of the entries that a page may read. Without a filter, one page is enough. */
function partSize(query: JobQuery, listCount: number): number {
  const { limit, tag, fairnessKey, failureReason } = query
  const share = Math.floor(MAX_ENTRIES_PER_PAGE / Math.max(1, listCount))
  const isFiltered = [tag, fairnessKey, failureReason].some((filter) => filter !== undefined)
  return isFiltered ? share : Math.min(limit + 1, share)
}

/** Keeps only the parameters that a query has, because a statement rejects any other. */
function given(parameters: Record<string, string | undefined>): Record<string, string> {
  return Object.fromEntries(
    Object.entries(parameters).filter((entry): entry is [string, string] => entry[1] !== undefined),
  )
}
