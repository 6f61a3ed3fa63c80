// Sweep: what time alone brings about. Lapsed leases, expired jobs, jobs of endpoints that are
// gone, final jobs kept long enough. Several sweepers at once do no harm: each write is guarded.
import type { Failure } from '../../job/job.ts'
import type { SweepCounts, SweepOptions } from '../store.ts'
import { failureFields, pushAttempt, randomId, toFinal, toQueued } from './changes.ts'
import { type MongoContext, nowOf } from './context.ts'
import type { GoneEndpoints } from './gone-endpoints.ts'
import { guardOf } from './guards.ts'
import { BY_ID } from './indexes.ts'
import { leaseOf, lostAttempt, SEEN_LEASE, type SeenLease } from './lost-attempts.ts'
import { run, startDeadline } from './run-command.ts'

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
  const lapsed = options.reclaim
    ? await takeLapsed(context, limit)
    : { reclaimed: 0, buriedLapsed: 0 }
  const expired = await buryExpired(context, limit)
  const gone = await goneEndpoints.bury(limit)
  const purged = await purge(context, limit)
  if (lapsed.reclaimed > 0) context.hint()
  return { ...lapsed, expired, ...gone, purged }
}

type Lapsed = SeenLease & { attemptsLeft: number }

async function takeLapsed(context: MongoContext, limit: number) {
  const deadline = startDeadline()
  const now = nowOf(context)
  const seen = await run(deadline, (commandLimit) =>
    context.jobs
      .find<Lapsed>(
        { state: 'running', leaseExpiresAt: { $lte: now } },
        {
          projection: { ...SEEN_LEASE, attemptsLeft: 1 },
          sort: { leaseExpiresAt: 1 },
          limit,
          batchSize: limit,
          ...commandLimit,
        },
      )
      .toArray(),
  )
  const write = async (event: 'reclaim' | 'bury_lapsed', jobs: Lapsed[]) => {
    if (jobs.length === 0) return 0
    const updates = jobs.map((job) => {
      const attempt = lostAttempt(job, now, 'lost', { event, writeId: randomId() })
      const change =
        event === 'reclaim'
          ? toQueued(now)
          : toFinal('dead', now, context.settings, failureFields(LEASE_LOST))
      const filter = { _id: job._id, ...guardOf(event, { now, lease: leaseOf(job) }) }
      return { updateOne: { filter, update: { ...change, ...pushAttempt(attempt) }, ...BY_ID } }
    })
    const { modifiedCount } = await run(deadline, (commandLimit) =>
      context.jobs.bulkWrite(updates, { ordered: false, ...commandLimit }),
    )
    return modifiedCount
  }
  return {
    reclaimed: await write(
      'reclaim',
      seen.filter(({ attemptsLeft }) => attemptsLeft > 0),
    ),
    buriedLapsed: await write(
      'bury_lapsed',
      seen.filter(({ attemptsLeft }) => attemptsLeft === 0),
    ),
  }
}

async function buryExpired(context: MongoContext, limit: number): Promise<number> {
  const deadline = startDeadline()
  const now = nowOf(context)
  const guard = guardOf('expire', { now })
  const found = await run(deadline, (commandLimit) =>
    context.jobs
      .find(guard, {
        projection: { _id: 1 },
        sort: { expiresAt: 1 },
        limit,
        batchSize: limit,
        ...commandLimit,
      })
      .toArray(),
  )
  if (found.length === 0) return 0
  const { modifiedCount } = await run(deadline, (commandLimit) =>
    context.jobs.updateMany(
      { $and: [{ _id: { $in: found.map(({ _id }) => _id) } }, guard] },
      toFinal('dead', now, context.settings, failureFields(EXPIRED)),
      commandLimit,
    ),
  )
  return modifiedCount
}

/** The TTL index does the same once a minute; this does it on time, and where that is off. */
async function purge(context: MongoContext, limit: number): Promise<number> {
  const deadline = startDeadline()
  const guard = guardOf('purge', { now: nowOf(context) })
  const found = await run(deadline, (commandLimit) =>
    context.jobs
      .find(guard, {
        projection: { _id: 1 },
        sort: { purgeAt: 1 },
        limit,
        batchSize: limit,
        ...commandLimit,
      })
      .toArray(),
  )
  if (found.length === 0) return 0
  const ids = found.map(({ _id }) => _id)
  const { deletedCount } = await run(deadline, (commandLimit) =>
    context.jobs.deleteMany({ $and: [{ _id: { $in: ids } }, guard] }, commandLimit),
  )
  return deletedCount
}
