// One call of the API: sent, repeated where a repeat does no harm, and its answer read or thrown.
import { setTimeout as sleep } from 'node:timers/promises'
import { ANYTHING, type Check, DELETING } from './answer-check.ts'
import { givenObject, notNull } from './given.ts'
import { PosthornError, type PosthornErrorCode } from './posthorn-error.ts'
import { readBytes } from './read-bytes.ts'
import { noAnswer, quoted, refusal, unexpected } from './refusal.ts'
import { baseUrl } from './request-path.ts'

export interface ClientOptions {
  /** Where the API is, like `https://jobs.example.com`; a path before its routes is kept. */
  url: string | URL
  /** The API key; none in local mode. */
  key?: string | undefined
  /** For each try of a call, beside what the call itself asks the server to wait; 10 s. */
  timeoutMs?: number | undefined
  /** How often a call that may be repeated is sent at most; 4. */
  maxTries?: number | undefined
  /** Instead of the global fetch. */
  fetch?: typeof fetch | undefined
}

export interface RequestOptions {
  signal?: AbortSignal | undefined
}

export interface Request {
  method: 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE'
  /** From the first slash, its query with it. */
  path: string
  /** JSON text. */
  body?: string
  headers?: Record<string, string>
  /** Of an attempt: sent instead of the API key. */
  token?: string
  /** Whether a repeat does no harm. */
  repeatable: boolean
  /** Of a removal: a repeat that is refused with this code shows that an earlier try has done it. */
  goneCode?: PosthornErrorCode
  /** How long the server may wait before it answers. */
  serverWaitMs?: number
  /** Repeated until this instant of performance.now(), instead of maxTries times. */
  untilMs?: number
  signal?: AbortSignal | undefined
}

/** Each throws PosthornError, or the reason of the signal that was aborted. */
export interface Call {
  /** The value of an answer that holds what the check asks for. */
  json<T>(request: Request, check: Check): Promise<T>
  /** The same, as the bytes that came: JSON.parse would change big integers. */
  raw(request: Request, check: Check): Promise<Uint8Array>
  /** Of a removal: there is nothing to read. */
  nothing(request: Request): Promise<void>
}

interface Answered {
  status: number
  body: Uint8Array
  /** Whether it has the header that every answer of Posthorn has. */
  hasRequestId: boolean
}

const DEFAULT_TIMEOUT_MS = 10_000
const DEFAULT_MAX_TRIES = 4
const FIRST_PAUSE_MS = 200
const MAX_PAUSE_MS = 5_000
/** Whoever asks for more patience is not waited for: the caller is told instead. */
const MAX_RETRY_AFTER_MS = 30_000
/** A claim brings 64 MiB of payloads at most. */
const MAX_ANSWER_BYTES = 128 * 1_048_576
/** 503 is Posthorn's own; the others are said by what stands before it. */
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

  /** One try. */
  async function attempt(request: Request): Promise<Answered | PosthornError> {
    const deadline = AbortSignal.timeout(
      Math.ceil(Math.min(timeoutMs + (request.serverWaitMs ?? 0), MAX_TIMER_MS)),
    )
    const { signal } = request
    // Outside the try: what is wrong here is the caller's mistake, not the connection's.
    const init: RequestInit = {
      method: request.method,
      headers: headersOf(request, key),
      redirect: 'manual',
      signal: signal === undefined ? deadline : AbortSignal.any([signal, deadline]),
      ...(request.body === undefined ? {} : { body: request.body }),
    }
    let answer: Response
    let body: Uint8Array | null
    try {
      answer = await send(base + request.path, init)
      body = await bodyOf(answer)
    } catch (error) {
      signal?.throwIfAborted()
      return noAnswer(request, error, deadline.aborted)
    }
    const { status } = answer
    if (body === null) return unexpected(request, status, `more than ${MAX_ANSWER_BYTES} bytes`)
    const hasRequestId = answer.headers.has('x-request-id')
    return answer.ok ? { status, body, hasRequestId } : refusal(request, answer, body)
  }

  async function answered(request: Request): Promise<Answered> {
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
    const answer = await answered(request)
    return { value: checkedValue(request, answer, check), body: answer.body }
  }

  return {
    json: async <T>(request: Request, check: Check) => (await checked(request, check)).value as T,
    raw: async (request, check) => (await checked(request, check)).body,
    async nothing(request) {
      checkRemoval(request, await answered(request))
    },
  }
}

const GONE: Answered = { status: 204, body: new Uint8Array(), hasRequestId: true }

/** A page of a proxy, or a 404 of another kind, says nothing about what is stored. */
function isGone({ status, code }: PosthornError, goneCode: string | undefined): boolean {
  return status === 404 && code === goneCode
}

/** What any server may answer, a 204 or a payload, is of Posthorn only with this header. */
function withoutRequestId(request: Request, { status, body }: Answered): PosthornError {
  return unexpected(request, status, `the header X-Request-Id is missing: ${quoted(body)}`)
}

function checkRemoval(request: Request, answer: Answered): void {
  const { status, body, hasRequestId } = answer
  // 202: an endpoint whose jobs become dead first.
  if (status === 202) checkedValue(request, answer, DELETING)
  else if (status !== 204) throw unexpected(request, status, quoted(body))
  else if (!hasRequestId) throw withoutRequestId(request, answer)
}

function checkedValue(request: Request, answer: Answered, check: Check): unknown {
  const { status, body } = answer
  if (check === ANYTHING && !answer.hasRequestId) {
    throw withoutRequestId(request, answer)
  }
  let value: unknown
  try {
    value = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(body))
  } catch (error) {
    throw unexpected(request, status, quoted(body), error)
  }
  const problem = check(value, '')
  if (problem === null) return value
  const what = problem === '' ? 'the answer' : `the field ${problem}`
  throw unexpected(request, status, `${what} is missing or of another kind: ${quoted(body)}`)
}

/** Node's own, unless the program has set another. */
const NODE_ADDRESS_MS = 250
const ADDRESS_MS = 2_500

/**
 * Node tries the addresses of a name one after the other and gives up each after 250 ms, so a
 * server further away than that with IPv4 and IPv6 addresses is never reached from a network that
 * has only one of them. The global fetch takes this time from a default of the process.
 */
function waitForFarServers(): void {
  const net = globalThis.process?.getBuiltinModule?.('node:net')
  if (net?.getDefaultAutoSelectFamilyAttemptTimeout() !== NODE_ADDRESS_MS) return
  net.setDefaultAutoSelectFamilyAttemptTimeout(ADDRESS_MS)
}

/** Lets time pass; an aborted signal ends it with its reason. */
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
  // The key itself is never printed.
  throw new TypeError('key is no text, is empty, or holds a space or what is not visible ASCII')
}

function headersOf(request: Request, key: string | undefined): Headers {
  const headers = new Headers(request.headers)
  headers.set('accept', 'application/json')
  if (request.body !== undefined) headers.set('content-type', 'application/json')
  const bearer = request.token ?? key
  if (bearer !== undefined) headers.set('authorization', `Bearer ${bearer}`)
  return headers
}

async function bodyOf(answer: Response): Promise<Uint8Array | null> {
  return answer.body === null ? new Uint8Array() : readBytes(answer.body, MAX_ANSWER_BYTES)
}

function isPassing(error: PosthornError): boolean {
  if (error.status !== null) return PASSING_STATUSES.includes(error.status)
  return error.code === 'connection_failed' || error.code === 'timeout'
}

/**
 * The longer of our own pause and the one that was asked for, spread at random, so that clients
 * that failed together do not come back together.
 */
function pauseBeforeMs(tries: number, retryAfterMs: number | null): number {
  const backoffMs = Math.min(FIRST_PAUSE_MS * 2 ** (tries - 1), MAX_PAUSE_MS)
  const spread = Math.random()
  const ownMs = backoffMs * (0.5 + spread / 2)
  return retryAfterMs === null ? ownMs : Math.max(ownMs, retryAfterMs + spread * backoffMs)
}
