// The port: what every store does, in the words of src/job/lifecycle.ts. Two rooms stand behind it,
// sqlite/ and mongo/; nothing outside src/store knows which one it talks to.
//
// Verbs take batches and answer item by item, in order. Every write carries the whole guard of its
// event; a guard that does not match is a value returned, never an exception. What can be thrown is
// StoreUnavailable, after which the outcome of a write is unknown until it is read back.
import type { Endpoint, EndpointSettings } from '../endpoint/endpoint.ts'
import type {
  Attempt,
  ClaimedJob,
  Failure,
  Job,
  JobState,
  JobSummary,
  Lease,
  NewJob,
} from '../job/job.ts'
import type { SettlingEvent } from '../job/lifecycle.ts'

export interface Store {
  /** Decides due times and leases: never the clock of the process that asks. */
  readonly clock: StoreClock
  /** Transactions (SQLite) or commands (MongoDB) since the store was opened, reads included. */
  readonly commandCount: number

  /** Durable on return. At most MAX_ENQUEUE_BATCH jobs. */
  enqueue(jobs: NewJob[]): Promise<EnqueueResult[]>
  /** Which endpoints may have work; see Due. */
  due(since: number | null): Promise<Due>
  /**
   * Takes due jobs, at most `limit`, at most `lane.limit` of a lane, lanes in their order; within a
   * lane by priority, then runAt. All jobs of one call may share one lease id.
   */
  claim(lanes: Lane[], limit: number, holder: Holder): Promise<ClaimedJob[]>
  settle(settlements: Settlement[]): Promise<SettleResult[]>
  /** Extends leases to now + leaseMs; never shortens one. */
  renew(leases: Lease[], leaseMs: number): Promise<RenewResult[]>
  /** Gives back jobs of which nothing was sent. */
  release(leases: Lease[]): Promise<RenewResult[]>
  sweep(options: SweepOptions): Promise<SweepCounts>

  cancel(ids: string[]): Promise<CommandResult[]>
  retry(ids: string[]): Promise<CommandResult[]>
  getJob(id: string): Promise<Job | null>
  getPayload(id: string): Promise<Uint8Array | null>
  listJobs(query: JobQuery): Promise<Page<JobSummary>>
  /** Which of these are final or gone: one look-up for all who wait. */
  finalAmong(ids: string[]): Promise<string[]>

  /**
   * Creates or replaces. `secret` null keeps the stored one or, for a new endpoint, takes
   * `freshSecret`. With `ifVersion` nothing is written unless it is the stored version.
   */
  putEndpoint(
    settings: EndpointSettings,
    secrets: { given: string | null; fresh: string },
    ifVersion: number | null,
  ): Promise<PutEndpointResult>
  /** Those of the names that are stored, in no order. */
  endpointsNamed(names: string[]): Promise<Endpoint[]>
  /** By name, from the one after `after`. */
  listEndpoints(after: string | null, limit: number): Promise<Page<Endpoint>>
  /** Per name, in order; each figure is exact up to MAX_COUNT and then MAX_COUNT with `more`. */
  countJobs(names: string[]): Promise<EndpointCounts[]>
  /**
   * Without force: gone at once, or in use. With force: marked, and the sweeper buries its jobs.
   */
  deleteEndpoint(
    name: string,
    options: { force: boolean; ifVersion: number | null },
  ): Promise<DeleteEndpointResult>

  /** What the API tells the workers about itself. */
  writeApiMode(mode: ApiMode): Promise<void>
  readApiMode(): Promise<ApiMode | null>

  /** A hint that something may be due; may be missed, may be false. Returns how to stop it. */
  onWork(listener: () => void): () => void
  /** Throws StoreUnavailable when the store does not answer. */
  ready(): Promise<void>
  close(): Promise<void>
}

export const MAX_ENQUEUE_BATCH = 1_000
export const MAX_COUNT = 10_000
/** A page of a list looks at no more index entries than this, and may be short or empty for it. */
export const MAX_ENTRIES_PER_PAGE = 10_000
/** A job's key outlives the job's creation by at least this, whatever the retention. */
export const MIN_KEY_LIFE_MS = 24 * 3_600_000

export interface StoreClock {
  /** Epoch milliseconds by the store's clock. */
  now(): number
}

/** What opening a store needs beside its URL. */
export interface StoreSettings {
  /** How long succeeded and cancelled jobs are kept. */
  retentionMs: number
  retentionDeadMs: number
  /** AES-256 keys for secrets at rest: the first encrypts, all decrypt. null: SQLite's key file. */
  encryptionKeys: Buffer[] | null
}

export type EnqueueResult =
  | { kind: 'inserted'; job: Job }
  /** The idempotency key is known, and so is the request. */
  | { kind: 'existing'; job: Job }
  /** The idempotency key is known, with another request. */
  | { kind: 'key_reused'; jobId: string }
  | { kind: 'unknown_endpoint' }

/** The jobs of one endpoint, as a worker asks for them. */
export interface Lane {
  endpoint: string
  limit: number
}

export interface Holder {
  workerId: string
  leaseMs: number
}

/**
 * Endpoints with queued jobs that became due after `since` and until now; with `since` null all
 * endpoints with queued jobs. An endpoint may be named without need, but none is left out.
 */
export interface Due {
  endpoints: string[]
  /** The earliest runAt still to come, or null. */
  nextAt: number | null
}

/** How a holder tells the end of its attempt. Instants by the store's clock. */
export type Settlement = Lease & { attempt: Attempt } & (
    | { event: Extract<SettlingEvent, 'succeed'>; result: string | null; resultTruncated: boolean }
    | { event: Extract<SettlingEvent, 'reschedule' | 'postpone'>; runAt: number }
    | { event: Extract<SettlingEvent, 'bury'>; failure: Failure }
  )

/** `already_applied`: this very settlement was stored before, and its answer was lost. */
export type SettleResult = 'applied' | 'already_applied' | 'lease_lost'
export type RenewResult = 'applied' | 'lease_lost'

export interface SweepOptions {
  /** At most so many jobs for each kind of finding. */
  limit: number
  /** false: leave lapsed leases alone, for their holders may not have been able to renew. */
  reclaim: boolean
}

export interface SweepCounts {
  reclaimed: number
  buriedLapsed: number
  expired: number
  abandoned: number
  evicted: number
  purged: number
}

export type CommandResult =
  | { kind: 'applied' }
  | { kind: 'refused'; state: JobState }
  | { kind: 'not_found' }
  /** Of retry: the endpoint is gone or being deleted. */
  | { kind: 'unknown_endpoint' }

export interface JobQuery {
  endpoint?: string
  states?: JobState[]
  tag?: string
  createdAfter?: number
  createdBefore?: number
  /** The id after which the page begins. */
  after?: string
  limit: number
}

/** Newest first for jobs, by name for endpoints. `next` null: there is nothing beyond. */
export interface Page<T> {
  items: T[]
  next: string | null
}

export interface EndpointCounts {
  queued: number
  running: number
  more: boolean
}

export type PutEndpointResult =
  | { kind: 'created' | 'replaced'; endpoint: Endpoint }
  /** null: `ifVersion` was given and there is no such endpoint. */
  | { kind: 'stale'; version: number | null }
  | { kind: 'being_deleted' }

export type DeleteEndpointResult =
  | { kind: 'deleted' | 'deleting' | 'not_found' }
  | { kind: 'in_use'; counts: EndpointCounts }
  | { kind: 'stale'; version: number }

export interface ApiMode {
  /** No API key is set: loopback targets are allowed. */
  localMode: boolean
}

/** The store did not answer in time, or not at all. A write may have happened. */
export class StoreUnavailable extends Error {
  override readonly name = 'StoreUnavailable'
}

/**
 * The store can not be used as it is: a wrong file, a newer schema, a wrong key. Ends the start.
 */
export class StoreUnusable extends Error {
  override readonly name = 'StoreUnusable'
}
