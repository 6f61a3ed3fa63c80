// Renew and release: what a holder does with its leases before an attempt has ended.
import type { AnyBulkWriteOperation, Filter, UpdateFilter } from 'mongodb'
import type { Lease } from '../../job/job.ts'
import type { RenewResult } from '../settlement.ts'
import { afterFinish } from './aftermath.ts'
import { randomId, toFinal, toQueued } from './changes.ts'
import { type MongoContext, nowOf } from './context.ts'
import type { JobDocument } from './documents.ts'
import { guardOf } from './guards.ts'
import { BY_ID } from './indexes.ts'
import { type Deadline, run, startDeadline } from './run-command.ts'

export async function renew(
  context: MongoContext,
  leases: Lease[],
  leaseMs: number,
): Promise<RenewResult[]> {
  if (leases.length === 0) return []
  const deadline = startDeadline()
  const now = nowOf(context)
  const until = new Date(now.getTime() + leaseMs)
  const updates = groupsOf(leases).map(({ ids, lease }) => ({
    updateMany: {
      filter: { _id: { $in: ids }, ...guardOf('renew', { now, lease }) },
      update: { $max: { leaseExpiresAt: until } },
      ...BY_ID,
    },
  }))
  const { matchedCount } = await run(deadline, (limit) =>
    context.jobs.bulkWrite(updates, { ordered: false, ...limit }),
  )
  if (matchedCount === leases.length) return leases.map(() => 'applied')
  const found = await readBack(context, leases, deadline)
  return leases.map((lease) => {
    const job = found.get(lease.jobId)
    return holds(job, lease) && job?.phase === 'sending' ? 'applied' : 'lease_lost'
  })
}

export async function release(context: MongoContext, leases: Lease[]): Promise<RenewResult[]> {
  if (leases.length === 0) return []
  const deadline = startDeadline()
  const now = nowOf(context)
  const releaseId = randomId()
  const write = async (event: 'release' | 'withdraw', some: Lease[]) => {
    const updates = some.flatMap((lease) => {
      const filter = { _id: lease.jobId, ...guardOf(event, { now, lease }) }
      return releasesOf(filter, unsentChange(event, releaseId, now))
    })
    const { matchedCount } = await run(deadline, (limit) =>
      context.jobs.bulkWrite(updates, { ordered: false, ...limit }),
    )
    return matchedCount
  }
  const matchedCount = await write('release', leases)
  context.hint()
  if (matchedCount === leases.length) return leases.map(() => 'applied')
  let found = await readBack(context, leases, deadline)
  const superseded = leases.filter((lease) => {
    const job = found.get(lease.jobId)
    return holds(job, lease) && job?.superseded === true
  })
  if (superseded.length > 0) {
    await write('withdraw', superseded)
    found = await readBack(context, leases, deadline)
    await afterFinish(
      context,
      superseded.map(({ jobId }) => jobId),
    )
  }
  return leases.map(({ jobId }) =>
    found.get(jobId)?.releaseId === releaseId ? 'applied' : 'lease_lost',
  )
}

/** The change of a job whose attempt ended before its request was sent. */
export function unsentChange(event: 'release' | 'withdraw', releaseId: string, now: Date) {
  const { $set, $inc, ...rest } =
    event === 'release' ? toQueued(null) : toFinal('cancelled', now, {})
  return {
    ...rest,
    $set: { ...$set, releaseId, ...(event === 'release' ? { freedAt: now } : {}) },
    $inc: { ...$inc, attemptCount: -1, attemptsLeft: 1 },
  }
}

/**
 * Two updates of which one fits: a job of which nothing was ever sent has not started. Each of one
 * job: the driver repeats such an update when the primary changes, and an update of many it does
 * not.
 */
export function releasesOf(
  filter: Filter<JobDocument>,
  update: UpdateFilter<JobDocument>,
): AnyBulkWriteOperation<JobDocument>[] {
  const $unset = { ...update.$unset, startedAt: '' as const }
  return [
    { updateOne: { filter: { ...filter, attemptCount: { $gt: 1 } }, update, ...BY_ID } },
    {
      updateOne: {
        filter: { ...filter, attemptCount: 1 },
        update: { ...update, $unset },
        ...BY_ID,
      },
    },
  ]
}

function holds(
  job: Pick<JobDocument, 'state' | 'fence' | 'leaseId'> | undefined,
  { fence, leaseId }: Lease,
): boolean {
  return job?.state === 'running' && job.fence === fence && job.leaseId === leaseId
}

/** Jobs of one claim mostly share fence and lease id: one update serves many of them. */
function groupsOf(leases: Lease[]): { ids: string[]; lease: Lease }[] {
  const groups = new Map<string, { ids: string[]; lease: Lease }>()
  for (const lease of leases) {
    const key = `${lease.fence} ${lease.leaseId}`
    const group = groups.get(key)
    if (group === undefined) groups.set(key, { ids: [lease.jobId], lease })
    else group.ids.push(lease.jobId)
  }
  return [...groups.values()]
}

async function readBack(context: MongoContext, leases: Lease[], deadline: Deadline) {
  const ids = leases.map(({ jobId }) => jobId)
  const found = await run(deadline, (limit) =>
    context.jobs
      .find(
        { _id: { $in: ids } },
        {
          projection: { state: 1, phase: 1, fence: 1, leaseId: 1, releaseId: 1, superseded: 1 },
          batchSize: ids.length + 1,
          ...limit,
        },
      )
      .toArray(),
  )
  return new Map(found.map((document) => [document._id, document]))
}
