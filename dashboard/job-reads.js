// Reads a job and its payload exactly as the API returns them, to the last digit.
import { request } from './api.js'

/** @param {string} id */
export const jobPath = (id) => `jobs/${encodeURIComponent(id)}`

/**
 * Reads a job, or returns the earlier result if the job still has the same version.
 *
 * @param {string} id
 * @param {{job: any, etag: string | null} | null} before
 * @param {AbortSignal} signal
 */
export async function readJob(id, before, signal) {
  /** @type {Record<string, string>} */
  const headers = before?.etag ? { 'if-none-match': before.etag } : {}
  const { status, etag, text } = await request('GET', jobPath(id), { headers, signal })
  return status === 304 && before !== null ? before : { job: JSON.parse(text, exact), etag }
}

/**
 * A number that JavaScript would round stays text. @type {(key: string, value: any, context?:
 * {source?: string}) => any}
 */
function exact(_key, value, context) {
  if (typeof value !== 'number' || context?.source === undefined) return value
  const { rawJSON } = /** @type {{rawJSON?: (text: string) => object}} */ (JSON)
  return String(value) === context.source || rawJSON === undefined ? value : rawJSON(context.source)
}

/**
 * The text of the payload. It stands for the exact bytes, because a payload is JSON in UTF-8.
 * @param {string} id @param {AbortSignal} [signal]
 */
export async function readPayload(id, signal) {
  const { text } = await request('GET', `${jobPath(id)}/payload`, signal ? { signal } : {})
  return text
}
