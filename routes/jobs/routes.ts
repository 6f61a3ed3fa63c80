// /jobs: enqueue, list, read, wait. commands.ts has the routes that change a job.
import type { FastifyInstance } from 'fastify'
import { z } from 'zod'
import { AppError } from '../../src/errors.ts'
import { isFinal, JOB_STATES, type MinimalJob } from '../../src/job/job.ts'
import { isJobId } from '../../src/job/job-id.ts'
import { NO_INPUTS } from '../../src/job/needs.ts'
import type { ApiMetrics } from '../../src/stats/metrics.ts'
import type { EnqueueResult, JobQuery, Store } from '../../src/store/store.ts'
import { traceContextOf, traceEnqueue } from '../../src/tracing.ts'
import {
  duration,
  endpointName,
  fairnessKey,
  groupId,
  idempotencyKeyHeader,
  instant,
  MAX_WAIT_MS,
  text,
} from '../../src/wire/fields.ts'
import {
  hopsOf,
  type JobBody,
  jobBody,
  jobListJson,
  jobListResponse,
  jobResponse,
  minimalJobResponse,
  newJobFrom,
} from '../../src/wire/jobs.ts'
import { inputsFields } from '../../src/wire/needs.ts'
import type { KeyRecheck } from '../http/access.ts'
import { etagOf, ifNoneMatchHeaders, isNoneMatch } from '../http/conditional.ts'
import { pageFields, readCursor, writeCursor } from '../http/cursor.ts'
import { begunRequests } from '../http/json-body.ts'
import { preferHeaders, setPreferenceHeaders } from '../http/prefer.ts'
import {
  ENQUEUE_ERRORS,
  emptyResponse,
  JSON_TYPE,
  jsonResponse,
  noQuery,
} from '../http/route-schema.ts'
import type { EnqueueBatcher } from './enqueue-batcher.ts'
import {
  jobNotFound,
  jobParams,
  readJob,
  readJobWithAttempts,
  sendEnqueued,
  sendEnqueuedMinimal,
  sendJob,
} from './job-reply.ts'
import type { JobWaits } from './waits.ts'

export const enqueueHeaders = preferHeaders.extend({
  'idempotency-key': idempotencyKeyHeader,
})

export type EnqueueHeaders = z.output<typeof enqueueHeaders>

const enqueueResponse = z.union([jobResponse, minimalJobResponse])
const ENQUEUE_HEADERS = ['etag', 'location', 'preference-applied', 'vary'] as const

const waitQuery = z.strictObject({ wait: duration(0, MAX_WAIT_MS).optional() })

const jobFilters = z.strictObject({
  ...pageFields,
  endpoint: endpointName.optional(),
  state: z
    .preprocess(
      (value) => (typeof value === 'string' ? [value] : value),
      z.array(z.enum(JOB_STATES)).max(JOB_STATES.length),
    )
    .optional(),
  tag: text(1, 64).optional(),
  dedupeKey: text(1, 256).optional(),
  group: groupId.optional(),
  fairnessKey: fairnessKey.optional(),
  createdAfter: instant.optional(),
  createdBefore: instant.optional(),
})
/** Two endpoints may use the same keys for different customers. */
export const jobsQuery = jobFilters.refine(
  ({ endpoint, fairnessKey }) => fairnessKey === undefined || endpoint !== undefined,
  { path: ['endpoint'], error: 'is required with fairnessKey' },
)
type JobsQuery = z.output<typeof jobsQuery>

interface JobRoutes {
  store: Store
  batcher: EnqueueBatcher
  waits: JobWaits
  metrics: ApiMetrics
  recheckKey: KeyRecheck
}

interface ById {
  Params: { id: string }
}

export function registerJobRoutes(app: FastifyInstance, parts: JobRoutes): void {
  registerEnqueue(app, parts)
  registerList(app, parts)
  registerRead(app, parts)
  registerPayload(app, parts)
  registerInputs(app, parts)
}

function registerEnqueue(app: FastifyInstance, { store, batcher, metrics }: JobRoutes): void {
  app.post<{ Body: JobBody }>(
    '/jobs',
    {
      config: { scope: 'enqueue' },
      // The check comes before the body is read, because a refusal must cost far less than a job.
      onRequest: ({ raw }, _reply, done) => {
        if (!begunRequests.has(raw)) batcher.refuseIfFull()
        done()
      },
      preValidation: ({ raw }, _reply, done) => {
        const begun = begunRequests.get(raw)
        if (begun !== undefined && 'error' in begun) throw begun.error
        done()
      },
      schema: {
        summary: 'Enqueue a job',
        body: jobBody,
        querystring: noQuery,
        headers: enqueueHeaders,
        response: { 201: enqueueResponse, 200: enqueueResponse },
        errors: ENQUEUE_ERRORS,
        responseHeaders: { 200: ENQUEUE_HEADERS, 201: ENQUEUE_HEADERS },
      },
    },
    async ({ body, headers }, reply) => {
      const { prefer = null, 'idempotency-key': key } = headers as EnqueueHeaders
      const asked = { endpoint: body.endpoint, jobCount: null }
      const hops = hopsOf(headers)
      const startedAtMs = performance.now()
      return traceEnqueue(traceContextOf(headers), asked, async (trace, span) => {
        const job = newJobFrom(body, key, { trace, hops }, store.clock.now())
        const counted = <R extends EnqueueResult<MinimalJob>>(result: R): R => {
          metrics.onEnqueued(result.kind, performance.now() - startedAtMs)
          if ('job' in result) span.setAttributes({ 'messaging.message.id': result.job.id })
          return result
        }
        const text =
          prefer === 'minimal'
            ? sendEnqueuedMinimal(reply, counted(await batcher.enqueueMinimal(job)), job)
            : sendEnqueued(reply, counted(await batcher.enqueue(job)), job)
        setPreferenceHeaders(reply, prefer)
        return text
      })
    },
  )
}

function registerList(app: FastifyInstance, { store }: JobRoutes): void {
  app.get<{ Querystring: JobsQuery }>(
    '/jobs',
    {
      config: { scope: 'enqueue' },
      schema: {
        summary: 'List jobs, newest first',
        querystring: jobsQuery,
        response: { 200: jobListResponse },
      },
    },
    async (request, reply) => {
      const page = await store.listJobs(jobQueryFrom(request.query))
      reply.type(JSON_TYPE)
      return jobListJson(page.items, page.next === null ? null : writeCursor(page.next))
    },
  )
}

function registerRead(app: FastifyInstance, { store, waits, recheckKey }: JobRoutes): void {
  app.get<ById & { Querystring: { wait?: number } }>(
    '/jobs/:id',
    {
      config: { scope: 'enqueue' },
      schema: {
        summary: 'Read a job; with ?wait respond as soon as it is final',
        params: jobParams,
        querystring: waitQuery,
        headers: ifNoneMatchHeaders,
        response: { 200: jobResponse, 304: emptyResponse('not changed') },
        errors: ['job_not_found'],
        responseHeaders: { 200: ['etag'], 304: ['etag'] },
      },
    },
    async (request, reply) => {
      const { id } = request.params
      let job = await readJob(store, id)
      const waitMs = request.query.wait ?? 0
      if (waitMs > 0 && !isFinal(job.state)) {
        await waits.untilFinal(id, waitMs, request.raw.socket)
        await recheckKey(request)
        job = await readJob(store, id)
      }
      if (isNoneMatch(request.headers, job.version)) {
        return reply.code(304).header('etag', etagOf(job.version)).send()
      }
      return sendJob(reply, job)
    },
  )
}

function registerPayload(app: FastifyInstance, { store }: JobRoutes): void {
  app.get<ById>(
    '/jobs/:id/payload',
    {
      config: { scope: 'enqueue' },
      schema: {
        summary: 'Read the exact bytes of the payload',
        params: jobParams,
        querystring: noQuery,
        response: { 200: jsonResponse('the bytes of the payload', z.unknown()) },
        errors: ['job_not_found'],
      },
    },
    async (request, reply) => {
      const { id } = request.params
      const payload = isJobId(id) ? await store.getPayload(id) : null
      if (payload === null) throw jobNotFound(id)
      reply.type('application/json')
      return Buffer.from(payload.buffer, payload.byteOffset, payload.byteLength)
    },
  )
}

const inputsResponse = z.object(inputsFields).required({ inputs: true })

function registerInputs(app: FastifyInstance, { store }: JobRoutes): void {
  app.get<ById>(
    '/jobs/:id/inputs',
    {
      config: { scope: 'enqueue' },
      schema: {
        summary: 'Read the inputs of a job, as they are delivered after its payload',
        params: jobParams,
        querystring: noQuery,
        response: { 200: jsonResponse('the bytes that are delivered', inputsResponse) },
        errors: ['job_not_found', 'job_state_conflict'],
      },
    },
    async (request, reply) => {
      const { id } = request.params
      const inputs = isJobId(id) ? await store.getInputs(id) : null
      const { needs } = inputs === null ? await readJobWithAttempts(store, id) : { needs: [] }
      if (needs.length > 0) {
        throw new AppError('job_state_conflict', 'the inputs of the job are not made yet')
      }
      reply.type('application/json')
      return Buffer.from(inputs ?? NO_INPUTS)
    },
  )
}

function jobQueryFrom(query: JobsQuery): JobQuery {
  const { state, cursor, ...rest } = query
  return {
    ...(rest as Omit<JobQuery, 'states' | 'after'>),
    ...(state === undefined ? {} : { states: state }),
    ...(cursor === undefined ? {} : { after: readCursor(cursor, isJobId) }),
  }
}
