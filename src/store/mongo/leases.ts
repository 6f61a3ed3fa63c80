// The actions of a holder before its attempt has ended: renew, heartbeat, release. Also the release
// of jobs that a claim may have taken, without an answer of the store.
import type { AnyBulkWriteOperation, Filter, UpdateFilter } from 'mongodb'
import type { Lease } from '../../job/job.ts'
import { endOfLease } from '../../job/settlement.ts'
import { FIRST_TURN } from '../../job/turns.ts'
import type { Heartbeat, HeartbeatResult, RenewResult } from '../store.ts'
import { StoreUnavailable } from '../store-errors.ts'
import {
  type Deadline,
  type MongoContext,
  NEWEST,
  nowOf,
  run,
  startDeadline,
} from './connection.ts'
import { tryFinishEffects } from './finish-effects.ts'
import { guardOf } from './guards.ts'
import {
  atEndpoints,
  BY_ID,
  isFinalState,
  type JobDocument,
  randomId,
  stateOf,
  toFinal,
  toQueued,
} from './job-document.ts'

/** The phase changes at most once during a lease. */
const MAX_ROUNDS = 3

const HEARTBEAT_FIELDS = {
  state: 1,
  phase: 1,
  fence: 1,
  leaseId: 1,
  pulledLeaseMs: 1,
  'attempts.fence': 1,
  'attempts.leaseId': 1,
  'attempts.outcome': 1,
} as const

const RELEASE_FIELDS = {
  ...{ state: 1, phase: 1, fence: 1, leaseId: 1, writeId: 1, superseded: 1, attemptCount: 1 },
  fairnessKey: 1,
} as const

type HeartbeatJob = Pick<JobDocument, 'state' | 'phase' | 'fence' | 'leaseId' | 'pulledLeaseMs'> & {
  attempts: Pick<JobDocument['attempts'][number], 'fence' | 'leaseId' | 'outcome'>[]
}

export async function renew(
  context: MongoContext,
  leases: Lease[],
  leaseMs: number,
): Promise<RenewResult[]> {
  if (leases.length === 0) return []
  const deadline = startDeadline()
  const now = nowOf(context)
  const until = new Date(now.getTime() + leaseMs)
  const updates = groupsOf(leases).map(({ group, lease }) => ({
    updateMany: {
      filter: { ...atEndpoints(named(group)), ...guardOf('renew', { now, lease }) },
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

export async function heartbeat(
  context: MongoContext,
  lease: Lease,
  beat: Heartbeat,
): Promise<HeartbeatResult> {
  const deadline = startDeadline()
  for (let round = 0; round < MAX_ROUNDS; round++) {
    const seen = await run(deadline, (limit) =>
      context.jobs.findOne<HeartbeatJob>(
        { _id: lease.jobId, endpoint: lease.endpoint },
        { projection: HEARTBEAT_FIELDS, ...NEWEST, ...BY_ID, ...limit },
      ),
    )
    if (seen?.state !== 'running' || seen.fence !== lease.fence || seen.leaseId !== lease.leaseId) {
      const state = seen === null ? null : stateOf(seen.state)
      return { kind: endOfLease(lease, state, seen?.attempts.at(-1)) }
    }
    const leaseExpiresAt = await writeHeartbeat(context, lease, seen, beat, deadline)
    if (leaseExpiresAt !== null) return { kind: 'applied', leaseExpiresAt }
  }
  throw new StoreUnavailable('the job changed each time it was read')
}

export async function release(context: MongoContext, leases: Lease[]): Promise<RenewResult[]> {
  if (leases.length === 0) return []
  const deadline = startDeadline()
  const now = nowOf(context)
  const writeId = randomId()
  let found = await readBack(context, leases, deadline)
  // A job can be superseded between the read and the write.
  for (let round = 0; round < MAX_ROUNDS; round++) {
    const updates = leases.flatMap((lease) => {
      const job = found.get(lease.jobId)
      if (job === undefined || !holds(job, lease)) return []
      const event = job.superseded === true ? 'withdraw' : 'release'
      const { jobId: _id, endpoint } = lease
      const filter = { _id, endpoint, ...guardOf(event, { now, lease }) }
      return [releaseOf(filter, job, { event, writeId, now })]
    })
    if (updates.length === 0) break
    await run(deadline, (limit) => context.jobs.bulkWrite(updates, { ordered: false, ...limit }))
    found = await readBack(context, leases, deadline)
  }
  context.notifyWork()
  const own = [...found.values()].filter((job) => job.writeId === writeId)
  const withdrawn = own.filter(({ state }) => isFinalState(state)).map(({ _id }) => _id)
  if (withdrawn.length > 0) await tryFinishEffects(context, withdrawn)
  return leases.map(({ jobId }) =>
    found.get(jobId)?.writeId === writeId ? 'applied' : 'lease_lost',
  )
}

function holds(
  job: Pick<JobDocument, 'state' | 'fence' | 'leaseId'> | undefined,
  { fence, leaseId }: Lease,
): boolean {
  return job?.state === 'running' && job.fence === fence && job.leaseId === leaseId
}

/** Jobs of one claim often share fence and lease id, so that one update renews many of them. */
function groupsOf(leases: Lease[]): { group: Lease[]; lease: Lease }[] {
  const groups = Map.groupBy(leases, ({ fence, leaseId }) => `${fence} ${leaseId}`)
  return [...groups.values()].map((group) => ({ group, lease: group[0] as Lease }))
}

function named(leases: Lease[]) {
  return leases.map(({ jobId: _id, endpoint }) => ({ _id, endpoint }))
}

async function readBack(context: MongoContext, leases: Lease[], deadline: Deadline) {
  const found = await run(deadline, (limit) =>
    context.jobs
      .find(atEndpoints(named(leases)), {
        projection: RELEASE_FIELDS,
        batchSize: leases.length + 1,
        ...NEWEST,
        ...BY_ID,
        ...limit,
      })
      .toArray(),
  )
  return new Map(found.map((document) => [document._id, document]))
}

/** Returns null if the job changed since it was read. */
async function writeHeartbeat(
  context: MongoContext,
  lease: Lease,
  { phase, pulledLeaseMs }: HeartbeatJob,
  beat: Heartbeat,
  deadline: Deadline,
): Promise<number | null> {
  const now = nowOf(context)
  const ownMs = phase === 'awaiting_completion' ? beat.completionTimeoutMs : pulledLeaseMs
  const extendMs = beat.extendMs ?? ownMs
  // While a request is in progress, only the renewals of its worker extend the lease.
  const field = ownMs === null ? 'extendedTo' : 'leaseExpiresAt'
  const update: UpdateFilter<JobDocument> = {
    ...(beat.progress === null ? {} : { $set: { progress: { ...beat.progress, at: now } } }),
    ...(extendMs === null ? {} : { $max: { [field]: new Date(now.getTime() + extendMs) } }),
    $inc: { version: 1 },
  }
  const written = await run(deadline, (limit) =>
    context.jobs.findOneAndUpdate(
      {
        _id: lease.jobId,
        endpoint: lease.endpoint,
        ...guardOf('heartbeat', { now, lease }),
        phase,
      },
      update,
      { returnDocument: 'after', projection: { leaseExpiresAt: 1 }, ...BY_ID, ...limit },
    ),
  )
  return written?.leaseExpiresAt?.getTime() ?? null
}

const FIRST_WAIT_MS = 100
/** An election of some seconds must not use up the lease. */
const MAX_WAIT_MS = 1_000
/** Further claims are left to the sweep, which finds their expired leases. */
const MAX_UNACKNOWLEDGED = 100

export interface UnacknowledgedClaims {
  release(ids: string[], leaseId: string, leaseMs: number): void
  stop(): void
}

export function trackUnacknowledgedClaims(context: MongoContext): UnacknowledgedClaims {
  const timers = new Set<NodeJS.Timeout>()
  let count = 0
  let stopped = false

  const tryAgain = (claim: UnacknowledgedClaim, waitMs: number) => {
    if (stopped || performance.now() > claim.endsAt) {
      count -= 1
      return
    }
    const timer = setTimeout(async () => {
      timers.delete(timer)
      const isMore = await releaseUnacknowledged(context, claim)
      tryAgain(claim, isMore ? FIRST_WAIT_MS : Math.min(waitMs * 2, MAX_WAIT_MS))
    }, waitMs)
    timer.unref()
    timers.add(timer)
  }

  return {
    release(ids, leaseId, leaseMs) {
      if (count === MAX_UNACKNOWLEDGED) return
      count += 1
      const endsAt = performance.now() + leaseMs
      tryAgain({ ids, leaseId, endsAt, most: ids.length }, FIRST_WAIT_MS)
    },
    stop() {
      stopped = true
      for (const timer of timers) clearTimeout(timer)
    },
  }
}

interface UnacknowledgedClaim {
  ids: string[]
  leaseId: string
  /** By the monotonic clock. */
  endsAt: number
  /** Jobs that one write releases: fewer after each write that the store did not finish in time. */
  most: number
}

/** Whether there may be more to release. */
async function releaseUnacknowledged(
  context: MongoContext,
  claim: UnacknowledgedClaim,
): Promise<boolean> {
  const { ids, leaseId } = claim
  try {
    const found = await run(startDeadline(), (limit) =>
      context.jobs
        .find(
          { _id: { $in: ids }, state: 'running', leaseId },
          {
            projection: { endpoint: 1, superseded: 1, attemptCount: 1, fairnessKey: 1 },
            batchSize: ids.length + 1,
            ...BY_ID,
            ...limit,
          },
        )
        .toArray(),
    )
    // Usually the update claimed nothing: this saves a slow store updates that match nothing.
    if (found.length === 0) return false
    const now = nowOf(context)
    const updates = found.slice(0, claim.most).map(({ _id, endpoint, superseded, ...job }) => {
      const isSuperseded = superseded === true
      const event = isSuperseded ? 'withdraw' : 'release'
      // The lease id is random and belongs to this claim alone, so that the guard needs no fence.
      const filter = { _id, endpoint, state: 'running' as const, leaseId }
      return releaseOf({ ...filter, superseded: isSuperseded ? true : { $ne: true } }, job, {
        event,
        writeId: randomId(),
        now,
      })
    })
    const { matchedCount } = await run(startDeadline(), (limit) =>
      context.jobs.bulkWrite(updates, { ordered: false, ...limit }),
    )
    if (matchedCount > 0) context.notifyWork()
    return found.length > claim.most
  } catch {
    // The store is still away, or too slow for so many jobs: the next try releases fewer.
    claim.most = Math.max(1, Math.floor(claim.most / 2))
    return false
  }
}

/** The change of a job whose attempt ended before its request was sent. */
function unsentChange({ event, writeId, now }: Release): UpdateFilter<JobDocument> {
  const { $set, $inc, ...rest } =
    event === 'release' ? toQueued(null) : toFinal('cancelled', now, {})
  return {
    ...rest,
    $set: { ...$set, writeId, ...(event === 'release' ? { freedAt: now } : {}) },
    $inc: { ...$inc, attemptCount: -1, attemptsLeft: 1 },
  }
}

interface Release {
  event: 'release' | 'withdraw'
  writeId: string
  now: Date
}

/**
 * Returns a claimed job to the queue before anything was sent, or cancels it if it was superseded.
 * It updates one job, because the driver does not repeat an update of many jobs when the primary
 * changes.
 *
 * @param filter must contain the lease: while the lease holds, `attemptCount` does not change
 */
function releaseOf(
  filter: Filter<JobDocument>,
  { attemptCount, fairnessKey }: Pick<JobDocument, 'attemptCount' | 'fairnessKey'>,
  release: Release,
): AnyBulkWriteOperation<JobDocument> {
  const unsent = unsentChange(release)
  // It has its turn again.
  const change =
    fairnessKey === undefined ? unsent : { ...unsent, $set: { ...unsent.$set, turn: FIRST_TURN } }
  // If the job has no earlier attempt, it has not started.
  const update =
    attemptCount > 1 ? change : { ...change, $unset: { ...change.$unset, startedAt: '' as const } }
  return { updateOne: { filter, update, ...BY_ID } }
}
