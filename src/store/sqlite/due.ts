// due: which endpoints may have work, without walking what waits.
import type { Due } from '../store.ts'
import type { Database } from './database.ts'

/**
 * So many index entries are looked at for what became due since the last look; with more, skipping
 * from name to name is cheaper and names every endpoint that has queued jobs.
 */
const MAX_ENTRIES = 1_000

/** Parameters: since, now. */
export const DUE_BETWEEN = `
select endpoint from jobs where state = 'queued' and held = 0 and due_at > ? and due_at <= ?
order by due_at limit ${MAX_ENTRIES}`

/** A thousand rows cost more to hand over than to count. */
export const COUNT_DUE_BETWEEN = `select count(*) as count from (${DUE_BETWEEN})`

/** Each step is one seek in the index, past all jobs of one endpoint. */
export const ALL_QUEUED = `
with recursive lane (endpoint) as (
  select min(endpoint) from jobs where state = 'queued' and held = 0
  union all
  select (select min(endpoint) from jobs
    where state = 'queued' and held = 0 and endpoint > lane.endpoint)
  from lane where lane.endpoint is not null)
select endpoint from lane where endpoint is not null`

export const NEXT_DUE = `
select due_at as next_at from jobs where state = 'queued' and held = 0 and due_at > ?
order by due_at limit 1`

export function due({ connection, clock }: Database, since: number | null): Promise<Due> {
  return connection.read(() => {
    const now = clock.now()
    const recent = since === null ? null : becameDue(since, now)
    const nextAt = (connection.statement(NEXT_DUE).get(now)?.next_at as number | undefined) ?? null
    return { endpoints: recent ?? allQueued(), nextAt }
  })

  function becameDue(after: number, now: number): string[] | null {
    const { count } = connection.statement(COUNT_DUE_BETWEEN).get(after, now) as { count: number }
    if (count >= MAX_ENTRIES) return null
    return distinct(connection.statement(DUE_BETWEEN).all(after, now))
  }

  function allQueued(): string[] {
    return distinct(connection.statement(ALL_QUEUED).all())
  }
}

function distinct(rows: Record<string, unknown>[]): string[] {
  return [...new Set(rows.map((row) => row.endpoint as string))]
}
