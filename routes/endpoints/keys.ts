// /endpoints/:name/keys: the fairness keys of an endpoint, and the settings of single keys.
import type { FastifyInstance, FastifyReply } from 'fastify'
import { z } from 'zod'
import { createBatchSize } from '../../src/batch-size.ts'
import { MAX_KEYS_WITH_SETTINGS, type PutKeyResult } from '../../src/endpoint/key-limits.ts'
import { AppError } from '../../src/errors.ts'
import type { IfVersion } from '../../src/store/precondition.ts'
import type { KeyWait } from '../../src/store/stats.ts'
import type { Store } from '../../src/store/store.ts'
import {
  type FairnessKeyBody,
  fairnessKeyBody,
  fairnessKeyListResponse,
  fairnessKeyResponse,
  fairnessKeySettingsFrom,
  fairnessKeyView,
  listedFairnessKeyView,
} from '../../src/wire/fairness-keys.ts'
import { endpointName, fairnessKey } from '../../src/wire/fields.ts'
import {
  etagOf,
  ifMatch,
  ifMatchHeaders,
  stale,
  writeHeaders,
  writePrecondition,
} from '../http/conditional.ts'
import { MAX_PAGE, pageFields, readCursor, writeCursor } from '../http/cursor.ts'
import { emptyResponse, nameParams, noBody, noQuery } from '../http/route-schema.ts'
import { endpointNotFound } from './change.ts'

const keysQuery = z.strictObject({
  ...pageFields,
  // A fairness key has up to 256 characters, of which each can take three bytes.
  cursor: z.string().max(1_050).optional(),
  order: z.enum(['key', 'wait']).default('key').meta({
    description: 'wait: only keys with due jobs, the one whose first job waits longest first',
  }),
})

/** A slash in the key is %2F in the path. */
const keyParams = z.object({
  name: endpointName,
  key: fairnessKey.meta({ description: 'a fairness key; a slash in it is %2F' }),
})

interface ByKey {
  Params: { name: string; key: string }
}

export function registerKeyRoutes(app: FastifyInstance, store: Store): void {
  registerList(app, store)
  registerPut(app, store)
  registerGet(app, store)
  registerDelete(app, store)
}

function registerList(app: FastifyInstance, store: Store): void {
  // As in the list of endpoints.
  const size = createBatchSize(MAX_PAGE)
  app.get<{ Params: { name: string }; Querystring: z.output<typeof keysQuery> }>(
    '/endpoints/:name/keys',
    {
      schema: {
        summary: 'List the fairness keys that have queued or running jobs, by key',
        params: nameParams,
        querystring: keysQuery,
        response: { 200: fairnessKeyListResponse },
        errors: ['endpoint_not_found'],
      },
    },
    async (request) => {
      const { name } = request.params
      const { limit, cursor, order } = request.query
      const isCursor = (key: string) =>
        order === 'key' ? isFairnessKey(key) : waitIn(key) !== null
      const after = cursor === undefined ? null : readCursor(cursor, isCursor)
      const [endpoint] = await store.endpointsNamed([name])
      if (endpoint === undefined) throw endpointNotFound(name)
      const most = Math.min(limit, size.limit)
      const read = async () => {
        if (order === 'key') return store.fairnessKeysOf(name, after, most)
        const { next, ...page } = await store.keysByWait(name, waitIn(after), most)
        return { ...page, next: next === null ? null : `${next.dueSince} ${next.key}` }
      }
      const page = await size.run(most, read, ({ items }) => items.length)
      const records = await store.fairnessKeysNamed(
        name,
        page.items.map(({ key }) => key),
      )
      const recordOf = new Map(records.map((record) => [record.key, record]))
      const now = store.clock.now()
      return {
        items: page.items.map((stats) =>
          listedFairnessKeyView(stats, recordOf.get(stats.key) ?? null, endpoint.perKey, now),
        ),
        nextCursor: page.next === null ? null : writeCursor(page.next),
        ...('partial' in page && page.partial ? { partial: true } : {}),
      }
    },
  )
}

function isFairnessKey(key: string): boolean {
  return fairnessKey.safeParse(key).success
}

/** Reads the cursor of a list in order of the wait. */
function waitIn(cursor: string | null): KeyWait | null {
  const [, dueSince, key = ''] = /^(\d{1,15}) (.*)$/s.exec(cursor ?? '') ?? []
  return isFairnessKey(key) ? { dueSince: Number(dueSince), key } : null
}

function registerPut(app: FastifyInstance, store: Store): void {
  app.put<ByKey & { Body: FairnessKeyBody }>(
    '/endpoints/:name/keys/:key',
    {
      schema: {
        summary: 'Set the weight and the limits of a fairness key, or pause it',
        params: keyParams,
        querystring: noQuery,
        headers: writeHeaders,
        body: fairnessKeyBody,
        response: { 200: fairnessKeyResponse, 201: fairnessKeyResponse },
        errors: ['endpoint_not_found', 'too_many_keys'],
        responseHeaders: { 200: ['etag'], 201: ['etag'] },
      },
    },
    async (request, reply) => {
      const { name, key } = request.params
      const settings = fairnessKeySettingsFrom(request.body)
      const wanted = writePrecondition(request.headers)
      // The version of a key without settings.
      const ifVersion = wanted === 0 ? 'none' : wanted
      const result = await store.putFairnessKey({ endpoint: name, key }, settings, ifVersion)
      const { kind, record } = storedOrThrow(name, result, ifVersion)
      reply.code(kind === 'created' ? 201 : 200)
      return sendKey(reply, fairnessKeyView(key, record, store.clock.now()))
    },
  )
}

function storedOrThrow(name: string, result: PutKeyResult, ifVersion: IfVersion) {
  switch (result.kind) {
    case 'created':
    case 'replaced':
      return result
    case 'unknown_endpoint':
      throw endpointNotFound(name)
    case 'stale':
      throw stale('key with settings', result.version, ifVersion)
    case 'too_many_keys':
      throw new AppError(
        'too_many_keys',
        `${MAX_KEYS_WITH_SETTINGS} keys of endpoint "${name}" have settings already; delete those of others first`,
      )
    default:
      throw new Error(`unknown result ${JSON.stringify(result satisfies never)}`)
  }
}

function registerGet(app: FastifyInstance, store: Store): void {
  app.get<ByKey>(
    '/endpoints/:name/keys/:key',
    {
      schema: {
        summary: 'Read the settings of a fairness key',
        params: keyParams,
        querystring: noQuery,
        response: { 200: fairnessKeyResponse },
        errors: ['endpoint_not_found'],
        responseHeaders: { 200: ['etag'] },
      },
    },
    async (request, reply) => {
      const { name, key } = request.params
      if ((await store.endpointsNamed([name])).length === 0) throw endpointNotFound(name)
      const [record = null] = await store.fairnessKeysNamed(name, [key])
      return sendKey(reply, fairnessKeyView(key, record, store.clock.now()))
    },
  )
}

function registerDelete(app: FastifyInstance, store: Store): void {
  app.delete<ByKey>(
    '/endpoints/:name/keys/:key',
    {
      schema: {
        summary: 'Give a fairness key the defaults of its endpoint again',
        params: keyParams,
        querystring: noQuery,
        headers: ifMatchHeaders,
        body: noBody,
        response: { 204: emptyResponse('done') },
        errors: ['endpoint_not_found'],
      },
    },
    async (request, reply) => {
      const { name, key } = request.params
      if ((await store.endpointsNamed([name])).length === 0) throw endpointNotFound(name)
      const version = ifMatch(request.headers)
      const result = await store.deleteFairnessKey({ endpoint: name, key }, version)
      if (result.kind === 'stale') throw stale('key', result.version)
      // A key without settings has the defaults already, and version 0.
      if (result.kind === 'not_found' && version !== null && version !== 0) throw stale('key', 0)
      return reply.code(204).send()
    },
  )
}

function sendKey(reply: FastifyReply, view: ReturnType<typeof fairnessKeyView>) {
  reply.header('etag', etagOf(view.version))
  return view
}
