// The port: what every store does, in the words of src/job/lifecycle.ts. Two rooms stand behind it,
// sqlite/ and mongo/; nothing outside src/store knows which one it talks to.
//
// Verbs take batches and answer item by item, in order. Every write carries the whole guard of its
// event; a guard that does not match is a value returned, never an exception. What can be thrown is
// StoreUnavailable, after which the outcome of a write is unknown until it is read back.

import type { Endpoint, EndpointSettings } from '../endpoint/endpoint.ts'
import type { HealthReport } from '../endpoint/health.ts'
import type { EndpointRefusal, RequestRefusal } from '../job/acceptance.ts'
import type { RetryOptions } from '../job/dependencies.ts'
import type { EditRefusal, JobChange } from '../job/edit.ts'
import type {
  Attempt,
  ClaimedJob,
  Failure,
  FailureReason,
  Job,
  JobState,
  JobSummary,
  Lease,
  NewJob,
  Progress,
} from '../job/job.ts'
import type { SettlingEvent } from '../job/lifecycle.ts'
import type { Retention } from '../job/retention.ts'
import type { AttemptTokens } from './attempt-token.ts'
import type { End } from './ends.ts'
import type { MinuteStats, MinuteStatsRange, MinuteStatsReport } from './minute-stats.ts'
import type { Outbox, OutboxName } from './outbox.ts'
import type { IfVersion, OtherVersion } from './precondition.ts'
import type { SetBackLooks } from './set-back-watch.ts'

export interface Store {
  /** Decides due times and leases: never the clock of the process that asks. */
  readonly clock: StoreClock
  /** Transactions (SQLite) or commands (MongoDB) since the store was opened, reads included. */
  readonly commandCount: number
  /** Proves to a handler's call which attempt it speaks for. */
  readonly attemptTokens: AttemptTokens
  /**
   * Of the keys that secrets are encrypted with here, the one that encrypts first. They tell keys
   * apart and nothing else about them. Empty: none was needed yet.
   */
  encryptionKeyIds(): string[]
  /** null: no outbox is set, and SQLite has none. */
  readonly outbox: Outbox | null

  // The life of a job.

  /** Durable on return. At most MAX_ENQUEUE_BATCH jobs, as if each came by itself, in order. */
  enqueue(jobs: NewJob[]): Promise<EnqueueResult[]>
  /** Which endpoints may have work; see Due. */
  due(since: number | null): Promise<Due>
  /**
   * Takes due jobs, at most `limit`, and at most `share.limit` of an endpoint. Shares are taken in
   * their order, the jobs of one by priority, then runAt. All jobs of one call may have one lease
   * id. Limits and the probe of an endpoint hold over all holders, exactly.
   */
  claim(shares: EndpointShare[], limit: number, holder: Holder): Promise<Claim>
  settle(settlements: Settlement[], options?: SettleOptions): Promise<SettleResult[]>
  /** To now + leaseMs; never shortens one. */
  renew(leases: Lease[], leaseMs: number): Promise<RenewResult[]>
  heartbeat(lease: Lease, beat: Heartbeat): Promise<HeartbeatResult>
  /** Returns claimed jobs to the queue, before any part of their requests was sent. */
  release(leases: Lease[]): Promise<RenewResult[]>
  sweep(options: SweepOptions): Promise<SweepCounts>
  /** Jobs whose completion is overdue; the retry policy of their endpoint decides what follows. */
  overdue(limit: number): Promise<OverdueJob[]>
  /**
   * Pulls in the instants that were stored while the store's clock was ahead: of retries, of jobs
   * that were created then, of rests, of retention. Returns how many records were changed.
   *
   * @param setBackMs how far the clock was set back; null: it may have been, before this process
   */
  correctInstants(setBackMs: number | null): Promise<number>
  endOverdue(ends: OverdueEnd[]): Promise<SettleResult[]>

  cancel(ids: string[]): Promise<CommandResult[]>
  /** In the given order (see retryOrder). Without options it waives, as a retry by id does. */
  retry(ids: string[], options?: RetryOptions): Promise<RetryResult[]>
  /** With `ifVersion` nothing is written unless it is the stored version. */
  edit(id: string, change: JobChange, ifVersion: number | null): Promise<EditResult>
  /** `ifVersion` as of edit; absent: null. */
  deleteJob(id: string, ifVersion?: number | null): Promise<DeleteJobResult>
  getJob(id: string): Promise<Job | null>
  getPayload(id: string): Promise<Uint8Array | null>
  listJobs(query: JobQuery): Promise<Page<JobSummary>>
  /** Which of these are final or gone: one look-up for all who wait. */
  finalAmong(ids: string[]): Promise<string[]>
  /** Of the jobs of this ordering key that are not final the earliest, or null. */
  headOfOrderingKey(endpoint: string, orderingKey: string): Promise<string | null>

  // Endpoints.

  /**
   * Creates or replaces. `secret` null keeps the stored one or, for a new endpoint, takes
   * `freshSecret`. Unless `ifVersion` is met nothing is written. What was
   * paused, disabled or rests stays so; a breaker that is taken away lets go at once.
   */
  putEndpoint(
    settings: EndpointSettings,
    secrets: { given: string | null; fresh: string },
    ifVersion: IfVersion,
  ): Promise<PutEndpointResult>
  /**
   * null: there is none. Of one that is being deleted nothing is changed, nor of another version
   * than `ifVersion`; absent or null: whichever it is.
   */
  pauseEndpoint(name: string, ifVersion?: number | null): Promise<Endpoint | OtherVersion | null>
  /** Ends pause, disabling, rest and what the breaker counted. */
  resumeEndpoint(name: string, ifVersion?: number | null): Promise<Endpoint | OtherVersion | null>
  /** Those before stay valid for `overlapMs`. `fullUntil`: MAX_SECRETS are, until then. */
  rotateSecret(
    name: string,
    secret: string,
    overlapMs: number,
    ifVersion?: number | null,
  ): Promise<Endpoint | OtherVersion | { fullUntil: number } | null>
  /** What attempts tell about the health of their endpoints; at most one report of each name. */
  reportHealth(reports: HealthReport[]): Promise<void>
  /** Those of the names that are stored, in no order. */
  endpointsNamed(names: string[]): Promise<Endpoint[]>
  /** By name, from the one after `after`. */
  listEndpoints(after: string | null, limit: number): Promise<Page<Endpoint>>
  /** Per name, in order; each count is exact up to MAX_COUNT and then MAX_COUNT with `more`. */
  countJobs(names: string[]): Promise<EndpointCounts[]>
  /**
   * Without force: gone at once, or in use by jobs or a schedule. With force: marked, and the
   * sweeper buries its jobs.
   */
  deleteEndpoint(
    name: string,
    options: { force: boolean; ifVersion: number | null },
  ): Promise<DeleteEndpointResult>

  // Schedules.

  /** Creates or replaces, as the record says, if `ifVersion` is met. */
  putSchedule(change: ScheduleChange, ifVersion: IfVersion): Promise<PutScheduleResult>
  getSchedule(name: string): Promise<Schedule | null>
  listSchedules(after: string | null, limit: number): Promise<Page<Schedule>>
  deleteSchedule(name: string, ifVersion: number | null): Promise<DeleteScheduleResult>
  /** Those whose next tick has come and that are not paused, the earliest first. */
  dueSchedules(limit: number): Promise<Schedule[]>
  /** Each moves on only from the version and tick that were read. */
  advanceSchedules(moves: ScheduleMove[]): Promise<void>

  // Keys, workers, statistics.

  /** `full`: there are MAX_KEYS already. */
  addKey(key: StoredKey): Promise<'added' | 'full'>
  /** Oldest first. */
  listKeys(): Promise<StoredKey[]>
  /** Whether there was one. */
  removeKey(id: string): Promise<boolean>
  /** Written anew every few seconds by each worker; `seenAt` is the store's. */
  reportWorker(report: WorkerReport): Promise<void>
  removeWorker(id: string): Promise<void>
  /** Those seen within WORKER_KEPT_MS, by id; at most MAX_WORKERS. */
  listWorkers(): Promise<WorkerRecord[]>
  /**
   * Adds to the statistics of each minute and endpoint; at most MAX_MINUTE_STATS_ADDED rows. When
   * it throws StoreUnavailable, the same rows may be given again under the same report: each is
   * added once. The writer gives no later report before that.
   */
  addMinuteStats(stats: MinuteStats[], report: MinuteStatsReport): Promise<void>
  /** From the minute that holds this instant on, of one endpoint or (null) of all. */
  minuteStatsSince(instant: number, endpoint: string | null): Promise<MinuteStatsRange>
  /**
   * Per name, in order, at most MAX_STATS_NAMES; each count is exact up to MAX_COUNT and then
   * MAX_COUNT with `more`. Each step has a deadline; the whole, of many names, has none.
   */
  statsOf(names: string[]): Promise<EndpointStats[]>

  /**
   * Names that dead jobs have and no endpoint, since it was deleted; by name, at most
   * MAX_DELETED_NAMES.
   */
  deletedEndpoints(): Promise<string[]>

  /** Takes or extends the lease of the upkeep; answers whether the holder has it. */
  takeUpkeep(lease: UpkeepLease): Promise<boolean>
  /** Nothing happens when another process has it. */
  releaseUpkeep(holder: string): Promise<void>

  /** What the API tells the workers about itself. */
  writeApiMode(mode: ApiMode): Promise<void>
  readApiMode(): Promise<ApiMode | null>

  /**
   * Tells each attempt that a write of this process ended otherwise than by `settle`, and each job
   * that died of another write. Called once for each, after the write is stored; never for a write
   * whose answer was lost. Returns how to stop it.
   */
  onEnd(listener: (end: End) => void): () => void
  /** A hint that something may be due; may be missed, may be false. Returns how to stop it. */
  onWork(listener: () => void): () => void
  /**
   * Throws StoreUnavailable unless the store takes writes: one succeeded within the last second, or
   * a small one succeeds now.
   */
  ready(): Promise<void>
  close(): Promise<void>
}

/**
 * A verb that was not answered by then throws StoreUnavailable: a client is to hear 503 within 3 s
 * rather than hang, and the rest is for the way there and back on a busy machine.
 */
export const STORE_DEADLINE_MS = 2_700
export const MAX_ENQUEUE_BATCH = 1_000
export const MAX_COUNT = 10_000
export const MAX_STATS_NAMES = 10_000
export const MAX_DELETED_NAMES = 1_000
/** A page of a list looks at no more index entries than this, and may be short or empty for it. */
export const MAX_ENTRIES_PER_PAGE = 10_000

export interface StoreClock {
  /** Epoch milliseconds by the store's clock. */
  now(): number
  /** Looks for a clock that was set back, from now until they are stopped. */
  watchSetBack(): SetBackLooks
}

/** What opening a store needs beside its URL. */
export interface StoreSettings extends Retention {
  /** AES-256 keys for secrets at rest: the first encrypts, all decrypt. null: SQLite's key file. */
  encryptionKeys: Buffer[] | null
  /** Where applications enqueue in transactions of their own. MongoDB only. */
  outbox?: OutboxName | null
  /** Tells what happened that no caller asked for, like a notice whose endpoint is gone. */
  warn: (fields: Record<string, unknown>, message: string) => void
  /** Tells that the store can no longer be used as it is. Absent: `warn`. */
  error?: (fields: Record<string, unknown>, message: string) => void
  /**
   * false: a store that is missing or has an older schema is refused, after 5 s in which another
   * process may create or upgrade it. Absent: true.
   */
  mayCreate?: boolean
  /**
   * false: a worker. It leaves stored secrets in the encryption of the API, which may lack the
   * first key of the worker. Absent: secrets of older keys are encrypted with the first key at
   * the start.
   */
  reencrypts?: boolean
}

/**
 * Newest first for jobs (unless asked otherwise), by name for endpoints. `next` null: there is
 * nothing beyond.
 */
export interface Page<T> {
  items: T[]
  next: string | null
}

// The life of a job.

export type EnqueueResult =
  | { kind: 'inserted'; job: Job }
  /** Its idempotency key, dedupe key or origin was known: the job that has it, as it is now. */
  | { kind: 'existing'; job: Job }
  /** The idempotency key is known, with another request. */
  | { kind: 'key_reused'; jobId: string }
  /** The dedupe key is held, and the request asked to be refused then. */
  | { kind: 'dedupe_conflict'; jobId: string }
  /**
   * Its id is that of a job of another origin, or its origin that of a job made from something
   * else. Only documents of an outbox bring either.
   */
  | { kind: 'id_taken'; jobId: string }
  | EndpointRefusal
  | RequestRefusal

/**
 * Endpoints with queued jobs that became due after `since` and until now; with `since` null all
 * endpoints with queued jobs. An endpoint may be named without need, but none is left out.
 */
export interface Due {
  endpoints: string[]
  /** The earliest runAt still to come, or null. */
  nextAt: number | null
}

/** How many jobs of one endpoint a worker asks for. */
export interface EndpointShare {
  endpoint: string
  limit: number
}

export interface Holder {
  workerId: string
  leaseMs: number
  /** Its jobs are worked on where they were pulled to: a heartbeat extends their leases. */
  pulls: boolean
  /** A claim that takes longer is of no use to it; absent: as long as any verb may take. */
  withinMs?: number
}

export interface Claim {
  jobs: ClaimedJob[]
  /** Endpoints that may have more due jobs, which a limit of theirs keeps from being claimed. */
  limited: LimitedEndpoint[]
  /**
   * Names of endpoints that gave less than their share and may have more: the claim was full, or
   * other claimers were faster.
   */
  unfinished: string[]
}

export interface LimitedEndpoint {
  endpoint: string
  /** When to ask again, by the store's clock; an attempt that ends may free it earlier. */
  againAt: number
}

/**
 * How a holder tells the end of its attempt, or that its handler goes on and reports later.
 * Instants by the store's clock. Of a superseded job reschedule and postpone apply as `withdraw`.
 */
export type Settlement = Lease &
  (
    | { event: Extract<SettlingEvent, 'await'>; leaseExpiresAt: number }
    | ({ attempt: Attempt } & (
        | {
            event: Extract<SettlingEvent, 'succeed'>
            result: string | null
            resultTruncated: boolean
          }
        | { event: Extract<SettlingEvent, 'reschedule' | 'postpone'>; runAt: number }
        | { event: Extract<SettlingEvent, 'bury'>; failure: Failure }
      ))
  )

export interface SettleOptions {
  /** It survives power loss, since an HTTP answer reports it. */
  durable?: boolean
  /** They may be stored: an earlier write was not answered. What is stored is not written again. */
  isRepeat?: boolean
}

/**
 * `already_applied`: the store has this settlement from an earlier write whose response was lost.
 * One of the stored attempts has the same fence, lease id and outcome, and was ended by the same
 * event. One exception: a failure that a handler reported (outcome `failed`) may have led to
 * reschedule or to bury.
 */
export type SettleResult = 'applied' | 'already_applied' | 'lease_lost'
export type RenewResult = 'applied' | 'lease_lost'

export interface Heartbeat {
  /** null: the earlier progress stays. */
  progress: Omit<Progress, 'at'> | null
  /** null: completionTimeoutMs of one that awaits completion, its own lease of a pulled one. */
  extendMs: number | null
  completionTimeoutMs: number
}

export type HeartbeatResult =
  | { kind: 'applied'; leaseExpiresAt: number }
  /** The job was cancelled while this lease held it. */
  | { kind: 'cancelled' }
  /** The endpoint of the job was deleted while this lease held it. */
  | { kind: 'evicted' }
  | { kind: 'lease_lost' }

export interface SweepOptions {
  /** Limit of jobs for each kind of finding. */
  limit: number
  /** false: keeps expired leases, because their holders may not have been able to renew. */
  reclaim: boolean
}

export interface SweepCounts {
  reclaimed: number
  buriedLost: number
  expired: number
  abandoned: number
  evicted: number
  /** Blocked jobs that became claimable. */
  promoted: number
  dependentsFailed: number
  /** Final jobs whose finish effects were pending and are done now. */
  effectsDone: number
  purged: number
}

/** A job whose deadline of completion has passed, with what decides about it. */
export interface OverdueJob extends Lease {
  /** As it was seen: the guard of what follows. */
  leaseExpiresAt: number
  claimedAt: number
  workerId: string
  attemptNumber: number
  attemptsLeft: number
  maxAttempts: number
  freeAttempts: number
  firstRunAt: number
  promotedAt: number | null
  expiresAt: number | null
  retry: ClaimedJob['retry']
}

/** Of a superseded job either applies as `withdraw_lost`. */
export type OverdueEnd = Lease & { leaseExpiresAt: number; attempt: Attempt } & (
    | { event: 'time_out'; runAt: number }
    | { event: 'bury_timed_out'; failure: Failure }
  )

// Requests about jobs.

export type CommandResult =
  | { kind: 'applied' }
  | { kind: 'refused'; state: JobState }
  | { kind: 'not_found' }

export type RetryResult =
  | Exclude<CommandResult, { kind: 'applied' }>
  /** `waived`: dependencies that it no longer waits for; absent when there are none. */
  | { kind: 'applied'; waived?: string[] }
  /** The endpoint is gone or being deleted. */
  | { kind: 'unknown_endpoint' }
  /** Another job has its dedupe key by now. */
  | { kind: 'dedupe_conflict'; jobId: string }
  /** Of a bulk retry: it depends on these, which stay dead, cancelled or gone. */
  | { kind: 'dependency_failed'; jobIds: string[] }

export type EditResult = { kind: 'applied'; job: Job } | { kind: 'not_found' } | EditRefusal

export type DeleteJobResult =
  | CommandResult
  /** `ifVersion` is another version. */
  | { kind: 'stale'; version: number }

export interface JobQuery {
  endpoint?: string
  states?: JobState[]
  tag?: string
  dedupeKey?: string
  failureReason?: FailureReason
  createdAfter?: number
  createdBefore?: number
  /** The id after which the page begins, in its order. */
  after?: string
  /** Else newest first. */
  oldestFirst?: boolean
  limit: number
}

// Endpoints.

export type PutEndpointResult =
  | { kind: 'created' | 'replaced'; endpoint: Endpoint }
  /** `ifVersion` is not met; null: there is no such endpoint. */
  | { kind: 'stale'; version: number | null }
  | { kind: 'being_deleted' }

export interface EndpointCounts {
  queued: number
  running: number
  more: boolean
}

export type DeleteEndpointResult =
  | { kind: 'deleted' | 'deleting' | 'not_found' }
  | { kind: 'in_use'; counts: EndpointCounts; scheduleName: string | null }
  | { kind: 'stale'; version: number }

// Schedules.

/** A schedule as stored: what it means is src/schedule's. */
export interface ScheduleChange {
  name: string
  /** Where its jobs go. */
  endpoint: string
  paused: boolean
  /** JSON text, sealed at rest: timing, options and the template of its jobs. */
  settings: string
  payload: Uint8Array
  /** null: no tick is to come. */
  nextRunAt: number | null
}

export interface Schedule extends ScheduleChange {
  lastJobId: string | null
  /** Why the last tick made no job; null: it made one. */
  lastError: string | null
  createdAt: number
  updatedAt: number
  /** Raised by what people change, not by ticks. */
  version: number
}

export interface ScheduleMove {
  name: string
  /** Guards: as read. */
  version: number
  tickAt: number | null
  nextRunAt: number | null
  /** undefined: it stays. */
  lastJobId?: string
  lastError: string | null
}

export type PutScheduleResult =
  | { kind: 'created' | 'replaced'; schedule: Schedule }
  /** `ifVersion` is not met; null: there is no such schedule. */
  | { kind: 'stale'; version: number | null }
  | { kind: 'unknown_endpoint' }

export type DeleteScheduleResult =
  | { kind: 'deleted' | 'not_found' }
  | { kind: 'stale'; version: number }

// Keys, workers, statistics, upkeep.

export const MAX_KEYS = 1_000
export const KEY_SCOPES = ['enqueue', 'work', 'admin'] as const
export type KeyScope = (typeof KEY_SCOPES)[number]

/** An API key. The store has only the SHA-256 of the key itself. */
export interface StoredKey {
  id: string
  name: string
  scope: KeyScope
  /** Base64. */
  hash: string
  createdAt: number
}

export const MAX_WORKERS = 1_000
export const WORKER_KEPT_MS = 3_600_000

export interface WorkerReport {
  id: string
  version: string
  startedAt: number
  concurrency: number
  inFlight: number
  /** See Store.encryptionKeyIds. */
  keyIds: string[]
}

export interface WorkerRecord extends WorkerReport {
  seenAt: number
}

export interface EndpointStats {
  /** Due ones included. */
  queued: number
  due: number
  running: number
  dead: number
  /** Since when the job is due that has been due longest; null: none is due. */
  oldestDueAt: number | null
  /** A count is MAX_COUNT, and the true one larger. */
  more: boolean
}

/** The right to do the upkeep for all processes, until `leaseMs` from now. */
export interface UpkeepLease {
  /** The process. */
  holder: string
  leaseMs: number
}

export interface ApiMode {
  /** No API key is set: loopback targets are allowed. */
  localMode: boolean
  /** Base of the URLs that handlers are given; null: none is known. */
  publicUrl: string | null
}
