// A thousand slow clients: no other client waits for them, and they are disconnected.
import { afterEach, describe, expect, it } from 'vitest'
import { CONNECTION_LIMITS } from '../../routes/http/connections.ts'
import { type Deployment, deploy } from '../support/deployment.ts'
import { type ServedApp, serveApp } from '../support/served-app.ts'
import { until } from '../support/until.ts'
import { answersIn } from './raw-http.ts'
import { openSlowClients, SLOW_KINDS, type SlowClients, type SlowKind } from './slow-clients.ts'

const SLOW_COUNTS = { silent: 250, headers: 250, body: 250, reading: 250 }
const REQUESTS = 500
const AT_ONCE = 4
/**
 * A delay that a user would notice. The ratio itself is only printed, because times on a shared
 * machine mean little.
 */
const FELT_MS = 500
const LARGE = 8 * 1_048_576

let slow: SlowClients | null = null
let close: (() => Promise<void>) | null = null
afterEach(async () => {
  slow?.close()
  await close?.()
  slow = null
  close = null
})

/** Durations of enqueues and reads by well-behaved clients, in ms, shortest first. */
async function measure(posthorn: Deployment): Promise<number[]> {
  const durations: number[] = []
  const client = async () => {
    while (durations.length < REQUESTS) {
      const startedAtMs = performance.now()
      const body = JSON.stringify({ endpoint: 'work', payload: { a: 1 } })
      const headers = { 'content-type': 'application/json' }
      const answer = await fetch(`${posthorn.url()}/jobs`, { method: 'POST', headers, body })
      const { id } = (await answer.json()) as { id: string }
      expect(answer.status).toBe(201)
      durations.push(performance.now() - startedAtMs)
      const readAtMs = performance.now()
      const read = await fetch(`${posthorn.url()}/jobs/${id}`)
      await read.arrayBuffer()
      expect(read.status).toBe(200)
      durations.push(performance.now() - readAtMs)
    }
  }
  await Promise.all(Array.from({ length: AT_ONCE }, client))
  return durations.sort((a, b) => a - b)
}

const percentile = (sorted: number[], share: number) =>
  sorted[Math.floor((sorted.length - 1) * share)] as number

describe('a thousand slow clients', () => {
  it('are not felt by the others', { timeout: 60_000 }, async () => {
    const posthorn = deploy('sqlite')
    close = () => posthorn.close()
    await posthorn.startApi()
    await posthorn.request('PUT', '/endpoints/work', { url: null })
    const large = { endpoint: 'work', payload: 'x'.repeat(100_000) }
    const { body } = await posthorn.request('POST', '/jobs', large)
    await measure(posthorn)
    const before = await measure(posthorn)
    slow = await openSlowClients(posthorn.url(), SLOW_COUNTS, {
      dripMs: 1_000,
      path: `/jobs/${body.id}/payload`,
    })
    const during = await measure(posthorn)
    const inWords = (sorted: number[]) =>
      `p50 ${percentile(sorted, 0.5).toFixed(1)} ms, p99 ${percentile(sorted, 0.99).toFixed(1)} ms`
    console.log(`before ${inWords(before)}; with 1,000 slow connections ${inWords(during)}`)
    expect(slow.openCount()).toBe(1_000)
    expect(percentile(during, 0.99)).toBeLessThan(2 * percentile(before, 0.99) + FELT_MS)
  })
})

describe('a client that is slow', () => {
  const limits = { requestMs: 500, responseMs: 500, checkMs: 50 }

  async function serve(): Promise<ServedApp> {
    const served = await serveApp({ limits, maxBodyBytes: LARGE })
    close = () => served.close()
    return served
  }

  it('has by default half a minute for its request, and a minute to read the response', () => {
    expect(CONNECTION_LIMITS).toMatchObject({
      ...{ requestMs: 30_000, responseMs: 60_000, checkMs: 5_000 },
    })
  })

  it.each(SLOW_KINDS.filter((kind) => kind !== 'reading'))(
    'in its %s gets 408 and is cut off, though it goes on dripping and never closes',
    async (kind) => {
      const { url } = await serve()
      slow = await openSlowClients(url, { [kind as SlowKind]: 20 }, { dripMs: 100 })
      await until(() => slow?.openCount() === 0, 5_000)
      for (const chunks of slow.answers.values()) {
        const [answer] = answersIn(Buffer.concat(chunks))
        expect(answer?.status).toBe(408)
        expect(answer?.headers['content-type']).toMatch(/^application\/problem\+json/)
        expect(JSON.parse(answer?.body ?? '')).toMatchObject({ code: 'invalid_request' })
      }
    },
  )

  it('in reading its response is cut off, and what was kept for it is let go', async () => {
    const { url, app } = await serve()
    const send = (method: string, path: string, body: object) =>
      fetch(url + path, {
        method,
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify(body),
      })
    await send('PUT', '/endpoints/work', { url: null })
    const payload = 'x'.repeat(LARGE - 1_000)
    const made = (await (await send('POST', '/jobs', { endpoint: 'work', payload })).json()) as {
      id: string
    }
    const before = await connectionCount(app)
    slow = await openSlowClients(url, { reading: 3 }, { dripMs: 100, path: `/jobs/${made.id}` })
    await until(async () => (await connectionCount(app)) > before, 5_000)
    await until(async () => (await connectionCount(app)) <= before, 5_000)
  })

  it('but well-behaved may wait longer than that, and use its connection again', async () => {
    const { url } = await serve()
    const headers = { 'content-type': 'application/json' }
    await fetch(`${url}/endpoints/work`, { method: 'PUT', headers, body: '{"url":null}' })
    const body = '{"endpoint":"work","payload":1}'
    const made = await fetch(`${url}/jobs`, { method: 'POST', headers, body })
    const { id } = (await made.json()) as { id: string }
    for (let i = 0; i < 2; i++) {
      const startedAtMs = performance.now()
      expect((await fetch(`${url}/jobs/${id}?wait=1s`)).status).toBe(200)
      expect(performance.now() - startedAtMs).toBeGreaterThan(2 * limits.requestMs - 50)
    }
  })
})

function connectionCount({ server }: ServedApp['app']): Promise<number> {
  return new Promise((resolve, reject) => {
    server.getConnections((error, count) => (error ? reject(error) : resolve(count)))
  })
}
