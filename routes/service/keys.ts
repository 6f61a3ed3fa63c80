// /keys: create, list and revoke API keys. A key is shown once; only its hash is stored.
import { randomBytes } from 'node:crypto'
import type { FastifyInstance } from 'fastify'
import { z } from 'zod'
import { AppError } from '../../src/errors.ts'
import { hashOf } from '../../src/http/access.ts'
import { KEY_SCOPES, type KeyScope, MAX_KEYS, type StoredKey } from '../../src/store/api-key.ts'
import type { Store } from '../../src/store/store.ts'
import { instantText, responseInstant, text } from '../../src/wire/fields.ts'
import type { StoredKeys } from '../http/access.ts'
import { emptyResponse, noBody, noQuery } from '../http/route-schema.ts'

const KEY_BYTES = 32
const ID_BYTES = 12

const keyBody = z.strictObject({ name: text(1, 100), scope: z.enum(KEY_SCOPES) })
const keyParams = z.object({ id: text(1, 64) })

export const keyResponse = z.object({
  id: z.string(),
  name: z.string(),
  scope: z.enum(KEY_SCOPES),
  createdAt: responseInstant,
})
export const newKeyResponse = z.object({
  ...keyResponse.shape,
  key: z.string().meta({ description: 'shown only here' }),
})
export const keyListResponse = z.object({ items: z.array(keyResponse) })

interface KeyRoutes {
  store: Store
  storedKeys: StoredKeys
}

export function registerKeyRoutes(app: FastifyInstance, { store, storedKeys }: KeyRoutes): void {
  app.post<{ Body: { name: string; scope: KeyScope } }>(
    '/keys',
    {
      schema: {
        summary: 'Create an API key; only this response shows it',
        body: keyBody,
        querystring: noQuery,
        response: { 201: newKeyResponse },
      },
    },
    async (request, reply) => {
      const key = `pk_${randomBytes(KEY_BYTES).toString('base64url')}`
      const stored: StoredKey = {
        id: `key_${randomBytes(ID_BYTES).toString('base64url')}`,
        ...request.body,
        hash: hashOf(key),
        createdAt: store.clock.now(),
      }
      if ((await store.addKey(stored)) === 'full') {
        const detail = `there are ${MAX_KEYS} keys already; revoke one with DELETE /keys/:id`
        throw new AppError('invalid_request', detail)
      }
      storedKeys.forget()
      return reply.code(201).send({ ...keyView(stored), key })
    },
  )

  app.get(
    '/keys',
    {
      schema: {
        summary: 'List API keys, without their values',
        querystring: noQuery,
        response: { 200: keyListResponse },
      },
    },
    async () => ({ items: (await store.listKeys()).map(keyView) }),
  )

  app.delete<{ Params: { id: string } }>(
    '/keys/:id',
    {
      schema: {
        summary: 'Revoke an API key everywhere within 5 s',
        params: keyParams,
        querystring: noQuery,
        body: noBody,
        response: { 204: emptyResponse('done') },
        errors: ['not_found'],
      },
    },
    async (request, reply) => {
      const { id } = request.params
      const wasThere = await store.removeKey(id)
      storedKeys.forget()
      if (!wasThere) throw new AppError('not_found', `there is no key ${JSON.stringify(id)}`)
      return reply.code(204).send()
    },
  )
}

function keyView({ id, name, scope, createdAt }: StoredKey) {
  return { id, name, scope, createdAt: instantText(createdAt) }
}
