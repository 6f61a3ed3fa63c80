// /schedules: create or replace, read, list, remove, pause, resume, run.
import type { FastifyInstance, FastifyReply } from 'fastify'
import { ENDPOINT_NAME_SHAPE } from '../../src/endpoint/endpoint.ts'
import { AppError } from '../../src/errors.ts'
import type { ApiMetrics } from '../../src/metrics.ts'
import { jobByHand, readSettings } from '../../src/schedule/schedule.ts'
import type { Schedule } from '../../src/store/records.ts'
import type { Store } from '../../src/store/store.ts'
import { traceContextOf, traceEnqueue } from '../../src/tracing.ts'
import { ifMatchHeaders, noBody, nothing, writeHeaders } from '../../src/wire/fields.ts'
import { jobJson } from '../../src/wire/job-answers.ts'
import {
  type ScheduleBody,
  scheduleAnswer,
  scheduleBody,
  scheduleListAnswer,
  scheduleParams,
  schedulesQuery,
} from '../../src/wire/schedules.ts'
import { jobAnswer } from '../answers.ts'
import { storedOrThrow } from '../enqueue-answer.ts'
import { hopsOf } from '../hops.ts'
import { etagOf, ifMatch, stale, writePrecondition } from '../http/conditional.ts'
import { readCursor, writeCursor } from '../http/cursor.ts'
import { scheduleJson, scheduleListJson } from '../schedule-answer.ts'
import { changeSchedule, pausedOrResumed, readToReplace, scheduleFrom } from '../schedule-change.ts'

const JSON_TYPE = 'application/json; charset=utf-8'

interface ByName {
  Params: { name: string }
}

interface ScheduleRoutes {
  store: Store
  metrics: Pick<ApiMetrics, 'onEnqueued'>
}

export function registerScheduleRoutes(app: FastifyInstance, parts: ScheduleRoutes): void {
  registerPut(app, parts)
  registerList(app, parts)
  registerGet(app, parts)
  registerDelete(app, parts)
  registerPause(app, parts, 'pause')
  registerPause(app, parts, 'resume')
  registerRun(app, parts)
}

function registerPut(app: FastifyInstance, { store }: ScheduleRoutes): void {
  app.put<ByName & { Body: ScheduleBody }>(
    '/schedules/:name',
    {
      schema: {
        summary: 'Create or replace a schedule',
        params: scheduleParams,
        querystring: nothing,
        headers: writeHeaders,
        body: scheduleBody,
        response: { 200: scheduleAnswer, 201: scheduleAnswer },
      },
    },
    async (request, reply) => {
      const { name } = request.params
      const put = await changeSchedule(
        store,
        name,
        writePrecondition(request.headers),
        (stored, now) => scheduleFrom(name, request.body, stored, now),
        readToReplace,
      )
      reply.code(put.kind === 'created' ? 201 : 200)
      return answer(reply, put.schedule, store)
    },
  )
}

function registerList(app: FastifyInstance, { store }: ScheduleRoutes): void {
  app.get<{ Querystring: { limit: number; cursor?: string } }>(
    '/schedules',
    {
      schema: {
        summary: 'List schedules by name',
        querystring: schedulesQuery,
        response: { 200: scheduleListAnswer },
      },
    },
    async (request, reply) => {
      const { limit, cursor } = request.query
      const after =
        cursor === undefined ? null : readCursor(cursor, (key) => ENDPOINT_NAME_SHAPE.test(key))
      const page = await store.listSchedules(after, limit)
      reply.type(JSON_TYPE)
      return scheduleListJson(page.items, page.next === null ? null : writeCursor(page.next))
    },
  )
}

function registerGet(app: FastifyInstance, { store }: ScheduleRoutes): void {
  app.get<ByName>(
    '/schedules/:name',
    {
      schema: {
        summary: 'Read a schedule, with its next five ticks',
        params: scheduleParams,
        querystring: nothing,
        response: { 200: scheduleAnswer },
      },
    },
    async (request, reply) => answer(reply, await readSchedule(store, request.params.name), store),
  )
}

function registerDelete(app: FastifyInstance, { store }: ScheduleRoutes): void {
  app.delete<ByName>(
    '/schedules/:name',
    {
      schema: {
        summary: 'Delete a schedule; the jobs that it enqueued stay',
        params: scheduleParams,
        querystring: nothing,
        headers: ifMatchHeaders,
        body: noBody,
      },
    },
    async (request, reply) => {
      const { name } = request.params
      const result = await store.deleteSchedule(name, ifMatch(request.headers))
      switch (result.kind) {
        case 'deleted':
          return reply.code(204).send()
        case 'not_found':
          throw notFound(name)
        case 'stale':
          throw stale('schedule', result.version)
        default:
          throw new Error(`unknown result ${JSON.stringify(result satisfies never)}`)
      }
    },
  )
}

function registerPause(
  app: FastifyInstance,
  { store }: ScheduleRoutes,
  verb: 'pause' | 'resume',
): void {
  app.post<ByName>(
    `/schedules/:name/${verb}`,
    {
      schema: {
        summary:
          verb === 'pause'
            ? 'Stop the ticks of a schedule'
            : 'Resume a schedule with its next future tick; ticks of the pause are skipped',
        params: scheduleParams,
        querystring: nothing,
        headers: ifMatchHeaders,
        body: noBody,
        response: { 200: scheduleAnswer },
      },
    },
    async (request, reply) => {
      const { name } = request.params
      const put = await changeSchedule(store, name, ifMatch(request.headers), (stored, now) => {
        if (stored === null) throw notFound(name)
        return pausedOrResumed(stored, verb === 'pause', now)
      })
      return answer(reply, put.schedule, store)
    },
  )
}

function registerRun(app: FastifyInstance, { store, metrics }: ScheduleRoutes): void {
  app.post<ByName>(
    '/schedules/:name/run',
    {
      schema: {
        summary: 'Enqueue a job of the schedule now; it replaces no tick and ignores overlap',
        params: scheduleParams,
        querystring: nothing,
        body: noBody,
        response: { 201: jobAnswer },
      },
    },
    async (request, reply) => {
      const schedule = await readSchedule(store, request.params.name)
      const source = { ...schedule, settings: readSettings(schedule.settings) }
      const asked = { endpoint: schedule.endpoint, jobCount: null }
      const hops = hopsOf(request.headers)
      const caller = traceContextOf(request.headers)
      const stored = await traceEnqueue(caller, asked, async (trace, span) => {
        const job = jobByHand(source, store.clock.now(), { trace, hops })
        const startedAtMs = performance.now()
        const [result] = await store.enqueue([job])
        if (result === undefined) throw new Error('an enqueue without a result')
        metrics.onEnqueued(result.kind, performance.now() - startedAtMs)
        const { job: made } = storedOrThrow(result, job)
        span.setAttributes({ 'messaging.message.id': made.id })
        return made
      })
      reply.code(201).header('location', `/jobs/${stored.id}`).type(JSON_TYPE)
      return jobJson(stored)
    },
  )
}

async function readSchedule(store: Store, name: string): Promise<Schedule> {
  const schedule = await store.getSchedule(name)
  if (schedule === null) throw notFound(name)
  return schedule
}

function answer(reply: FastifyReply, schedule: Schedule, store: Store): string {
  reply.header('etag', etagOf(schedule.version)).type(JSON_TYPE)
  return scheduleJson(schedule, store.clock.now())
}

function notFound(name: string): AppError {
  return new AppError('schedule_not_found', `there is no schedule "${name}"`)
}
