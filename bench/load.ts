// The load that all rows of the benchmark share.
/** A usual size of a job. */
export const USUAL_BYTES = 250
/** An environment variable, so that the child processes of a row have it too. */
export const PAYLOAD_BYTES = Number(process.env.PAYLOAD_BYTES ?? USUAL_BYTES)
export const PAYLOAD = payloadOf(PAYLOAD_BYTES)
export const CONNECTIONS = 50
export const POSTING_CONNECTIONS = 64
export const ENDPOINT = 'sink'
export const JOB_BODY = `{"endpoint":"${ENDPOINT}","payload":${PAYLOAD}}`
/** The value of the Prefer header that asks for the minimal response. */
export const MINIMAL = 'return=minimal'
/** A delivery later than this does not count as immediate. */
export const MAX_LAG_MS = 1_000

/** JSON of this many bytes. */
function payloadOf(bytes: number): string {
  const invoice = 'INV-2026-000042'
  const bare = JSON.stringify({ invoice, note: '' }).length
  return JSON.stringify({ invoice, note: 'x'.repeat(Math.max(0, bytes - bare)) })
}
