// The problems at the top of the overview: what is wrong, since when, and why. There are none when
// all is well.
import { ask, now, queryOf } from './api.js'
import { counted, durationMs, figure, span } from './words.js'

/** A due job may wait for a free slot for a moment; a longer wait is a problem. */
const LATE_MS = 60_000
/** Fewer failures may be chance. */
const MIN_FAILED = 5
const MAX_EXPLAINED = 5
/** How many of the newest queued jobs are searched for a due one. */
const LOOKED_AT = 100
/** At most this many of them are explained for each endpoint. */
const MAX_ASKED = 20
/** Reasons that say nothing about the other jobs of the endpoint. */
const OF_ONE_JOB = new Set([
  'waiting_for_dependencies',
  'behind_ordering_key',
  'not_due',
  'running',
  'final',
])

/** @typedef {{name: string, state: string, queued: number, due: number, running: number, dead: number, more?: true, oldestDueAge: string | null}} Row */
/** @typedef {{key: string, endpoint: string | null, text: string, why: string}} Problem */

/** @param {Row} row */
export function lateMs({ oldestDueAge }) {
  return oldestDueAge === null ? 0 : durationMs(oldestDueAge)
}

/** @param {Row} row */
export function isStuck(row) {
  return row.due > 0 && (row.state !== 'active' || lateMs(row) >= LATE_MS)
}

/**
 * The state to show: an active endpoint can still have failures.
 *
 * @param {string} state @param {{succeeded: number, failed: number}} lastHour
 */
export function shownState(state, { succeeded, failed }) {
  const isFailing = state === 'active' && failed > succeeded
  return isFailing ? { state: 'failing', text: 'active, failing' } : { state }
}

/**
 * @param {{liveWorkers: number, endpoints: Row[]}} stats
 * @param {{id: string, seenAt: string, isLive: boolean, hasEncryptionKey: boolean}[]} workers
 * @param {Map<string, {succeeded: number, failed: number}>} lastHour of the endpoints whose counts
 * were read
 * @param {Map<string, string>} whys the explanation of a due job of each endpoint
 * @returns {Problem[]}
 */
export function problemsIn(stats, workers, lastHour, whys) {
  /** @type {Problem[]} */
  const problems = []
  const keyless = workers.filter(({ isLive, hasEncryptionKey }) => isLive && !hasEncryptionKey)
  if (stats.liveWorkers === 0 && keyless.length === 0) {
    const [last] = workers
      .map(({ seenAt }) => seenAt)
      .sort()
      .reverse()
    const why = last === undefined ? 'none was seen in the last hour' : `last seen ${last}`
    problems.push({ key: '', endpoint: null, text: 'No live worker: nothing is delivered', why })
  }
  if (keyless.length > 0) {
    const text = `${counted(keyless.length, 'live worker')} without the encryption key: nothing is delivered there`
    const why = `ENCRYPTION_KEY is not that of the API at ${keyless.map(({ id }) => id).join(', ')}`
    problems.push({ key: '/key', endpoint: null, text, why })
  }
  // Endpoints that have waited longest come first.
  for (const row of stats.endpoints.toSorted((a, b) => lateMs(b) - lateMs(a))) {
    const { name, state, due, more } = row
    const parts = []
    if (isStuck(row)) {
      parts.push(`${figure(due, more)} due`)
      if (lateMs(row) > 0) parts.push(`oldest ${span(lateMs(row))}`)
    }
    if (state === 'disabled' || (state !== 'active' && parts.length > 0)) parts.push(state)
    const { succeeded = 0, failed = 0 } = lastHour.get(name) ?? {}
    if (failed >= MIN_FAILED && failed > succeeded) {
      parts.push(`${figure(failed)} of ${counted(failed + succeeded, 'attempt')} failed in an hour`)
    }
    if (parts.length === 0) continue
    problems.push({ key: name, endpoint: name, text: parts.join(', '), why: whys.get(name) ?? '' })
  }
  return problems
}

/**
 * Asks the API why endpoints are stuck, the most delayed first.
 *
 * @param {Row[]} rows @param {AbortSignal} signal
 */
export async function explainStuck(rows, signal) {
  const stuck = rows
    .filter(isStuck)
    .sort((a, b) => lateMs(b) - lateMs(a))
    .slice(0, MAX_EXPLAINED)
  /** @type {Map<string, string>} */
  const whys = new Map()
  const found = await Promise.all(stuck.map((row) => whyStuck(row, signal)))
  for (const [i, why] of found.entries()) if (why !== null) whys.set(stuck[i]?.name ?? '', why)
  return whys
}

/** @typedef {{id: string, dueAt: string | null, expiresAt: string | null}} Queued */

/**
 * Why the due jobs do not start. Jobs that wait for other jobs do not count.
 *
 * @param {Row} row @param {AbortSignal} signal
 * @returns {Promise<string | null>}
 */
async function whyStuck(row, signal) {
  // The oldest due job was created before this instant, so newer ones are not searched: they may
  // all be due later.
  const createdBefore = new Date(now() - lateMs(row) + 1_000).toISOString()
  const query = queryOf({ endpoint: row.name, state: 'queued', createdBefore, limit: LOOKED_AT })
  /** @type {{items: Queued[]}} */
  const { items } = await ask('GET', `jobs${query}`, undefined, { signal })
  let asked = 0
  for (const { id, dueAt, expiresAt } of items.toReversed()) {
    const isOver = expiresAt !== null && Date.parse(expiresAt) <= now()
    if (dueAt === null || Date.parse(dueAt) > now() || isOver) continue
    if (asked++ === MAX_ASKED) break
    const found = await explained(id, signal)
    if (found !== null && !OF_ONE_JOB.has(found.reason)) return found.detail
  }
  return `none of the newest ${LOOKED_AT} queued jobs of that age is due`
}

/**
 * Returns null if the job was deleted after it was listed.
 *
 * @param {string} id @param {AbortSignal} signal
 * @returns {Promise<{reason: string, detail: string} | null>}
 */
async function explained(id, signal) {
  try {
    return await ask('GET', `jobs/${id}/explain`, undefined, { signal })
  } catch (error) {
    if (/** @type {{status?: number}} */ (error).status !== 404) throw error
    return null
  }
}
