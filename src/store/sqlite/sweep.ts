// sweep: what nobody else can end. It first looks, without a write lock, and writes only where it
// found something; every write proves again what was seen.
import { EXPIRED } from '../../job/attempt.ts'
import { addEffects, type FinishEffects, NO_EFFECTS, sumEffects } from '../../job/finish-effects.ts'
import { purgeClasses } from '../../job/retention.ts'
import type { SweepCounts, SweepOptions } from '../store.ts'
import { MAX_STEPS, runAftermath } from './aftermath.ts'
import { WRITE_META } from './api-mode.ts'
import { type Database, tellEnd } from './database.ts'
import { buryJobsOfGoneEndpoints } from './endpoint-burial.ts'
import { failureValues, finishQueuedAs } from './finish.ts'
import { guardOf } from './guards.ts'
import { endLapsedLeases } from './lapsed.ts'
import { recheckHeld } from './recheck.ts'
import { giveBackPages } from './vacuum.ts'

/** Parameters: now, limit. */
export const EXPIRED_JOBS = `
select seq from jobs where state = 'queued' and expires_at is not null and expires_at <= ?
order by expires_at limit +?`
/** Parameters: finished at, reason, message, seq, now. */
export const EXPIRE = `
update jobs set ${finishQueuedAs('dead')}, failure_reason = ?, failure_message = ?
where seq = ? and ${guardOf('expire')} returning id, endpoint`

/** Parameters: is dead, has key, finished by, limit. */
export const PURGEABLE = `
select seq from jobs where (state = 'dead') = ? and has_key is ? and finished_at <= ?
  and finished_at is not null and aftermath = 0
order by finished_at limit +?`
/** Parameters: seq, is dead, has key, finished by. */
export const PURGE = `delete from jobs where seq = ? and ${guardOf('purge')}`

export const IS_AFTERMATH_LEFT = 'select 1 from jobs where aftermath = 1 limit 1'

export async function sweep(database: Database, options: SweepOptions): Promise<SweepCounts> {
  const { limit } = options
  if (!options.reclaim) await proveWritable(database)
  // First: what this sweep ends can be read until the next one, however short the retention is.
  const purged = await purge(database, limit)
  // What others left undone, before what this sweep itself ends.
  const left = await finishAftermaths(database, limit)
  const held = await recheckHeld(database, limit)
  // Evicts before it reclaims: a job of an endpoint that is being deleted need not go round again.
  const buried = await buryJobsOfGoneEndpoints(database, limit)
  const lapsed = options.reclaim
    ? await endLapsedLeases(database, limit)
    : { reclaimed: 0, buriedLapsed: 0, ...NO_EFFECTS }
  const expired = await expire(database, limit)
  if (lapsed.reclaimed > 0) database.watch.stir()
  await giveBackPages(database)
  return {
    abandoned: buried.abandoned,
    evicted: buried.evicted,
    reclaimed: lapsed.reclaimed,
    buriedLapsed: lapsed.buriedLapsed,
    expired: expired.expired,
    ...sumEffects([left, held, buried, lapsed, expired]),
    // Found undone by this sweep; those of its own ends are not.
    aftermaths: left.aftermaths,
    purged,
  }
}

/**
 * Most sweeps find nothing and only read, and that a full disk or a long writer does not hinder. To
 * whoever sweeps in an outage the store must not seem to be back before its holders can renew.
 */
function proveWritable({ connection }: Database): Promise<void> {
  return connection.write('normal', () => {
    connection.statement(WRITE_META).run('proof_of_writing', '')
  })
}

/** In transactions of bounded length, until none is left or as many jobs were looked at. */
async function finishAftermaths(database: Database, limit: number): Promise<FinishEffects> {
  const { connection } = database
  const total = { ...NO_EFFECTS }
  for (let steps = 0; steps < limit; steps += MAX_STEPS) {
    const isLeft = await connection.read(() => connection.statement(IS_AFTERMATH_LEFT).get())
    if (isLeft === undefined) break
    const counts = await connection.write('normal', () => runAftermath(database))
    addEffects(total, counts)
  }
  return total
}

/** Class by class; a class that fills the limit is looked at again by the next sweep, at once. */
async function purge({ connection, clock, settings }: Database, limit: number): Promise<number> {
  const found = await connection.read(() => {
    let left = limit
    return purgeClasses(settings, clock.now()).flatMap(({ isDead, isKeyed, finishedBy }) => {
      const proof = [isDead ? 1 : 0, isKeyed ? 1 : null, finishedBy] as const
      const rows = connection.statement(PURGEABLE).all(...proof, left)
      left -= rows.length
      return rows.map(({ seq }) => [seq as number, ...proof] as const)
    })
  })
  if (found.length === 0) return 0
  return connection.write('normal', () =>
    found.reduce((sum, row) => sum + Number(connection.statement(PURGE).run(...row).changes), 0),
  )
}

async function expire(
  database: Database,
  limit: number,
): Promise<{ expired: number } & FinishEffects> {
  const { connection, clock } = database
  const found = await connection.read(() =>
    connection.statement(EXPIRED_JOBS).all(clock.now(), limit),
  )
  if (found.length === 0) return { expired: 0, ...NO_EFFECTS }
  return connection.write('normal', () => {
    const now = clock.now()
    const statement = connection.statement(EXPIRE)
    let expired = 0
    for (const { seq } of found) {
      const row = statement.get(now, ...failureValues(EXPIRED), seq as number, now)
      if (row === undefined) continue
      expired++
      const { id, endpoint } = row as { id: string; endpoint: string }
      tellEnd(database, { jobId: id, endpoint, attempt: null, diedOf: EXPIRED.reason })
    }
    return { expired, ...runAftermath(database) }
  })
}
