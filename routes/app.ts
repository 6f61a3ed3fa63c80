// Builds the API: all hooks and routes are registered here, in the order in which they are read.
import { randomUUID } from 'node:crypto'
import type { RequestListener } from 'node:http'
import swagger from '@fastify/swagger'
import Fastify, { type FastifyBaseLogger, type FastifyInstance, LogController } from 'fastify'
import type { z } from 'zod'
import { type BatchSize, createBatchSize } from '../src/batch-size.ts'
import { AppError } from '../src/errors.ts'
import { SECURITY_HEADERS, sendProblem } from '../src/http/problem.ts'
import { createAttemptCounts } from '../src/stats/attempt-counts.ts'
import { type ApiMetrics, createApiMetrics } from '../src/stats/metrics.ts'
import type { MinuteStatsBuffer } from '../src/stats/minute-stats-buffer.ts'
import { MAX_ENQUEUE_BATCH, type Store } from '../src/store/store.ts'
import { hideQuery } from '../src/tracing.ts'
import type { AddressPolicy } from '../src/webhook/address-policy.ts'
import type { Sender } from '../src/webhook/send.ts'
import { registerEndpointCommands } from './endpoints/commands.ts'
import { registerEndpointRoutes } from './endpoints/routes.ts'
import { registerGroupRoutes } from './groups/routes.ts'
import {
  createAccessCheck,
  createKeyRecheck,
  createRefusalLog,
  createStoredKeys,
  isRefusal,
  type StoredKeys,
} from './http/access.ts'
import { refuseUnsupportedConditions } from './http/conditional.ts'
import {
  CONNECTION_LIMITS,
  type ConnectionLimits,
  ignoreBody,
  refuseConnection,
  watchConnections,
} from './http/connections.ts'
import {
  countInflight,
  INFLIGHT_LIMITS,
  type InflightLimits,
  limitInflight,
} from './http/inflight-limits.ts'
import { acceptJson } from './http/json-body.ts'
import { createMethodTable, refuseBadCoding } from './http/request-line.ts'
import { validatorCompiler } from './http/route-schema.ts'
import { BATCH_SIZE_FACTOR, registerBatchRoute } from './jobs/batch.ts'
import { registerBulkRoutes } from './jobs/bulk.ts'
import { registerJobChangeRoutes } from './jobs/commands.ts'
import { registerCompletionRoutes } from './jobs/completion.ts'
import { createEnqueueBatcher, type EnqueueBatcher } from './jobs/enqueue-batcher.ts'
import { registerExplainRoute } from './jobs/explain.ts'
import { servePlainEnqueues } from './jobs/plain-enqueue.ts'
import { registerPullRoute } from './jobs/pull.ts'
import { registerJobRoutes } from './jobs/routes.ts'
import { createJobWaits, SharedPullWaits } from './jobs/waits.ts'
import { registerLimitRoutes } from './limits/routes.ts'
import { registerDashboard } from './pages/dashboard.ts'
import { openapiOptions, registerOpenapiRoute } from './pages/openapi.ts'
import { registerReferencePage } from './pages/reference.ts'
import { registerScheduleRoutes } from './schedules/routes.ts'
import { registerHealthRoutes, registerRootRoute } from './service/health.ts'
import { registerKeyRoutes } from './service/keys.ts'
import { countRequests, registerMetricsRoute } from './service/metrics.ts'
import { createSnapshots } from './service/queue-snapshot.ts'
import { registerStatsRoute } from './service/stats.ts'
import { registerWorkersRoute } from './service/workers.ts'

interface AppOptions {
  store: Store
  /** Checks the URLs of endpoints. */
  policy: AddressPolicy
  /** Sends test pings; workers deliver jobs. */
  sender: Sender
  /** Receives the attempts whose end handlers report. */
  minuteStats: MinuteStatsBuffer
  log: FastifyBaseLogger
  /** Logs the one line of each attempt that ends here; absent: `log`. */
  attemptLog?: Pick<FastifyBaseLogger, 'info'>
  /** Empty: the API is in local mode. */
  apiKeys: string[]
  /** Base of the URLs that async handlers report to; null: not known (yet). */
  publicUrl: () => string | null
  maxBodyBytes: number
  version: string
  /** Absent: the metrics are created here. */
  metrics?: ApiMetrics
  /** Limits of each connection; absent ones have their defaults. */
  limits?: Partial<ConnectionLimits>
  /** Limits of all clients together; absent ones have their defaults. */
  inflight?: Partial<InflightLimits>
}

/** The longest request line: Node accepts 16 KiB of headers. */
const MAX_PARAM_LENGTH = 16_384
const KEEP_ALIVE_TIMEOUT_MS = 72_000
const REQUEST_ID_SHAPE = /^[A-Za-z0-9._-]{1,64}$/
/**
 * A URL that may contain the token of an attempt. The check is for requests with a wrong method:
 * the query of a POST is never shown.
 */
const MAY_HOLD_TOKEN = /token|\/(complete|fail|heartbeat)\b/i

export async function buildApp(options: AppOptions): Promise<FastifyInstance> {
  const { store } = options
  const metrics = options.metrics ?? createApiMetrics(() => store.commandCount)
  const app = createServer(options, metrics)
  const methods = createMethodTable(app)
  app.setValidatorCompiler<z.ZodType>(validatorCompiler)
  app.setSerializerCompiler(() => (data) => JSON.stringify(data))
  const logRefusal = createRefusalLog()
  app.setErrorHandler((error, request, reply) => {
    if (error instanceof AppError && isRefusal(error)) {
      logRefusal(request, error)
      ignoreBody(request.raw, reply.raw)
    }
    sendProblem(request, reply, error)
  })
  app.setNotFoundHandler((request) => {
    throw methods.refusal(request.method, request.url)
  })
  const inflight = countInflight(app.server, inflightLimits(options))
  acceptJson(app, limitInflight(app, inflight))

  const storedKeys = createStoredKeys(store)
  const checkAccess = createAccessCheck(options.apiKeys, storedKeys)
  app.decorateRequest('storedKey', null)
  app.addHook('onRequest', (request, reply, done) => {
    reply.headers({ 'x-request-id': request.id, ...SECURITY_HEADERS })
    const checking = checkAccess(request)
    if (checking === undefined) done()
    else checking.then(() => done(), done)
  })
  const publicPath = createPublicPath(options.publicUrl)
  locateBelow(app, publicPath)
  refuseBadCoding(app)
  refuseUnsupportedConditions(app)
  countRequests(app, metrics)

  await app.register(swagger, openapiOptions(options.version))
  const enqueueSize = createBatchSize(MAX_ENQUEUE_BATCH)
  const batcher = createEnqueueBatcher(store, enqueueSize, metrics.onBatch)
  const shared = { metrics, storedKeys, enqueueSize, batcher }
  await app.register(async (routes) => registerRoutes(routes, options, shared))
  serveBeforeFastify(app, {
    ...{ ...options, metrics, batcher, inflight, checkAccess, publicPath },
    requestId: ({ headers }) => requestIdFrom(headers['x-request-id']),
  })
  await app.ready()
  return app
}

/** The other listeners for requests, which come before Fastify's own, stay. */
function serveBeforeFastify(
  app: FastifyInstance,
  parts: Omit<Parameters<typeof servePlainEnqueues>[0], 'isClosing' | 'fastify'>,
): void {
  let isClosing = false
  app.addHook('preClose', (done) => {
    isClosing = true
    done()
  })
  const fastify = app.server.listeners('request').at(-1) as RequestListener
  app.server.off('request', fastify)
  const listener = servePlainEnqueues({ ...parts, fastify, isClosing: () => isClosing })
  app.server.on('request', listener)
}

function createServer(
  { log, maxBodyBytes, limits: given }: AppOptions,
  metrics: ApiMetrics,
): FastifyInstance {
  const limits = { ...CONNECTION_LIMITS, ...given }
  const app = Fastify({
    loggerInstance: log,
    logController: new LogController({ disableRequestLogging: true }),
    // A logger for each request would cost more than a hook. Log lines of Posthorn name the
    // request.
    childLoggerFactory: (logger) => logger,
    bodyLimit: maxBodyBytes,
    requestTimeout: limits.requestMs,
    keepAliveTimeout: KEEP_ALIVE_TIMEOUT_MS,
    // An id that is too long gets 404, not 400.
    routerOptions: { maxParamLength: MAX_PARAM_LENGTH },
    requestIdHeader: false,
    genReqId: (request) => requestIdFrom(request.headers['x-request-id']),
    // Posthorn checks the Host header itself, with its own messages.
    http: { requireHostHeader: false, connectionsCheckingInterval: limits.checkMs },
    clientErrorHandler: refuseConnection,
    frameworkErrors: (error, request, reply) => {
      ignoreBody(request.raw, reply.raw)
      sendProblem(request, reply, error)
      // No hook runs for these errors, so they are counted here.
      metrics.onRefused(reply.statusCode, request.method)
    },
    forceCloseConnections: 'idle',
    // The store is open until each connection is closed, so a request that comes on an open one
    // while the API stops is served. Fastify would send a 503 that is not problem+json.
    return503OnClosing: false,
  })
  watchConnections(app.server, limits, (status) => metrics.onRefused(status))
  // This listener comes before all others: then the active span is that of the HTTP server, not
  // that of a plugin.
  app.server.prependListener('request', ({ method, url = '' }) => {
    if (method !== 'GET' || MAY_HOLD_TOKEN.test(url)) hideQuery(url)
  })
  return app
}

/** The limit has room for two bodies, whatever the largest body is. */
function inflightLimits({ maxBodyBytes, inflight }: AppOptions): InflightLimits {
  const leastBytes = 2 * BATCH_SIZE_FACTOR * maxBodyBytes
  return {
    ...INFLIGHT_LIMITS,
    bodyBytes: Math.max(INFLIGHT_LIMITS.bodyBytes, leastBytes),
    responseBytes: Math.max(INFLIGHT_LIMITS.responseBytes, leastBytes),
    ...inflight,
  }
}

/** What the routes and servePlainEnqueues share. */
interface Shared {
  metrics: ApiMetrics
  storedKeys: StoredKeys
  enqueueSize: BatchSize
  batcher: EnqueueBatcher
}

function registerRoutes(
  app: FastifyInstance,
  options: AppOptions,
  { metrics, storedKeys, enqueueSize, batcher }: Shared,
): void {
  const { store, version, maxBodyBytes } = options
  const { minuteStats, attemptLog = options.log } = options
  const countEnd = createAttemptCounts({ minuteStats, metrics, log: attemptLog })
  // Counts the attempts and jobs that a cancel, or a sweep of this process, ends.
  store.onEnd(countEnd)
  const waits = createJobWaits(store)
  const groupWaits = createJobWaits({ finalAmong: (ids) => store.finalGroupsAmong(ids) })
  const pulls = new SharedPullWaits(store)
  app.addHook('preClose', async () => {
    waits.stop()
    groupWaits.stop()
    pulls.stop()
  })
  const snapshots = createSnapshots(store)
  const recheckKey = createKeyRecheck(storedKeys)
  registerRootRoute(app, { version })
  registerHealthRoutes(app, { store })
  registerOpenapiRoute(app)
  registerReferencePage(app)
  registerDashboard(app)
  registerEndpointRoutes(app, options)
  registerEndpointCommands(app, { ...options, userAgent: `Posthorn/${version}` })
  registerPullRoute(app, { store, pulls, recheckKey, metrics })
  registerJobRoutes(app, { store, batcher, waits, metrics, recheckKey })
  registerBatchRoute(app, { store, size: enqueueSize, maxBodyBytes, metrics })
  registerBulkRoutes(app, { store })
  registerJobChangeRoutes(app, { store, batcher, metrics })
  registerExplainRoute(app, { store })
  registerGroupRoutes(app, { store, waits: groupWaits, recheckKey })
  registerCompletionRoutes(app, { store, maxBodyBytes, countEnd, metrics })
  registerLimitRoutes(app, { store })
  registerScheduleRoutes(app, { store, metrics })
  registerKeyRoutes(app, { store, storedKeys })
  registerStatsRoute(app, { store, snapshots })
  registerWorkersRoute(app, { store })
  // A store that accepts no writes is not up, even if it can be read.
  const snapshot = async () => {
    await store.ready()
    return snapshots.ofAll()
  }
  registerMetricsRoute(app, { metrics, snapshot })
}

/** If a proxy serves this API below a path, only PUBLIC_URL contains that path. */
function createPublicPath(publicUrl: () => string | null): () => string {
  // To parse a URL for each response would cost more than the other hooks together.
  let known: { url: string | null; path: string } = { url: null, path: '' }
  return () => {
    const url = publicUrl()
    if (url !== known.url) known = { url, path: pathOf(url) }
    return known.path
  }
}

function locateBelow(app: FastifyInstance, publicPath: () => string): void {
  app.addHook('onSend', (_request, reply, _payload, done) => {
    const location = reply.statusCode < 300 ? reply.getHeader('location') : undefined
    if (typeof location === 'string') reply.header('location', publicPath() + location)
    done()
  })
}

/** Returns the path of the URL without a slash at its end. */
function pathOf(url: string | null): string {
  return url === null ? '' : new URL(url).pathname.replace(/\/$/, '')
}

function requestIdFrom(header: string | string[] | undefined): string {
  return typeof header === 'string' && REQUEST_ID_SHAPE.test(header) ? header : randomUUID()
}
