// What is wrong, since when and why: the lines at the top of the overview. None when all is well.
import { ask, now, queryOf } from './api.js'
import { counted, durationMs, figure, span } from './words.js'

/** A due job waits for a free slot now and then; this long is more than that. */
const LATE_MS = 60_000
/** So few failures may be chance. */
const MIN_FAILED = 5
const MAX_EXPLAINED = 5
/** Of the newest jobs that may be due, among which one that is due is looked for. */
const LOOKED_AT = 100
/** Of those, so many at most are asked about for each endpoint. */
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
 * The state as it is shown: that an endpoint is active does not make it well.
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
 * @param {Map<string, {succeeded: number, failed: number}>} lastHour of those that were looked at
 * @param {Map<string, string>} whys what the API says of a due job of the endpoint
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
  // Those that have waited longest come first.
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
 * Asks the API why the endpoints that are stuck are so, the latest first.
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
 * What holds back the jobs that are due: none of those that wait for other jobs.
 *
 * @param {Row} row @param {AbortSignal} signal
 * @returns {Promise<string | null>}
 */
async function whyStuck(row, signal) {
  // The job that is due longest was made before then: newer ones, which may all wait for a later
  // time, are not looked at.
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
 * null: it is gone since it was listed.
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
