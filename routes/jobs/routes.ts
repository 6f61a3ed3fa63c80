// /jobs: enqueue, list, read, wait. What changes a job stands in commands.ts.
import type { FastifyInstance } from 'fastify'
import { isFinal } from '../../src/job/job.ts'
import { isJobId } from '../../src/job/job-id.ts'
import type { ApiMetrics } from '../../src/metrics.ts'
import type { JobQuery, Store } from '../../src/store/store.ts'
import { traceContextOf, traceEnqueue } from '../../src/tracing.ts'
import { nothing } from '../../src/wire/fields.ts'
import { jobListJson } from '../../src/wire/job-answers.ts'
import {
  enqueueHeaders,
  ifNoneMatchHeaders,
  type JobBody,
  type JobsQuery,
  jobBody,
  jobParams,
  jobsQuery,
  waitQuery,
} from '../../src/wire/jobs.ts'
import { jobAnswer, jobListAnswer } from '../answers.ts'
import { storedOrThrow } from '../enqueue-answer.ts'
import { newJobFrom } from '../enqueue-request.ts'
import { hopsOf } from '../hops.ts'
import type { KeyRecheck } from '../http/access.ts'
import { etagOf, isNoneMatch } from '../http/conditional.ts'
import { readCursor, writeCursor } from '../http/cursor.ts'
import { jobNotFound, readJob } from '../job-lookup.ts'
import type { EnqueueBatcher } from './enqueue-batcher.ts'
import { JSON_TYPE, sendEnqueued, sendJob } from './job-reply.ts'
import type { JobWaits } from './waits.ts'

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
}

function registerEnqueue(app: FastifyInstance, { store, batcher, metrics }: JobRoutes): void {
  app.post<{ Body: JobBody }>(
    '/jobs',
    {
      config: { scope: 'enqueue' },
      // Before the body is read: a refusal is to cost far less than a job.
      onRequest: (_request, _reply, done) => {
        batcher.refuseIfFull()
        done()
      },
      schema: {
        summary: 'Enqueue a job',
        body: jobBody,
        querystring: nothing,
        headers: enqueueHeaders,
        response: { 201: jobAnswer, 200: jobAnswer },
      },
    },
    async (request, reply) => {
      const key = request.headers['idempotency-key'] as string | undefined
      const asked = { endpoint: request.body.endpoint, jobCount: null }
      const hops = hopsOf(request.headers)
      const startedAtMs = performance.now()
      return traceEnqueue(traceContextOf(request.headers), asked, async (trace, span) => {
        const job = newJobFrom(request.body, key, { trace, hops }, store.clock.now())
        const result = await batcher.enqueue(job)
        metrics.onEnqueued(result.kind, performance.now() - startedAtMs)
        const answer = sendEnqueued(reply, result, job)
        span.setAttributes({ 'messaging.message.id': storedOrThrow(result, job).job.id })
        return answer
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
        response: { 200: jobListAnswer },
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
        response: { 200: jobAnswer },
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
        querystring: nothing,
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

function jobQueryFrom(query: JobsQuery): JobQuery {
  const { state, cursor, ...rest } = query
  return {
    ...(rest as Omit<JobQuery, 'states' | 'after'>),
    ...(state === undefined ? {} : { states: state }),
    ...(cursor === undefined ? {} : { after: readCursor(cursor, isJobId) }),
  }
}
