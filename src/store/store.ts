// The port: what every store does, in the words of src/job/lifecycle.ts. sqlite/ and mongo/
// implement it; nothing outside src/store depends on which of them is in use.
//
// Verbs take batches and return a result for each item, in order. Every write has the whole guard
// of its event. A guard that does not match is a returned value, never an exception. A verb throws
// only StoreUnavailable; after it, the outcome of a write is unknown until it is read back.

import type {
  DeleteEndpointResult,
  Endpoint,
  EndpointCounts,
  EndpointSettings,
  PutEndpointResult,
} from '../endpoint/endpoint.ts'
import type { HealthReport } from '../endpoint/health.ts'
import type {
  CountedKey,
  DeleteKeyResult,
  FairnessKey,
  KeyRecord,
  KeySettings,
  PutKeyResult,
} from '../endpoint/key-limits.ts'
import type { KeyHealthReport } from '../endpoint/key-rest.ts'
import type {
  DeleteLimitResult,
  LimitUse,
  PutLimitResult,
  SharedLimit,
  SharedLimitSettings,
} from '../endpoint/shared-limits.ts'
import type { EndpointRefusal, RequestRefusal } from '../job/acceptance.ts'
import type { Dependent, RetryOptions } from '../job/dependencies.ts'
import type { EditRefusal, JobChange } from '../job/edit.ts'
import type { CountedGroup, Group, NewGroup } from '../job/groups.ts'
import type {
  Attempt,
  ClaimedJob,
  Failure,
  FailureReason,
  IsMinimal,
  Job,
  JobState,
  JobSummary,
  JobWithAttempts,
  Lease,
  MinimalJob,
  NewJob,
  Progress,
} from '../job/job.ts'
import type { SettlingEvent } from '../job/lifecycle.ts'
import type { Retention } from '../job/retention.ts'
import type { StoredKey } from './api-key.ts'
import type { ApiMode } from './api-mode.ts'
import type { AttemptTokens } from './attempt-token.ts'
import type { End } from './ends.ts'
import type { CreateGroupResult, DeleteGroupResult, GroupQuery, GroupResult } from './groups.ts'
import type { MinuteStats, MinuteStatsRange, MinuteStatsReport } from './minute-stats.ts'
import type { Outbox, OutboxName } from './outbox.ts'
import type { IfVersion, OtherVersion } from './precondition.ts'
import type { SetBackLooks } from './set-back-watch.ts'
import type { EndpointStats, KeyStats, KeysByWait, KeyWait, PlaceInLine } from './stats.ts'
import type { OverdueEnd, OverdueJob, SweepCounts, SweepOptions } from './sweep.ts'
import type { StoredUpkeepLease, UpkeepLease } from './upkeep-lease.ts'
import type { WorkerRecord, WorkerReport } from './worker-liveness.ts'

export interface Store {
  /** Due times and leases follow this clock, never that of the calling process. */
  readonly clock: StoreClock
  /** Transactions (SQLite) or commands (MongoDB) since the store was opened, reads included. */
  readonly commandCount: number
  /** Creates and reads the tokens that authorize a handler's reports about its attempt. */
  readonly attemptTokens: AttemptTokens
  /** Ids (keyIdOf) of the encryption keys, the one that encrypts first; empty: none was needed. */
  encryptionKeyIds(): string[]
  /** null: no outbox is set, and SQLite has none. */
  readonly outbox: Outbox | null

  // The life of a job.

  /**
   * Stores jobs durably. Takes at most MAX_ENQUEUE_BATCH jobs; the results are those of single
   * calls in this order. Where `isMinimal` holds, the store neither builds nor reads a whole job.
   */
  enqueue(jobs: NewJob[]): Promise<EnqueueResult[]>
  enqueue(jobs: NewJob[], isMinimal: IsMinimal): Promise<EnqueueResult<MinimalJob>[]>
  /** The endpoints that may have due jobs; see Due. */
  due(since: number | null): Promise<Due>
  /**
   * Claims at most `limit` due jobs, and at most `share.limit` of each endpoint. Shares are served
   * in their order, the jobs of a share by priority, then runAt. The jobs of one call may share a
   * lease id. The limits of an endpoint, and its ramp after a rest, hold exactly over all holders.
   */
  claim(shares: EndpointShare[], limit: number, holder: Holder): Promise<Claim>
  settle(settlements: Settlement[], options?: SettleOptions): Promise<SettleResult[]>
  /** Extends each lease to now + leaseMs; never shortens one. */
  renew(leases: Lease[], leaseMs: number): Promise<RenewResult[]>
  heartbeat(lease: Lease, beat: Heartbeat): Promise<HeartbeatResult>
  /** Returns claimed jobs to the queue, before any part of their requests was sent. */
  release(leases: Lease[]): Promise<RenewResult[]>
  sweep(options: SweepOptions): Promise<SweepCounts>
  /** Jobs whose completion is overdue; the retry policy of their endpoint decides what follows. */
  overdue(limit: number): Promise<OverdueJob[]>
  /**
   * Moves back the instants that were stored while the store's clock was ahead: those of retries,
   * of jobs created then, of rests and of retention. Returns the number of records that it changed.
   *
   * @param setBackMs how far the clock was set back; null: it may have been, before this process
   */
  correctInstants(setBackMs: number | null): Promise<number>
  endOverdue(ends: OverdueEnd[]): Promise<SettleResult[]>

  cancel(ids: string[]): Promise<CommandResult[]>
  /**
   * Retries in the given order (see retryOrder). Without options, a job no longer waits for
   * dependencies that cannot succeed, as with a retry by id.
   */
  retry(ids: string[], options?: RetryOptions): Promise<RetryResult[]>
  /** With `ifVersion`, it writes only if the stored version is this one. */
  edit(id: string, change: JobChange, ifVersion: number | null): Promise<EditResult>
  /** `ifVersion` as of edit; absent: null. */
  deleteJob(id: string, ifVersion?: number | null): Promise<DeleteJobResult>
  getJob(id: string): Promise<Job | null>
  /** Reads neither the payload nor the result, which can be large. */
  getJobWithAttempts(id: string): Promise<JobWithAttempts | null>
  getPayload(id: string): Promise<Uint8Array | null>
  /** As makeInputs made them; null: the job has none, or they are not made yet. */
  getInputs(id: string): Promise<Uint8Array | null>
  listJobs(query: JobQuery): Promise<Page<JobSummary>>
  /** The jobs that wait for one of these, or are dead because of one; not more than `limit`. */
  dependentsOf(ids: string[], limit: number): Promise<Dependent[]>
  /** Returns the ids of final and deleted jobs: one query for all requests that wait. */
  finalAmong(ids: string[]): Promise<string[]>
  /** The id of the earliest job of this ordering key that is not final; null: there is none. */
  headOfOrderingKey(endpoint: string, orderingKey: string): Promise<string | null>

  // Groups.

  createGroup(group: NewGroup): Promise<CreateGroupResult>
  getGroup(id: string): Promise<CountedGroup | null>
  /** Newest first. */
  listGroups(query: GroupQuery): Promise<Page<Group>>
  /** Of final and deleted groups: one query for all requests that wait. */
  finalGroupsAmong(ids: string[]): Promise<string[]>
  /** An empty group is final at once, and so is one whose members are. */
  closeGroup(id: string): Promise<GroupResult>
  /** Marks the group. The sweep then changes its members in batches, the oldest first. */
  commandGroup(id: string, command: 'cancel' | 'retry'): Promise<GroupResult>
  /** Its jobs stay. */
  deleteGroup(id: string): Promise<DeleteGroupResult>

  // Endpoints.

  /**
   * Creates or replaces, if `ifVersion` is met. With `given` null, the stored secret stays; a new
   * endpoint gets `fresh`. An endpoint stays paused, disabled or resting, but removing its circuit
   * breaker ends the rest of that breaker at once.
   */
  putEndpoint(
    settings: EndpointSettings,
    secrets: { given: string | null; fresh: string },
    ifVersion: IfVersion,
  ): Promise<PutEndpointResult>
  /**
   * Returns null if there is no such endpoint. Changes nothing if the endpoint is being deleted or
   * has another version than `ifVersion`; absent or null: any version.
   */
  pauseEndpoint(name: string, ifVersion?: number | null): Promise<Endpoint | OtherVersion | null>
  /** Ends a pause, disabling, its rest and those of its keys, and resets the circuit breaker. */
  resumeEndpoint(name: string, ifVersion?: number | null): Promise<Endpoint | OtherVersion | null>
  /**
   * The earlier secrets stay valid for `overlapMs`. `fullUntil`: the endpoint has MAX_SECRETS valid
   * secrets until this instant.
   */
  rotateSecret(
    name: string,
    secret: string,
    overlapMs: number,
    ifVersion?: number | null,
  ): Promise<Endpoint | OtherVersion | { fullUntil: number } | null>
  /** Stores what attempts show of the health of their endpoints; at most one report for each. */
  reportHealth(reports: HealthReport[]): Promise<void>
  /** The same of fairness keys. */
  reportKeyHealth(reports: KeyHealthReport[]): Promise<void>
  /** The stored endpoints with these names, in no order. */
  endpointsNamed(names: string[]): Promise<Endpoint[]>
  /** In order of name, beginning after `after`. */
  listEndpoints(after: string | null, limit: number): Promise<Page<Endpoint>>
  /**
   * A result for each name, in order. Counts are exact up to MAX_COUNT; beyond, MAX_COUNT with
   * `more`.
   */
  countJobs(names: string[]): Promise<EndpointCounts[]>
  /**
   * Without force, deletes the endpoint at once, or refuses if jobs or a schedule use it. With
   * force, marks it as being deleted, and the sweep makes its jobs dead.
   */
  deleteEndpoint(
    name: string,
    options: { force: boolean; ifVersion: number | null },
  ): Promise<DeleteEndpointResult>

  // Settings of fairness keys.

  /** Replaces all settings of the key if `ifVersion` is met. Ends its rest unless it is paused. */
  putFairnessKey(key: FairnessKey, to: KeySettings, ifVersion: IfVersion): Promise<PutKeyResult>
  /** Of those of these keys that have settings or a rest, in no order. */
  fairnessKeysNamed(endpoint: string, keys: string[]): Promise<KeyRecord[]>
  /** What a claim would find of the key. */
  fairnessKeyState(key: FairnessKey): Promise<CountedKey>
  deleteFairnessKey(key: FairnessKey, ifVersion: number | null): Promise<DeleteKeyResult>

  // Limits that endpoints share.

  /** Creates or replaces the limit if `ifVersion` is met. */
  putLimit(settings: SharedLimitSettings, ifVersion: IfVersion): Promise<PutLimitResult>
  /** Those of these limits that exist, in no order. */
  limitsNamed(names: string[]): Promise<SharedLimit[]>
  listLimits(after: string | null, limit: number): Promise<Page<SharedLimit>>
  limitUse(name: string): Promise<LimitUse>
  deleteLimit(name: string, ifVersion: number | null): Promise<DeleteLimitResult>

  // Schedules.

  /** Creates or replaces the schedule if `ifVersion` is met. */
  putSchedule(change: ScheduleChange, ifVersion: IfVersion): Promise<PutScheduleResult>
  getSchedule(name: string): Promise<Schedule | null>
  listSchedules(after: string | null, limit: number): Promise<Page<Schedule>>
  deleteSchedule(name: string, ifVersion: number | null): Promise<DeleteScheduleResult>
  /** The schedules whose next tick has come and that are not paused, the earliest tick first. */
  dueSchedules(limit: number): Promise<Schedule[]>
  /** Advances each schedule only if it still has the version and the tick that were read. */
  advanceSchedules(moves: ScheduleMove[]): Promise<void>

  // Keys, workers, statistics.

  /** `full`: the store has MAX_KEYS keys already. */
  addKey(key: StoredKey): Promise<'added' | 'full'>
  /** Oldest first. */
  listKeys(): Promise<StoredKey[]>
  /** Returns whether the key existed. */
  removeKey(id: string): Promise<boolean>
  /** Each worker calls this every few seconds; `seenAt` is the time of the store's clock. */
  reportWorker(report: WorkerReport): Promise<void>
  removeWorker(id: string): Promise<void>
  /** The workers that reported within WORKER_KEPT_MS, in order of id; at most MAX_WORKERS. */
  listWorkers(): Promise<WorkerRecord[]>
  /**
   * Adds to the statistics of each minute and endpoint; at most MAX_MINUTE_STATS_ADDED rows. After
   * StoreUnavailable, the writer repeats the same rows under the same report before it sends a
   * later one; each row is added once.
   */
  addMinuteStats(stats: MinuteStats[], report: MinuteStatsReport): Promise<void>
  /** The statistics from the minute of this instant on, of one endpoint; null: of all. */
  minuteStatsSince(instant: number, endpoint: string | null): Promise<MinuteStatsRange>
  /**
   * A result for each name, in order, for at most MAX_STATS_NAMES. Each count is exact up to
   * MAX_COUNT; beyond, it is MAX_COUNT with `more`. Each step has a deadline, but a call with many
   * names has none.
   */
  statsOf(names: string[]): Promise<EndpointStats[]>
  /**
   * The fairness keys of an endpoint that have queued or running jobs, in the order of their bytes.
   * A page can be short or empty although there are more.
   */
  fairnessKeysOf(endpoint: string, after: string | null, limit: number): Promise<Page<KeyStats>>
  /** Those that have due jobs, the one that waits longest first. */
  keysByWait(endpoint: string, after: KeyWait | null, limit: number): Promise<KeysByWait>
  /** null: the job does not wait for a turn, or no fairness key takes turns at its priority. */
  placeInLine(endpoint: string, jobId: string): Promise<PlaceInLine | null>

  /** The names of those that still have dead jobs, sorted; at most MAX_DELETED_NAMES. */
  deletedEndpoints(): Promise<string[]>

  /** null: none was taken, or it was released. It may have expired (mayTakeUpkeep). */
  upkeepLease(): Promise<StoredUpkeepLease | null>
  /** Takes or extends the lease of the upkeep; returns whether the holder has it. */
  takeUpkeep(lease: UpkeepLease): Promise<boolean>
  /** Does nothing if another process has the lease. */
  releaseUpkeep(holder: string): Promise<void>

  /** Stores the mode and the public URL of the API, which workers read. */
  writeApiMode(mode: ApiMode): Promise<void>
  readApiMode(): Promise<ApiMode | null>

  /**
   * Calls `listener` for each attempt that this process ended with a write other than `settle`, and
   * for each job that such a write made dead: once each, after the write is stored, and never for a
   * write whose response was lost. Returns a function that removes the listener.
   */
  onEnd(listener: (end: End) => void): () => void
  /**
   * Calls `listener` when jobs may be due. Such a hint can be missing or false. Returns a function
   * that removes the listener.
   */
  onWork(listener: () => void): () => void
  /** Whether `onWork` calls its listeners now after each write, of any process, of a due job. */
  readonly hintsAtAllWork: boolean
  /** Throws StoreUnavailable unless a write succeeded within the last second, or one does now. */
  ready(): Promise<void>
  close(): Promise<void>
}

/**
 * A verb that takes longer throws StoreUnavailable, so that a client gets its 503 within 3 s. The
 * other 300 ms are for the request and the response on a busy machine.
 */
export const STORE_DEADLINE_MS = 2_700
export const MAX_ENQUEUE_BATCH = 1_000
export const MAX_COUNT = 10_000
export const MAX_STATS_NAMES = 10_000
export const MAX_DELETED_NAMES = 1_000
/** A page of a list reads at most this many index entries, so it can be short or even empty. */
export const MAX_ENTRIES_PER_PAGE = 10_000

export interface StoreClock {
  /** Epoch milliseconds by the store's clock. */
  now(): number
  /** Watches from now on whether the clock is set back, until stop() of the result is called. */
  watchSetBack(): SetBackLooks
}

/** What a store needs to be opened, apart from its URL. */
export interface StoreSettings extends Retention {
  /** AES-256 keys for secrets at rest: the first encrypts, all decrypt. null: SQLite's key file. */
  encryptionKeys: Buffer[] | null
  /** The collection where applications enqueue in their own transactions. MongoDB only. */
  outbox?: OutboxName | null
  /** MongoDB only: whether a change stream wakes the process (CHANGE_STREAM). Absent: true. */
  changeStream?: boolean
  /** Logs events that no caller asked for, such as a notice whose endpoint was deleted. */
  warn: (fields: Record<string, unknown>, message: string) => void
  /** Logs that the store cannot be used until it is repaired. Absent: `warn`. */
  error?: (fields: Record<string, unknown>, message: string) => void
  /**
   * false: a store that is missing or has an older schema is refused, after 5 s in which another
   * process may create or upgrade it. Absent: true.
   */
  mayCreate?: boolean
  /**
   * false, for a worker: leaves stored secrets as the API encrypted them, because the API may lack
   * the first key of the worker. Absent: encrypts secrets of older keys with the first key at the
   * start.
   */
  reencrypts?: boolean
}

/**
 * Newest first for jobs (unless asked otherwise), by name for endpoints. `next` null: this is the
 * last page.
 */
export interface Page<T> {
  items: T[]
  next: string | null
}

// The life of a job.

export type EnqueueResult<J extends MinimalJob = Job> =
  | { kind: 'inserted'; job: J }
  /** A stored job has the same idempotency key, dedupe key or origin: that job, as it is now. */
  | { kind: 'existing'; job: J }
  /** A stored job has the idempotency key, but was created by a different request. */
  | { kind: 'key_reused'; jobId: string }
  /** Another job has the dedupe key, and the request asks to be refused then. */
  | { kind: 'dedupe_conflict'; jobId: string }
  /**
   * A job of another origin has its id, or a job of other content has its origin. Only documents of
   * an outbox lead to this.
   */
  | { kind: 'id_taken'; jobId: string }
  | EndpointRefusal
  | RequestRefusal

/**
 * Endpoints with queued jobs that became due after `since` and until now; with `since` null all
 * endpoints with queued jobs. The list may contain an endpoint without due jobs, but it is never
 * missing one that has some.
 */
export interface Due {
  endpoints: string[]
  /** The earliest runAt in the future; null: there is none. */
  nextAt: number | null
}

/** How many jobs of one endpoint a worker requests. */
export interface EndpointShare {
  endpoint: string
  limit: number
}

export interface Holder {
  workerId: string
  leaseMs: number
  /** The claim comes from a client over HTTP, and its heartbeats extend the leases of the jobs. */
  pulls: boolean
  /** The holder cannot use a claim that takes longer; absent: the deadline of every verb. */
  withinMs?: number
}

export interface Claim {
  jobs: ClaimedJob[]
  /** Endpoints that may have more due jobs, but are at a limit of their own. */
  limited: LimitedEndpoint[]
  /**
   * Names of endpoints that returned fewer jobs than their share and may have more: the claim was
   * full, or other claimers were faster.
   */
  unfinished: string[]
}

export interface LimitedEndpoint {
  endpoint: string
  /** When to claim again, by the store's clock. The end of an attempt may allow it earlier. */
  againAt: number
  /** The shared limits that refused a job of it. The end of an attempt at them may allow it. */
  limits: string[]
}

/**
 * How a holder reports the end of its attempt, or that the handler continues and reports later.
 * Instants are by the store's clock. For a superseded job, reschedule and postpone become
 * `withdraw`.
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
  /** The write survives power loss, because an HTTP response reports it. */
  durable?: boolean
  /**
   * An earlier write of these had no response, so they may be stored. Such are not written again.
   */
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
  /**
   * null: completionTimeoutMs for a job that awaits completion, the length of its lease for a
   * pulled one.
   */
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

// Requests about jobs.

export type CommandResult =
  | { kind: 'applied' }
  | { kind: 'refused'; state: JobState }
  | { kind: 'not_found' }

export type RetryResult =
  | Exclude<CommandResult, { kind: 'applied' }>
  /** `waived`: dependencies that it no longer waits for; absent when there are none. */
  | { kind: 'applied'; waived?: string[] }
  /** The endpoint was deleted or is being deleted. */
  | { kind: 'unknown_endpoint' }
  /** Another job has the dedupe key. */
  | { kind: 'dedupe_conflict'; jobId: string }
  /**
   * The job depends on jobs that stay dead, cancelled or deleted, in a bulk retry; or it needs
   * their results, in any retry.
   */
  | { kind: 'dependency_failed'; jobIds: string[] }

export type EditResult = { kind: 'applied'; job: Job } | { kind: 'not_found' } | EditRefusal

export type DeleteJobResult =
  | CommandResult
  /** A waiting job needs its result. */
  | { kind: 'needed'; jobId: string }
  /** The stored version is not `ifVersion`. */
  | { kind: 'stale'; version: number }

export interface JobQuery {
  endpoint?: string
  states?: JobState[]
  tag?: string
  dedupeKey?: string
  group?: string
  /** Only with endpoint. */
  fairnessKey?: string
  failureReason?: FailureReason
  createdAfter?: number
  createdBefore?: number
  /** The id after which the page begins, in its order. */
  after?: string
  /** Absent or false: newest first. */
  oldestFirst?: boolean
  limit: number
}

// Schedules.

/** A schedule as it is stored. src/schedule interprets it. */
export interface ScheduleChange {
  name: string
  /** The endpoint of its jobs. */
  endpoint: string
  paused: boolean
  /** JSON text, encrypted at rest: timing, options and the template of its jobs. */
  settings: string
  payload: Uint8Array
  /** null: there is no further tick. */
  nextRunAt: number | null
}

export interface Schedule extends ScheduleChange {
  lastJobId: string | null
  /** Why the last tick enqueued no job; null: it enqueued one. */
  lastError: string | null
  createdAt: number
  updatedAt: number
  /** Raised by changes of clients, not by ticks. */
  version: number
}

export interface ScheduleMove {
  name: string
  /** Guards: as read. */
  version: number
  tickAt: number | null
  nextRunAt: number | null
  /** undefined: keeps the stored one. */
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
