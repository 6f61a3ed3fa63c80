// Adapts the messages of reports so that the API accepts them: if it refused a report for its
// message, the attempt would have no end.

/** Longer messages are refused (POST /jobs/:id/fail). */
export const MAX_FAIL_MESSAGE = 2_000
/** Longer messages are refused (POST /jobs/:id/heartbeat). */
export const MAX_PROGRESS_MESSAGE = 500

const CUT = '…'

/**
 * The text with NUL and lone surrogates replaced, which no store can hold, cut to `maxLength`. A
 * text that was cut ends in `…`. A value that is not a string is returned unchanged: the API
 * refuses it.
 */
export function reportText(text: string, maxLength: number): string {
  if (typeof text !== 'string') return text
  const clean = text.toWellFormed().replaceAll('\0', '\ufffd')
  if (clean.length <= maxLength) return clean
  // A cut within a surrogate pair leaves its first half: remove that, too.
  const kept = clean.slice(0, maxLength - CUT.length).replace(/[\ud800-\udbff]$/, '')
  return `${kept}${CUT}`
}
