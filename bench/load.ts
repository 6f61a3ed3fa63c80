// The load that every row of the benchmark shares.
/** 250 bytes, as a job of the trade often is. */
export const PAYLOAD = JSON.stringify({ invoice: 'INV-2026-000042', note: 'x'.repeat(209) })
export const CONNECTIONS = 50
export const POSTING_CONNECTIONS = 64
export const ENDPOINT = 'sink'
export const JOB_BODY = `{"endpoint":"${ENDPOINT}","payload":${PAYLOAD}}`
/** What is delivered later than that is not delivered at once. */
export const MAX_LAG_MS = 1_000
