// correctInstants moves instants back that were stored while the machine's clock was ahead.

import { restAfterSetBack } from '../../endpoint/health.ts'
import { fullAfterSetBack } from '../../endpoint/rate-bucket.ts'
import { MAX_AHEAD_MS } from '../../job/job.ts'
import { firstIdAt } from '../../job/job-id.ts'
import { AHEAD_TOLERANCE_MS, runAtAfterSetBack } from '../../job/set-back.ts'
import { PARKED } from '../../job/turns.ts'
import type { Database } from './connection.ts'
import { readAttemptLines } from './job-row.ts'
import { leaveLine, placeUnplaced, UNTIL_THERE_IS_ROOM } from './turns.ts'

/** A transaction blocks other writers, who must not wait long. */
const CORRECTED_PER_TRANSACTION = 500

const INSTANTS = 'seq, run_at, created_at, attempts'
/** Ids begin with the instant of their creation. */
const CREATED_AHEAD = `
select ${INSTANTS} from jobs where id > $firstId and state = 'queued'`
/** Retries, and jobs that are due later than any client can ask for. */
export const RETRIED_AHEAD = `
select ${INSTANTS} from jobs
where claimable = 1 and due_at > $ahead
  and (attempts is not null or due_at > $latest)`
/** The same of jobs that wait for a turn of their key. Reads all of them. */
const OUTSIDE_AHEAD = `
select ${INSTANTS} from jobs
where blocked = 2 and due_at > $ahead and (attempts is not null or due_at > $latest)`
const MOVE_BACK = `
update jobs set expires_at = expires_at - (run_at - $to),
  expiring_at = expires_at - (run_at - $to), run_at = $to, due_at = $to,
  first_run_at = min(first_run_at, $to), promoted_at = min(promoted_at, $to),
  version = version + 1
where seq = $seq and state = 'queued' and run_at = $from`
export const FINISH_NOW = `
update jobs set finished_at = $now
where seq in (
  select seq from jobs
  where (unsuccessful is 'dead') = $isDead and has_key is $hasKey and finished_at > $ahead
    and finished_at is not null and effects_pending = 0
  limit +$limit)`
const RESTS_AHEAD = `
select name, resting_until, rest_by_breaker, breaker_cooldown_ms from endpoints
where resting_until > $ahead`
const END_REST = `
update endpoints set resting_until = $until, ramp_slots = null, ramp_ends_at = null
where name = $name and resting_until = $before`
/** Keys that wait for an instant: claims look again whether they rest, or have tokens. */
export const WAKE_PARKED_AHEAD = `
update jobs set due_at = $now
where turn = ${PARKED} and effects_pending = 0 and due_at > $ahead
  and due_at < ${UNTIL_THERE_IS_ROOM}`
const BUCKETS_AHEAD = (['endpoints', 'limits'] as const).map((table) => ({
  find: `
select name, rate_count as count, rate_per_ms as perMs, bucket_full_at as fullAt from ${table}
where bucket_full_at > $ahead and rate_count is not null`,
  set: `update ${table} set bucket_full_at = $to where name = $name and bucket_full_at = $fullAt`,
}))
const FORGET_WORKERS_AHEAD = 'delete from workers where seen_at > $ahead'
const FORGET_MINUTE_STATS_AHEAD = 'delete from minute_stats where minute > $ahead'

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

interface BucketRow {
  name: string
  count: number
  perMs: number
  fullAt: number
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
    for (const rows of [
      connection.statement(CREATED_AHEAD).iterate({ firstId: firstIdAt(ahead) }),
      connection.statement(RETRIED_AHEAD).iterate({ ahead, latest: ahead + MAX_AHEAD_MS }),
      connection.statement(OUTSIDE_AHEAD).iterate({ ahead, latest: ahead + MAX_AHEAD_MS }),
    ]) {
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
      const moveBack = connection.statement(MOVE_BACK)
      let count = 0
      for (const [seq, { from, to }] of moves.slice(i, i + CORRECTED_PER_TRANSACTION)) {
        leaveLine(database, seq)
        count += Number(moveBack.run({ seq, from, to }).changes)
      }
      placeUnplaced(database)
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

/** Retention counts from `finished_at`. */
async function correctEnds({ connection, clock }: Database): Promise<number> {
  let corrected = 0
  for (const isDead of [0, 1]) {
    for (const hasKey of [null, 1]) {
      let count: number
      do {
        count = await connection.write('normal', () => {
          const now = clock.now()
          const ahead = now + AHEAD_TOLERANCE_MS
          const limit = CORRECTED_PER_TRANSACTION
          const finish = connection.statement(FINISH_NOW)
          return Number(finish.run({ now, isDead, hasKey, ahead, limit }).changes)
        })
        corrected += count
      } while (count === CORRECTED_PER_TRANSACTION)
    }
  }
  return corrected
}

function correctRecords(database: Database, setBackMs: number | null): Promise<number> {
  const { connection, clock } = database
  return connection.write('normal', () => {
    const now = clock.now()
    const ahead = now + AHEAD_TOLERANCE_MS
    let corrected = 0
    const rests = connection.statement(RESTS_AHEAD).all({ ahead }) as unknown as RestRow[]
    for (const { name, resting_until, rest_by_breaker, breaker_cooldown_ms } of rests) {
      const cooldownMs = rest_by_breaker === 1 ? breaker_cooldown_ms : null
      const until = restAfterSetBack(resting_until, cooldownMs, setBackMs ?? 0, now)
      if (until === resting_until) continue
      const endRest = connection.statement(END_REST)
      corrected += Number(endRest.run({ name, until, before: resting_until }).changes)
    }
    correctBuckets(database, setBackMs ?? 0, now)
    connection.statement(WAKE_PARKED_AHEAD).run({ now, ahead })
    const workers = connection.statement(FORGET_WORKERS_AHEAD).run({ ahead })
    const stats = connection.statement(FORGET_MINUTE_STATS_AHEAD).run({ ahead })
    return corrected + Number(workers.changes) + Number(stats.changes)
  })
}

function correctBuckets({ connection }: Database, setBackMs: number, now: number): void {
  for (const { find, set } of BUCKETS_AHEAD) {
    const rows = connection.statement(find).all({ ahead: now + AHEAD_TOLERANCE_MS })
    for (const { name, fullAt, ...limit } of rows as unknown as BucketRow[]) {
      const to = fullAfterSetBack(limit, fullAt, setBackMs, now)
      connection.statement(set).run({ name, fullAt, to })
    }
  }
}
