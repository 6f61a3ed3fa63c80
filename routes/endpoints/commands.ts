// Commands on an endpoint: pause, resume, rotate-secret and test.
import { randomBytes } from 'node:crypto'
import type { FastifyInstance, FastifySchema } from 'fastify'
import { z } from 'zod'
import { type Endpoint, MAX_SECRETS, newSecret } from '../../src/endpoint/endpoint.ts'
import { AppError } from '../../src/errors.ts'
import { formatDuration } from '../../src/job/duration.ts'
import { OUTCOMES } from '../../src/job/job.ts'
import type { OtherVersion } from '../../src/store/precondition.ts'
import type { Store } from '../../src/store/store.ts'
import { decrypted } from '../../src/store/store-errors.ts'
import { pingRequest } from '../../src/webhook/request.ts'
import type { Sender } from '../../src/webhook/send.ts'
import { endpointResponse, secret } from '../../src/wire/endpoints.ts'
import { DAY_MS, duration, instantText } from '../../src/wire/fields.ts'
import { ifMatch, ifMatchHeaders, stale } from '../http/conditional.ts'
import { nameParams, noBody, noQuery } from '../http/route-schema.ts'
import { endpointNotFound, sendEndpoint } from './change.ts'

const MAX_OVERLAP_MS = 30 * DAY_MS
const DEFAULT_OVERLAP_MS = DAY_MS

const rotateFields = z.strictObject({
  secret: secret.optional(),
  overlap: duration(0, MAX_OVERLAP_MS).prefault(formatDuration(DEFAULT_OVERLAP_MS)),
})
const rotateBody = rotateFields.nullish().transform((body) => body ?? rotateFields.parse({}))
type RotateBody = z.output<typeof rotateFields>

export const testResponse = z.object({
  outcome: z.enum(OUTCOMES),
  statusCode: z.int().nullable(),
  errorCode: z.string().nullable(),
  message: z.string().nullable(),
  durationMs: z.int(),
  responseBody: z.string().nullable().meta({ description: 'the first 4 KiB' }),
})

const CHANGE_RESPONSES = {
  errors: ['endpoint_not_found', 'endpoint_in_use'],
  responseHeaders: { 200: ['etag'] },
} as const satisfies FastifySchema

interface CommandRoutes {
  store: Store
  sender: Sender
  userAgent: string
}

interface ByName {
  Params: { name: string }
}

export function registerEndpointCommands(app: FastifyInstance, parts: CommandRoutes): void {
  registerChange(app, parts, 'pause', 'Stop deliveries; jobs can still be enqueued')
  registerChange(
    app,
    parts,
    'resume',
    'End a pause, an open circuit, throttling, and being disabled',
  )
  registerRotate(app, parts)
  registerTest(app, parts)
}

function registerChange(
  app: FastifyInstance,
  { store }: CommandRoutes,
  verb: 'pause' | 'resume',
  summary: string,
): void {
  app.post<ByName>(
    `/endpoints/:name/${verb}`,
    {
      schema: {
        summary,
        params: nameParams,
        querystring: noQuery,
        headers: ifMatchHeaders,
        body: noBody,
        response: { 200: endpointResponse },
        ...CHANGE_RESPONSES,
      },
    },
    async (request, reply) => {
      const { name } = request.params
      const ifVersion = ifMatch(request.headers)
      const changed =
        verb === 'pause'
          ? await store.pauseEndpoint(name, ifVersion)
          : await store.resumeEndpoint(name, ifVersion)
      return sendEndpoint(store, reply, changeable(name, changed))
    },
  )
}

function registerRotate(app: FastifyInstance, { store }: CommandRoutes): void {
  app.post<ByName & { Body: RotateBody }>(
    '/endpoints/:name/rotate-secret',
    {
      schema: {
        summary:
          'Replace the signing secret; the old one also signs until the overlap ends, and alone for up to a second',
        params: nameParams,
        querystring: noQuery,
        headers: ifMatchHeaders,
        body: rotateBody,
        response: { 200: endpointResponse },
        ...CHANGE_RESPONSES,
      },
    },
    async (request, reply) => {
      const { name } = request.params
      const { secret = newSecret(), overlap } = request.body
      const ifVersion = ifMatch(request.headers)
      const changed = await store.rotateSecret(name, secret, overlap, ifVersion)
      if (changed !== null && 'fullUntil' in changed) throw tooManySecrets(name, changed.fullUntil)
      return sendEndpoint(store, reply, changeable(name, changed), secret)
    },
  )
}

function tooManySecrets(name: string, fullUntil: number): AppError {
  const until = instantText(fullUntil)
  return new AppError(
    'endpoint_in_use',
    `endpoint "${name}" has ${MAX_SECRETS} signing secrets, the maximum, until ${until}; rotate after that, or with a shorter overlap, which also applies to the older secrets`,
  )
}

function changeable(name: string, endpoint: Endpoint | OtherVersion | null): Endpoint {
  if (endpoint === null) throw endpointNotFound(name)
  if ('storedVersion' in endpoint) throw stale('endpoint', endpoint.storedVersion)
  if (endpoint.deleting) {
    throw new AppError('endpoint_in_use', `endpoint "${name}" is being deleted`)
  }
  return endpoint
}

function registerTest(app: FastifyInstance, { store, sender, userAgent }: CommandRoutes): void {
  app.post<ByName>(
    '/endpoints/:name/test',
    {
      schema: {
        summary: 'Send one signed test ping now and return its outcome',
        params: nameParams,
        querystring: noQuery,
        body: noBody,
        response: { 200: testResponse },
        errors: ['endpoint_not_found', 'job_state_conflict'],
      },
    },
    async (request) => {
      const { name } = request.params
      const [endpoint] = await store.endpointsNamed([name])
      if (endpoint === undefined) throw endpointNotFound(name)
      const { url, timeoutMs } = endpoint
      if (url === null) {
        throw new AppError(
          'job_state_conflict',
          `endpoint "${name}" is pulled: nothing is sent to it`,
        )
      }
      const id = `ping_${randomBytes(12).toString('base64url')}`
      decrypted(endpoint)
      const ping = pingRequest({ id, endpoint, url, now: store.clock.now(), timeoutMs, userAgent })
      const end = await sender.send(ping, timeoutMs).ended
      return {
        outcome: end.outcome,
        statusCode: end.statusCode,
        errorCode: end.errorCode,
        message: end.message,
        durationMs: Math.round(end.durationMs),
        responseBody: end.responseBody,
      }
    },
  )
}
