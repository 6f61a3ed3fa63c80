// Sends one attempt over HTTP and says how it ended. A bad receiver is an outcome, never an error.
import type { Socket } from 'node:net'
import type { Dispatcher } from 'undici'
import type { StatusChoices } from '../endpoint/endpoint.ts'
import { formatDuration } from '../job/duration.ts'
import type { Outcome } from '../job/job.ts'
import type { AddressPolicy } from './address-policy.ts'
import { type Connection, type Connections, createConnections } from './connections.ts'
import { createDial, createResolver, type Resolve, secureContextWith } from './dial.ts'
import {
  type AnswerMeaning,
  invalidStatus,
  isClosedByReceiver,
  outcomeOfAnswer,
  outcomeOfError,
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
  /** null: no answer came. */
  statusCode: number | null
  /** What exactly went wrong when no answer came, like ECONNREFUSED. */
  errorCode: string | null
  /** One sentence. */
  message: string
  /** The first 4 KiB as text, what is not UTF-8 replaced. */
  responseBody: string | null
  /** Of a succeeded attempt: JSON text exactly as answered, else `{"text": …}`. */
  result: string | null
  /** The result was cut off or over 64 KiB, and is not kept. */
  resultTruncated: boolean
  /** What Retry-After named, in milliseconds from the answer; null: nothing usable. */
  retryAfterMs: number | null
  /** The endpoint answered that it will not take anything any more. */
  isGone: boolean
  /** false: no byte of the request has left. */
  isSent: boolean
  /** The connection was a kept one and died unanswered; the request was sent again on a new one. */
  isResent: boolean
  /** Monotonic. */
  durationMs: number
}

/** Why an attempt is ended from within. */
export type AbortOutcome = Extract<Outcome, 'interrupted' | 'cancelled' | 'lost'>

export interface Sending {
  /** Never rejects. */
  ended: Promise<AttemptEnd>
  /**
   * Ends the attempt now. An answer whose status has come still counts when the worker is merely
   * stopping; it is discarded when the job was cancelled or lost.
   */
  abort(outcome: AbortOutcome): void
}

export interface Sender {
  /**
   * @param timeoutMs the total deadline: name lookup, connection, TLS, headers, body together
   * @param mayLeave asked each time the connection is ready, in the same turn in which the request
   *   is written; false ends the attempt as lost. Absent: always true
   */
  send(request: WebhookRequest, timeoutMs: number, mayLeave?: () => boolean): Sending
  /** Ends what is in flight as interrupted; resolves when all connections are closed. */
  close(): Promise<void>
}

export interface SenderParts {
  /** As many connections are kept for reuse; in flight there are as many as the caller sends. */
  connections: number
  /** Asked at each connect and each reuse: it may change, and ends what it no longer allows. */
  policy: () => AddressPolicy
  /** PEM: roots beside the default ones. */
  extraCaCerts: string | null
  /** Epoch milliseconds, for a Retry-After that is a date. */
  now?: () => number
  /** Asked once for each connection to a name; absent: the system. */
  resolve?: Resolve
}

/** @throws Error when `extraCaCerts` holds no certificate */
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
 * Interim answers are few and small. Reading them at full speed one receiver kept the whole process
 * busy, and an attempt elsewhere took a second. What is read at once may hold the answer too: hence
 * twice the 64 KiB that a socket reads at most.
 */
const MAX_INTERIM_BYTES = 128 * 1_024

/**
 * A receiver that closes kept connections does so before it reads the request, and the sender
 * notices at once. A connection that dies later has another cause, and the timestamp of the
 * signature would be too old to be accepted (Standard Webhooks: five minutes).
 */
const RESEND_WITHIN_MS = 60_000

const LATE_MESSAGE = 'the lease ended before the request could be sent'

const ABORT_MESSAGES: Record<AbortOutcome, string> = {
  interrupted: 'the worker was stopped before the endpoint had answered',
  cancelled: 'the job was cancelled before the endpoint had answered',
  lost: 'the lease was lost before the endpoint had answered',
}

interface SplitUrl {
  origin: string
  /** With the query. */
  path: string
}

/** URLs kept split; splitting one costs a tenth of a whole attempt. */
const MAX_SPLIT_URLS = 1_000

/** null: it is no absolute URL. */
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

/** What all attempts of a sender share. */
interface Shared {
  connections: Connections
  split: (url: string) => SplitUrl | null
  inFlight: Set<AttemptInFlight>
  now: () => number
}

/** From its start to its one end, whichever comes first: answer, error, deadline, abort. */
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
  /** What was connected before this request; null: nothing. */
  #keptSocket: Socket | null = null
  /** The request is on its way on a connection that was used before. */
  #isOnKeptSocket = false
  #isSent = false
  #isResent = false
  #hasAnswerBegun = false
  /** What the connection had read before this request. */
  #bytesReadBefore = 0
  #statusCode: number | null = null
  #meaning: AnswerMeaning | null = null
  #body: ResponseBody | null = null
  /** Of the body, by the header of the answer. */
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
      this.#endWithoutAnswer('blocked', 'ERR_INVALID_URL', 'the URL of the endpoint is not a URL')
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

  /** RFC 9110, section 9.2.2: the receiver may have closed it before it saw the request. */
  #mayResend(errorCode: string): boolean {
    return (
      this.#isOnKeptSocket &&
      !this.#hasAnswerBegun &&
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
    if (outcome === 'interrupted' && this.#meaning !== null) this.#endByAnswer(false)
    else this.#endWithoutAnswer(outcome, null, ABORT_MESSAGES[outcome])
  }

  passDeadline(): void {
    if (this.#meaning !== null) {
      this.#endByAnswer(false)
      return
    }
    const missing = this.#isSent ? 'answer' : 'connection'
    this.#endWithoutAnswer(
      'timeout',
      null,
      `no ${missing} within ${formatDuration(this.#timeoutMs)}`,
    )
  }

  /**
   * The connection is ready, and undici writes the request in this same turn. Nothing may come
   * between this look and the write: after a freeze of the process sockets run before timers.
   */
  onRequestStart(controller: Dispatcher.DispatchController): void {
    if (!this.#mayLeave()) {
      this.#endWithoutAnswer('lost', null, LATE_MESSAGE)
      controller.abort(new Error(LATE_MESSAGE))
      return
    }
    const connection = this.#connection as Connection
    this.#isSent = true
    this.#isOnKeptSocket = this.#keptSocket !== null && this.#keptSocket === connection.socket
    this.#bytesReadBefore = this.#bytesRead()
    connection.answers?.expectAnswer()
  }

  onResponseStarted(): void {
    this.#hasAnswerBegun = true
  }

  onResponseStart(
    _controller: Dispatcher.DispatchController,
    statusCode: number,
    headers: Record<string, string | string[] | undefined>,
  ): void {
    if (statusCode < 100) {
      this.#endWithoutAnswer('protocol_error', 'INVALID_STATUS', invalidStatus(statusCode))
      return
    }
    if (statusCode < 200) {
      this.#passInterim()
      return
    }
    this.#statusCode = statusCode
    const encoding = headers['content-encoding']
    this.#encoding = typeof encoding === 'string' ? encoding : undefined
    this.#meaning = outcomeOfAnswer(statusCode, headers, this.#shared.now(), this.#statuses)
  }

  /** An interim answer says nothing yet, and however many come, the deadline stands. */
  #passInterim(): void {
    if (this.#bytesRead() - this.#bytesReadBefore <= MAX_INTERIM_BYTES) return
    this.#endWithoutAnswer(
      'protocol_error',
      'INTERIM_ANSWERS_OVERFLOW',
      'interim answers of more than 128 KiB came, and no answer',
    )
  }

  #bytesRead(): number {
    return this.#connection?.socket?.bytesRead ?? 0
  }

  onResponseData(_controller: Dispatcher.DispatchController, chunk: Buffer): void {
    this.#body = withChunk(this.#body, chunk)
    if (isTooLong(this.#body)) this.#endByAnswer(false)
  }

  onResponseEnd(): void {
    this.#endByAnswer(true)
  }

  onResponseError(_controller: Dispatcher.DispatchController | null, error: Error): void {
    // The end itself destroyed the connection: the receiver did not close it.
    if (this.#resolve === null) return
    // Once the status has come the answer stands, whatever becomes of its body: a retry of what
    // succeeded would apply it twice.
    if (this.#meaning !== null) {
      this.#endByAnswer(false)
      return
    }
    const { outcome, errorCode, message } = outcomeOfError(error)
    if (this.#mayResend(errorCode)) this.#resend()
    else this.#endWithoutAnswer(outcome, errorCode, message)
  }

  #endByAnswer(isWhole: boolean): void {
    const meaning = this.#meaning as AnswerMeaning
    const isCut = !isWhole || (this.#body !== null && isTooLong(this.#body))
    const answer = decoded(this.#body, this.#encoding)
    const result = () => (isCut || answer.isCut ? CUT_RESULT : resultOf(answer.body))
    this.#end(
      {
        ...meaning,
        statusCode: this.#statusCode,
        errorCode: null,
        responseBody: shownText(answer.body),
        ...(meaning.outcome === 'succeeded' ? result() : NO_RESULT),
      },
      isWhole,
    )
  }

  #endWithoutAnswer(outcome: Outcome, errorCode: string | null, message: string): void {
    const nothing = {
      statusCode: null,
      responseBody: null,
      retryAfterMs: null,
      isGone: false,
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

/** Timers run before sockets: what came while this thread was busy is read first. */
function passDeadline(attempt: AttemptInFlight): void {
  setImmediate(passDeadlineNow, attempt)
}

function passDeadlineNow(attempt: AttemptInFlight): void {
  attempt.passDeadline()
}
