// The load that every row of the benchmark shares.
/** As large as a job of the trade often is. */
export const USUAL_BYTES = 250
/** By the environment, so that the child processes of a row know it too. */
export const PAYLOAD_BYTES = Number(process.env.PAYLOAD_BYTES ?? USUAL_BYTES)
export const PAYLOAD = payloadOf(PAYLOAD_BYTES)
export const CONNECTIONS = 50
export const POSTING_CONNECTIONS = 64
export const ENDPOINT = 'sink'
export const JOB_BODY = `{"endpoint":"${ENDPOINT}","payload":${PAYLOAD}}`
/** What is delivered later than that is not delivered at once. */
export const MAX_LAG_MS = 1_000

/** JSON of so many bytes. */
function payloadOf(bytes: number): string {
  const invoice = 'INV-2026-000042'
  const bare = JSON.stringify({ invoice, note: '' }).length
  return JSON.stringify({ invoice, note: 'x'.repeat(Math.max(0, bytes - bare)) })
}
