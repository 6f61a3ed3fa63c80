// /schedules: create or replace, list, read, delete, pause, resume, run. A change replaces only the
// version that was read.
import { isDeepStrictEqual } from 'node:util'
import type { FastifyInstance, FastifyReply } from 'fastify'
import { z } from 'zod'
import { ENDPOINT_NAME_SHAPE } from '../../src/endpoint/endpoint.ts'
import { withLowerNames } from '../../src/endpoint/extra-headers.ts'
import { AppError } from '../../src/errors.ts'
import { jobByHand, readSettings } from '../../src/schedule/schedule.ts'
import { nextTick } from '../../src/schedule/timing.ts'
import type { ApiMetrics } from '../../src/stats/metrics.ts'
import { type IfVersion, isMet } from '../../src/store/precondition.ts'
import type { PutScheduleResult, Schedule, ScheduleChange, Store } from '../../src/store/store.ts'
import { StoreUnusable } from '../../src/store/store-errors.ts'
import { traceContextOf, traceEnqueue } from '../../src/tracing.ts'
import { unknownEndpoint } from '../../src/wire/field-errors.ts'
import { hopsOf, jobJson, jobResponse, storedOrThrow } from '../../src/wire/jobs.ts'
import {
  type ScheduleBody,
  scheduleBody,
  scheduleFrom,
  scheduleJson,
  scheduleListJson,
  scheduleListResponse,
  scheduleResponse,
} from '../../src/wire/schedules.ts'
import {
  etagOf,
  ifMatch,
  ifMatchHeaders,
  stale,
  writeHeaders,
  writePrecondition,
} from '../http/conditional.ts'
import { pageFields, readCursor, writeCursor } from '../http/cursor.ts'
import {
  ENQUEUE_ERRORS,
  emptyResponse,
  JSON_TYPE,
  nameParams,
  noBody,
  noQuery,
  UNKNOWN_ENDPOINT,
} from '../http/route-schema.ts'

/**
 * How often a change is tried: another client may change the schedule at the same time. After that
 * the request is refused.
 */
const MAX_TRIES = 10

const schedulesQuery = z.strictObject(pageFields)

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
        params: nameParams,
        querystring: noQuery,
        headers: writeHeaders,
        body: scheduleBody,
        response: { 200: scheduleResponse, 201: scheduleResponse },
        errors: [UNKNOWN_ENDPOINT, 'overloaded'],
        responseHeaders: { 200: ['etag'], 201: ['etag'] },
      },
    },
    async (request, reply) => {
      const { name } = request.params
      const { onFinish } = request.body
      if (onFinish) await refuseUnknown(store, onFinish.endpoint, '/onFinish')
      const put = await changeSchedule(
        store,
        name,
        writePrecondition(request.headers),
        (stored, now) => scheduleFrom(name, request.body, stored, now),
        readToReplace,
      )
      reply.code(put.kind === 'created' ? 201 : 200)
      return sendSchedule(reply, put.schedule, store)
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
        response: { 200: scheduleListResponse },
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
        params: nameParams,
        querystring: noQuery,
        response: { 200: scheduleResponse },
        errors: ['schedule_not_found'],
        responseHeaders: { 200: ['etag'] },
      },
    },
    async (request, reply) =>
      sendSchedule(reply, await readSchedule(store, request.params.name), store),
  )
}

function registerDelete(app: FastifyInstance, { store }: ScheduleRoutes): void {
  app.delete<ByName>(
    '/schedules/:name',
    {
      schema: {
        summary: 'Delete a schedule; the jobs that it enqueued stay',
        params: nameParams,
        querystring: noQuery,
        headers: ifMatchHeaders,
        body: noBody,
        response: { 204: emptyResponse('done') },
        errors: ['schedule_not_found'],
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
        params: nameParams,
        querystring: noQuery,
        headers: ifMatchHeaders,
        body: noBody,
        response: { 200: scheduleResponse },
        errors: ['schedule_not_found', UNKNOWN_ENDPOINT, 'overloaded'],
        responseHeaders: { 200: ['etag'] },
      },
    },
    async (request, reply) => {
      const { name } = request.params
      const put = await changeSchedule(store, name, ifMatch(request.headers), (stored, now) => {
        if (stored === null) throw notFound(name)
        return pausedOrResumed(stored, verb === 'pause', now)
      })
      return sendSchedule(reply, put.schedule, store)
    },
  )
}

function registerRun(app: FastifyInstance, { store, metrics }: ScheduleRoutes): void {
  app.post<ByName>(
    '/schedules/:name/run',
    {
      schema: {
        summary: 'Enqueue a job of the schedule now; it replaces no tick and ignores overlap',
        params: nameParams,
        querystring: noQuery,
        body: noBody,
        response: { 201: jobResponse },
        errors: ['schedule_not_found', ...ENQUEUE_ERRORS],
        responseHeaders: { 201: ['location'] },
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

function sendSchedule(reply: FastifyReply, schedule: Schedule, store: Store): string {
  reply.header('etag', etagOf(schedule.version)).type(JSON_TYPE)
  return scheduleJson(schedule, store.clock.now())
}

function notFound(name: string): AppError {
  return new AppError('schedule_not_found', `there is no schedule "${name}"`)
}

type Put = Extract<PutScheduleResult, { schedule: Schedule }>

/**
 * Writes the result of `change` for the stored schedule, and replaces only the version that was
 * read.
 *
 * @param change returns null to write nothing
 * @param read reads the stored schedule; a PUT passes readToReplace
 * @throws AppError precondition_failed, endpoint_not_found (422), and what `change` throws
 */
async function changeSchedule(
  store: Store,
  name: string,
  ifVersion: IfVersion,
  change: (stored: Schedule | null, now: number) => ScheduleChange | null,
  read: (store: Store, name: string) => Promise<Schedule | null> = readToChange,
): Promise<Put> {
  for (let tries = 0; tries < MAX_TRIES; tries++) {
    const stored = await read(store, name)
    const version = stored?.version ?? null
    // Validation comes first: only a request that would succeed has a precondition (RFC 9110,
    // 13.2.1).
    const changed = change(stored, store.clock.now())
    if (!isMet(ifVersion, version)) throw stale('schedule', version, ifVersion)
    if (changed === null) return { kind: 'replaced', schedule: stored as Schedule }
    if (stored !== null && isSameSchedule(stored, changed)) {
      await refuseUnknown(store, changed.endpoint)
      return { kind: 'replaced', schedule: stored }
    }
    const result = await store.putSchedule(changed, ifVersion === 'none' ? 'none' : version)
    switch (result.kind) {
      case 'created':
      case 'replaced':
        return result
      case 'unknown_endpoint':
        throw unknownEndpoint(changed.endpoint)
      case 'stale':
        // The loop reads the new version and checks again, unless the schedule must not exist.
        if (ifVersion === 'none') throw stale('schedule', result.version, ifVersion)
        break
      default:
        throw new Error(`unknown result ${JSON.stringify(result satisfies never)}`)
    }
  }
  throw new AppError(
    'overloaded',
    `schedule "${name}" is being changed by other requests; try again`,
    {
      headers: { 'retry-after': '1' },
    },
  )
}

/**
 * Whether the change would change nothing. Then it is not stored, and the version is not raised.
 */
function isSameSchedule(stored: Schedule, change: ScheduleChange): boolean {
  return (
    stored.endpoint === change.endpoint &&
    stored.paused === change.paused &&
    stored.nextRunAt === change.nextRunAt &&
    Buffer.compare(stored.payload, change.payload) === 0 &&
    isDeepStrictEqual(comparable(stored), comparable(change))
  )
}

function comparable({ settings }: Pick<Schedule, 'settings'>) {
  const { template, ...others } = readSettings(settings)
  return { ...others, ...template, headers: withLowerNames(template.headers) }
}

/** Makes the same check as the store. */
async function refuseUnknown(store: Store, endpoint: string, path?: string): Promise<void> {
  const [stored] = await store.endpointsNamed([endpoint])
  if (stored === undefined || stored.deleting) throw unknownEndpoint(endpoint, path)
}

function readToChange(store: Store, name: string): Promise<Schedule | null> {
  return store.getSchedule(name)
}

/** A schedule that no key decrypts can only be replaced as a whole, so it counts as missing. */
async function readToReplace(store: Store, name: string): Promise<Schedule | null> {
  try {
    return await store.getSchedule(name)
  } catch (error) {
    if (error instanceof StoreUnusable) return null
    throw error
  }
}

/** The stored schedule, paused, or resumed with the next tick from now on. */
function pausedOrResumed(stored: Schedule, paused: boolean, now: number): ScheduleChange | null {
  if (stored.paused === paused) return null
  const { name, endpoint, settings, payload } = stored
  const nextRunAt = paused ? null : nextTick(readSettings(settings).timing, now)
  return { name, endpoint, settings, payload, paused, nextRunAt }
}
