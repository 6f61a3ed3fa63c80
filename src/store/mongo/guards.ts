// The guards of src/job/lifecycle.ts as filters: every write of a job's state takes its own here.
import type { Filter } from 'mongodb'
import { type EventName, type Guard, LIFECYCLE, type LifecycleEvent } from '../../job/lifecycle.ts'
import { MAX_FREE_ATTEMPTS } from '../../job/retry-policy.ts'
import type { JobDocument } from './documents.ts'

/** What the writer knows, by which a guard is proved. */
export interface Proof {
  now: Date
  lease?: { fence: number; leaseId: string; leaseExpiresAt?: Date }
}

type JobFilter = Filter<JobDocument>

const FILTERS = {
  holder: ({ lease }) => ({
    fence: lease?.fence ?? missing(),
    leaseId: lease?.leaseId ?? missing(),
  }),
  due: ({ now }) => ({ runAt: { $lte: now } }),
  // A comparison with a date matches no null: this holds for jobs that never expire, too.
  unexpired: ({ now }) => ({ expiresAt: { $not: { $lte: now } } }),
  // The lower bound is what the partial index asks for.
  expired: ({ now }) => ({ expiresAt: { $gt: new Date(0), $lte: now } }),
  attempts_left: () => ({ attemptsLeft: { $gt: 0 } }),
  no_attempts_left: () => ({ attemptsLeft: 0 }),
  free_attempts_left: () => ({ freeAttempts: { $lt: MAX_FREE_ATTEMPTS } }),
  lease_lapsed: ({ lease, now }) => ({
    fence: lease?.fence ?? missing(),
    leaseId: lease?.leaseId ?? missing(),
    leaseExpiresAt: { $eq: lease?.leaseExpiresAt ?? missing(), $lte: now },
  }),
  purge_due: ({ now }) => ({ finishedAt: { $exists: true }, purgeAt: { $lte: now } }),
  // Three that are not of this document: a unique index keeps the first; for the others the
  // writer looks at the endpoint first, and what slips in between is found by the sweeper.
  key_unused: () => ({}),
  endpoint_accepts: () => ({}),
  endpoint_gone: () => ({}),
} satisfies Record<Guard, (proof: Proof) => JobFilter>

/** The filter that a write of this event must carry, beside the job's id. */
export function guardOf(event: EventName, proof: Proof): JobFilter {
  const { from, guards }: LifecycleEvent = LIFECYCLE[event]
  const filter: JobFilter = {
    state: from.length === 1 ? (from[0] as JobDocument['state']) : { $in: [...from] },
  }
  for (const guard of guards) Object.assign(filter, FILTERS[guard](proof))
  return filter
}

/** A guard without its proof would match anything: better no write at all. */
function missing(): never {
  throw new Error('a guard needs a lease that its writer did not give')
}
