// The attempts that ended in the last hour, minute by minute: as a chart and as sums.
import { html } from 'htm/preact'
import { ask, now, queryOf } from './api.js'
import { counted, durationMs, span } from './words.js'

const MINUTE_MS = 60_000
const MINUTES = 60
/** The counts are of whole minutes, so more frequent requests would show the same. */
export const STATS_EVERY_MS = 15_000
/** The note beside p50 and p95. */
export const BOUNDS_NOTE = 'from a histogram: the value lies between these bounds'
/** The query of GET /stats. */
export const LAST_HOUR = { window: '1h', by: 'endpoint' }

/** @typedef {{from: string, succeeded: number[], failed: number[], durations: number[]}} Ended */
/** @typedef {{ended: Ended | undefined, durationBounds: string[]}} AttemptCounts ended: absent if nothing has */

/** @param {string} endpoint @param {AbortSignal} signal @returns {Promise<AttemptCounts & {row: any}>} */
export async function readLastHour(endpoint, signal) {
  const query = queryOf({ ...LAST_HOUR, endpoint })
  const { endpoints, durationBounds } = await ask('GET', `stats${query}`, undefined, { signal })
  const [row] = endpoints
  return { ended: row?.ended, durationBounds, row }
}

/** @param {AttemptCounts} counts */
export function sumOf({ ended }) {
  const sum = (/** @type {number[]} */ counts) => counts.reduce((all, count) => all + count, 0)
  return { succeeded: sum(ended?.succeeded ?? []), failed: sum(ended?.failed ?? []) }
}

/**
 * The bounds of this percentile of the durations. A histogram has no more exact value.
 *
 * @param {AttemptCounts} counts @param {number} share
 */
export function within({ ended, durationBounds }, share) {
  const counts = ended?.durations ?? []
  const total = counts.reduce((sum, count) => sum + count, 0)
  if (total === 0) return '–'
  let seen = 0
  const at = counts.findIndex((count) => {
    seen += count
    return seen >= share * total
  })
  const [above, below] = [durationBounds[at - 1], durationBounds[at]].map((bound) =>
    bound === undefined ? undefined : span(durationMs(bound)),
  )
  if (above === undefined) return `≤ ${below}`
  return below === undefined ? `> ${above}` : `${above} – ${below}`
}

/** @type {Ended} */
const NOTHING = { from: '', succeeded: [], failed: [], durations: [] }

/** Succeeded attempts go up and failed ones go down, so that colour is not the only difference. */
export function Sparkline({ counts, tall = false }) {
  const { succeeded, failed } = sumOf(counts)
  const newest = Math.floor(now() / MINUTE_MS)
  const { from, succeeded: ok, failed: bad } = counts.ended ?? NOTHING
  const scale = Math.max(1, ...ok, ...bad)
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
    ${ok.map((count, i) => {
      const minute = Date.parse(from) / MINUTE_MS + i
      const x = (MINUTES - 1 - (newest - minute)) * 4
      const [up, down] = [bar(count), bar(bad[i] ?? 0)]
      if (up + down === 0) return null
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
