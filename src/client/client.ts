// The module `posthorn/client`: the API as methods, and verify for handlers. It depends on Node
// only, on no other package.
import { randomUUID } from 'node:crypto'
import { type AttemptRef, type AttemptVerb, attemptCall } from './attempt-ref.ts'
import { type Call, type ClientOptions, createCall, type RequestOptions } from './call.ts'
import { EndpointCalls, ifMatch, type VersionOptions } from './endpoint-calls.ts'
import {
  givenObject,
  idempotencyHeader,
  milliseconds,
  notNull,
  preferHeader,
  refuseNoDate,
} from './given.ts'
import type { NewGroup } from './group.ts'
import { GroupCalls } from './group-calls.ts'
import {
  type BatchItem,
  type BulkResult,
  type ClaimedJob,
  type EnqueuedJob,
  type Explanation,
  type FinalJob,
  isFinal,
  type Job,
  type JobChange,
  type JobFilter,
  type JobQuery,
  type JobSummary,
  type MinimalJob,
  type NewJob,
  type Page,
  type RetriedJob,
  type RetryOptions,
} from './job.ts'
import { changeText, jobText } from './json-text.ts'
import { KeyCalls } from './key-calls.ts'
import { LimitCalls } from './limit-calls.ts'
import { eachItem, MAX_PAGE } from './paging.ts'
import { MAX_FAIL_MESSAGE, MAX_PROGRESS_MESSAGE, reportText } from './report-text.ts'
import { queryText, segment } from './request-path.ts'
import * as check from './response-check.ts'
import { ScheduleCalls } from './schedule-calls.ts'
import type { Stats, WorkerView } from './stats.ts'
import { type WaitOptions, waitUntilFinal } from './wait.ts'

export type { AttemptRef } from './attempt-ref.ts'
export type { ClientOptions, RequestOptions } from './call.ts'
export type {
  Endpoint,
  EndpointChange,
  EndpointSettings,
  FairnessKey,
  FairnessKeyPage,
  FairnessKeySettings,
  ListedEndpoint,
  ListedSharedLimit,
  PingResult,
  RateLimit,
  SharedLimit,
  SharedLimitSettings,
  StoredFairnessKey,
} from './endpoint.ts'
export type {
  CreatedGroup,
  FinalGroup,
  Group,
  GroupNotice,
  GroupQuery,
  GroupSettings,
  GroupState,
  ListedGroup,
  NewGroup,
} from './group.ts'
export type * from './job.ts'
export type { ApiKey, KeyScope } from './key-calls.ts'
export { type OutboxDocument, type OutboxJob, outboxDocument } from './outbox.ts'
export { PosthornError, type PosthornErrorCode } from './posthorn-error.ts'
export type { Schedule, ScheduleSettings, ScheduleSummary } from './schedule.ts'
export type { Stats, WorkerView } from './stats.ts'
export { type Delivery, type SignedRequest, VerificationError, verify } from './verify.ts'

export interface ClaimOptions extends RequestOptions {
  /** 1–100 jobs. Default: 1. */
  limit?: number | undefined
  /** How long to wait for a job if none is due, at most 60 s. Default: 0. */
  waitMs?: number | undefined
  /** 1 s to 1 h. Default: 30 s. A heartbeat extends it. */
  leaseMs?: number | undefined
}

export interface EnqueueOptions extends RequestOptions {
  /**
   * `minimal`: the server sends only id, state and deduplicated of each job, which costs less.
   * Default: `representation`.
   */
  return?: 'minimal' | 'representation' | undefined
}

export interface BatchOptions extends EnqueueOptions {
  /**
   * Creates a group that the jobs join unless they name another one, or null. `open: false` closes
   * it once every job was accepted.
   */
  group?: (NewGroup & { open?: boolean | undefined }) | undefined
}

export interface BulkOptions extends RequestOptions {
  limit?: number | undefined
  /** Only counts the jobs; changes nothing. */
  dryRun?: boolean | undefined
}

/**
 * A client of one Posthorn server. A method resolves once the server has done its work. Otherwise
 * it throws PosthornError, or the reason of the aborted signal.
 */
export class Posthorn {
  readonly endpoints: EndpointCalls
  readonly groups: GroupCalls
  readonly limits: LimitCalls
  readonly schedules: ScheduleCalls
  readonly keys: KeyCalls
  readonly #call: Call

  constructor(options: ClientOptions) {
    this.#call = createCall(options)
    this.endpoints = new EndpointCalls(this.#call)
    this.groups = new GroupCalls(this.#call)
    this.limits = new LimitCalls(this.#call)
    this.schedules = new ScheduleCalls(this.#call)
    this.keys = new KeyCalls(this.#call)
  }

  /**
   * Resolves once the job is stored durably. Retries are harmless: each sends the same idempotency
   * key.
   */
  async enqueue(job: NewJob, options: EnqueueOptions & { return: 'minimal' }): Promise<MinimalJob>
  async enqueue<Payload = unknown, Result = unknown>(
    job: NewJob<Payload>,
    options?: EnqueueOptions & { return?: 'representation' | undefined },
  ): Promise<EnqueuedJob<Payload, Result>>
  async enqueue(
    job: NewJob,
    { signal, return: wanted }: EnqueueOptions = {},
  ): Promise<MinimalJob | EnqueuedJob> {
    const { idempotencyKey = randomUUID(), ...rest } = givenObject('job', job)
    const request = {
      method: 'POST',
      path: '/jobs',
      body: jobText(rest),
      headers: {
        'idempotency-key': idempotencyHeader(idempotencyKey),
        ...preferHeader(wanted),
      },
      repeatable: true,
      signal,
    } as const
    if (wanted === 'minimal') {
      const {
        id,
        state,
        deduplicated = false,
      } = await this.#call.json<MinimalJob>(request, check.MINIMAL_JOB)
      return { id, state, deduplicated }
    }
    const stored = await this.#call.json<EnqueuedJob>(request, check.JOB)
    return { ...stored, deduplicated: stored.deduplicated ?? false }
  }

  /**
   * Enqueues 1–1,000 jobs. Returns one item for each, in their order. A refused job does not affect
   * the others.
   */
  async enqueueBatch<Payload = unknown>(
    jobs: readonly NewJob<Payload>[],
    { group, signal, return: wanted }: BatchOptions = {},
  ): Promise<BatchItem[]> {
    const groupKey = group?.idempotencyKey ?? randomUUID()
    const grouped =
      group === undefined
        ? ''
        : `"group":${JSON.stringify({ ...group, idempotencyKey: groupKey })},`
    const headers = preferHeader(wanted)
    if (!Array.isArray(jobs)) throw new TypeError('jobs is not a list')
    const keys = (jobs as readonly NewJob<Payload>[]).map((job, i) => {
      const { idempotencyKey } = givenObject(`jobs[${i}]`, job)
      return notNull('idempotencyKey', idempotencyKey) ?? randomUUID()
    })
    const texts = jobs.map((job, i) => jobText({ ...job, idempotencyKey: keys[i] } as typeof job))
    const send = async (places: number[]) => {
      const request = {
        method: 'POST',
        path: '/jobs/batch',
        body: `{${grouped}"jobs":[${places.map((place) => texts[place]).join(',')}]}`,
        headers,
        repeatable: true,
        signal,
      } as const
      const checkItems = check.batchOf(places.length)
      return (await this.#call.json<{ items: BatchItem[] }>(request, checkItems)).items
    }
    const items = await untilTaken(jobs, send, signal)
    return items.map((item, i) => {
      const idempotencyKey = keys[i] as string
      if (item.error !== undefined) return { ...item, idempotencyKey }
      return { ...item, deduplicated: item.deduplicated ?? false, idempotencyKey }
    })
  }

  async get<Payload = unknown, Result = unknown>(
    id: string,
    { signal }: RequestOptions = {},
  ): Promise<Job<Payload, Result>> {
    return this.#get(`/jobs/${segment(id)}`, check.JOB, signal)
  }

  /**
   * The exact bytes of the inputs, as they are delivered: `{"inputs":{…}}`, with `truncatedInputs`
   * and `failedInputs` if there are any.
   */
  async inputs(id: string, { signal }: RequestOptions = {}): Promise<Uint8Array> {
    const path = `/jobs/${segment(id)}/inputs`
    return this.#call.raw({ method: 'GET', path, repeatable: true, signal }, check.ANYTHING)
  }

  /** The exact bytes of the payload, for numbers that JSON.parse would change. */
  async payload(id: string, { signal }: RequestOptions = {}): Promise<Uint8Array> {
    const path = `/jobs/${segment(id)}/payload`
    return this.#call.raw({ method: 'GET', path, repeatable: true, signal }, check.ANYTHING)
  }

  /**
   * Waits until the job is final, in any of the final states, and returns it. Failures of the API
   * do not end the wait before the timeout.
   */
  async wait<Payload = unknown, Result = unknown>(
    id: string,
    options: WaitOptions = {},
  ): Promise<FinalJob<Payload, Result>> {
    const wanted = {
      path: `/jobs/${segment(id)}`,
      what: 'job',
      check: check.JOB,
      isFinal: (job: Job<Payload, Result>): job is FinalJob<Payload, Result> => isFinal(job.state),
    } as const
    return waitUntilFinal(this.#call, wanted, options)
  }

  /** One page of jobs, newest first. */
  async page(
    query: JobQuery & { cursor?: string | undefined } = {},
    { signal }: RequestOptions = {},
  ): Promise<Page<JobSummary>> {
    return this.#get(`/jobs${queryText({ ...query })}`, check.pageOf(check.JOB_SUMMARY), signal)
  }

  /** All matching jobs, newest first. Fetches pages as needed. */
  list(query: JobQuery = {}, options: RequestOptions = {}): AsyncGenerator<JobSummary, void> {
    return eachItem((cursor) => this.page({ limit: MAX_PAGE, ...query, cursor }, options))
  }

  /** Explains why a job is not running. */
  async explain(id: string, { signal }: RequestOptions = {}): Promise<Explanation> {
    return this.#get(`/jobs/${segment(id)}/explain`, check.EXPLANATION, signal)
  }

  async cancel(id: string, { signal }: RequestOptions = {}): Promise<Job> {
    const path = `/jobs/${segment(id)}/cancel`
    return this.#call.json({ method: 'POST', path, repeatable: true, signal }, check.JOB)
  }

  /**
   * Queues a dead or cancelled job again. It waits again for dependencies that are not final, and
   * runs without those that are dead, cancelled or gone. The call is not retried: the job may have
   * run and become dead again.
   */
  async retry(
    id: string,
    { withDependents, signal }: RetryOptions & RequestOptions = {},
  ): Promise<RetriedJob> {
    const request = {
      method: 'POST',
      path: `/jobs/${segment(id)}/retry`,
      ...(withDependents === undefined ? {} : { body: JSON.stringify({ withDependents }) }),
      repeatable: false,
      signal,
    } as const
    return this.#call.json(request, check.RETRIED_JOB)
  }

  /** Cancels the newest jobs first, so that a cancel does not let another matching job start. */
  async cancelMany(filter: JobFilter, options: BulkOptions = {}): Promise<BulkResult> {
    return this.#bulk('cancel', filter, options)
  }

  /**
   * Retries the oldest jobs first, so that ordering keys stay in order, and each job after its
   * dependencies.
   */
  async retryMany(filter: JobFilter, options: BulkOptions = {}): Promise<BulkResult> {
    return this.#bulk('retry', filter, options)
  }

  /** Changes a queued job. */
  async edit<Payload = unknown>(
    id: string,
    change: JobChange<Payload>,
    { ifVersion, signal }: VersionOptions = {},
  ): Promise<Job<Payload>> {
    const request = {
      method: 'PATCH',
      path: `/jobs/${segment(id)}`,
      body: changeText(givenObject('change', change)),
      headers: ifMatch(ifVersion),
      repeatable: false,
      signal,
    } as const
    return this.#call.json(request, check.JOB)
  }

  /**
   * Enqueues a new job with the same payload and options, due now. It waits for dependencies that
   * are not final, and runs without those that are dead, cancelled or gone. It joins the group of
   * the options, and not that of the job.
   */
  async copy<Payload = unknown, Result = unknown>(
    id: string,
    { group, signal }: RequestOptions & { group?: string | undefined } = {},
  ): Promise<RetriedJob<Payload, Result>> {
    const path = `/jobs/${segment(id)}/copy`
    const body = JSON.stringify({ group })
    return this.#call.json(
      { method: 'POST', path, body, repeatable: false, signal },
      check.RETRIED_JOB,
    )
  }

  /** Removes a final job. */
  async remove(id: string, { signal }: RequestOptions = {}): Promise<void> {
    const path = `/jobs/${segment(id)}`
    await this.#call.nothing({
      method: 'DELETE',
      path,
      repeatable: true,
      goneCode: 'job_not_found',
      signal,
    })
  }

  /**
   * Claims due jobs of a pulled endpoint. The worker processes them and reports on each. The call
   * is not retried: jobs of a lost response are queued again when their lease expires.
   */
  async claim<Payload = unknown>(
    endpoint: string,
    { limit, waitMs = 0, leaseMs, signal }: ClaimOptions = {},
  ): Promise<ClaimedJob<Payload>[]> {
    const serverWaitMs = milliseconds('waitMs', waitMs)
    const lease = leaseMs === undefined ? undefined : `${milliseconds('leaseMs', leaseMs)}ms`
    const request = {
      method: 'POST',
      path: `/endpoints/${segment(endpoint)}/claim`,
      body: JSON.stringify({ limit, wait: `${serverWaitMs}ms`, lease }),
      repeatable: false,
      serverWaitMs,
      signal,
    } as const
    return (await this.#call.json<{ jobs: ClaimedJob<Payload>[] }>(request, check.CLAIM)).jobs
  }

  /**
   * Reports that the work of an attempt is done. Throws PosthornError lease_lost if the attempt no
   * longer holds the job.
   */
  async complete(attempt: AttemptRef, result?: unknown, options?: RequestOptions): Promise<void> {
    await this.#report(attempt, 'complete', { result: result ?? null }, options)
  }

  /**
   * Reports that the work has failed. The job is retried unless `retryable` is false. The message
   * is cut to 2,000 characters; NUL and lone surrogates are replaced.
   */
  async fail(
    attempt: AttemptRef,
    failure: { message: string; retryable?: boolean; retryAfter?: string },
    options?: RequestOptions,
  ): Promise<void> {
    const message = reportText(givenObject('failure', failure).message, MAX_FAIL_MESSAGE)
    await this.#report(attempt, 'fail', { ...failure, message }, options)
  }

  /**
   * Reports that the work continues. `cancelRequested` in the result means that the job no longer
   * needs the work. The message is cut to 500 characters.
   */
  async heartbeat(
    attempt: AttemptRef,
    beat: { progress?: number; message?: string; extend?: string } = {},
    options?: RequestOptions,
  ): Promise<{ leaseExpiresAt: string | null; cancelRequested: boolean }> {
    const { message, ...rest } = givenObject('beat', beat)
    const text = message === undefined ? {} : { message: reportText(message, MAX_PROGRESS_MESSAGE) }
    return this.#report(attempt, 'heartbeat', { ...rest, ...text }, options)
  }

  /**
   * Counts of queued and running jobs of each endpoint; with a window like `1h`, also attempts that
   * ended in each minute.
   */
  async stats(
    query: {
      window?: string | undefined
      endpoint?: string | undefined
      by?: 'endpoint' | undefined
    } = {},
    { signal }: RequestOptions = {},
  ): Promise<Stats> {
    return this.#get(`/stats${queryText({ ...query })}`, check.STATS, signal)
  }

  /** Workers that reported within the last hour. */
  async workers({ signal }: RequestOptions = {}): Promise<WorkerView[]> {
    return (await this.#get<{ items: WorkerView[] }>('/workers', check.WORKERS, signal)).items
  }

  /**
   * A repeated report gets the same response as the first, so reports of all three kinds may be
   * retried.
   */
  async #report<T>(
    ref: AttemptRef,
    verb: AttemptVerb,
    body: object,
    options?: RequestOptions,
  ): Promise<T> {
    const request = {
      method: 'POST',
      ...attemptCall(ref, verb),
      body: JSON.stringify(body),
      repeatable: true,
      signal: options?.signal,
    } as const
    return this.#call.json(request, verb === 'heartbeat' ? check.HEARTBEAT : check.APPLIED)
  }

  async #bulk(
    verb: 'cancel' | 'retry',
    filter: JobFilter,
    options: BulkOptions,
  ): Promise<BulkResult> {
    const { signal, ...rest } = options
    for (const [name, value] of Object.entries(givenObject('filter', filter)))
      refuseNoDate(name, value)
    const request = {
      method: 'POST',
      path: `/jobs/${verb}`,
      body: JSON.stringify({ filter, ...rest }),
      repeatable: false,
      signal,
    } as const
    return this.#call.json(request, check.BULK)
  }

  async #get<T>(path: string, wanted: check.Check, signal: AbortSignal | undefined): Promise<T> {
    return this.#call.json({ method: 'GET', path, repeatable: true, signal }, wanted)
  }
}

/**
 * A slow store may accept only part of a batch in time. The rest is sent again as long as each
 * round stores more of it. If one of the items in the rest refers to another item by its position,
 * the whole batch is sent again: Posthorn finds the stored jobs by their keys.
 *
 * @param send sends the items at these positions
 */
async function untilTaken(
  jobs: readonly NewJob[],
  send: (places: number[]) => Promise<BatchItem[]>,
  signal: AbortSignal | undefined,
): Promise<BatchItem[]> {
  const all = [...jobs.keys()]
  const items = await send(all)
  const left = () => all.filter((place) => items[place]?.status === 503)
  for (let open = left(); open.length > 0; ) {
    const isWhole = open.some((place) => namesItems(jobs[place]))
    const places = isWhole ? all : open
    const again = await send(places).catch((error): BatchItem[] => {
      // Only an abort is thrown: the known results are worth more than the reason why the rest was
      // not sent.
      if (signal?.aborted) throw error
      return []
    })
    places.forEach((place, i) => {
      const item = again[i]
      if (item !== undefined && items[place]?.status === 503) items[place] = item
    })
    const after = left()
    if (after.length >= open.length) break
    open = after
  }
  return items
}

/** Whether the job refers to another item of its batch by its position. */
function namesItems(job: NewJob | undefined): boolean {
  const needed = Object.values(job?.needs ?? {}).map((one) =>
    typeof one === 'string' ? one : one.job,
  )
  return [...(job?.dependsOn ?? []), ...needed].some((id) => id.startsWith('#'))
}
