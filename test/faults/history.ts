// What is known of a run when it is over: the four logs that the checker reads, and nothing else.
// It must not import from the product: what judges the product may not share its mistakes.
//
// Instants that end in AtMs are milliseconds of the machine's monotonic clock (nowMs), one clock
// for all logs. Instants of a record are epoch milliseconds by the store's clock.

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
  /** The store's own record of each job at the end. */
  records: JobRecord[]
  /** Every text in which no secret may stand: logs, answers, metrics, the raw store. */
  texts: { from: string; text: string }[]
  /** The planted ones. */
  secrets: string[]
  /** Epoch milliseconds minus monotonic milliseconds, by the machine's own clock. */
  epochOffsetMs: number
}

/** The settings that all processes of the run had. */
export interface RunSettings {
  leaseMs: number
  sweepMs: number
  pollMs: number
}

/** What the run registered; a job's own retry policy is not used in fault runs. */
export interface EndpointFacts {
  name: string
  maxAttempts: number
  /** Fixed back-off before jitter. */
  retryDelayMs: number
  /** 0 to 1. */
  jitter: number
}

export type CallKind = 'enqueue' | 'cancel' | 'retry' | 'delete'

/** One request of a client. A repeated request is one call for each time it was sent. */
export interface Call {
  kind: CallKind
  sentAtMs: number
  /** When its answer, or the end of its connection, was there. */
  endedAtMs: number
  /** null: no answer came, so what it did is not known. */
  status: number | null
  /** Of the answer; for cancel, retry and delete the one that was asked for. */
  jobId: string | null
  endpoint: string
  /** Unique in a run: it stands in the payload, and every repeat of an enqueue has the same. */
  workNumber: number
  idempotencyKey: string | null
  /** SHA-256 of the payload's bytes, hex. */
  bodyHash: string
  /** How long after it was sent the job may first start; 0: at once. */
  delayMs: number
}

/** A client saw this state of a job; it was so at some moment between the two. */
export interface Sighting {
  jobId: string
  sentAtMs: number
  endedAtMs: number
  state: string
  fence: number
}

/** One request that reached the receiver. */
export interface Delivery {
  jobId: string
  workNumber: number
  endpoint: string
  fence: number
  attempt: number
  bodyHash: string
  /** When its head was there. */
  beganAtMs: number
  /** Of its connection the first request, the second, and so on. */
  requestOnConnection: number
  /** Unix seconds, of the webhook-timestamp header. */
  timestampSeconds: number
  signature: 'valid' | 'invalid'
  /** What the receiver answered; null: it did not, or could not any more. */
  status: number | null
  /** When the whole answer had been handed to the connection, which was still there. */
  answeredAtMs: number | null
  /** When the connection was seen to be gone before that. */
  brokenOffAtMs: number | null
  /** Whether the receiver meant to harm: such an answer is judged by its own test. */
  isHostile: boolean
}

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
  | 'disk_full'
  | 'receiver'

/** Something broken on purpose. Its effects may last a lease, a sweep and a second longer. */
export interface Fault {
  kind: FaultKind
  /** `api`, `store`, `receiver`, or a worker id. */
  target: string
  beganAtMs: number
  /** When it was mended; for a kill, when the process was gone. */
  endedAtMs: number
}

/** A job as the API shows it at the end, with instants in epoch milliseconds. */
export interface JobRecord {
  id: string
  workNumber: number | null
  endpoint: string
  state: string
  fence: number
  attemptCount: number
  maxAttempts: number
  createdAt: number
  runAt: number
  finishedAt: number | null
  failureReason: string | null
  hasLease: boolean
  idempotencyKey: string | null
  /** The last twenty. */
  attempts: AttemptRecord[]
}

export interface AttemptRecord {
  number: number
  outcome: string
  statusCode: number | null
  startedAt: number
  finishedAt: number
  workerId: string
}

/** What the checker has to say: which invariant, and in words what broke it. */
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
} as const
export type InvariantId = keyof typeof INVARIANTS

/** Milliseconds of a clock that all processes of this machine share, whatever their wall clocks. */
export function nowMs(): number {
  return Number(process.hrtime.bigint()) / 1e6
}
