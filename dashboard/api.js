// Requests to the API: the public routes that any script may use, with the reader's own key.

const KEY_SLOT = 'posthorn-key'
const DEADLINE_MS = 10_000
/** A clock that is off by less is left alone: the Date header has no fractions. */
const CLOCK_SLACK_MS = 2_000

/** The API refused, and said why. */
class Refused extends Error {
  /** @param {number} status @param {{code?: string, detail?: string, errors?: {path: string, message: string}[]}} problem */
  constructor(status, problem) {
    const fields = (problem.errors ?? []).map(({ path, message }) => `${path}: ${message}`)
    super([problem.detail ?? `the answer was ${status}`, ...fields].join('; '))
    this.status = status
    this.code = problem.code ?? ''
  }
}

/** No answer came, or none that an API in health would give. */
export class Unreachable extends Error {}

/** What the whole page must know of the connection. */
export const connection = {
  /** @type {number | null} */
  failingSince: null,
  why: '',
  /** Why a key is asked for, or null: none is needed now. @type {string | null} */
  keyWanted: null,
  /** Added to this machine's clock it gives the server's. */
  clockOffsetMs: 0,
  /** @type {Set<() => void>} */
  watchers: new Set(),
}

export function now() {
  return Date.now() + connection.clockOffsetMs
}

/** @param {string | null} key null: the one that is kept is forgotten */
export function keepKey(key) {
  if (key === null) sessionStorage.removeItem(KEY_SLOT)
  else sessionStorage.setItem(KEY_SLOT, key)
  change({ keyWanted: key === null ? 'The key was forgotten on this page.' : null })
}

export function hasKey() {
  return sessionStorage.getItem(KEY_SLOT) !== null
}

/**
 * @typedef {object} Options
 * @property {string} [body]
 * @property {Record<string, string>} [headers]
 * @property {AbortSignal} [signal]
 * @property {number} [deadlineMs]
 */

/**
 * @param {string} method
 * @param {string} path without a leading slash, so that a prefix before /dashboard is kept
 * @param {Options} [options]
 * @returns {Promise<{status: number, etag: string | null, text: string}>}
 */
export async function request(method, path, options = {}) {
  const { body, headers = {}, signal, deadlineMs = DEADLINE_MS } = options
  const key = sessionStorage.getItem(KEY_SLOT)
  const deadline = AbortSignal.timeout(deadlineMs)
  /** @type {{status: number, etag: string | null, text: string}} */
  let answer
  try {
    const response = await fetch(new URL(path, document.baseURI), {
      method,
      cache: 'no-store',
      credentials: 'omit',
      redirect: 'error',
      signal: signal === undefined ? deadline : AbortSignal.any([signal, deadline]),
      headers: {
        ...(body === undefined ? {} : { 'content-type': 'application/json' }),
        ...(key === null ? {} : { authorization: `Bearer ${key}` }),
        ...headers,
      },
      ...(body === undefined ? {} : { body }),
    })
    const { status } = response
    answer = { status, etag: response.headers.get('etag'), text: await response.text() }
    setClock(response.headers.get('date'))
  } catch (error) {
    if (signal?.aborted) throw error
    throw unreachable(deadline.aborted ? `no answer within ${deadlineMs / 1000} s` : 'no answer')
  }
  return judged(answer)
}

/** @param {string} method @param {string} path @param {object} [body] @param {object} [options] */
export async function ask(method, path, body, options = {}) {
  const sent = body === undefined ? options : { ...options, body: JSON.stringify(body) }
  const { text } = await request(method, path, sent)
  return text === '' ? null : JSON.parse(text)
}

/** @param {Record<string, string | number | boolean | null | undefined | string[]>} fields */
export function queryOf(fields) {
  const query = new URLSearchParams()
  for (const [name, value] of Object.entries(fields)) {
    for (const one of [value].flat()) if (one != null && one !== '') query.append(name, String(one))
  }
  const text = query.toString()
  return text === '' ? '' : `?${text}`
}

/** @param {{status: number, etag: string | null, text: string}} answer */
function judged(answer) {
  const { status, text } = answer
  if (status >= 500) throw unreachable(problemIn(text).detail ?? `the answer was ${status}`)
  if (connection.failingSince !== null) change({ failingSince: null, why: '' })
  if (status < 400) return answer
  const refusal = new Refused(status, problemIn(text))
  if (status === 401) change({ keyWanted: hasKey() ? 'The API does not know this key.' : '' })
  throw refusal
}

/** @param {string} text */
function problemIn(text) {
  try {
    return JSON.parse(text)
  } catch {
    // A proxy in between answers with a page of its own.
    return {}
  }
}

/** @param {string} why */
function unreachable(why) {
  change({ failingSince: connection.failingSince ?? Date.now(), why })
  return new Unreachable(why)
}

/** @param {string | null} date */
function setClock(date) {
  const offset = Date.parse(date ?? '') - Date.now()
  connection.clockOffsetMs = Math.abs(offset) > CLOCK_SLACK_MS ? offset : 0
}

/** @param {object} fields */
function change(fields) {
  Object.assign(connection, fields)
  for (const watcher of connection.watchers) watcher()
}
