// What ended in the last hour, minute by minute: drawn, and added up.
import { html } from 'htm/preact'
import { ask, now, queryOf } from './api.js'
import { counted, durationMs, span } from './words.js'

const MINUTE_MS = 60_000
const MINUTES = 60
/** They are of whole minutes: more often would show the same. */
export const FIGURES_EVERY_MS = 15_000
/** Each look adds up what all endpoints did, so not all rows of a long list look at once. */
const MAX_LOOKS = 3
let lookCount = 0
/** @type {(() => void)[]} */
const waiting = []

/** @typedef {{minutes: {minute: string, succeeded: number, failed: number, durations: number[]}[], durationBounds: string[]}} Figures */

/** @param {string} endpoint @param {AbortSignal} signal @returns {Promise<Figures & {endpoints: object[]}>} */
export async function readFigures(endpoint, signal) {
  if (lookCount >= MAX_LOOKS) await new Promise((resolve) => waiting.push(() => resolve(null)))
  lookCount += 1
  try {
    signal.throwIfAborted()
    return await ask('GET', `stats${queryOf({ window: '1h', endpoint })}`, undefined, { signal })
  } finally {
    lookCount -= 1
    waiting.shift()?.()
  }
}

/** @param {Figures} figures */
export function sumOf({ minutes }) {
  const succeeded = minutes.reduce((sum, minute) => sum + minute.succeeded, 0)
  const failed = minutes.reduce((sum, minute) => sum + minute.failed, 0)
  return { succeeded, failed }
}

/**
 * The bound below which that share of the attempts stayed: as close as a histogram tells.
 *
 * @param {Figures} figures @param {number} share
 */
export function within({ minutes, durationBounds }, share) {
  const counts = durationBounds.map(() => 0).concat(0)
  for (const { durations } of minutes) {
    for (const [i, count] of durations.entries()) counts[i] = (counts[i] ?? 0) + count
  }
  const total = counts.reduce((sum, count) => sum + count, 0)
  if (total === 0) return '–'
  let seen = 0
  const at = counts.findIndex((count) => {
    seen += count
    return seen >= share * total
  })
  const bound = durationBounds[at]
  if (bound !== undefined) return `≤ ${span(durationMs(bound))}`
  return `> ${span(durationMs(durationBounds.at(-1) ?? '0s'))}`
}

/** Succeeded upwards, failed downwards: told by place, not by colour alone. */
export function Sparkline({ figures, tall = false }) {
  const { succeeded, failed } = sumOf(figures)
  const newest = Math.floor(now() / MINUTE_MS)
  const scale = Math.max(1, ...figures.minutes.flatMap((one) => [one.succeeded, one.failed]))
  const label = `Last hour: ${counted(succeeded, 'attempt')} succeeded, ${figureOf(failed)} failed`
  const bar = (count) => (count === 0 ? 0 : Math.max(6, (count / scale) * 50))
  return html`<svg
    class="spark ${tall ? 'tall' : ''}"
    viewBox="0 0 ${MINUTES * 4} 100"
    preserveAspectRatio="none"
    role="img"
    aria-label=${label}
  >
    <title>${label}</title>
    <path class="axis" d="M0 50H${MINUTES * 4}" />
    ${figures.minutes.map(({ minute, succeeded, failed }) => {
      const x = (MINUTES - 1 - (newest - Date.parse(minute) / MINUTE_MS)) * 4
      const [up, down] = [bar(succeeded), bar(failed)]
      return html`<g key=${minute}>
        <rect class="good" x=${x} y=${50 - up} width="3" height=${up} />
        <rect class="bad" x=${x} y="50" width="3" height=${down} />
      </g>`
    })}
  </svg>`
}

/** @param {number} count */
function figureOf(count) {
  return count === 0 ? 'none' : count.toLocaleString('en-GB')
}
