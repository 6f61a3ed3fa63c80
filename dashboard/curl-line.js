// A shell line that enqueues the same job again, on this or another server.
import { hasKey } from './api.js'
import { readPayload } from './job-reads.js'

const CARRIED = ['tags', 'metadata', 'timeout', 'retry', 'orderingKey', 'fairnessKey', 'onFinish']

/**
 * It contains the exact bytes of the payload, but no headers, because the API does not return their
 * values. @param {any} job
 */
export async function curlLine(job) {
  const payload = await readPayload(job.id)
  const fields = [
    ['endpoint', job.endpoint],
    ['priority', job.priority],
  ]
  if (job.cost !== 1) fields.push(['cost', job.cost])
  for (const name of CARRIED) if (isGiven(job[name])) fields.push([name, job[name]])
  const texts = fields.map(([name, value]) => `"${name}":${JSON.stringify(value)}`)
  const body = `{${[...texts, `"payload":${payload}`].join(',')}}`
  const key = hasKey() ? ` -H "authorization: Bearer $POSTHORN_KEY"` : ''
  const url = new URL('jobs', document.baseURI)
  return `curl ${quoted(url.href)}${key} -H 'content-type: application/json' --data-binary ${quoted(body)}`
}

function isGiven(value) {
  return value !== null && Object.keys(Object(value)).length + Number(typeof value === 'string') > 0
}

/** For any POSIX shell: within single quotes, only the single quote is special. */
function quoted(text) {
  return `'${text.replaceAll("'", `'\\''`)}'`
}
