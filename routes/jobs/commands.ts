// Commands on one job: edit, cancel, retry, copy, delete.
import { isDeepStrictEqual } from 'node:util'
import type { FastifyInstance } from 'fastify'
import { AppError } from '../../src/errors.ts'
import { splitUnmet } from '../../src/job/dependencies.ts'
import type { JobChange } from '../../src/job/edit.ts'
import { dependencyState } from '../../src/job/groups.ts'
import type { Job, JobState, NewJob } from '../../src/job/job.ts'
import { isGroupId, isJobId, newJobId } from '../../src/job/job-id.ts'
import { needsAtRetry } from '../../src/job/needs.ts'
import type { ApiMetrics } from '../../src/stats/metrics.ts'
import type { EditResult, RetryResult, Store } from '../../src/store/store.ts'
import { Undecryptable } from '../../src/store/store-errors.ts'
import { traceContextOf, traceEnqueue } from '../../src/tracing.ts'
import { unknownEndpoint } from '../../src/wire/field-errors.ts'
import {
  type CopyBody,
  copyBody,
  type EditBody,
  editBody,
  hopsOf,
  jobChangeFrom,
  jobResponse,
  type RequestOrigin,
  retriedJobResponse,
} from '../../src/wire/jobs.ts'
import { ifMatch, ifMatchHeaders, stale } from '../http/conditional.ts'
import {
  ENQUEUE_ERRORS,
  emptyResponse,
  noBody,
  noQuery,
  UNKNOWN_ENDPOINT,
} from '../http/route-schema.ts'
import type { EnqueueBatcher } from './enqueue-batcher.ts'
import {
  jobNotFound,
  jobParams,
  readJob,
  readJobWithAttempts,
  sendEnqueued,
  sendJob,
  stateConflict,
} from './job-reply.ts'
import { type RetryBody, retryBody, retryDependents } from './retry-dependents.ts'

interface JobRoutes {
  store: Store
  batcher: EnqueueBatcher
  metrics: Pick<ApiMetrics, 'onEnqueued'>
}

interface ById {
  Params: { id: string }
}

export function registerJobChangeRoutes(app: FastifyInstance, parts: JobRoutes): void {
  registerEdit(app, parts)
  registerCommand(app, parts, 'cancel')
  registerCommand(app, parts, 'retry')
  registerCopy(app, parts)
  registerDelete(app, parts)
}

function registerEdit(app: FastifyInstance, { store }: JobRoutes): void {
  app.patch<ById & { Body: EditBody }>(
    '/jobs/:id',
    {
      config: { scope: 'enqueue' },
      schema: {
        summary: 'Change a queued job',
        params: jobParams,
        querystring: noQuery,
        headers: ifMatchHeaders,
        body: editBody,
        response: { 200: jobResponse },
        errors: ['job_not_found', 'job_state_conflict'],
        responseHeaders: { 200: ['etag'] },
      },
    },
    async (request, reply) => {
      const { id } = request.params
      const change = jobChangeFrom(request.body, store.clock.now())
      const ifVersion = ifMatch(request.headers)
      const stored = await readJob(store, id)
      const isMet = ifVersion === null || ifVersion === stored.version
      if (isMet && changesNothing(stored, change)) return sendJob(reply, stored)
      const result = await store.edit(id, change, ifVersion)
      if (result.kind === 'applied') return sendJob(reply, result.job)
      throw editRefusal(id, result)
    },
  )
}

/**
 * Whether the change changes nothing. Then the version is not raised, and versions that other
 * clients have read stay valid.
 */
function changesNothing(job: Job, { payload, expiresInMs, ...change }: JobChange): boolean {
  if (job.state !== 'queued') return false
  if (payload !== undefined && (job.attemptCount > 0 || !isSame(payload, job.payload))) return false
  const expiresAt = expiresInMs == null ? null : job.firstRunAt + expiresInMs
  if (expiresInMs !== undefined && expiresAt !== job.expiresAt) return false
  return Object.entries(change).every(
    ([field, value]) => value === undefined || isDeepStrictEqual(value, job[field as keyof Job]),
  )
}

function isSame(one: Uint8Array, other: Uint8Array): boolean {
  return Buffer.compare(one, other) === 0
}

function editRefusal(id: string, result: Exclude<EditResult, { kind: 'applied' }>): AppError {
  switch (result.kind) {
    case 'refused':
      return stateConflict(result.state, 'PATCH', 'one that is queued')
    case 'already_sent':
      return new AppError(
        'job_state_conflict',
        'an attempt may have been sent with the payload, so it cannot be changed; copy the job instead',
      )
    case 'stale':
      return stale('job', result.version)
    case 'not_found':
      return jobNotFound(id)
    default:
      throw new Error(`unknown result ${JSON.stringify(result satisfies never)}`)
  }
}

const COMMANDS = {
  cancel: {
    summary: 'Cancel a queued or running job; its handler may still be working',
    needs: 'one that is queued or running',
    response: jobResponse,
    errors: ['job_not_found', 'job_state_conflict'],
  },
  retry: {
    summary:
      'Queue a dead or cancelled job again, with maxAttempts new attempts; with its dependents if asked',
    needs: 'one that is dead or cancelled',
    response: retriedJobResponse,
    errors: ['job_not_found', 'job_state_conflict', 'dedupe_conflict', UNKNOWN_ENDPOINT],
  },
} as const

/** A command on one job: applied, with the job as the response, or refused with its state. */
function registerCommand(
  app: FastifyInstance,
  { store }: JobRoutes,
  verb: keyof typeof COMMANDS,
): void {
  app.post<ById & { Body?: RetryBody | null }>(
    `/jobs/:id/${verb}`,
    {
      config: { scope: 'enqueue' },
      schema: {
        summary: COMMANDS[verb].summary,
        params: jobParams,
        querystring: noQuery,
        body: verb === 'retry' ? retryBody : noBody,
        response: { 200: COMMANDS[verb].response },
        errors: COMMANDS[verb].errors,
        responseHeaders: { 200: ['etag'] },
      },
    },
    async (request, reply) => {
      const { id } = request.params
      const [result] = isJobId(id) ? await store[verb]([id]) : []
      const withDependents = verb === 'retry' && request.body?.withDependents === true
      const isMet = isDone(verb, result) || (withDependents && isAlive(result))
      if (!isMet) throw await refusal(store, verb, id, result)
      const more = withDependents ? await retryDependents(store, id) : {}
      const job = await readJob(store, id)
      if (verb === 'cancel') return sendJob(reply, job)
      return sendJob(reply, job, { dependenciesWaived: waivedBy(result), ...more })
    },
  )
}

/** Cancelling a cancelled job changes nothing and is not a conflict. */
function isDone(verb: keyof typeof COMMANDS, result: RetryResult | undefined): boolean {
  if (result?.kind === 'applied') return true
  return verb === 'cancel' && result?.kind === 'refused' && result.state === 'cancelled'
}

/** Its dependents can be retried though the job itself need not be. */
function isAlive(result: RetryResult | undefined): boolean {
  return result?.kind === 'refused' && result.state !== 'cancelled'
}

function waivedBy(result: RetryResult | undefined): string[] {
  return (result?.kind === 'applied' && 'waived' in result && result.waived) || []
}

async function refusal(
  store: Store,
  verb: keyof typeof COMMANDS,
  id: string,
  result: RetryResult | undefined,
): Promise<AppError> {
  switch (result?.kind) {
    case 'refused':
      return stateConflict(result.state, verb, COMMANDS[verb].needs)
    case 'unknown_endpoint':
      return unknownEndpoint((await readJobWithAttempts(store, id)).endpoint)
    case 'dedupe_conflict':
      return new AppError('dedupe_conflict', `job ${result.jobId} has its dedupe key now`)
    case 'dependency_failed':
      return needsFailed(result.jobIds[0] as string)
    default:
      return jobNotFound(id)
  }
}

/** @param jobId did not succeed */
function needsFailed(jobId: string): AppError {
  const why = `the job needs the result of ${jobId}, which is dead, cancelled or no longer stored`
  return new AppError('job_state_conflict', `${why}: retry ${jobId} first, or with it`)
}

function registerCopy(app: FastifyInstance, { store, batcher, metrics }: JobRoutes): void {
  app.post<ById & { Body: CopyBody }>(
    '/jobs/:id/copy',
    {
      config: { scope: 'enqueue' },
      schema: {
        summary:
          'Enqueue a new job with the same payload and options, due now, without its idempotency and dedupe key, and without its group',
        params: jobParams,
        querystring: noQuery,
        body: copyBody,
        response: { 201: retriedJobResponse },
        errors: ['job_not_found', 'job_state_conflict', ...ENQUEUE_ERRORS],
        responseHeaders: { 201: ['etag', 'location'] },
      },
    },
    async (request, reply) => {
      const job = await readJob(store, request.params.id)
      const { waitingFor, waived } = await dependenciesOfCopy(store, job)
      const inputs = await inputsOfCopy(store, job)
      const hops = hopsOf(request.headers)
      const asked = { endpoint: job.endpoint, jobCount: null }
      return traceEnqueue(traceContextOf(request.headers), asked, async (trace, span) => {
        const group = request.body?.group ?? null
        const made = copyOf(job, group, store.clock.now(), { trace, hops })
        const copy = { ...made, ...inputs, dependsOn: waitingFor }
        const startedAtMs = performance.now()
        const result = await batcher.enqueue(copy)
        metrics.onEnqueued(result.kind, performance.now() - startedAtMs)
        span.setAttributes({ 'messaging.message.id': copy.id })
        return sendEnqueued(reply, result, copy, { dependenciesWaived: waived })
      })
    },
  )
}

/** Decides which dependencies a copy waits for, as for a retry by id. */
async function dependenciesOfCopy(
  store: Store,
  job: Job,
): Promise<{ waitingFor: string[]; waived: string[] }> {
  const states = await statesOf(store, job.dependsOn)
  // A dependency that had succeeded stays met, even if it was deleted since then.
  const asked = job.dependsOn.filter((id) => states.has(id) || job.waitingFor.includes(id))
  return splitUnmet(asked, (id) => states.get(id) ?? null)
}

async function statesOf(store: Store, ids: string[]): Promise<Map<string, JobState>> {
  const states = new Map<string, JobState>()
  for (const id of ids) {
    const state = await stateOfDependency(store, id)
    if (state !== null) states.set(id, state)
  }
  return states
}

async function stateOfDependency(store: Store, id: string): Promise<JobState | null> {
  if (!isGroupId(id)) return (await store.getJobWithAttempts(id))?.state ?? null
  const group = await store.getGroup(id)
  return group === null ? null : dependencyState(group.state)
}

/**
 * A copy has the inputs of the job and needs nothing. If they are not made yet, it needs what the
 * job needs.
 *
 * @throws AppError job_state_conflict if a job that it needs cannot succeed
 */
async function inputsOfCopy(store: Store, job: Job): Promise<Pick<NewJob, 'needs' | 'inputs'>> {
  const inputs = await store.getInputs(job.id)
  if (inputs !== null) return { needs: [], inputs }
  const ids = [...new Set(job.needs.map(({ jobId }) => jobId))]
  const states = await statesOf(store, ids)
  const { failed } = needsAtRetry(job.needs, false, (id) => states.get(id) ?? null)
  const gone = ids.find((id) => !states.has(id))
  const [first = gone] = failed
  if (first !== undefined) throw needsFailed(first)
  return { needs: job.needs }
}

/**
 * @throws Undecryptable if no key decrypts the headers: without them the copy would be another job
 */
function headersOf({ id, headers }: Job): Record<string, string> {
  if (headers === null) throw new Undecryptable(`no key decrypts the headers of job ${id}`, id)
  return headers
}

/** Copies a job without its keys, which must be unique, its group, dependencies and inputs. */
function copyOf(
  job: Job,
  group: string | null,
  now: number,
  { trace, hops }: RequestOrigin,
): NewJob {
  return {
    id: newJobId(now),
    endpoint: job.endpoint,
    payload: job.payload,
    createdAt: now,
    runAt: now,
    priority: job.priority,
    maxAttempts: job.maxAttempts,
    timeoutMs: job.timeoutMs,
    retry: job.retry,
    expiresAt: job.expiresAt === null ? null : now + job.expiresAt - job.firstRunAt,
    tags: job.tags,
    metadata: job.metadata,
    headers: headersOf(job),
    idempotency: null,
    dedupe: null,
    orderingKey: job.orderingKey,
    fairnessKey: job.fairnessKey,
    cost: job.cost,
    group,
    dependsOn: [],
    needs: [],
    onFinish: job.onFinish,
    hasEarlierOnFinish: true,
    scheduleName: null,
    originKey: null,
    trace,
    hops,
  }
}

function registerDelete(app: FastifyInstance, { store }: JobRoutes): void {
  app.delete<ById>(
    '/jobs/:id',
    {
      config: { scope: 'enqueue' },
      schema: {
        summary: 'Delete a final job with its payload and result',
        params: jobParams,
        querystring: noQuery,
        headers: ifMatchHeaders,
        body: noBody,
        response: { 204: emptyResponse('done') },
        errors: ['job_not_found', 'job_state_conflict'],
      },
    },
    async (request, reply) => {
      const { id } = request.params
      const ifVersion = ifMatch(request.headers)
      const result = isJobId(id) ? await store.deleteJob(id, ifVersion) : undefined
      if (result?.kind === 'applied') return reply.code(204).send()
      if (result?.kind === 'refused') throw stateConflict(result.state, 'DELETE', 'a final one')
      if (result?.kind === 'stale') throw stale('job', result.version)
      if (result?.kind === 'needed') {
        const detail = `${result.jobId} needs the result of the job, and waits for it`
        throw new AppError('job_state_conflict', detail)
      }
      throw jobNotFound(id)
    },
  )
}
