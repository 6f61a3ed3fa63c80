// Sweep: what time alone brings about. Lapsed leases, expired jobs, jobs of endpoints that are
// gone, final jobs kept long enough. Several sweepers at once do no harm: each write is guarded.
import type { Filter } from 'mongodb'
import type { Failure } from '../../job/job.ts'
import type { SweepCounts, SweepOptions } from '../store.ts'
import { type Aftermath, afterFinish, doLeftAftermaths } from './aftermath.ts'
import { failureFields, pushAttempt, randomId, toFinal, toQueued } from './changes.ts'
import { type MongoContext, nowOf } from './context.ts'
import type { JobDocument } from './documents.ts'
import type { GoneEndpoints } from './gone-endpoints.ts'
import { guardOf } from './guards.ts'
import { type Checked, checkSomeHeld } from './held.ts'
import { BY_ID } from './indexes.ts'
import { leaseOf, lostAttempt, SEEN_LEASE, type SeenLease } from './lost-attempts.ts'
import { type Deadline, run, startDeadline } from './run-command.ts'
import { lookForSweepable, SWEEPABLE } from './sweep-look.ts'

const LEASE_LOST: Failure = {
  reason: 'lease_lost',
  message: 'the lease of its last attempt ran out, and no attempt is left',
}
const EXPIRED: Failure = {
  reason: 'expired',
  message: 'it expired before an attempt was started',
}

export async function sweep(
  context: MongoContext,
  goneEndpoints: GoneEndpoints,
  options: SweepOptions,
): Promise<SweepCounts> {
  const { limit } = options
  const found = await lookForSweepable(context)
  const lapsed =
    options.reclaim && found.has('lapsed')
      ? await takeLapsed(context, limit)
      : { reclaimed: 0, buriedLapsed: 0 }
  let expired = 0
  for (const kind of ['expiredQueued', 'expiredHeld'] as const) {
    if (found.has(kind)) expired += await buryExpired(context, kind, limit)
  }
  const gone = await goneEndpoints.bury(limit)
  const held = found.has('held') ? await checkSomeHeld(context, limit) : NOTHING_HELD
  await afterFinish(context, held.failed)
  const left = found.has('owing') ? await doLeftAftermaths(context, limit) : NOTHING_LEFT
  const purged = found.has('purgeable') ? await purge(context, limit) : 0
  if (lapsed.reclaimed > 0) context.hint()
  return {
    ...lapsed,
    expired,
    ...gone,
    promoted: held.promotedCount + left.promotedCount,
    dependentsFailed: held.failed.length + left.failedCount,
    aftermaths: left.doneCount,
    purged,
  }
}

const NOTHING_HELD: Checked = { promotedCount: 0, isChanged: false, failed: [] }
const NOTHING_LEFT: Aftermath = { doneCount: 0, promotedCount: 0, failedCount: 0 }

type Lapsed = SeenLease & Pick<JobDocument, 'attemptsLeft' | 'superseded'>
type LapsedEvent = 'reclaim' | 'bury_lapsed' | 'withdraw_lapsed'

async function takeLapsed(context: MongoContext, limit: number) {
  const now = nowOf(context)
  const { filter, sort } = SWEEPABLE.lapsed(now)
  const projection = { ...SEEN_LEASE, attemptsLeft: 1, superseded: 1 } as const
  const seen = await run(startDeadline(), (commandLimit) =>
    context.jobs
      .find<Lapsed>(filter, { projection, sort, limit, batchSize: limit, ...commandLimit })
      .toArray(),
  )
  const byEvent = Map.groupBy(seen, eventOf)
  const write = (event: LapsedEvent) => writeLapsed(context, event, byEvent.get(event) ?? [], now)
  const reclaimed = await write('reclaim')
  const buried = await write('bury_lapsed')
  const withdrawn = await write('withdraw_lapsed')
  return { reclaimed, buriedLapsed: buried + withdrawn }
}

function eventOf({ superseded, attemptsLeft }: Lapsed): LapsedEvent {
  if (superseded === true) return 'withdraw_lapsed'
  return attemptsLeft > 0 ? 'reclaim' : 'bury_lapsed'
}

async function writeLapsed(
  context: MongoContext,
  event: LapsedEvent,
  jobs: Lapsed[],
  now: Date,
): Promise<number> {
  if (jobs.length === 0) return 0
  const updates = jobs.map((job) => {
    const attempt = lostAttempt(job, now, 'lost', { event, writeId: randomId() })
    const filter = { _id: job._id, ...guardOf(event, { now, lease: leaseOf(job) }) }
    const update = { ...lapsedChange(context, event, now), ...pushAttempt(attempt) }
    return { updateOne: { filter, update, ...BY_ID } }
  })
  const { modifiedCount } = await run(startDeadline(), (commandLimit) =>
    context.jobs.bulkWrite(updates, { ordered: false, ...commandLimit }),
  )
  if (event !== 'reclaim' && modifiedCount > 0) {
    await afterFinish(
      context,
      jobs.map(({ _id }) => _id),
    )
  }
  return modifiedCount
}

function lapsedChange({ settings }: MongoContext, event: LapsedEvent, now: Date) {
  switch (event) {
    case 'reclaim':
      return toQueued(now)
    case 'bury_lapsed':
      return toFinal('dead', now, settings, failureFields(LEASE_LOST))
    case 'withdraw_lapsed':
      return toFinal('cancelled', now, settings, {})
    default:
      throw new Error(`unknown event ${event satisfies never}`)
  }
}

async function buryExpired(
  context: MongoContext,
  kind: 'expiredQueued' | 'expiredHeld',
  limit: number,
): Promise<number> {
  const deadline = startDeadline()
  const now = nowOf(context)
  const { filter: guard, sort } = SWEEPABLE[kind](now)
  const ids = await idsOf(context, guard, sort, limit, deadline)
  if (ids.length === 0) return 0
  const { modifiedCount } = await run(deadline, (commandLimit) =>
    context.jobs.updateMany(
      { $and: [{ _id: { $in: ids } }, guard] },
      toFinal('dead', now, context.settings, failureFields(EXPIRED)),
      commandLimit,
    ),
  )
  if (modifiedCount > 0) await afterFinish(context, ids)
  return modifiedCount
}

/** The TTL index does the same once a minute; this does it on time, and where that is off. */
async function purge(context: MongoContext, limit: number): Promise<number> {
  const deadline = startDeadline()
  const { filter: guard, sort } = SWEEPABLE.purgeable(nowOf(context))
  const ids = await idsOf(context, guard, sort, limit, deadline)
  if (ids.length === 0) return 0
  const { deletedCount } = await run(deadline, (commandLimit) =>
    context.jobs.deleteMany({ $and: [{ _id: { $in: ids } }, guard] }, commandLimit),
  )
  return deletedCount
}

async function idsOf(
  context: MongoContext,
  filter: Filter<JobDocument>,
  sort: Record<string, 1>,
  limit: number,
  deadline: Deadline,
): Promise<string[]> {
  const found = await run(deadline, (commandLimit) =>
    context.jobs
      .find(filter, { projection: { _id: 1 }, sort, limit, batchSize: limit, ...commandLimit })
      .toArray(),
  )
  return found.map(({ _id }) => _id)
}
