// /jobs: enqueue, read, wait, list, cancel, retry.
import type { FastifyInstance } from 'fastify'
import { AppError } from '../src/errors.ts'
import { isFinal, isJobId, type Job } from '../src/job/job.ts'
import type { CommandResult, JobQuery, Store } from '../src/store/store.ts'
import { jobAnswer, jobListAnswer } from './answers.ts'
import { readCursor, writeCursor } from './cursor.ts'
import type { EnqueueBatcher } from './enqueue-batcher.ts'
import { newJobFrom } from './enqueue-request.ts'
import { jobJson, jobListJson } from './job-answer.ts'
import type { JobWaits } from './job-waits.ts'
import {
  enqueueHeaders,
  type JobBody,
  type JobsQuery,
  jobBody,
  jobParams,
  jobsQuery,
  noBody,
  nothing,
  waitQuery,
} from './schemas.ts'

const JSON_TYPE = 'application/json; charset=utf-8'

interface JobRoutes {
  store: Store
  batcher: EnqueueBatcher
  waits: JobWaits
}

export function registerJobRoutes(app: FastifyInstance, parts: JobRoutes): void {
  registerEnqueue(app, parts)
  registerList(app, parts)
  registerRead(app, parts)
  registerCommand(app, parts, 'cancel', 'Cancel a job that is queued or running')
  registerCommand(app, parts, 'retry', 'Queue a dead or cancelled job again, with a fresh budget')
}

function registerEnqueue(app: FastifyInstance, { store, batcher }: JobRoutes): void {
  app.post<{ Body: JobBody }>(
    '/jobs',
    {
      schema: {
        summary: 'Enqueue a job',
        body: jobBody,
        querystring: nothing,
        headers: enqueueHeaders,
        response: { 201: jobAnswer, 200: jobAnswer },
      },
    },
    async (request, reply) => {
      const job = newJobFrom(
        request.body,
        request.headers['idempotency-key'] as string | undefined,
        store.clock.now(),
      )
      const result = await batcher.enqueue(job)
      switch (result.kind) {
        case 'inserted':
          reply.code(201).header('location', `/jobs/${result.job.id}`).type(JSON_TYPE)
          return jobJson(result.job)
        case 'existing':
          reply.code(200).header('location', `/jobs/${result.job.id}`).type(JSON_TYPE)
          return jobJson(result.job, true)
        case 'key_reused':
          throw new AppError(
            'idempotency_key_reused',
            `this Idempotency-Key was used for job ${result.jobId} with another request`,
          )
        case 'unknown_endpoint':
          throw unknownEndpoint(job.endpoint)
        default:
          throw new Error(`unknown result ${JSON.stringify(result satisfies never)}`)
      }
    },
  )
}

function registerList(app: FastifyInstance, { store }: JobRoutes): void {
  app.get<{ Querystring: JobsQuery }>(
    '/jobs',
    {
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

function registerRead(app: FastifyInstance, { store, waits }: JobRoutes): void {
  app.get<{ Params: { id: string }; Querystring: { wait?: number } }>(
    '/jobs/:id',
    {
      schema: {
        summary: 'Read a job; ?wait answers as soon as it is final',
        params: jobParams,
        querystring: waitQuery,
        response: { 200: jobAnswer },
      },
    },
    async (request, reply) => {
      const { id } = request.params
      let job = await readJob(store, id)
      const waitMs = request.query.wait ?? 0
      if (waitMs > 0 && !isFinal(job.state)) {
        await waits.untilFinal(id, waitMs, request.raw.socket)
        job = await readJob(store, id)
      }
      reply.type(JSON_TYPE)
      return jobJson(job)
    },
  )

  app.get<{ Params: { id: string } }>(
    '/jobs/:id/payload',
    {
      schema: {
        summary: 'The exact bytes of the payload',
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

/** A command on one job: applied and answered with the job, or refused with its state. */
function registerCommand(
  app: FastifyInstance,
  { store }: JobRoutes,
  verb: 'cancel' | 'retry',
  summary: string,
): void {
  app.post<{ Params: { id: string } }>(
    `/jobs/:id/${verb}`,
    {
      schema: {
        summary,
        params: jobParams,
        querystring: nothing,
        body: noBody,
        response: { 200: jobAnswer },
      },
    },
    async (request, reply) => {
      const { id } = request.params
      const [result] = isJobId(id) ? await store[verb]([id]) : []
      if (!isDone(verb, result)) throw await refusal(store, verb, id, result)
      reply.type(JSON_TYPE)
      return jobJson(await readJob(store, id))
    },
  )
}

/** Applied now, or a cancel of what is cancelled already. */
function isDone(verb: 'cancel' | 'retry', result: CommandResult | undefined): boolean {
  if (result?.kind === 'applied') return true
  return verb === 'cancel' && result?.kind === 'refused' && result.state === 'cancelled'
}

async function refusal(
  store: Store,
  verb: 'cancel' | 'retry',
  id: string,
  result: CommandResult | undefined,
): Promise<AppError> {
  switch (result?.kind) {
    case 'refused':
      return new AppError(
        'job_state_conflict',
        `the job is ${result.state}; ${verb} needs one that is ${verb === 'cancel' ? 'queued or running' : 'dead or cancelled'}`,
      )
    case 'unknown_endpoint':
      return unknownEndpoint((await readJob(store, id)).endpoint)
    default:
      return jobNotFound(id)
  }
}

async function readJob(store: Store, id: string): Promise<Job> {
  const job = isJobId(id) ? await store.getJob(id) : null
  if (job === null) throw jobNotFound(id)
  return job
}

function jobNotFound(id: string): AppError {
  return new AppError('job_not_found', `no job has the id ${JSON.stringify(id.slice(0, 64))}`)
}

function unknownEndpoint(name: string): AppError {
  return new AppError(
    'endpoint_not_found',
    `there is no endpoint "${name}"; register it with PUT /endpoints/${name}`,
    { status: 422 },
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
