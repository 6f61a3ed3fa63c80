// correctInstants: pulls in what was stored while the machine's clock was ahead.

import { restAfterSetBack } from '../../endpoint/health.ts'
import { MAX_AHEAD_MS } from '../../job/job.ts'
import { firstIdAt } from '../../job/job-id.ts'
import { AHEAD_TOLERANCE_MS, runAtAfterSetBack } from '../../job/set-back.ts'
import type { Database } from './connection.ts'
import { readAttemptLines } from './job-row.ts'

/** In one transaction: it holds the file, and others must not wait long for it. */
const CORRECTED_PER_TRANSACTION = 500

const INSTANTS = 'seq, run_at, created_at, attempts'
/** Parameter: the first id of a job that is created after now. */
export const CREATED_AHEAD = `
select ${INSTANTS} from jobs where id > ? and state = 'queued'`
/** Retries, and what is due later than any client can ask for. Parameters: now, a year from now. */
export const RETRIED_AHEAD = `
select ${INSTANTS} from jobs
where state = 'queued' and blocked = 0 and due_at > ? and (attempts is not null or due_at > ?)`
/** Parameters: run at (five times), seq, run at as seen. */
export const PULL_IN = `
update jobs set expires_at = expires_at - (run_at - ?), run_at = ?, due_at = ?,
  first_run_at = min(first_run_at, ?), promoted_at = min(promoted_at, ?), version = version + 1
where seq = ? and state = 'queued' and run_at = ?`
/** Parameters: now, is dead, has key, now, limit. */
export const FINISH_NOW = `
update jobs set finished_at = ?
where seq in (
  select seq from jobs where (state = 'dead') = ? and has_key is ? and finished_at > ?
    and finished_at is not null and effects_pending = 0
  limit +?)`
export const RESTS_AHEAD = `
select name, resting_until, rest_by_breaker, breaker_cooldown_ms from endpoints
where resting_until > ?`
export const END_REST = `
update endpoints set resting_until = ?, ramp_places = null, ramp_ends_at = null
where name = ? and resting_until = ?`
export const FORGET_WORKERS_AHEAD = 'delete from workers where seen_at > ?'
export const FORGET_FIGURES_AHEAD = 'delete from figures where minute > ?'

interface JobRow {
  seq: number
  run_at: number
  created_at: number
  attempts: string | null
}

interface RestRow {
  name: string
  resting_until: number
  rest_by_breaker: number
  breaker_cooldown_ms: number | null
}

export async function correctInstants(
  database: Database,
  setBackMs: number | null,
): Promise<number> {
  const jobs = await correctJobs(database)
  const ends = await correctEnds(database)
  return jobs + ends + (await correctRecords(database, setBackMs))
}

async function correctJobs(database: Database): Promise<number> {
  const { connection, clock } = database
  const moves = await connection.read(() => {
    const now = clock.now()
    const ahead = now + AHEAD_TOLERANCE_MS
    const found = new Map<number, { from: number; to: number }>()
    for (const [sql, ...values] of [
      [CREATED_AHEAD, firstIdAt(ahead)],
      [RETRIED_AHEAD, ahead, ahead + MAX_AHEAD_MS],
    ] as const) {
      const rows = connection.statement(sql).iterate(...values)
      for (const row of rows as Iterable<unknown> as Iterable<JobRow>) {
        const to = dueAfterSetBack(row, now)
        if (to !== null) found.set(row.seq, { from: row.run_at, to })
      }
    }
    return [...found]
  })
  let corrected = 0
  for (let i = 0; i < moves.length; i += CORRECTED_PER_TRANSACTION) {
    corrected += await connection.write('normal', () => {
      const pullIn = connection.statement(PULL_IN)
      let count = 0
      for (const [seq, { from, to }] of moves.slice(i, i + CORRECTED_PER_TRANSACTION)) {
        count += Number(pullIn.run(to, to, to, to, to, seq, from).changes)
      }
      return count
    })
  }
  if (corrected > 0) database.notifier.notifyWork()
  return corrected
}

function dueAfterSetBack(row: JobRow, now: number): number | null {
  const last = row.attempts?.slice(row.attempts.lastIndexOf('\n') + 1) ?? null
  const lastFinishedAt = readAttemptLines(last).at(-1)?.finishedAt ?? null
  return runAtAfterSetBack({ runAt: row.run_at, createdAt: row.created_at, lastFinishedAt }, now)
}

/** Retention counts from the end of a job. */
async function correctEnds({ connection, clock }: Database): Promise<number> {
  let corrected = 0
  for (const isDead of [0, 1]) {
    for (const hasKey of [null, 1]) {
      let count: number
      do {
        count = await connection.write('normal', () => {
          const now = clock.now()
          const values = [now, isDead, hasKey, now + AHEAD_TOLERANCE_MS, CORRECTED_PER_TRANSACTION]
          return Number(connection.statement(FINISH_NOW).run(...values).changes)
        })
        corrected += count
      } while (count === CORRECTED_PER_TRANSACTION)
    }
  }
  return corrected
}

function correctRecords(
  { connection, clock }: Database,
  setBackMs: number | null,
): Promise<number> {
  return connection.write('normal', () => {
    const now = clock.now()
    const ahead = now + AHEAD_TOLERANCE_MS
    let corrected = 0
    const rests = connection.statement(RESTS_AHEAD).all(ahead) as unknown as RestRow[]
    for (const { name, resting_until, rest_by_breaker, breaker_cooldown_ms } of rests) {
      const cooldownMs = rest_by_breaker === 1 ? breaker_cooldown_ms : null
      const until = restAfterSetBack(resting_until, cooldownMs, setBackMs ?? 0, now)
      if (until === resting_until) continue
      corrected += Number(connection.statement(END_REST).run(until, name, resting_until).changes)
    }
    const workers = connection.statement(FORGET_WORKERS_AHEAD).run(ahead)
    const figures = connection.statement(FORGET_FIGURES_AHEAD).run(ahead)
    return corrected + Number(workers.changes) + Number(figures.changes)
  })
}
