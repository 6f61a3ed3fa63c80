// /limits: limits that endpoints share: create or replace, list, read, delete.
import type { FastifyInstance, FastifyReply } from 'fastify'
import { z } from 'zod'
import { ENDPOINT_NAME_SHAPE } from '../../src/endpoint/endpoint.ts'
import {
  MAX_LIMITS,
  type PutLimitResult,
  type SharedLimit,
} from '../../src/endpoint/shared-limits.ts'
import { AppError } from '../../src/errors.ts'
import type { IfVersion } from '../../src/store/precondition.ts'
import type { Store } from '../../src/store/store.ts'
import {
  type LimitBody,
  limitBody,
  limitListResponse,
  limitResponse,
  limitSettingsFrom,
  limitView,
  listedLimitView,
} from '../../src/wire/limits.ts'
import {
  etagOf,
  ifMatch,
  ifMatchHeaders,
  stale,
  writeHeaders,
  writePrecondition,
} from '../http/conditional.ts'
import { pageFields, readCursor, writeCursor } from '../http/cursor.ts'
import { emptyResponse, nameParams, noBody, noQuery } from '../http/route-schema.ts'

const limitsQuery = z.strictObject(pageFields)

interface ByName {
  Params: { name: string }
}

export function registerLimitRoutes(app: FastifyInstance, { store }: { store: Store }): void {
  registerPut(app, store)
  registerList(app, store)
  registerGet(app, store)
  registerDelete(app, store)
}

function registerPut(app: FastifyInstance, store: Store): void {
  app.put<ByName & { Body: LimitBody }>(
    '/limits/:name',
    {
      schema: {
        summary: 'Create or replace a limit that endpoints share',
        params: nameParams,
        querystring: noQuery,
        headers: writeHeaders,
        body: limitBody,
        response: { 200: limitResponse, 201: limitResponse },
        errors: ['too_many_limits'],
        responseHeaders: { 200: ['etag'], 201: ['etag'] },
      },
    },
    async (request, reply) => {
      const settings = limitSettingsFrom(request.params.name, request.body)
      const wanted = writePrecondition(request.headers)
      const { kind, limit } = storedOrThrow(await store.putLimit(settings, wanted), wanted)
      reply.code(kind === 'created' ? 201 : 200)
      return sendLimit(store, reply, limit)
    },
  )
}

function storedOrThrow(result: PutLimitResult, ifVersion: IfVersion) {
  switch (result.kind) {
    case 'created':
    case 'replaced':
      return result
    case 'stale':
      throw stale('limit', result.version, ifVersion)
    case 'too_many_limits':
      throw new AppError(
        'too_many_limits',
        `there are ${MAX_LIMITS} limits already; delete some that no endpoint names`,
      )
    default:
      throw new Error(`unknown result ${JSON.stringify(result satisfies never)}`)
  }
}

function registerList(app: FastifyInstance, store: Store): void {
  app.get<{ Querystring: { limit: number; cursor?: string } }>(
    '/limits',
    {
      schema: {
        summary: 'List the limits that endpoints share, by name',
        querystring: limitsQuery,
        response: { 200: limitListResponse },
      },
    },
    async (request) => {
      const { limit, cursor } = request.query
      const after =
        cursor === undefined ? null : readCursor(cursor, (key) => ENDPOINT_NAME_SHAPE.test(key))
      const page = await store.listLimits(after, limit)
      const now = store.clock.now()
      return {
        items: page.items.map((one) => listedLimitView(one, now)),
        nextCursor: page.next === null ? null : writeCursor(page.next),
      }
    },
  )
}

function registerGet(app: FastifyInstance, store: Store): void {
  app.get<ByName>(
    '/limits/:name',
    {
      schema: {
        summary: 'Read a limit that endpoints share, with its endpoints and running jobs',
        params: nameParams,
        querystring: noQuery,
        response: { 200: limitResponse },
        errors: ['limit_not_found'],
        responseHeaders: { 200: ['etag'] },
      },
    },
    async (request, reply) => {
      const { name } = request.params
      const [limit] = await store.limitsNamed([name])
      if (limit === undefined) throw limitNotFound(name)
      return sendLimit(store, reply, limit)
    },
  )
}

function registerDelete(app: FastifyInstance, store: Store): void {
  app.delete<ByName>(
    '/limits/:name',
    {
      schema: {
        summary: 'Delete a limit that no endpoint names',
        params: nameParams,
        querystring: noQuery,
        headers: ifMatchHeaders,
        body: noBody,
        response: { 204: emptyResponse('deleted') },
        errors: ['limit_not_found', 'limit_in_use'],
      },
    },
    async (request, reply) => {
      const { name } = request.params
      const result = await store.deleteLimit(name, ifMatch(request.headers))
      switch (result.kind) {
        case 'deleted':
          return reply.code(204).send()
        case 'not_found':
          throw limitNotFound(name)
        case 'stale':
          throw stale('limit', result.version)
        case 'in_use':
          throw new AppError(
            'limit_in_use',
            `endpoint "${result.endpoint}" names limit "${name}" in its limits; remove it there first`,
          )
        default:
          throw new Error(`unknown result ${JSON.stringify(result satisfies never)}`)
      }
    },
  )
}

async function sendLimit(store: Store, reply: FastifyReply, limit: SharedLimit) {
  const use = await store.limitUse(limit.name)
  reply.header('etag', etagOf(limit.version))
  return limitView(limit, use, store.clock.now())
}

function limitNotFound(name: string): AppError {
  return new AppError('limit_not_found', `there is no limit "${name}"`)
}
