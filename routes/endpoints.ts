// /endpoints: register, read, list, remove.
import type { FastifyInstance, FastifyReply } from 'fastify'
import {
  ENDPOINT_NAME_SHAPE,
  type Endpoint,
  type EndpointSettings,
  hintOf,
  newSecret,
} from '../src/endpoint/endpoint.ts'
import { AppError } from '../src/errors.ts'
import { formatDuration } from '../src/job/duration.ts'
import { DEFAULT_RETRY, effectivePolicy } from '../src/job/retry-policy.ts'
import type { EndpointCounts, Store } from '../src/store/store.ts'
import type { AddressPolicy } from '../src/webhook/address-policy.ts'
import { endpointAnswer, endpointListAnswer } from './answers.ts'
import { readCursor, writeCursor } from './cursor.ts'
import { retryOverrideFrom } from './enqueue-request.ts'
import { instantText, maskedHeaders, retryAnswer } from './job-answer.ts'
import {
  deleteEndpointQuery,
  type EndpointBody,
  endpointBody,
  endpointParams,
  endpointsQuery,
  ifMatchHeaders,
  nothing,
} from './schemas.ts'

interface ByName {
  Params: { name: string }
}

interface EndpointRoutes {
  store: Store
  policy: AddressPolicy
}

export function registerEndpointRoutes(app: FastifyInstance, parts: EndpointRoutes): void {
  registerPut(app, parts)
  registerList(app, parts)
  registerGet(app, parts)
  registerDelete(app, parts)
}

function registerPut(app: FastifyInstance, { store, policy }: EndpointRoutes): void {
  app.put<ByName & { Body: EndpointBody }>(
    '/endpoints/:name',
    {
      schema: {
        summary: 'Create or replace an endpoint',
        params: endpointParams,
        querystring: nothing,
        headers: ifMatchHeaders,
        body: endpointBody,
        response: { 200: endpointAnswer, 201: endpointAnswer },
      },
    },
    async (request, reply) => {
      const { name } = request.params
      refuseForbiddenUrl(request.body.url, policy)
      const given = request.body.secret ?? null
      const result = await store.putEndpoint(
        settingsFrom(name, request.body),
        { given, fresh: newSecret() },
        ifMatch(request.headers),
      )
      if (result.kind === 'stale') throw stale(result.version)
      if (result.kind === 'being_deleted') {
        throw new AppError(
          'endpoint_in_use',
          `endpoint "${name}" is being deleted; try again later`,
        )
      }
      const isNew = result.kind === 'created'
      reply.code(isNew ? 201 : 200)
      const shown = await withCounts(store, result.endpoint)
      const [secret] = result.endpoint.secrets
      return answer(reply, isNew || given !== null ? { ...shown, secret } : shown)
    },
  )
}

function registerList(app: FastifyInstance, { store }: EndpointRoutes): void {
  app.get<{ Querystring: { limit: number; cursor?: string } }>(
    '/endpoints',
    {
      schema: {
        summary: 'List endpoints by name',
        querystring: endpointsQuery,
        response: { 200: endpointListAnswer },
      },
    },
    async (request) => {
      const { limit, cursor } = request.query
      const after =
        cursor === undefined ? null : readCursor(cursor, (key) => ENDPOINT_NAME_SHAPE.test(key))
      const page = await store.listEndpoints(after, limit)
      const counts = await store.countJobs(page.items.map((endpoint) => endpoint.name))
      return {
        items: page.items.map((endpoint, i) => endpointView(endpoint, counts[i] as EndpointCounts)),
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
        params: endpointParams,
        querystring: nothing,
        response: { 200: endpointAnswer },
      },
    },
    async (request, reply) => {
      const { name } = request.params
      const [endpoint] = await store.endpointsNamed([name])
      if (endpoint === undefined) throw notFound(name)
      return answer(reply, await withCounts(store, endpoint))
    },
  )
}

function registerDelete(app: FastifyInstance, { store }: EndpointRoutes): void {
  app.delete<ByName & { Querystring: { force?: boolean } }>(
    '/endpoints/:name',
    {
      schema: {
        summary: 'Remove an endpoint; with ?force=true its jobs are buried as endpoint_gone',
        params: endpointParams,
        querystring: deleteEndpointQuery,
        headers: ifMatchHeaders,
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
          throw notFound(name)
        case 'stale':
          throw stale(result.version)
        case 'in_use':
          throw new AppError(
            'endpoint_in_use',
            `endpoint "${name}" has ${result.counts.queued} queued and ${result.counts.running} running jobs; wait for them, or bury them with ?force=true`,
          )
        default:
          throw new Error(`unknown result ${JSON.stringify(result satisfies never)}`)
      }
    },
  )
}

function settingsFrom(name: string, body: EndpointBody): EndpointSettings {
  return {
    name,
    url: body.url,
    description: body.description,
    headers: body.headers,
    timeoutMs: body.timeout,
    retry: effectivePolicy(DEFAULT_RETRY, retryOverrideFrom(body.retry)),
  }
}

function refuseForbiddenUrl(url: string, policy: AddressPolicy): void {
  const verdict = policy.judgeUrl(url)
  if (verdict.allowed) return
  throw new AppError('invalid_request', `/url: ${verdict.reason}`, {
    errors: [{ path: '/url', message: verdict.reason }],
  })
}

/** null: no precondition, `*` included, since a write never depends on mere existence here. */
function ifMatch(headers: Record<string, unknown>): number | null {
  const text = headers['if-match']
  return typeof text === 'string' && text !== '*' ? Number(text.slice(1, -1)) : null
}

async function withCounts(store: Store, endpoint: Endpoint) {
  const [counts] = await store.countJobs([endpoint.name])
  return endpointView(endpoint, counts as EndpointCounts)
}

function endpointView(endpoint: Endpoint, counts: EndpointCounts) {
  const { queued, running, more } = counts
  return {
    name: endpoint.name,
    url: endpoint.url,
    description: endpoint.description,
    headers: maskedHeaders(endpoint.headers),
    timeout: formatDuration(endpoint.timeoutMs),
    retry: retryAnswer(endpoint.retry),
    state: endpoint.deleting ? 'deleting' : 'active',
    secretHint: hintOf(endpoint.secrets[0] ?? ''),
    counts: more ? { queued, running, more } : { queued, running },
    createdAt: instantText(endpoint.createdAt),
    updatedAt: instantText(endpoint.updatedAt),
    version: endpoint.version,
  }
}

function answer(
  reply: FastifyReply,
  view: ReturnType<typeof endpointView> & { secret?: string | undefined },
) {
  reply.header('etag', `"${view.version}"`)
  return view
}

function notFound(name: string): AppError {
  return new AppError('endpoint_not_found', `there is no endpoint "${name}"`)
}

function stale(version: number | null): AppError {
  const found =
    version === null ? 'there is no such endpoint' : `the endpoint is at version ${version}`
  return new AppError('precondition_failed', `If-Match names another version: ${found}`)
}
