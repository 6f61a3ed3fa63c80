// The API as one object: everything is registered here by hand, in reading order.
import { randomUUID } from 'node:crypto'
import swagger from '@fastify/swagger'
import Fastify, {
  type FastifyBaseLogger,
  type FastifyInstance,
  type FastifyRequest,
  LogController,
} from 'fastify'
import type { z } from 'zod'
import { AppError } from '../src/errors.ts'
import type { Store } from '../src/store/store.ts'
import type { AddressPolicy } from '../src/webhook/address-policy.ts'
import { createAccessCheck } from './access.ts'
import { createMethodTable } from './allowed-methods.ts'
import { registerEndpointRoutes } from './endpoints.ts'
import { createEnqueueBatcher } from './enqueue-batcher.ts'
import { createJobWaits } from './job-waits.ts'
import { registerJobRoutes } from './jobs.ts'
import { parseEnvelope } from './json-body.ts'
import { openapiOptions } from './openapi.ts'
import { sendClientError, sendProblem } from './problem.ts'
import { registerServiceRoutes } from './service.ts'
import { validatorCompiler } from './zod-bridge.ts'

export interface AppOptions {
  store: Store
  /** Judges the URLs of endpoints. */
  policy: AddressPolicy
  log: FastifyBaseLogger
  /** None: local mode. */
  apiKeys: string[]
  maxBodyBytes: number
  version: string
}

/** A client that sends slower than this is cut off. */
const REQUEST_TIMEOUT_MS = 30_000
const KEEP_ALIVE_TIMEOUT_MS = 72_000
const REQUEST_ID_SHAPE = /^[A-Za-z0-9._-]{1,64}$/
const CONTENT_TYPE_SHAPE = /^application\/json\s*(;\s*charset="?utf-8"?\s*)?$/i

export async function buildApp(options: AppOptions): Promise<FastifyInstance> {
  const { store, policy, log } = options
  const app = Fastify({
    loggerInstance: log,
    logController: new LogController({ disableRequestLogging: true }),
    bodyLimit: options.maxBodyBytes,
    requestTimeout: REQUEST_TIMEOUT_MS,
    keepAliveTimeout: KEEP_ALIVE_TIMEOUT_MS,
    requestIdHeader: false,
    genReqId: (request) => requestIdFrom(request.headers['x-request-id']),
    // A client's Host is judged by our own check, in our own words.
    http: { requireHostHeader: false },
    clientErrorHandler: sendClientError,
    frameworkErrors: (error, request, reply) => sendProblem(request, reply, error),
    forceCloseConnections: 'idle',
  })
  const methods = createMethodTable(app)
  app.setValidatorCompiler<z.ZodType>(validatorCompiler)
  app.setSerializerCompiler(() => (data) => JSON.stringify(data))
  app.setErrorHandler((error, request, reply) => sendProblem(request, reply, error))
  app.setNotFoundHandler((request) => {
    throw methods.refusal(request.method, request.url)
  })
  acceptJson(app)

  const checkAccess = createAccessCheck(options.apiKeys)
  app.addHook('onRequest', async (request, reply) => {
    reply.header('x-request-id', request.id)
    checkAccess(request)
  })

  const batcher = createEnqueueBatcher(store)
  const waits = createJobWaits(store)
  app.addHook('preClose', async () => waits.stop())

  await app.register(swagger, openapiOptions(options.version))
  await app.register(async (routes) => {
    registerServiceRoutes(routes, { store, version: options.version })
    registerEndpointRoutes(routes, { store, policy })
    registerJobRoutes(routes, { store, batcher, waits })
  })
  await app.ready()
  return app
}

/** One parser for all: JSON in UTF-8, a payload kept as bytes, an empty body as none. */
function acceptJson(app: FastifyInstance): void {
  app.removeAllContentTypeParsers()
  app.addContentTypeParser<Buffer>(
    'application/json',
    { parseAs: 'buffer' },
    async (request: FastifyRequest, body: Buffer) => {
      if (!CONTENT_TYPE_SHAPE.test(request.headers['content-type'] ?? '')) {
        throw new AppError(
          'unsupported_media_type',
          'content-type must be application/json in UTF-8',
        )
      }
      return body.length === 0 ? undefined : parseEnvelope(body)
    },
  )
}

function requestIdFrom(header: string | string[] | undefined): string {
  return typeof header === 'string' && REQUEST_ID_SHAPE.test(header) ? header : randomUUID()
}
