// The largest batches that can be sent: 128 MiB. None holds up other requests.
import { afterAll, beforeAll, expect, it } from 'vitest'
import { BATCH_BODIES, JOB_BODIES } from '../hostile/heavy-bodies.ts'
import { type Probe, startProbe } from '../hostile/probe.ts'
import { type Deployment, deploy } from '../support/deployment.ts'

const KEY = 'a-key-of-twenty-four-characters'
const BODY_BYTES = 8_388_608
const BATCH_BYTES = 16 * BODY_BYTES
const ROOM_BYTES = 10_000
/** How long others may wait on a quiet machine, and four times that on one that is not. */
const MOST_WAIT_MS = 4 * 250

let posthorn: Deployment
let probe: Probe
beforeAll(async () => {
  posthorn = deploy('sqlite', { API_KEYS: KEY, MAX_BODY_BYTES: String(BODY_BYTES) })
  await posthorn.startApi()
  await post('PUT', '/endpoints/work', '{"url":null}')
  probe = startProbe(posthorn.url())
})
afterAll(async () => {
  await probe.stop()
  await posthorn.close()
})

async function post(method: string, path: string, body: string): Promise<number> {
  const headers = { authorization: `Bearer ${KEY}`, 'content-type': 'application/json' }
  const answer = await fetch(posthorn.url() + path, { method, headers, body })
  await answer.arrayBuffer()
  return answer.status
}

/** As many payloads of each kind as fit. */
const OF_PAYLOADS = Object.entries(JOB_BODIES).map(([what, build]): [string, () => string] => [
  `jobs with ${what}`,
  () => `{"jobs":[${Array.from({ length: 15 }, () => build(BODY_BYTES - ROOM_BYTES)).join(',')}]}`,
])
const OF_JOBS = Object.entries(BATCH_BODIES).map(([what, build]): [string, () => string] => [
  what,
  () => build(BATCH_BYTES - 20 * ROOM_BYTES),
])

it.each([...OF_JOBS, ...OF_PAYLOADS])(
  '%s hold nobody up',
  { timeout: 120_000 },
  async (what, build) => {
    const body = build()
    await probe.longestMs()
    const status = await post('POST', '/jobs/batch', body)
    const waitMs = await probe.longestMs()
    console.log(
      `${what}: ${Math.round(body.length / 1e6)} MB, ${status}, others waited ${Math.round(waitMs)} ms`,
    )
    expect([200, 400, 413]).toContain(status)
    expect(waitMs).toBeLessThan(MOST_WAIT_MS)
  },
)
