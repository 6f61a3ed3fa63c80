// Waiting, listing and reporting, against a server with prepared responses.
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { type ClientOptions, Posthorn } from '../../src/client/client.ts'
import { type Receiver, type Reply, startReceiver } from '../support/receiver.ts'
import { errorOf, JOB, job, OK, problem, UNAVAILABLE } from './answering.ts'

let server: Receiver
let posthorn: Posthorn
beforeEach(async () => {
  server = await startReceiver(OK)
  posthorn = client()
})
afterEach(() => server.close())

const client = (options: Partial<ClientOptions> = {}) =>
  new Posthorn({ url: server.url, key: 'a-key-of-24-characters-00', ...options })

describe('wait', () => {
  it('asks for the longest wait, through failures, until the job is final', async () => {
    server.answerWith([job('queued'), UNAVAILABLE, 502, 502, 502, 502, job('dead')])
    const final = await posthorn.wait('job_1')
    expect(final.state).toBe('dead')
    expect(server.requests.map(({ path }) => path)).toEqual(
      Array(7).fill('/jobs/job_1?wait=60000ms'),
    )
  })

  it('and a claim leave the server the time to wait that they gave it', async () => {
    const hasty = client({ timeoutMs: 200 })
    server.answerWith({ ...(OK as object), delayMs: 500 })
    expect((await hasty.wait('job_1', { timeoutMs: 5_000 })).state).toBe('succeeded')
    server.answerWith({ body: '{"jobs":[]}', delayMs: 500 })
    expect(await hasty.claim('a', { waitMs: 1_000 })).toEqual([])
    expect(server.requests).toHaveLength(2)
  })

  it('does not hammer a server that responds at once, and ends when its time is over', async () => {
    server.answerWith(job('running'))
    const error = await errorOf(posthorn.wait('job_1', { timeoutMs: 1_500 }))
    expect(error).toMatchObject({ code: 'wait_timeout', status: null })
    expect(error.message).toContain('job_1 is still running after 1500 ms')
    expect(server.requests.length).toBeLessThanOrEqual(3)
  })

  it('ends when its time is over though no response comes', async () => {
    server.answerWith('hang')
    const error = await errorOf(client({ timeoutMs: 100 }).wait('job_1', { timeoutMs: 400 }))
    expect(error.code).toBe('timeout')
  })

  it('does not wait for what is not there', async () => {
    server.answerWith(problem(404, 'job_not_found'))
    expect((await errorOf(posthorn.wait('job_1'))).code).toBe('job_not_found')
    expect(server.requests).toHaveLength(1)
  })
})

describe('list', () => {
  it('continues through short and empty pages, and fetches no page that is not asked for', async () => {
    const page = (ids: string[], nextCursor: string | null): Reply => ({
      body: JSON.stringify({ items: ids.map((id) => ({ ...JOB, id })), nextCursor }),
    })
    server.answerWith([page(['a', 'b'], 'c1'), page([], 'c2'), page(['c'], null)])
    const ids: string[] = []
    const createdAfter = new Date('2026-11-24T08:30:00.000Z')
    for await (const { id } of posthorn.list({ state: ['dead', 'cancelled'], createdAfter })) {
      ids.push(id)
    }
    expect(ids).toEqual(['a', 'b', 'c'])
    const query = 'limit=100&state=dead&state=cancelled&createdAfter=2026-11-24T08%3A30%3A00.000Z'
    expect(server.requests.map(({ path }) => path)).toEqual([
      `/jobs?${query}`,
      `/jobs?${query}&cursor=c1`,
      `/jobs?${query}&cursor=c2`,
    ])
    server.answerWith(page(['a', 'b'], 'c1'))
    for await (const _ of posthorn.list()) break
    expect(server.requests).toHaveLength(4)
  })
})

describe('reports of an attempt', () => {
  const token = '1.lease.mac'
  const url = (verb: string) => `http://evil.example/x/jobs/job_1/${verb}?token=${token}`

  it('go to this Posthorn with the token alone, whatever host the URL names', async () => {
    const beat = '"leaseExpiresAt":null,"cancelRequested":false'
    server.answerWith({ body: `{"applied":true,${beat}}` })
    await posthorn.complete(url('complete'), { pages: 3 })
    await posthorn.fail(new URL(url('fail')), { message: 'no paper', retryable: false })
    await posthorn.heartbeat({ jobId: 'job_1', token }, { progress: 50 })
    await posthorn.complete({ id: 'job_1', token })
    expect(server.requests.map(({ path }) => path)).toEqual([
      '/jobs/job_1/complete',
      '/jobs/job_1/fail',
      '/jobs/job_1/heartbeat',
      '/jobs/job_1/complete',
    ])
    const bodies = server.requests.map(({ body }) => String(body))
    expect(bodies[0]).toBe('{"result":{"pages":3}}')
    expect(bodies[3]).toBe('{"result":null}')
    for (const { headers } of server.requests) expect(headers.authorization).toBe(`Bearer ${token}`)
  })

  it('are repeated, because the response to a repeat is that to the first', async () => {
    server.answerWith([UNAVAILABLE, { body: '{"applied":true}' }])
    await posthorn.complete({ jobId: 'job_1', token })
    expect(server.requests).toHaveLength(2)
  })

  it('by the URL of another verb, or by none, are the caller’s mistake', async () => {
    // biome-ignore lint/suspicious/noExplicitAny: what a caller without types may give
    const wrong: any[] = [url('fail'), 'job_1', '', 'http://x/jobs/job_1/complete', { id: 'job_1' }]
    for (const ref of wrong) await expect(posthorn.complete(ref)).rejects.toThrow(TypeError)
    expect(server.requests).toHaveLength(0)
  })
})
