// Requests to the API: the public routes, with the API key of the user.

const KEY_SLOT = 'posthorn-key'
const DEADLINE_MS = 10_000
/** Smaller differences of clocks are ignored, because the Date header has whole seconds. */
const CLOCK_SLACK_MS = 2_000

/** The API refused the request; the message has the reason. */
class Refused extends Error {
  /** @param {number} status @param {{code?: string, detail?: string, errors?: {path: string, message: string}[]}} problem */
  constructor(status, problem) {
    const fields = (problem.errors ?? []).map(({ path, message }) => `${path}: ${message}`)
    super([problem.detail ?? `the response had the status ${status}`, ...fields].join('; '))
    this.status = status
    this.code = problem.code ?? ''
  }
}

/** There was no response, or none that a healthy API would give. */
export class Unreachable extends Error {}

/** The state of the connection, for the whole page. */
export const connection = {
  /** @type {number | null} */
  failingSince: null,
  why: '',
  /** Why the page asks for a key; null: it needs none now. @type {string | null} */
  keyWanted: null,
  /** Milliseconds to add to the clock of this machine to get that of the server. */
  clockOffsetMs: 0,
  /** @type {Set<() => void>} */
  watchers: new Set(),
}

export function now() {
  return Date.now() + connection.clockOffsetMs
}

/** @param {string | null} key null: forgets the stored key */
export function keepKey(key) {
  if (key === null) sessionStorage.removeItem(KEY_SLOT)
  else sessionStorage.setItem(KEY_SLOT, key)
  change({ keyWanted: key === null ? 'This page no longer has the key.' : null })
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
    throw unreachable(
      deadline.aborted ? `no response within ${deadlineMs / 1000} s` : 'no response',
    )
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
  if (status >= 500)
    throw unreachable(problemIn(text).detail ?? `the response had the status ${status}`)
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
    // A proxy may respond with a page of its own.
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
