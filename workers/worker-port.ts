// WORKER_PORT: what a worker tells of itself over HTTP. Health and metrics, nothing else.
import { createHash, randomUUID, timingSafeEqual } from 'node:crypto'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import { type AddressInfo, isIP } from 'node:net'
import type { Logger } from 'pino'
import { ERRORS, type ErrorCode } from '../src/errors.ts'
import { listenAt } from '../src/http/listening.ts'
import type { MetricsText } from '../src/stats/metrics.ts'
import { StoreUnavailable, UNAVAILABLE } from '../src/store/store.ts'

export interface WorkerPort {
  url: string
  close(): Promise<void>
}

export interface WorkerPortParts {
  host: string
  /** 0: a free one. */
  port: number
  /** Of the environment. None: the metrics are for this machine only. */
  apiKeys: string[]
  metrics: () => Promise<MetricsText>
  /** Throws unless the store takes writes. */
  storeReady: () => Promise<void>
  /** It claims nothing more. */
  isStopping: () => boolean
  log: Logger
}

/** Probes and a scraper or two; more is somebody who means no good. */
const MAX_CONNECTIONS = 64
const REQUEST_TIMEOUT_MS = 5_000
const KEEP_ALIVE_TIMEOUT_MS = 30_000
/** A connection is closed after so many requests. */
const MAX_REQUESTS_PER_CONNECTION = 1_000
const MAX_HEADER_BYTES = 8_192

const JSON_TYPE = 'application/json; charset=utf-8'
const PROBLEM_TYPE = 'application/problem+json'

interface Told {
  status: number
  type: string
  body: string
  headers?: Record<string, string>
}

/** Listens; rejects when it can not. */
export async function startWorkerPort(parts: WorkerPortParts): Promise<WorkerPort> {
  const checkStore = sharedWhileUnderWay(parts)
  const server = createServer({ maxHeaderSize: MAX_HEADER_BYTES }, (request, response) => {
    answer(parts, checkStore, request)
      .catch((error): Told => {
        parts.log.error({ err: error }, 'worker_port.failed')
        return problem('internal_error', 'the request failed; the log has the cause')
      })
      .then((told) => send(request, response, told))
  })
  server.maxConnections = MAX_CONNECTIONS
  server.requestTimeout = REQUEST_TIMEOUT_MS
  server.headersTimeout = REQUEST_TIMEOUT_MS
  server.keepAliveTimeout = KEEP_ALIVE_TIMEOUT_MS
  server.maxRequestsPerSocket = MAX_REQUESTS_PER_CONNECTION
  await listenAt({ host: parts.host, portSetting: 'WORKER_PORT' }, () =>
    listen(server, parts.host, parts.port),
  )
  const { address, port } = server.address() as AddressInfo
  const url = `http://${isIP(address) === 6 ? `[${address}]` : address}:${port}`
  parts.log.info({ url }, 'worker_port.listening')
  return {
    url,
    close() {
      return new Promise((resolve) => {
        server.close(() => resolve())
        server.closeAllConnections()
      })
    },
  }
}

async function answer(
  parts: WorkerPortParts,
  checkStore: () => Promise<string>,
  request: IncomingMessage,
): Promise<Told> {
  const [path] = (request.url ?? '/').split('?', 1)
  const isKnown = path === '/health/live' || path === '/health/ready' || path === '/metrics'
  if (!isKnown) {
    const known = '/health/live, /health/ready and /metrics'
    return problem('not_found', `a worker answers ${known} only`)
  }
  if (request.method !== 'GET' && request.method !== 'HEAD') {
    const told = problem('method_not_allowed', 'expected GET or HEAD')
    return { ...told, headers: { ...told.headers, allow: 'GET, HEAD' } }
  }
  if (path === '/health/live') return json(200, { status: 'ok' })
  if (path === '/health/ready') return readiness(parts, await checkStore())
  const refusal = refusalOf(parts, request)
  if (refusal !== null) return refusal
  const { contentType, text } = await parts.metrics()
  return { status: 200, type: contentType, body: text }
}

function readiness(parts: WorkerPortParts, store: string): Told {
  const worker = parts.isStopping() ? 'is stopping' : 'ok'
  const isReady = store === 'ok' && worker === 'ok'
  const told = json(isReady ? 200 : 503, {
    status: isReady ? 'ok' : 'unavailable',
    checks: { store, worker },
  })
  return isReady ? told : { ...told, headers: { 'retry-after': '1' } }
}

/** However many ask, the store is asked once at a time; its own deadline bounds the wait. */
function sharedWhileUnderWay({ storeReady, log }: WorkerPortParts): () => Promise<string> {
  let underWay: Promise<string> | null = null

  async function check(): Promise<string> {
    try {
      await storeReady()
      return 'ok'
    } catch (error) {
      log.warn({ err: error }, 'store.not_ready')
      return UNAVAILABLE[error instanceof StoreUnavailable ? error.kind : 'no_answer']
    } finally {
      underWay = null
    }
  }

  return () => {
    underWay ??= check()
    return underWay
  }
}

/**
 * The metrics name endpoints, so they follow the API's rule: a key, or this machine alone. And then
 * no web page either, by a name that was rebound to 127.0.0.1.
 */
function refusalOf({ apiKeys, host }: WorkerPortParts, request: IncomingMessage): Told | null {
  if (apiKeys.length > 0) {
    const [, key] = /^Bearer +(\S+)$/i.exec(request.headers.authorization ?? '') ?? []
    if (key !== undefined && apiKeys.some((known) => isSame(known, key))) return null
    const told = problem('unauthorized', 'send Authorization: Bearer <key>, one of API_KEYS')
    return { ...told, headers: { ...told.headers, 'www-authenticate': 'Bearer' } }
  }
  if (!isThisMachine(host)) {
    return problem('forbidden', 'set API_KEYS for this worker: its port is open to others')
  }
  const asked = (request.headers.host ?? '').replace(/:\d*$/, '')
  if (isThisMachine(asked)) return null
  return problem('forbidden', 'the Host must be localhost, 127.0.0.0/8 or [::1]')
}

function isThisMachine(host: string): boolean {
  const name = host.toLowerCase()
  return ['localhost', '::1', '[::1]'].includes(name) || /^127(\.\d{1,3}){3}$/.test(name)
}

/** By hash: the time of a comparison tells nothing about a key. */
function isSame(a: string, b: string): boolean {
  const [hashA, hashB] = [a, b].map((key) => createHash('sha256').update(key).digest())
  return timingSafeEqual(hashA as Buffer, hashB as Buffer)
}

function json(status: number, body: object): Told {
  return { status, type: JSON_TYPE, body: JSON.stringify(body) }
}

/** As the API's (RFC 9457). */
function problem(code: ErrorCode, detail: string): Told {
  const { status, title } = ERRORS[code]
  const type = `urn:posthorn:error:${code}`
  const requestId = randomUUID()
  const body = JSON.stringify({ type, title, status, code, detail, requestId })
  return { status, type: PROBLEM_TYPE, body, headers: { 'x-request-id': requestId } }
}

/** A body that a request may have is not read: its connection is closed instead. */
function send(request: IncomingMessage, response: ServerResponse, told: Told): void {
  const hasBody =
    request.headers['content-length'] !== undefined ||
    request.headers['transfer-encoding'] !== undefined
  response.writeHead(told.status, {
    'content-type': told.type,
    'content-length': Buffer.byteLength(told.body),
    'x-content-type-options': 'nosniff',
    'cache-control': 'no-store',
    ...(hasBody ? { connection: 'close' } : {}),
    ...told.headers,
  })
  response.end(request.method === 'HEAD' ? undefined : told.body)
}

function listen(server: Server, host: string, port: number): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject)
    server.listen(port, host, () => {
      server.off('error', reject)
      resolve()
    })
  })
}
