// Renew and release: what a holder does with its leases before an attempt has ended.
import type { AnyBulkWriteOperation, Filter } from 'mongodb'
import type { Lease } from '../../job/job.ts'
import type { RenewResult } from '../store.ts'
import { randomId, toQueued } from './changes.ts'
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
  return leases.map(({ jobId, fence, leaseId }) => {
    const job = found.get(jobId)
    return job?.fence === fence && job.leaseId === leaseId ? 'applied' : 'lease_lost'
  })
}

export async function release(context: MongoContext, leases: Lease[]): Promise<RenewResult[]> {
  if (leases.length === 0) return []
  const deadline = startDeadline()
  const now = nowOf(context)
  const releaseId = randomId()
  const updates = leases.flatMap((lease) =>
    releasesOf({ _id: lease.jobId, ...guardOf('release', { now, lease }) }, releaseId),
  )
  const { matchedCount } = await run(deadline, (limit) =>
    context.jobs.bulkWrite(updates, { ordered: false, ...limit }),
  )
  context.hint()
  if (matchedCount === leases.length) return leases.map(() => 'applied')
  const found = await readBack(context, leases, deadline)
  return leases.map(({ jobId }) =>
    found.get(jobId)?.releaseId === releaseId ? 'applied' : 'lease_lost',
  )
}

/** Two updates of which one fits: a job of which nothing was ever sent has not started. */
export function releasesOf(
  filter: Filter<JobDocument>,
  releaseId: string,
): AnyBulkWriteOperation<JobDocument>[] {
  const { $set, $inc } = toQueued(null, { attemptsLeft: 1 })
  const update = { $set: { ...$set, releaseId }, $inc: { ...$inc, attemptCount: -1 } }
  return [
    { updateMany: { filter: { ...filter, attemptCount: { $gt: 1 } }, update, ...BY_ID } },
    {
      updateMany: {
        filter: { ...filter, attemptCount: 1 },
        update: { ...update, $unset: { startedAt: '' as const } },
        ...BY_ID,
      },
    },
  ]
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
          projection: { fence: 1, leaseId: 1, releaseId: 1 },
          batchSize: ids.length + 1,
          ...limit,
        },
      )
      .toArray(),
  )
  return new Map(found.map((document) => [document._id, document]))
}
