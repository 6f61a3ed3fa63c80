// One call of the API: sends the request, retries it where a repeat is harmless, and returns the
// checked response or throws.
import { setTimeout as sleep } from 'node:timers/promises'
import { givenObject, notNull } from './given.ts'
import { PosthornError, type PosthornErrorCode } from './posthorn-error.ts'
import { readBytes } from './read-bytes.ts'
import { noResponse, quoted, refusal, unexpected } from './refusal.ts'
import { baseUrl } from './request-path.ts'
import { ANYTHING, type Check, DELETING } from './response-check.ts'

export interface ClientOptions {
  /** Base URL of the API, for example `https://jobs.example.com`. A path prefix is kept. */
  url: string | URL
  /** The API key. Not needed in local mode. */
  key?: string | undefined
  /**
   * Timeout of each try of a call, in addition to the time that the call asks the server to wait.
   * Default: 10 s.
   */
  timeoutMs?: number | undefined
  /** The most tries of a call that may be repeated. Default: 4. */
  maxTries?: number | undefined
  /** Replaces the global fetch. */
  fetch?: typeof fetch | undefined
}

export interface RequestOptions {
  signal?: AbortSignal | undefined
}

export interface Request {
  method: 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE'
  /** Path with its leading slash, and the query. */
  path: string
  /** JSON text. */
  body?: string
  headers?: Record<string, string>
  /** The token of an attempt, sent instead of the API key. */
  token?: string
  /** Whether a repeat is harmless, so that the call may be retried. */
  repeatable: boolean
  /**
   * Set for a removal: if a repeat is refused with this code, an earlier try has removed the
   * record.
   */
  goneCode?: PosthornErrorCode
  /** How long the server may wait before it responds. */
  serverWaitMs?: number
  /** Retry until this instant of performance.now(), instead of maxTries times. */
  untilMs?: number
  signal?: AbortSignal | undefined
}

/** Each method throws PosthornError, or the reason of the aborted signal. */
export interface Call {
  /** The value of a response that passes the check. */
  json<T>(request: Request, check: Check): Promise<T>
  /** Like json, but returns the bytes as received: JSON.parse would change big integers. */
  raw(request: Request, check: Check): Promise<Uint8Array>
  /** Sends a removal, whose response has no value. */
  nothing(request: Request): Promise<void>
}

interface Responded {
  status: number
  body: Uint8Array
  /** Whether the response has the header X-Request-Id, which every response of Posthorn has. */
  hasRequestId: boolean
}

const DEFAULT_TIMEOUT_MS = 10_000
const DEFAULT_MAX_TRIES = 4
const FIRST_PAUSE_MS = 200
const MAX_PAUSE_MS = 5_000
/** The client does not wait for a longer Retry-After: the call throws, and the program decides. */
const MAX_RETRY_AFTER_MS = 30_000
/** A claim returns at most 64 MiB of payloads; the rest is room for the other fields. */
const MAX_RESPONSE_BYTES = 128 * 1_048_576
/** Posthorn itself responds with 503, a proxy in front of it with any of them. */
const PASSING_STATUSES = [502, 503, 504]
/** The longest delay of a timer in Node. */
const MAX_TIMER_MS = 2 ** 31 - 1

export function createCall(options: ClientOptions): Call {
  for (const [name, value] of Object.entries(givenObject('options', options))) notNull(name, value)
  const base = baseUrl(options.url)
  const timeoutMs = positive('timeoutMs', options.timeoutMs ?? DEFAULT_TIMEOUT_MS)
  const maxTries = positive('maxTries', options.maxTries ?? DEFAULT_MAX_TRIES)
  const send = options.fetch ?? fetch
  if (typeof send !== 'function') throw new TypeError('fetch is not a function')
  if (options.fetch === undefined) waitForFarServers()
  const key = checkedKey(options.key)

  async function attempt(request: Request): Promise<Responded | PosthornError> {
    const deadline = AbortSignal.timeout(
      Math.ceil(Math.min(timeoutMs + (request.serverWaitMs ?? 0), MAX_TIMER_MS)),
    )
    const { signal } = request
    // Built outside the try block: an error here is a mistake in the arguments, not a failed
    // connection.
    const init: RequestInit = {
      method: request.method,
      headers: headersOf(request, key),
      redirect: 'manual',
      signal: signal === undefined ? deadline : AbortSignal.any([signal, deadline]),
      ...(request.body === undefined ? {} : { body: request.body }),
    }
    let response: Response
    let body: Uint8Array | null
    try {
      response = await send(base + request.path, init)
      body = await bodyOf(response)
    } catch (error) {
      signal?.throwIfAborted()
      return noResponse(request, error, deadline.aborted)
    }
    const { status } = response
    if (body === null) return unexpected(request, status, `more than ${MAX_RESPONSE_BYTES} bytes`)
    const hasRequestId = response.headers.has('x-request-id')
    return response.ok ? { status, body, hasRequestId } : refusal(request, response, body)
  }

  async function responded(request: Request): Promise<Responded> {
    checkedSignal(request.signal)?.throwIfAborted()
    for (let tries = 1; ; tries++) {
      const outcome = await attempt(request)
      if (!(outcome instanceof PosthornError)) return outcome
      if (tries > 1 && isGone(outcome, request.goneCode)) return GONE
      if (!request.repeatable || !isPassing(outcome)) throw outcome
      if (request.untilMs === undefined && tries >= maxTries) throw outcome
      const pauseMs = pauseBeforeMs(tries, outcome.retryAfterMs)
      const limitMs = request.untilMs === undefined ? Infinity : request.untilMs - performance.now()
      if (pauseMs > limitMs || (outcome.retryAfterMs ?? 0) > MAX_RETRY_AFTER_MS) throw outcome
      await pause(pauseMs, request.signal)
    }
  }

  async function checked(request: Request, check: Check) {
    const response = await responded(request)
    return { value: checkedValue(request, response, check), body: response.body }
  }

  return {
    json: async <T>(request: Request, check: Check) => (await checked(request, check)).value as T,
    raw: async (request, check) => (await checked(request, check)).body,
    async nothing(request) {
      checkRemoval(request, await responded(request))
    },
  }
}

const GONE: Responded = { status: 204, body: new Uint8Array(), hasRequestId: true }

/**
 * Accepts only a 404 with the expected code: another 404, or the page of a proxy, does not show
 * that the record is gone.
 */
function isGone({ status, code }: PosthornError, goneCode: string | undefined): boolean {
  return status === 404 && code === goneCode
}

/**
 * The error for a response without the header X-Request-Id. Any server may respond with a 204 or
 * with JSON, so only this header shows that the response comes from Posthorn.
 */
function withoutRequestId(request: Request, { status, body }: Responded): PosthornError {
  return unexpected(request, status, `the header X-Request-Id is missing: ${quoted(body)}`)
}

function checkRemoval(request: Request, response: Responded): void {
  const { status, body, hasRequestId } = response
  // A 202 means that the endpoint will be deleted after its jobs have become dead.
  if (status === 202) checkedValue(request, response, DELETING)
  else if (status !== 204) throw unexpected(request, status, quoted(body))
  else if (!hasRequestId) throw withoutRequestId(request, response)
}

function checkedValue(request: Request, response: Responded, check: Check): unknown {
  const { status, body } = response
  if (check === ANYTHING && !response.hasRequestId) {
    throw withoutRequestId(request, response)
  }
  let value: unknown
  try {
    value = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(body))
  } catch (error) {
    throw unexpected(request, status, quoted(body), error)
  }
  const problem = check(value, '')
  if (problem === null) return value
  const what = problem === '' ? 'the response' : `the field ${problem}`
  throw unexpected(request, status, `${what} is missing or has the wrong type: ${quoted(body)}`)
}

/** Node's default. Another value was set by the program and is left alone. */
const NODE_ADDRESS_MS = 250
const ADDRESS_MS = 2_500

/**
 * Node tries the addresses of a host name one after the other and gives up each after 250 ms. A
 * server with IPv4 and IPv6 addresses and a longer round trip is therefore never reached from a
 * network that supports only one of them. The global fetch takes this timeout from a default of the
 * process.
 */
function waitForFarServers(): void {
  const net = globalThis.process?.getBuiltinModule?.('node:net')
  if (net?.getDefaultAutoSelectFamilyAttemptTimeout() !== NODE_ADDRESS_MS) return
  net.setDefaultAutoSelectFamilyAttemptTimeout(ADDRESS_MS)
}

/** Waits. If the signal is aborted, throws its reason. */
export async function pause(pauseMs: number, signal: AbortSignal | undefined): Promise<void> {
  try {
    await sleep(pauseMs, undefined, signal === undefined ? {} : { signal })
  } catch (error) {
    signal?.throwIfAborted()
    throw error
  }
}

function positive(name: string, value: number): number {
  if (typeof value === 'number' && value > 0 && value <= MAX_TIMER_MS) return value
  const found = typeof value === 'number' ? value : `a ${typeof value}`
  throw new TypeError(`${name} must be a number above 0, at most ${MAX_TIMER_MS}, not ${found}`)
}

function checkedSignal(signal: AbortSignal | undefined): AbortSignal | undefined {
  if (notNull('signal', signal) === undefined) return undefined
  if (typeof signal?.throwIfAborted === 'function') return signal
  throw new TypeError('signal is not an AbortSignal')
}

function checkedKey(key: string | undefined): string | undefined {
  if (key === undefined) return key
  if (typeof key === 'string' && /^[\x21-\x7e]+$/.test(key)) return key
  // The message must not contain the key.
  throw new TypeError('key must be a string of visible ASCII characters without spaces')
}

function headersOf(request: Request, key: string | undefined): Headers {
  const headers = new Headers(request.headers)
  headers.set('accept', 'application/json')
  if (request.body !== undefined) headers.set('content-type', 'application/json')
  const bearer = request.token ?? key
  if (bearer !== undefined) headers.set('authorization', `Bearer ${bearer}`)
  return headers
}

async function bodyOf(response: Response): Promise<Uint8Array | null> {
  return response.body === null ? new Uint8Array() : readBytes(response.body, MAX_RESPONSE_BYTES)
}

function isPassing(error: PosthornError): boolean {
  if (error.status !== null) return PASSING_STATUSES.includes(error.status)
  return error.code === 'connection_failed' || error.code === 'timeout'
}

/**
 * The longer of the exponential back-off and Retry-After, with jitter, so that clients that failed
 * together do not retry together.
 */
function pauseBeforeMs(tries: number, retryAfterMs: number | null): number {
  const backoffMs = Math.min(FIRST_PAUSE_MS * 2 ** (tries - 1), MAX_PAUSE_MS)
  const spread = Math.random()
  const ownMs = backoffMs * (0.5 + spread / 2)
  return retryAfterMs === null ? ownMs : Math.max(ownMs, retryAfterMs + spread * backoffMs)
}
