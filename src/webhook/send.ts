// Sends one attempt over HTTP and returns how it ended. A failing endpoint is an outcome, never an
// error. outcome.ts decides what a response means.
import type { Socket } from 'node:net'
import type { Dispatcher } from 'undici'
import type { StatusChoices } from '../endpoint/endpoint.ts'
import { formatDuration } from '../job/duration.ts'
import type { Outcome } from '../job/job.ts'
import type { AddressPolicy } from './address-policy.ts'
import { type Connection, type Connections, createConnections } from './connections.ts'
import { createDial, createResolver, type Resolve, secureContextWith } from './dial.ts'
import {
  invalidStatus,
  isClosedByReceiver,
  outcomeOfError,
  outcomeOfResponse,
  type ResponseMeaning,
  SWITCHES_PROTOCOL,
} from './outcome.ts'
import type { WebhookRequest } from './request.ts'
import {
  CUT_RESULT,
  decoded,
  isTooLong,
  NO_RESULT,
  type ResponseBody,
  resultOf,
  shownText,
  withChunk,
} from './response-body.ts'

/** How an attempt ended. */
export interface AttemptEnd {
  outcome: Outcome
  /** null: no response. */
  statusCode: number | null
  /** The cause if there was no response, like ECONNREFUSED. */
  errorCode: string | null
  /** One sentence. */
  message: string
  /** The first 4 KiB as text, invalid UTF-8 replaced. */
  responseBody: string | null
  /**
   * The result of a succeeded attempt: JSON text exactly as the endpoint sent it, else `{"text":
   * …}`.
   */
  result: string | null
  /** The result was cut off or is longer than 64 KiB, and is not kept. */
  resultTruncated: boolean
  /** Retry-After, in milliseconds from the response; null: absent or not usable. */
  retryAfterMs: number | null
  /** The endpoint accepts no more requests (410). */
  isGone: boolean
  /** Throttled: the fairness key of the job alone rests, if it has one. */
  throttlesKey: boolean
  /** false: no byte of the request was sent. */
  isSent: boolean
  /** A reused connection closed without a response, and the request was sent again on a new one. */
  isResent: boolean
  /** Measured with the monotonic clock. */
  durationMs: number
}

/** Why the worker ends an attempt. */
type AbortOutcome = Extract<Outcome, 'interrupted' | 'cancelled' | 'lost'>

export interface Sending {
  /** Never rejects. */
  ended: Promise<AttemptEnd>
  /**
   * Ends the attempt now. If the status has arrived, the response still counts when the worker is
   * stopping (`interrupted`). It is discarded when the job was cancelled or the lease was lost.
   */
  abort(outcome: AbortOutcome): void
}

export interface Sender {
  /**
   * @param timeoutMs the total deadline: name lookup, connection, TLS, headers and body together
   * @param mayLeave called each time that the connection is ready, in the same turn in which the
   *   request is written; false ends the attempt as lost. Absent: always true
   */
  send(request: WebhookRequest, timeoutMs: number, mayLeave?: () => boolean): Sending
  /** Ends attempts in flight as interrupted. Resolves when all connections are closed. */
  close(): Promise<void>
}

export interface SenderParts {
  /** Limit of idle connections kept for reuse. Those in use are limited only by the caller. */
  connections: number
  /** Called at each connect and each reuse: connections that it no longer allows are closed. */
  policy: () => AddressPolicy
  /** PEM: root certificates in addition to the default ones. */
  extraCaCerts: string | null
  /** Epoch milliseconds, for a Retry-After that is a date. */
  now?: () => number
  /** Called once for each connection to a name; absent: the system resolver. */
  resolve?: Resolve
}

/** @throws Error if `extraCaCerts` has no certificate or an invalid one */
export function createSender(parts: SenderParts): Sender {
  const { connections: maxIdle, policy, extraCaCerts, now = Date.now } = parts
  const secureContext = extraCaCerts === null ? undefined : secureContextWith(extraCaCerts)
  const dial = createDial(policy, secureContext, parts.resolve ?? createResolver())
  const connections = createConnections(dial, policy, maxIdle)
  const inFlight = new Set<AttemptInFlight>()
  const shared: Shared = { connections, inFlight, split: createUrlSplitter(), now }

  function send(
    request: WebhookRequest,
    timeoutMs: number,
    mayLeave: () => boolean = () => true,
  ): Sending {
    return new AttemptInFlight(shared, request, timeoutMs, mayLeave)
  }

  async function close(): Promise<void> {
    for (const attempt of inFlight) attempt.abort('interrupted')
    await connections.close()
  }

  return { send, close }
}

/**
 * Limit of interim responses (1xx). They are usually few and small. An endpoint that sent them
 * without end kept the whole process busy, and other attempts took a second. One read may contain
 * the final response too, so the limit is twice the 64 KiB that a socket reads at most.
 */
const MAX_INTERIM_BYTES = 128 * 1_024

/**
 * How long after the start of an attempt its request may be sent again. A server that closes an
 * idle connection does so before it reads the request, and the worker notices at once. A connection
 * that closes later has another cause. By then the timestamp of the signature could also be too old
 * (Standard Webhooks: five minutes).
 */
const RESEND_WITHIN_MS = 60_000

const LATE_MESSAGE = 'the lease expired before the request could be sent'

const ABORT_MESSAGES: Record<AbortOutcome, string> = {
  interrupted: 'the worker was stopped before the endpoint responded',
  cancelled: 'the job was cancelled before the endpoint responded',
  lost: 'the lease was lost before the endpoint responded',
}

interface SplitUrl {
  origin: string
  /** The path with the query. */
  path: string
}

/** Limit of cached URLs. Parsing a URL costs a tenth of a whole attempt. */
const MAX_SPLIT_URLS = 1_000

/** The function returns null if the text is not an absolute URL. */
function createUrlSplitter(): (url: string) => SplitUrl | null {
  const known = new Map<string, SplitUrl>()
  return (text) => {
    const split = known.get(text)
    if (split !== undefined) return split
    const url = URL.parse(text)
    if (url === null) return null
    if (known.size >= MAX_SPLIT_URLS) known.clear()
    const fresh = { origin: url.origin, path: url.pathname + url.search }
    known.set(text, fresh)
    return fresh
  }
}

/** Shared by all attempts of a sender. */
interface Shared {
  connections: Connections
  split: (url: string) => SplitUrl | null
  inFlight: Set<AttemptInFlight>
  now: () => number
}

/** One attempt. It ends once: by a response, an error, the deadline or an abort. */
class AttemptInFlight implements Sending, Dispatcher.DispatchHandler {
  readonly ended: Promise<AttemptEnd>
  readonly #shared: Shared
  readonly #request: WebhookRequest
  readonly #timeoutMs: number
  readonly #statuses: StatusChoices
  readonly #mayLeave: () => boolean
  readonly #startedAtMs = performance.now()
  #target: SplitUrl | null = null
  #connection: Connection | null = null
  /** The socket that was connected before this request; null: none. */
  #keptSocket: Socket | null = null
  /** The request was sent on a connection that was used before. */
  #isOnKeptSocket = false
  #isSent = false
  #isResent = false
  #hasResponseBegun = false
  /** How many bytes had arrived on the socket before this request. */
  #bytesReadBefore = 0
  #statusCode: number | null = null
  #meaning: ResponseMeaning | null = null
  #body: ResponseBody | null = null
  /** The content-encoding of the response. */
  #encoding: string | undefined
  #deadline: NodeJS.Timeout | undefined
  #resolve: ((end: AttemptEnd) => void) | null = null

  constructor(shared: Shared, request: WebhookRequest, timeoutMs: number, mayLeave: () => boolean) {
    this.#shared = shared
    this.#request = request
    this.#timeoutMs = timeoutMs
    this.#statuses = request.statuses ?? {}
    this.#mayLeave = mayLeave
    this.ended = new Promise((resolve) => {
      this.#resolve = resolve
    })
    shared.inFlight.add(this)
    this.#start()
  }

  #start(): void {
    const target = this.#shared.split(this.#request.url)
    if (target === null) {
      this.#endWithoutResponse('blocked', 'ERR_INVALID_URL', 'the URL of the endpoint is not valid')
      return
    }
    this.#target = target
    this.#deadline = setTimeout(passDeadline, this.#timeoutMs, this)
    this.#dispatch(this.#shared.connections.take(target.origin), target)
  }

  #dispatch(connection: Connection, { path }: SplitUrl): void {
    const { headers, body } = this.#request
    this.#connection = connection
    this.#keptSocket = connection.socket
    connection.client.dispatch({ path, method: 'POST', headers, body, blocking: false }, this)
  }

  /**
   * Whether the request may be sent again. RFC 9110, section 9.2.2: the server may have closed an
   * idle connection before the request.
   */
  #mayResend(errorCode: string): boolean {
    return (
      this.#isOnKeptSocket &&
      !this.#hasResponseBegun &&
      !this.#isResent &&
      isClosedByReceiver(errorCode) &&
      performance.now() - this.#startedAtMs < RESEND_WITHIN_MS
    )
  }

  #resend(): void {
    const { connections } = this.#shared
    const target = this.#target as SplitUrl
    this.#isResent = true
    this.#isOnKeptSocket = false
    connections.destroy(this.#connection as Connection)
    this.#dispatch(connections.open(target.origin), target)
  }

  abort(outcome: AbortOutcome): void {
    if (outcome === 'interrupted' && this.#meaning !== null) this.#endByResponse(false)
    else this.#endWithoutResponse(outcome, null, ABORT_MESSAGES[outcome])
  }

  passDeadline(): void {
    if (this.#meaning !== null) {
      this.#endByResponse(false)
      return
    }
    const missing = this.#isSent ? 'response' : 'connection'
    this.#endWithoutResponse(
      'timeout',
      null,
      `no ${missing} within ${formatDuration(this.#timeoutMs)}`,
    )
  }

  /**
   * The connection is ready, and undici writes the request in this same turn. Nothing may come
   * between this check of the lease and the write: after a freeze of the process, sockets run
   * before timers.
   */
  onRequestStart(controller: Dispatcher.DispatchController): void {
    if (!this.#mayLeave()) {
      this.#endWithoutResponse('lost', null, LATE_MESSAGE)
      controller.abort(new Error(LATE_MESSAGE))
      return
    }
    const connection = this.#connection as Connection
    this.#isSent = true
    this.#isOnKeptSocket = this.#keptSocket !== null && this.#keptSocket === connection.socket
    this.#bytesReadBefore = this.#bytesRead()
    connection.interim?.expectResponse()
  }

  onResponseStarted(): void {
    this.#hasResponseBegun = true
  }

  onResponseStart(
    _controller: Dispatcher.DispatchController,
    statusCode: number,
    headers: Record<string, string | string[] | undefined>,
  ): void {
    if (statusCode < 100) {
      this.#endWithoutResponse('protocol_error', 'INVALID_STATUS', invalidStatus(statusCode))
      return
    }
    // undici recognizes a switch of protocols by its headers only. Without them it stops at an
    // assertion.
    if (statusCode === 101) {
      this.#endWithoutResponse('protocol_error', 'INVALID_STATUS', SWITCHES_PROTOCOL)
      return
    }
    if (statusCode < 200) {
      this.#limitInterim()
      return
    }
    this.#statusCode = statusCode
    const encoding = headers['content-encoding']
    this.#encoding = typeof encoding === 'string' ? encoding : undefined
    this.#meaning = outcomeOfResponse(statusCode, headers, this.#shared.now(), this.#statuses)
  }

  /** Ends the attempt if there are too many interim responses. They do not extend the deadline. */
  #limitInterim(): void {
    if (this.#bytesRead() - this.#bytesReadBefore <= MAX_INTERIM_BYTES) return
    this.#endWithoutResponse(
      'protocol_error',
      'INTERIM_ANSWERS_OVERFLOW',
      'the endpoint sent more than 128 KiB of interim responses and no final one',
    )
  }

  #bytesRead(): number {
    return this.#connection?.socket?.bytesRead ?? 0
  }

  onResponseData(_controller: Dispatcher.DispatchController, chunk: Buffer): void {
    this.#body = withChunk(this.#body, chunk)
    if (isTooLong(this.#body)) this.#endByResponse(false)
  }

  onResponseEnd(): void {
    this.#endByResponse(true)
  }

  onResponseError(_controller: Dispatcher.DispatchController | null, error: Error): void {
    // The attempt has ended, which destroyed the connection and caused this error.
    if (this.#resolve === null) return
    // Once the status has arrived, the response counts even if its body fails: a retry of an
    // attempt that succeeded would apply it twice.
    if (this.#meaning !== null) {
      this.#endByResponse(false)
      return
    }
    const { outcome, errorCode, message } = outcomeOfError(error)
    if (this.#mayResend(errorCode)) this.#resend()
    else this.#endWithoutResponse(outcome, errorCode, message)
  }

  #endByResponse(isWhole: boolean): void {
    const meaning = this.#meaning as ResponseMeaning
    const isCut = !isWhole || (this.#body !== null && isTooLong(this.#body))
    const { body, isCut: isDecodedCut } = decoded(this.#body, this.#encoding)
    const result = () => (isCut || isDecodedCut ? CUT_RESULT : resultOf(body))
    this.#end(
      {
        ...meaning,
        statusCode: this.#statusCode,
        errorCode: null,
        responseBody: shownText(body),
        ...(meaning.outcome === 'succeeded' ? result() : NO_RESULT),
      },
      isWhole,
    )
  }

  #endWithoutResponse(outcome: Outcome, errorCode: string | null, message: string): void {
    const nothing = {
      statusCode: null,
      responseBody: null,
      retryAfterMs: null,
      isGone: false,
      throttlesKey: false,
      ...NO_RESULT,
    }
    this.#end({ outcome, errorCode, message, ...nothing }, false)
  }

  #end(end: Omit<AttemptEnd, 'isSent' | 'isResent' | 'durationMs'>, isReusable: boolean): void {
    const resolve = this.#resolve
    if (resolve === null) return
    this.#resolve = null
    clearTimeout(this.#deadline)
    this.#shared.inFlight.delete(this)
    const connection = this.#connection
    if (connection !== null && isReusable) this.#shared.connections.release(connection)
    else if (connection !== null) this.#shared.connections.destroy(connection)
    resolve({
      ...end,
      isSent: this.#isSent,
      isResent: this.#isResent,
      durationMs: performance.now() - this.#startedAtMs,
    })
  }
}

/**
 * Passes the deadline after a turn: timers run before sockets, so a response that arrived while
 * this thread was busy is read first.
 */
function passDeadline(attempt: AttemptInFlight): void {
  setImmediate(passDeadlineNow, attempt)
}

function passDeadlineNow(attempt: AttemptInFlight): void {
  attempt.passDeadline()
}
