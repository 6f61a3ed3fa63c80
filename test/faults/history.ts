// The result of a run: the four logs that the checker reads. This file must not import from the
// product, because the checker must not share its bugs.
//
// Instants that end in AtMs are milliseconds of the monotonic clock of the machine (nowMs), which
// is the same for all logs. Instants of a record are epoch milliseconds of the clock of the store.

export type Engine = 'sqlite' | 'mongo'

export interface History {
  engine: Engine
  seed: number
  settings: RunSettings
  endpoints: EndpointFacts[]
  calls: Call[]
  sightings: Sighting[]
  deliveries: Delivery[]
  faults: Fault[]
  /** The record of each job in the store at the end. */
  records: JobRecord[]
  /** The same of each group. */
  groups: GroupRecord[]
  /** Every text that must not contain a secret: logs, responses, metrics, the raw store. */
  texts: { from: string; text: string }[]
  /** The secrets of the run. */
  secrets: string[]
  /** Epoch milliseconds minus monotonic milliseconds, by the clock of the machine. */
  epochOffsetMs: number
}

/** The settings of all processes of the run. */
export interface RunSettings {
  leaseMs: number
  sweepMs: number
  pollMs: number
  /** How many jobs all workers hold at a time; absent: the turns of fairness keys have no limit. */
  slots?: number
  /** Of keys whose name begins with this, so many jobs run at a time at most. */
  keyLimit?: { prefix: string; concurrency: number }
  sharedLimits?: SharedLimitFacts[]
}

/** A limit that several endpoints share. */
export interface SharedLimitFacts {
  name: string
  endpoints: string[]
  /** Those of them that have few jobs: each of these starts within so many starts at the limit. */
  few: { endpoints: string[]; starts: number }
  concurrency: number | null
  rateLimit: { count: number; perMs: number } | null
}

/** The endpoints of the run. Jobs have no retry policy of their own in fault runs. */
export interface EndpointFacts {
  name: string
  maxAttempts: number
  /** Fixed back-off before jitter. */
  retryDelayMs: number
  /** 0 to 1. */
  jitter: number
}

export type CallKind = 'enqueue' | 'cancel' | 'retry' | 'delete'

/** A request of a client. If it is repeated, there is one call for each time it was sent. */
export interface Call {
  kind: CallKind
  sentAtMs: number
  /** When its response, or the end of its connection, was received. */
  endedAtMs: number
  /** null: there was no response, so the effect of the call is unknown. */
  status: number | null
  /** The id in the response; for cancel, retry and delete, the id in the request. */
  jobId: string | null
  endpoint: string
  /**
   * Unique in a run. The payload contains it, and all repeats of an enqueue have the same number.
   */
  workNumber: number
  idempotencyKey: string | null
  /** SHA-256 of the bytes of the payload, in hex. */
  bodyHash: string
  /** How long after the request the job may first start; 0: at once. */
  delayMs: number
  /** Of an enqueue: the group of the job. */
  groupId: string | null
  /** Of an enqueue: the results that the job needs, in order. */
  needs: NeedFacts[]
}

/** The result of a job is known beforehand (resultText). */
export interface NeedFacts {
  name: string
  jobId: string
  workNumber: number
  /** Only its field `number` is needed. */
  isPart: boolean
}

/** A client read this state of a job. The job had it at some instant between the two. */
export interface Sighting {
  jobId: string
  sentAtMs: number
  endedAtMs: number
  state: string
  fence: number
}

/** A request that reached the receiver. */
export interface Delivery {
  jobId: string
  workNumber: number
  endpoint: string
  fence: number
  attempt: number
  bodyHash: string
  /** The text of its inputs; null: it had none. `bodyHash` is that of the payload. */
  inputs: string | null
  /** When its headers had been received. */
  beganAtMs: number
  /** 1 for the first request on its connection, 2 for the second, and so on. */
  requestOnConnection: number
  /** Unix seconds, from the header webhook-timestamp. */
  timestampSeconds: number
  signature: 'valid' | 'invalid'
  /** The status that the receiver sent; null: it sent none, or the connection was closed. */
  status: number | null
  /** When the whole response had been written to the connection, which was still open. */
  answeredAtMs: number | null
  /** When the connection was found closed before the whole response was written. */
  brokenOffAtMs: number | null
  /** Whether the receiver was hostile. Another test checks such responses. */
  isHostile: boolean
  /** null: it is not the notice of a group. */
  notice: GroupNotice | null
}

/** What the notice of a group says. */
export interface GroupNotice {
  groupId: string
  counts: GroupCounts
}

type GroupCounts = Record<'queued' | 'running' | 'succeeded' | 'dead' | 'cancelled', number>

export type FaultKind =
  | 'kill'
  | 'terminate'
  | 'freeze'
  | 'clock'
  | 'store_kill'
  | 'store_cut'
  | 'store_slow'
  | 'store_locked'
  | 'slow_writes'
  | 'election'
  | 'disk_full'
  | 'power_cut'
  | 'receiver'

/** An injected fault. Its effects may last up to a lease, a sweep and a second longer. */
export interface Fault {
  kind: FaultKind
  /** `api`, `store`, `receiver`, or a worker id. */
  target: string
  beganAtMs: number
  /** When the fault was repaired; for a kill, when the process was gone. */
  endedAtMs: number
}

/** A job as the API shows it at the end, with instants in epoch milliseconds. */
export interface JobRecord {
  id: string
  workNumber: number | null
  endpoint: string
  priority: number
  fairnessKey: string | null
  cost: number
  groupId: string | null
  state: string
  fence: number
  attemptCount: number
  maxAttempts: number
  createdAt: number
  runAt: number
  finishedAt: number | null
  failureReason: string | null
  hasLease: boolean
  /** Whether the store returns it with its payload. */
  hasPayload: boolean
  idempotencyKey: string | null
  /** The last twenty attempts. */
  attempts: AttemptRecord[]
}

/** A group as the API shows it at the end. Each one has one notice, at each finish. */
export interface GroupRecord {
  id: string
  state: string
  counts: GroupCounts
  finishes: number
}

export interface AttemptRecord {
  number: number
  outcome: string
  statusCode: number | null
  startedAt: number
  finishedAt: number
  workerId: string
}

/** A result of the checker: the invariant, and a description of the violation. */
export interface Violation {
  invariant: InvariantId
  message: string
}

export const INVARIANTS = {
  I1: 'every accepted job is final or accounted for; what succeeded was delivered with a full 2xx',
  I2: 'nothing is delivered that nobody enqueued',
  I3: 'one job for each idempotency key, unknown outcomes included',
  I4: 'a (job, fence) reaches the receiver once, fences grow, none is sent after its lease',
  I5: 'attempts in the record are the claims; those that cost are never above the maximum',
  I6: 'nothing leaves a final state but by a retry',
  I7: 'no send begins after the recorded success or an acknowledged cancel',
  I8: 'each further 2xx delivery is explained by a fault that overlaps the attempt before it',
  I9: 'the same bytes and id at every attempt, a fresh timestamp, a valid signature',
  I10: 'never before it is due, and retries as far apart as the policy says',
  I11: 'no planted secret stands in any log, answer, metric or dump',
  I12: 'every stored job has its payload',
  I13: 'no attempt is lost whose request was not sent, but by a fault of most of its lease',
  I14: 'while a fairness key has one due job, no other key starts more than its turns',
  I15: 'no more jobs of a fairness key run at a time than its limit allows',
  I16: 'endpoints that share a limit never exceed it together, neither at a time nor in any stretch',
  I17: 'a due job of an endpoint with few jobs starts within some starts at its shared limit',
  I18: 'a group counts each of its members once, and is final with all of them',
  I19: 'a group sends one notice for each finish, and none before its last member',
  I20: 'a job with needs starts after the jobs that it needs, and brings exactly their results',
} as const
export type InvariantId = keyof typeof INVARIANTS

/**
 * Milliseconds of a clock that all processes of this machine share, whatever their wall clocks
 * show.
 */
export function nowMs(): number {
  return Number(process.hrtime.bigint()) / 1e6
}
