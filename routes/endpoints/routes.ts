// /endpoints: create or replace, change, list, read, delete. commands.ts has the commands.
import type { FastifyInstance } from 'fastify'
import { z } from 'zod'
import { createBatchSize } from '../../src/batch-size.ts'
import {
  type DeleteEndpointResult,
  ENDPOINT_NAME_SHAPE,
  type EndpointCounts,
} from '../../src/endpoint/endpoint.ts'
import { AppError } from '../../src/errors.ts'
import type { Store } from '../../src/store/store.ts'
import type { AddressPolicy } from '../../src/webhook/address-policy.ts'
import {
  type EndpointBody,
  type EndpointChange,
  endpointBody,
  endpointChange,
  endpointListResponse,
  endpointResponse,
  listedEndpointView,
  settingsFrom,
} from '../../src/wire/endpoints.ts'
import {
  ifMatch,
  ifMatchHeaders,
  stale,
  writeHeaders,
  writePrecondition,
} from '../http/conditional.ts'
import { MAX_PAGE, pageFields, readCursor, writeCursor } from '../http/cursor.ts'
import {
  emptyResponse,
  jsonResponse,
  nameParams,
  noBody,
  noQuery,
  UNKNOWN_LIMIT,
} from '../http/route-schema.ts'
import {
  beingDeleted,
  changeEndpoint,
  endpointNotFound,
  limitRefused,
  putEndpoint,
  refuseForbiddenUrl,
  refuseUnreachableCompletion,
  sendEndpoint,
} from './change.ts'
import { registerKeyRoutes } from './keys.ts'

const deleteEndpointQuery = z.strictObject({
  force: z
    .enum(['true', 'false'])
    .transform((value) => value === 'true')
    .optional(),
})

const endpointsQuery = z.strictObject(pageFields)

const deletingResponse = jsonResponse(
  'its jobs become dead, then it is deleted',
  z.object({ name: z.string(), state: z.literal('deleting') }),
)

interface ByName {
  Params: { name: string }
}

interface EndpointRoutes {
  store: Store
  policy: AddressPolicy
  /** Base of the URLs that async handlers report to; null: unknown. */
  publicUrl: () => string | null
}

export function registerEndpointRoutes(app: FastifyInstance, parts: EndpointRoutes): void {
  registerPut(app, parts)
  registerPatch(app, parts)
  registerList(app, parts)
  registerGet(app, parts)
  registerKeyRoutes(app, parts.store)
  registerDelete(app, parts)
}

function registerPut(app: FastifyInstance, { store, policy, publicUrl }: EndpointRoutes): void {
  app.put<ByName & { Body: EndpointBody }>(
    '/endpoints/:name',
    {
      schema: {
        summary: 'Create or replace an endpoint; deliveries follow within a second',
        params: nameParams,
        querystring: noQuery,
        headers: writeHeaders,
        body: endpointBody,
        response: { 200: endpointResponse, 201: endpointResponse },
        errors: ['endpoint_in_use', UNKNOWN_LIMIT, 'too_many_endpoints'],
        responseHeaders: { 200: ['etag'], 201: ['etag'] },
      },
    },
    async (request, reply) => {
      const { name } = request.params
      refuseForbiddenUrl(request.body.url, policy)
      refuseUnreachableCompletion(request.body, publicUrl())
      const given = request.body.secret ?? null
      const wanted = writePrecondition(request.headers)
      const settings = settingsFrom(name, request.body)
      const result = await putEndpoint(store, settings, given, wanted)
      if (result.kind === 'stale') throw stale('endpoint', result.version, wanted)
      if (result.kind === 'being_deleted') throw beingDeleted(name)
      if ('limit' in result) throw limitRefused(result)
      const isNew = result.kind === 'created'
      reply.code(isNew ? 201 : 200)
      const [secret] = result.endpoint.secrets
      return sendEndpoint(
        store,
        reply,
        result.endpoint,
        isNew || given !== null ? secret : undefined,
      )
    },
  )
}

function registerPatch(app: FastifyInstance, { store, policy, publicUrl }: EndpointRoutes): void {
  app.patch<ByName & { Body: EndpointChange }>(
    '/endpoints/:name',
    {
      schema: {
        summary: 'Change the given fields of an endpoint; null resets a field to its default',
        params: nameParams,
        querystring: noQuery,
        headers: ifMatchHeaders,
        body: endpointChange,
        response: { 200: endpointResponse },
        errors: [
          'endpoint_not_found',
          'endpoint_in_use',
          UNKNOWN_LIMIT,
          'too_many_endpoints',
          'overloaded',
        ],
        responseHeaders: { 200: ['etag'] },
      },
    },
    async (request, reply) => {
      const { name } = request.params
      const { body } = request
      if (body.url !== undefined) refuseForbiddenUrl(body.url, policy)
      const endpoint = await changeEndpoint(store, name, body, {
        ifVersion: ifMatch(request.headers),
        publicUrl: publicUrl(),
      })
      return sendEndpoint(store, reply, endpoint, body.secret)
    },
  )
}

function registerList(app: FastifyInstance, { store }: EndpointRoutes): void {
  // If the store is too slow to count the jobs of a whole page, the route reads smaller pages from
  // it.
  const size = createBatchSize(MAX_PAGE)
  app.get<{ Querystring: { limit: number; cursor?: string } }>(
    '/endpoints',
    {
      schema: {
        summary: 'List endpoints by name',
        querystring: endpointsQuery,
        response: { 200: endpointListResponse },
      },
    },
    async (request) => {
      const { limit, cursor } = request.query
      const after =
        cursor === undefined ? null : readCursor(cursor, (key) => ENDPOINT_NAME_SHAPE.test(key))
      const page = await store.listEndpoints(after, Math.min(limit, size.limit))
      const names = page.items.map((endpoint) => endpoint.name)
      const counts = await size.run(names.length, () => store.countJobs(names))
      const now = store.clock.now()
      return {
        items: page.items.map((endpoint, i) =>
          listedEndpointView(endpoint, counts[i] as EndpointCounts, now),
        ),
        nextCursor: page.next === null ? null : writeCursor(page.next),
      }
    },
  )
}

function registerGet(app: FastifyInstance, { store }: EndpointRoutes): void {
  app.get<ByName>(
    '/endpoints/:name',
    {
      schema: {
        summary: 'Read an endpoint',
        params: nameParams,
        querystring: noQuery,
        response: { 200: endpointResponse },
        errors: ['endpoint_not_found'],
        responseHeaders: { 200: ['etag'] },
      },
    },
    async (request, reply) => {
      const { name } = request.params
      const [endpoint] = await store.endpointsNamed([name])
      if (endpoint === undefined) throw endpointNotFound(name)
      return sendEndpoint(store, reply, endpoint)
    },
  )
}

function registerDelete(app: FastifyInstance, { store }: EndpointRoutes): void {
  app.delete<ByName & { Querystring: { force?: boolean } }>(
    '/endpoints/:name',
    {
      schema: {
        summary: 'Delete an endpoint; with ?force=true its jobs become dead (endpoint_gone)',
        params: nameParams,
        querystring: deleteEndpointQuery,
        headers: ifMatchHeaders,
        body: noBody,
        response: { 202: deletingResponse, 204: emptyResponse('done') },
        errors: ['endpoint_not_found', 'endpoint_in_use'],
      },
    },
    async (request, reply) => {
      const { name } = request.params
      const result = await store.deleteEndpoint(name, {
        force: request.query.force ?? false,
        ifVersion: ifMatch(request.headers),
      })
      switch (result.kind) {
        case 'deleted':
          return reply.code(204).send()
        case 'deleting':
          return reply.code(202).send({ name, state: 'deleting' })
        case 'not_found':
          throw endpointNotFound(name)
        case 'stale':
          throw stale('endpoint', result.version)
        case 'in_use':
          throw inUse(name, result)
        default:
          throw new Error(`unknown result ${JSON.stringify(result satisfies never)}`)
      }
    },
  )
}

function inUse(
  name: string,
  { counts, scheduleName }: Extract<DeleteEndpointResult, { kind: 'in_use' }>,
): AppError {
  const schedule =
    scheduleName === null
      ? ''
      : `, and schedule "${scheduleName}" names it: DELETE /schedules/${scheduleName} first`
  return new AppError(
    'endpoint_in_use',
    `endpoint "${name}" has ${counts.queued} queued and ${counts.running} running jobs${schedule}; wait for the jobs, or make them dead with ?force=true`,
  )
}
