// Heartbeat: what a handler says while it works, and the time that it is given for it.
import type { UpdateFilter } from 'mongodb'
import type { Lease } from '../../job/job.ts'
import { endOfLease } from '../../job/settlement.ts'
import type { Heartbeat, HeartbeatResult } from '../settlement.ts'
import { StoreUnavailable } from '../store.ts'
import { type MongoContext, nowOf } from './context.ts'
import { type JobDocument, stateOf } from './documents.ts'
import { guardOf } from './guards.ts'
import { type Deadline, run, startDeadline } from './run-command.ts'

/** The phase changes at most once while a lease holds. */
const MAX_ROUNDS = 3

const SEEN = {
  state: 1,
  phase: 1,
  fence: 1,
  leaseId: 1,
  pulledLeaseMs: 1,
  'attempts.fence': 1,
  'attempts.leaseId': 1,
  'attempts.outcome': 1,
} as const
type Seen = Pick<JobDocument, 'state' | 'phase' | 'fence' | 'leaseId' | 'pulledLeaseMs'> & {
  attempts: Pick<JobDocument['attempts'][number], 'fence' | 'leaseId' | 'outcome'>[]
}

export async function heartbeat(
  context: MongoContext,
  lease: Lease,
  beat: Heartbeat,
): Promise<HeartbeatResult> {
  const deadline = startDeadline()
  for (let round = 0; round < MAX_ROUNDS; round++) {
    const seen = await run(deadline, (limit) =>
      context.jobs.findOne<Seen>({ _id: lease.jobId }, { projection: SEEN, ...limit }),
    )
    if (seen?.state !== 'running' || seen.fence !== lease.fence || seen.leaseId !== lease.leaseId) {
      const state = seen === null ? null : stateOf(seen.state)
      return { kind: endOfLease(lease, state, seen?.attempts.at(-1)) }
    }
    const leaseExpiresAt = await write(context, lease, seen, beat, deadline)
    if (leaseExpiresAt !== null) return { kind: 'applied', leaseExpiresAt }
  }
  throw new StoreUnavailable('the job changed each time it was read')
}

/** null: it has changed since it was read. */
async function write(
  context: MongoContext,
  lease: Lease,
  { phase, pulledLeaseMs = null }: Seen,
  beat: Heartbeat,
  deadline: Deadline,
): Promise<number | null> {
  const now = nowOf(context)
  const ownMs = phase === 'awaiting_completion' ? beat.completionTimeoutMs : pulledLeaseMs
  const update: UpdateFilter<JobDocument> = {
    ...(beat.progress === null ? {} : { $set: { progress: { ...beat.progress, at: now } } }),
    // One that was sent and is not answered yet lives by its worker's renewals alone.
    ...(ownMs === null
      ? {}
      : { $max: { leaseExpiresAt: new Date(now.getTime() + (beat.extendMs ?? ownMs)) } }),
    $inc: { version: 1 },
  }
  const written = await run(deadline, (limit) =>
    context.jobs.findOneAndUpdate(
      { _id: lease.jobId, ...guardOf('heartbeat', { now, lease }), phase },
      update,
      { returnDocument: 'after', projection: { leaseExpiresAt: 1 }, ...limit },
    ),
  )
  return written?.leaseExpiresAt?.getTime() ?? null
}
