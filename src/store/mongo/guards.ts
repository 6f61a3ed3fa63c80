// The guards of src/job/lifecycle.ts as filters: every write of a job's state takes its own here. A
// batch of guarded writes returns only how many matched: if not all did, the jobs with its mark are
// read back, and their ends are reported.
import type { Filter } from 'mongodb'
import type { FailureReason } from '../../job/job.ts'
import { type EventName, type Guard, LIFECYCLE, type LifecycleEvent } from '../../job/lifecycle.ts'
import type { FinalState, PurgeClass } from '../../job/retention.ts'
import { MAX_FREE_ATTEMPTS } from '../../job/retry-policy.ts'
import { type Deadline, type MongoContext, NEWEST, run } from './connection.ts'
import {
  type AttemptDocument,
  atEndpoints,
  attemptOf,
  BY_ID,
  type JobDocument,
  QUEUED_STATES,
  type StoredState,
} from './job-document.ts'

/** What the writer knows, and a guard compares with the job. */
interface Proof {
  now: Date
  lease?: { fence: number; leaseId: string; leaseExpiresAt?: Date }
  version?: number
  /** As it was read; null: the job has none. A search has no proof. */
  neededCount?: number | null
  /** The write makes the inputs of the job. */
  makesInputs?: boolean
  /** Only for a purge. */
  kept?: Pick<PurgeClass, 'isKeyed' | 'finishedBy'> & { state: FinalState }
}

type JobFilter = Filter<JobDocument>

/** These fields are true or absent. */
const FALSE = { $ne: true } as const

const FILTERS = {
  holder: ({ lease }) => ({
    fence: lease?.fence ?? missing(),
    leaseId: lease?.leaseId ?? missing(),
  }),
  due: ({ now }) => ({ runAt: { $lte: now } }),
  // A comparison with a date matches no null, so that jobs that never expire pass, too.
  unexpired: ({ now }) => ({ expiresAt: { $not: { $lte: now } } }),
  // The lower bound is the condition of the partial index.
  expired: ({ now }) => ({ expiresAt: { $gt: new Date(0), $lte: now } }),
  // A state of its own here, so that the indexes of claims hold no blocked job.
  claimable: () => ({ state: 'queued' }),
  blocked: () => ({ state: 'blocked' }),
  dependencies_met: () => ({ 'waitingFor.0': { $exists: false } }),
  inputs_made: ({ makesInputs = false }) => ({ awaitsInputs: makesInputs ? true : FALSE }),
  sending: () => ({ phase: 'sending' }),
  awaiting: () => ({ phase: 'awaiting_completion' }),
  superseded: () => ({ superseded: true }),
  not_superseded: () => ({ superseded: FALSE }),
  sent_before: () => ({ attemptCount: { $gt: 0 } }),
  attempts_left: () => ({ attemptsLeft: { $gt: 0 } }),
  no_attempts_left: () => ({ attemptsLeft: 0 }),
  free_attempts_left: () => ({ freeAttempts: { $lt: MAX_FREE_ATTEMPTS } }),
  lease_expired: ({ lease, now }) => ({
    fence: lease?.fence ?? missing(),
    leaseId: lease?.leaseId ?? missing(),
    leaseExpiresAt: { $eq: lease?.leaseExpiresAt ?? missing(), $lte: now },
  }),
  version_read: ({ version }) => ({ version: version ?? missing() }),
  effects_done: () => ({ effectsPending: FALSE }),
  // The writer has looked for waiting jobs, and proves that none has come since (inputs.ts).
  not_needed: ({ now, neededCount }): JobFilter =>
    neededCount === undefined
      ? { keptUntil: { $not: { $gt: now } } }
      : ({ neededCount } as JobFilter),
  purge_due: ({ kept }) => ({
    state: kept?.state ?? missing(),
    hasKey: kept?.isKeyed ?? missing(),
    finishedAt: { $lte: new Date(kept?.finishedBy ?? missing()) },
  }),
  // Guards about other documents. Unique indexes enforce the first three. For the others the writer
  // reads first; the admission or the sweep finds what changed in between.
  key_unused: () => ({}),
  dedupe_unused: () => ({}),
  slot_free: () => ({}),
  dependency_failed: () => ({}),
  endpoint_accepts: () => ({}),
  endpoint_eligible: () => ({}),
  endpoint_gone: () => ({}),
} satisfies Record<Guard, (proof: Proof) => JobFilter>

type Ended = Pick<JobDocument, '_id' | 'endpoint'>

/** The filter that a write of this event must have, in addition to the job's id. */
export function guardOf(event: EventName, proof: Proof): JobFilter {
  const { from, guards }: LifecycleEvent = LIFECYCLE[event]
  const states = from.flatMap((state): StoredState[] =>
    state === 'queued' ? [...QUEUED_STATES] : [state],
  )
  const filter: JobFilter = {
    state: states.length === 1 ? (states[0] as StoredState) : { $in: states },
  }
  for (const guard of guards) Object.assign(filter, FILTERS[guard](proof))
  return filter
}

/** Reports the jobs that a batch with this `writeId` made dead without an attempt. Returns them. */
export async function reportDeaths<T extends Ended>(
  context: MongoContext,
  jobs: T[],
  deathReason: FailureReason,
  { writeId, count }: { writeId: string; count: number },
  deadline: Deadline,
): Promise<T[]> {
  const ended = await writtenAmong(context, jobs, { writeId }, count, deadline)
  for (const { _id: jobId, endpoint } of ended) {
    context.ends.emit({ jobId, endpoint, attempt: null, deathReason })
  }
  return ended
}

/** Reports the attempts that a batch ended in the place of their holders. Returns their jobs. */
export async function reportEndedAttempts<T extends Ended>(
  context: MongoContext,
  ends: { job: T; attempt: AttemptDocument }[],
  deathReason: FailureReason | null,
  { writeId, count }: { writeId: string; count: number },
  deadline: Deadline,
): Promise<T[]> {
  const jobs = ends.map(({ job }) => job)
  const mark = { 'attempts.writeId': writeId }
  const ended = new Set(await writtenAmong(context, jobs, mark, count, deadline))
  for (const { job, attempt } of ends) {
    if (!ended.has(job)) continue
    const { _id: jobId, endpoint } = job
    context.ends.emit({ jobId, endpoint, attempt: attemptOf(attempt), deathReason })
  }
  return [...ended]
}

/** Without this, a guard whose proof is missing would match any job. */
function missing(): never {
  throw new Error('a guard needs a proof that its writer did not give')
}

async function writtenAmong<T extends Ended>(
  context: MongoContext,
  jobs: T[],
  mark: Filter<JobDocument>,
  count: number,
  deadline: Deadline,
): Promise<T[]> {
  if (count === jobs.length || count === 0) return count === 0 ? [] : jobs
  const found = await run(deadline, (limit) =>
    context.jobs
      .find(
        { $and: [atEndpoints(jobs), mark] },
        { projection: { _id: 1 }, batchSize: jobs.length + 1, ...NEWEST, ...BY_ID, ...limit },
      )
      .toArray(),
  )
  const marked = new Set(found.map(({ _id }) => _id))
  return jobs.filter(({ _id }) => marked.has(_id))
}
