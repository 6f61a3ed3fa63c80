// The largest possible batches: 128 MiB. None of them delays other requests.
import { afterAll, beforeAll, expect, it } from 'vitest'
import { BATCH_BODIES, JOB_BODIES } from '../hostile/heavy-bodies.ts'
import { type Probe, startProbe } from '../hostile/probe.ts'
import { type Deployment, deploy } from '../support/deployment.ts'

const KEY = 'a-key-of-twenty-four-characters'
const BODY_BYTES = 8_388_608
const BATCH_BYTES = 16 * BODY_BYTES
const ROOM_BYTES = 10_000
/** How long others may wait on a quiet machine; a busy one may need four times as long. */
const MOST_WAIT_MS = 4 * 250
/** The least value of some tries counts, because the machine has other work as well. */
const TRIES = 3

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
  '%s delay no other request',
  { timeout: 120_000 },
  async (what, build) => {
    const body = build()
    let waitMs = Number.POSITIVE_INFINITY
    for (let i = 0; i < TRIES && waitMs > MOST_WAIT_MS; i++) {
      await probe.longestMs()
      const status = await post('POST', '/jobs/batch', body)
      expect([200, 400, 413]).toContain(status)
      waitMs = Math.min(waitMs, await probe.longestMs())
    }
    console.log(`${what}: ${Math.round(body.length / 1e6)} MB, ${Math.round(waitMs)} ms`)
    expect(waitMs).toBeLessThan(MOST_WAIT_MS)
  },
)
