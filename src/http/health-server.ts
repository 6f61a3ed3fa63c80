// The HTTP server of a worker (WORKER_PORT): only its health and its metrics.
import { randomUUID } from 'node:crypto'
import { type AddressInfo, isIP } from 'node:net'
import Fastify, { type FastifyInstance, type FastifyRequest, LogController } from 'fastify'
import type { Logger } from 'pino'
import { AppError } from '../errors.ts'
import { StoreUnavailable, UNAVAILABLE } from '../store/store-errors.ts'
import { createKeyCheck, forbidden, unauthorized } from './access.ts'
import { listenAt } from './listening.ts'
import { isLoopbackName, refuseWebPages } from './loopback.ts'
import { clientErrorResponse, SECURITY_HEADERS, sendProblem } from './problem.ts'

export interface HealthServer {
  url: string
  close(): Promise<void>
}

export interface HealthServerParts {
  host: string
  /** 0: any free port. */
  port: number
  /** API_KEYS. Empty: only this machine can read the metrics. */
  apiKeys: string[]
  metrics: () => Promise<{ contentType: string; text: string }>
  /** Throws unless the store accepts writes. */
  storeReady: () => Promise<void>
  /** The worker is stopping and claims no more jobs. */
  isStopping: () => boolean
  /** The worker claims no jobs because it cannot decrypt the secrets of the endpoints. */
  lacksKey: () => boolean
  log: Logger
}

/** Enough for probes and a scraper or two; more is abuse. */
const MAX_CONNECTIONS = 64
const REQUEST_TIMEOUT_MS = 5_000
const KEEP_ALIVE_TIMEOUT_MS = 30_000
/** A connection is closed after this many requests. */
const MAX_REQUESTS_PER_CONNECTION = 1_000
const MAX_HEADER_BYTES = 8_192
/** How old the result of a check of the store may be. */
const STORE_CHECK_AGE_MS = 250

const PATHS = ['/health/live', '/health/ready', '/metrics']

/** Listens; rejects if it cannot. */
export async function startHealthServer(parts: HealthServerParts): Promise<HealthServer> {
  const { host, port, log } = parts
  const app = createServer(log)
  registerRoutes(app, parts)
  await listenAt({ host, portSetting: 'WORKER_PORT' }, () => app.listen({ host, port }))
  const { address, port: boundPort } = app.server.address() as AddressInfo
  const url = `http://${isIP(address) === 6 ? `[${address}]` : address}:${boundPort}`
  log.info({ url }, 'worker_port.listening')
  return { url, close: () => app.close() }
}

function createServer(log: Logger): FastifyInstance {
  const app = Fastify({
    // Fastify's own lines at level info add nothing to ours.
    loggerInstance: log.child({}, { level: log.isLevelEnabled('warn') ? 'warn' : log.level }),
    logController: new LogController({ disableRequestLogging: true }),
    childLoggerFactory: (logger) => logger,
    genReqId: () => randomUUID(),
    requestTimeout: REQUEST_TIMEOUT_MS,
    keepAliveTimeout: KEEP_ALIVE_TIMEOUT_MS,
    maxRequestsPerSocket: MAX_REQUESTS_PER_CONNECTION,
    http: { maxHeaderSize: MAX_HEADER_BYTES, headersTimeout: REQUEST_TIMEOUT_MS },
    forceCloseConnections: true,
    frameworkErrors: (error, request, reply) => sendProblem(request, reply, error),
    clientErrorHandler: (error, socket) => {
      if (error.code === 'ECONNRESET' || !socket.writable) socket.destroy()
      else socket.end(clientErrorResponse(error).bytes)
    },
  }) as unknown as FastifyInstance
  app.server.maxConnections = MAX_CONNECTIONS
  app.setErrorHandler((error, request, reply) => sendProblem(request, reply, error))
  app.addHook('onRequest', async (request, reply) => {
    reply.headers(SECURITY_HEADERS)
    // The server reads no bodies. It closes the connection instead.
    const { 'content-length': length, 'transfer-encoding': coding } = request.headers
    if (length !== undefined || coding !== undefined) reply.header('connection', 'close')
    if (request.is404) throw refusedRequestLine(request)
  })
  return app
}

function registerRoutes(app: FastifyInstance, parts: HealthServerParts): void {
  const checkStore = createStoreCheck(parts.storeReady)
  const checkAccess = createMetricsCheck(parts)

  app.get('/health/live', async () => ({ status: 'ok' }))

  app.get('/health/ready', async (request, reply) => {
    const store = await checkStore(request)
    const worker = workerState(parts)
    const isReady = store === 'ok' && worker === 'ok'
    if (!isReady) reply.code(503).header('retry-after', '1')
    return { status: isReady ? 'ok' : 'unavailable', checks: { store, worker } }
  })

  app.get('/metrics', { onRequest: async (request) => checkAccess(request) }, async (_, reply) => {
    const { contentType, text } = await parts.metrics()
    return reply.type(contentType).send(text)
  })
}

function workerState({ isStopping, lacksKey }: HealthServerParts): string {
  if (isStopping()) return 'is stopping'
  return lacksKey() ? 'lacks the encryption key of the API' : 'ok'
}

/**
 * Checks the store. Requests that come during a check share it, because anyone can send them,
 * without a key. The deadline of the store limits the wait.
 *
 * @param storeReady throws unless the store accepts writes
 * @returns `ok`, or the problem of the store
 */
export function createStoreCheck(
  storeReady: () => Promise<void>,
): (request: FastifyRequest) => Promise<string> {
  let check: Promise<string> | null = null

  async function checkOnce({ log, id }: FastifyRequest): Promise<string> {
    try {
      await storeReady()
      return 'ok'
    } catch (error) {
      log.warn({ err: error, requestId: id }, 'store.not_ready')
      return UNAVAILABLE[error instanceof StoreUnavailable ? error.kind : 'no_answer']
    } finally {
      setTimeout(() => {
        check = null
      }, STORE_CHECK_AGE_MS).unref()
    }
  }

  return (request) => {
    check ??= checkOnce(request)
    return check
  }
}

/**
 * Metrics contain names of endpoints. Reading them needs a key, or, if there are no keys, a request
 * from this machine.
 */
function createMetricsCheck({ apiKeys, host }: HealthServerParts) {
  const unknownHashOf = createKeyCheck(apiKeys)
  return ({ headers, raw }: FastifyRequest): void => {
    if (apiKeys.length > 0) {
      if (unknownHashOf(headers.authorization) !== null) throw unauthorized('the key is unknown')
      return
    }
    if (!isLoopbackName(host)) {
      throw forbidden('set API_KEYS for this worker: its port is open to others')
    }
    refuseWebPages({ headers, raw })
  }
}

function refusedRequestLine({ url }: FastifyRequest): AppError {
  const [path] = url.split('?', 1)
  if (PATHS.includes(path as string)) {
    return new AppError('method_not_allowed', 'expected GET or HEAD', {
      headers: { allow: 'GET, HEAD' },
    })
  }
  return new AppError('not_found', `the port of a worker has only ${PATHS.join(', ')}`)
}
