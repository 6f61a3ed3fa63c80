// The messages of a worker's reports, made such that the API takes them: a report that is refused
// for its wording would leave the attempt without an end.

/** Longer messages are refused (POST /jobs/:id/fail). */
export const MAX_FAIL_MESSAGE = 2_000
/** Longer messages are refused (POST /jobs/:id/heartbeat). */
export const MAX_PROGRESS_MESSAGE = 500

const CUT = '…'

/**
 * The text without what no store can hold, NUL and lone surrogates, and at most `maxLength` long.
 * The end of a text that was cut is `…`. What is not a text stays as it is: the API refuses it.
 */
export function reportText(text: string, maxLength: number): string {
  if (typeof text !== 'string') return text
  const clean = text.toWellFormed().replaceAll('\0', '\ufffd')
  if (clean.length <= maxLength) return clean
  // A cut between the halves of a surrogate pair leaves one of them: it goes too.
  const kept = clean.slice(0, maxLength - CUT.length).replace(/[\ud800-\udbff]$/, '')
  return `${kept}${CUT}`
}
