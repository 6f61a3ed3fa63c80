// Durations as the API writes them ("500ms", "15s", "1h30m", "7d"); all other code uses
// milliseconds.

const UNITS = [
  ['d', 86_400_000],
  ['h', 3_600_000],
  ['m', 60_000],
  ['s', 1_000],
  ['ms', 1],
] as const

const SHAPE = /^(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+)s)?(?:(\d+)ms)?$/

/** The longest text that is parsed. The longest canonical text is far shorter. */
const MAX_LENGTH = 40

/**
 * Milliseconds of a duration text, or null if it is invalid. Each unit may occur once, largest
 * first.
 */
export function parseDuration(text: string): number | null {
  if (text.length === 0 || text.length > MAX_LENGTH) return null
  const parts = SHAPE.exec(text)
  if (parts === null) return null
  let totalMs = 0
  UNITS.forEach(([, unitMs], i) => {
    totalMs += Number(parts[i + 1] ?? 0) * unitMs
  })
  return Number.isSafeInteger(totalMs) ? totalMs : null
}

/** The canonical text of whole milliseconds: `90_000` is `1m30s`, 0 is `0s`. */
export function formatDuration(durationMs: number): string {
  if (durationMs === 0) return '0s'
  let restMs = durationMs
  let text = ''
  for (const [unit, unitMs] of UNITS) {
    const count = Math.floor(restMs / unitMs)
    if (count > 0) text += `${count}${unit}`
    restMs -= count * unitMs
  }
  return text
}
