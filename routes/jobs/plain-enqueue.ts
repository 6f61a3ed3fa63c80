// POST /jobs in its usual form, served without Fastify, whose hooks, validation and reply cost more
// CPU than the rest of such a request (decision 0033). The route in routes.ts stays the definition:
// it serves all other forms. Fastify also finishes each request that fails here, so that no error
// is made twice.
import { isAscii } from 'node:buffer'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { SECURITY_HEADERS } from '../../src/http/problem.ts'
import type { Job, MinimalJob, NewJob } from '../../src/job/job.ts'
import type { ApiMetrics } from '../../src/stats/metrics.ts'
import type { EnqueueResult, Store } from '../../src/store/store.ts'
import { isTracing, traceContextOf } from '../../src/tracing.ts'
import { parseEnvelope, REQUEST_LIMITS } from '../../src/wire/envelope.ts'
import {
  bareJobBody,
  bareJobJson,
  hopsOf,
  jobBody,
  jobJson,
  minimalJobJson,
  newJobFrom,
  storedOrThrow,
} from '../../src/wire/jobs.ts'
import type { AccessRequest } from '../http/access.ts'
import { etagOf } from '../http/conditional.ts'
import type { Inflight, Reservation } from '../http/inflight-limits.ts'
import { begunRequests, JSON_TYPE_SHAPE } from '../http/json-body.ts'
import { JSON_TYPE } from '../http/route-schema.ts'
import type { EnqueueBatcher } from './enqueue-batcher.ts'
import { type EnqueueHeaders, enqueueHeaders } from './routes.ts'

/** Larger bodies are parsed in steps, between which other requests are served. */
const MAX_BYTES = 65_536
/** A request with one of these headers is served, or refused, by Fastify. */
const UNUSUAL_HEADERS = [
  ...['transfer-encoding', 'content-encoding', 'expect', 'if-match', 'if-none-match'],
]
const ROUTE = { config: { scope: 'enqueue' } } as const
const NO_HEADERS: EnqueueHeaders = {}

type Listener = (request: IncomingMessage, response: ServerResponse) => void

interface PlainEnqueues {
  store: Pick<Store, 'clock'>
  batcher: EnqueueBatcher
  metrics: Pick<ApiMetrics, 'onEnqueued' | 'onRequest'>
  inflight: Inflight
  checkAccess(request: AccessRequest): Promise<void> | undefined
  requestId(request: IncomingMessage): string
  /** The path of PUBLIC_URL, without a slash at its end. */
  publicPath(): string
  maxBodyBytes: number
  /** Fastify then closes the connections. */
  isClosing(): boolean
  fastify: Listener
}

/** A request that was accepted, without its body. */
interface Begun {
  request: IncomingMessage
  response: ServerResponse
  reservation: Reservation
  headers: EnqueueHeaders
  startedAtMs: number
}

/** The listener for all requests: those that are not served here are passed to `fastify`. */
export function servePlainEnqueues(parts: PlainEnqueues): Listener {
  return (request, response) => {
    const begun = isUsual(parts, request) ? begin(parts, request, response) : null
    if (begun === null) parts.fastify(request, response)
    else readBody(parts, begun)
  }
}

function isUsual({ maxBodyBytes, isClosing }: PlainEnqueues, request: IncomingMessage): boolean {
  const { method, url, headers } = request
  if (method !== 'POST' || url !== '/jobs') return false
  const length = Number(headers['content-length'])
  if (!(length > 0 && length <= Math.min(MAX_BYTES, maxBodyBytes))) return false
  if (!JSON_TYPE_SHAPE.test(headers['content-type'] ?? '')) return false
  if (UNUSUAL_HEADERS.some((name) => headers[name] !== undefined)) return false
  return !isTracing() && !isClosing()
}

/** null: Fastify makes the same checks and finds the same problem, or waits for the keys. */
function begin(
  { checkAccess, batcher, inflight }: PlainEnqueues,
  request: IncomingMessage,
  response: ServerResponse,
): Begun | null {
  const startedAtMs = performance.now()
  const reservation = inflight.open(request.socket)
  try {
    inflight.add(reservation, 'requests', 1, 0)
    const headers = checkedHeaders(request)
    const asked = { headers: request.headers, raw: request, routeOptions: ROUTE, storedKey: null }
    const checking = checkAccess(asked)
    batcher.refuseIfFull()
    if (checking === undefined) {
      response.on('close', () => inflight.end(reservation))
      return { request, response, reservation, headers, startedAtMs }
    }
    // Fastify waits for the same read of the keys.
    checking.catch(() => {})
  } catch {
    // Fastify throws it again, and sends it.
  }
  inflight.end(reservation)
  return null
}

function checkedHeaders({ headers }: IncomingMessage): EnqueueHeaders {
  const isPlain = headers.prefer === undefined && headers['idempotency-key'] === undefined
  return isPlain ? NO_HEADERS : enqueueHeaders.parse(headers)
}

function readBody(parts: PlainEnqueues, begun: Begun): void {
  const { request, reservation } = begun
  const chunks: Buffer[] = []
  let length = 0
  let isOver = false

  function fail(error: unknown): void {
    if (isOver) return
    isOver = true
    giveUp(parts, begun, { error })
  }

  request.on('data', (chunk: Buffer) => {
    if (isOver) return
    length += chunk.length
    try {
      parts.inflight.add(reservation, 'bodyBytes', chunk.length, length)
      chunks.push(chunk)
    } catch (error) {
      fail(error)
    }
  })
  request.on('end', () => {
    if (isOver) return
    isOver = true
    enqueue(parts, begun, chunks.length === 1 ? (chunks[0] as Buffer) : Buffer.concat(chunks))
  })
  request.on('error', fail)
}

function enqueue(parts: PlainEnqueues, begun: Begun, body: Buffer): void {
  const { batcher, metrics } = parts
  const read = readJob(parts, begun, body)
  if (read === null) {
    giveUp(parts, begun, { body })
    return
  }
  const { job } = read
  const sinceMs = performance.now()
  const isMinimal = begun.headers.prefer === 'minimal'
  const storing: Promise<EnqueueResult<MinimalJob>> = isMinimal
    ? batcher.enqueueMinimal(job)
    : batcher.enqueue(job)
  storing
    .then((result) => {
      metrics.onEnqueued(result.kind, performance.now() - sinceMs)
      respond(parts, begun, read, result)
    })
    .catch((error) => giveUp(parts, begun, { error }))
}

interface ReadJob {
  job: NewJob
  /** Its response is that of bareJobJson. */
  isBare: boolean
}

/** null: the body or a header is wrong, and Fastify finds the same problem. */
function readJob({ store }: PlainEnqueues, begun: Begun, body: Buffer): ReadJob | null {
  const { request, headers } = begun
  const key = headers['idempotency-key']
  try {
    const origin = { trace: traceContextOf(request.headers), hops: hopsOf(request.headers) }
    const envelope = parseEnvelope(body, REQUEST_LIMITS)
    const bare = bareJobBody(envelope)
    const job = newJobFrom(bare ?? jobBody.parse(envelope), key, origin, store.clock.now())
    return { job, isBare: bare !== null }
  } catch {
    return null
  }
}

/** Sends the same status, headers and body as the route. */
function respond(
  { metrics, inflight, publicPath, requestId }: PlainEnqueues,
  { request, response, reservation, headers, startedAtMs }: Begun,
  { job, isBare }: ReadJob,
  result: EnqueueResult<MinimalJob>,
): void {
  const stored = storedOrThrow(result, job)
  const isNew = stored.kind === 'inserted'
  const more = isNew ? {} : { deduplicated: true }
  const { prefer } = headers
  // Without a minimal response, the result contains the whole job.
  const whole = prefer === 'minimal' ? null : (stored.job as Job)
  const isTemplate = isNew && isBare && whole !== null
  // Copying characters of one byte each costs less than encoding them.
  const encoding = isTemplate && isAscii(job.payload) ? 'latin1' : 'utf8'
  let text: string
  if (whole === null) text = minimalJobJson(stored.job, more)
  else text = isTemplate ? bareJobJson(whole, encoding) : jobJson(whole, more)
  const bytes = encoding === 'latin1' ? text.length : Buffer.byteLength(text)
  inflight.add(reservation, 'responseBytes', bytes, bytes)
  const status = isNew ? 201 : 200
  response.writeHead(status, {
    'x-request-id': requestId(request),
    ...SECURITY_HEADERS,
    location: `${publicPath()}/jobs/${stored.job.id}`,
    etag: etagOf(stored.job.version),
    'content-type': JSON_TYPE,
    vary: 'Prefer',
    ...(prefer === undefined || prefer === null
      ? {}
      : { 'preference-applied': `return=${prefer}` }),
    'content-length': bytes,
  })
  response.end(text, encoding)
  metrics.onRequest('POST', '/jobs', status, performance.now() - startedAtMs)
}

/** Fastify finishes the request: with its body, or with an error. */
function giveUp(
  { inflight, fastify }: PlainEnqueues,
  { request, response, reservation }: Begun,
  how: { body: Buffer } | { error: unknown },
): void {
  inflight.end(reservation)
  // The rest of the body is discarded.
  request.resume()
  begunRequests.set(request, how)
  fastify(request, response)
}
