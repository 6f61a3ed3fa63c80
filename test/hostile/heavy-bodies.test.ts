// One large body from a client with a key delays no other request, however expensive it is to read.
// Every run sends half of the bodies alone and the others in a batch, npm run test:long all in both
// ways.
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type Deployment, deploy } from '../support/deployment.ts'
import { RUN_LONG } from '../support/engines.ts'
import { BATCH_BODIES, JOB_BODIES } from './heavy-bodies.ts'
import { type Probe, startProbe } from './probe.ts'
import { cpuMs } from './strangers.ts'

const KEY = 'a-key-of-twenty-four-characters'
const MOST_BYTES = 8_388_608
/** Room for the envelope around the value that fills the body. */
const ROOM_BYTES = 1_000
/** How long others may wait: on a quiet machine, times four for a busy one. */
const MOST_WAIT_MS = 4 * 250
const TRIES = 3

let posthorn: Deployment
let probe: Probe
let pid: number
const waits: number[] = []
/** The costs of batches. The unit is the CPU time of a valid batch. */
const costs: number[] = []
beforeAll(async () => {
  posthorn = deploy('sqlite', { API_KEYS: KEY, MAX_BODY_BYTES: String(MOST_BYTES) })
  pid = (await posthorn.startApi()).child.pid as number
  await send('PUT', '/endpoints/work', '{"url":null}')
  probe = startProbe(posthorn.url())
})
afterAll(async () => {
  console.log(`others waited for at most ${Math.round(Math.max(...waits))} ms`)
  console.log(`a job of a batch cost at most ${Math.max(...costs).toFixed(1)} times a good one`)
  await probe.stop()
  await posthorn.close()
})

async function send(method: string, path: string, body?: string) {
  const headers = { authorization: `Bearer ${KEY}`, 'content-type': 'application/json' }
  const init = { method, headers, ...(body === undefined ? {} : { body }) }
  const answer = await fetch(posthorn.url() + path, init)
  return { status: answer.status, text: await answer.text() }
}

/**
 * The duration of the slowest other request meanwhile, in ms. It is the least of some tries,
 * because the load of the machine varies.
 */
async function waitBeside(path: string, body: string): Promise<number> {
  let leastMs = Number.POSITIVE_INFINITY
  for (let i = 0; i < TRIES && leastMs > MOST_WAIT_MS; i++) {
    await probe.longestMs()
    const { status } = await send('POST', path, body)
    expect([200, 201, 400, 413]).toContain(status)
    leastMs = Math.min(leastMs, await probe.longestMs())
  }
  waits.push(leastMs)
  return leastMs
}

const halfOf = (names: string[], rest: number) => names.filter((_, i) => RUN_LONG || i % 2 === rest)

describe('a body of 8 MiB', { timeout: 60_000 }, () => {
  it.each(halfOf(Object.keys(JOB_BODIES), 0))('%s delays no other request', async (what) => {
    const body = (JOB_BODIES[what] as (bytes: number) => string)(MOST_BYTES - ROOM_BYTES)
    expect(Buffer.byteLength(body)).toBeLessThanOrEqual(MOST_BYTES)
    expect(await waitBeside('/jobs', body)).toBeLessThan(MOST_WAIT_MS)
  })

  it.each(Object.keys(BATCH_BODIES))('%s in a batch delay no other request', async (what) => {
    const body = (BATCH_BODIES[what] as (bytes: number) => string)(MOST_BYTES - ROOM_BYTES)
    expect(await waitBeside('/jobs/batch', body)).toBeLessThan(MOST_WAIT_MS)
  })
})

/**
 * Limit of the CPU time, as a multiple of a valid job of the same size. Without a limit on values,
 * wrong tags cost a hundred times as much.
 */
const MOST_TIMES_GOOD = 10

describe('as a job of a batch', { timeout: 60_000 }, () => {
  const cpuOf = async (what: string) => {
    const job = (JOB_BODIES[what] as (bytes: number) => string)(MOST_BYTES - ROOM_BYTES)
    const beforeMs = cpuMs(pid)
    const { status } = await send('POST', '/jobs/batch', `{"jobs":[${job}]}`)
    expect([200, 400, 413]).toContain(status)
    return cpuMs(pid) - beforeMs
  }
  let goodMs: number
  beforeAll(async () => {
    goodMs = await cpuOf('a payload of numbers')
  })

  it.each(halfOf(Object.keys(JOB_BODIES), 1))(
    '%s costs hardly more than a good one',
    async (what) => {
      const ms = await cpuOf(what)
      costs.push(ms / goodMs)
      expect(ms).toBeLessThan(MOST_TIMES_GOOD * goodMs)
    },
  )
})

it('a claim of more than fits into a response gives the others back', async () => {
  await send('PUT', '/endpoints/pulled', '{"url":null}')
  const job = `{"endpoint":"pulled","payload":"${'x'.repeat(1_048_576)}"}`
  for (let i = 0; i < 30; i++) expect((await send('POST', '/jobs', job)).status).toBe(201)
  const counts: number[] = []
  while (counts.reduce((sum, count) => sum + count, 0) < 30) {
    const { status, text } = await send('POST', '/endpoints/pulled/claim', '{"limit":100}')
    expect(status).toBe(200)
    const { jobs } = JSON.parse(text) as { jobs: unknown[] }
    counts.push(jobs.length)
  }
  expect(counts.length).toBeGreaterThan(1)
  expect(Math.max(...counts)).toBeLessThan(30)
})
