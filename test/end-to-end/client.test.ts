// A program that uses the client at both ends: it enqueues and waits, and its handler verifies.
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { type Delivery, Posthorn, VerificationError, verify } from '../../src/client/client.ts'
import { type Deployment, deploy } from '../support/deployment.ts'
import { SQLITE_UNLESS_LONG } from '../support/engines.ts'
import type { Process } from '../support/process.ts'
import { until } from '../support/until.ts'

/** A handler that accepts only deliveries that verify, and keeps all that it accepted. */
interface Handler {
  url: string
  secrets: string[]
  deliveries: Delivery[]
  refusedCount: number
  /** How the handler responds; 200 without a body if not set. */
  answer: (delivery: Delivery, response: ServerResponse) => void | Promise<void>
  close(): void
}

async function startHandler(): Promise<Handler> {
  const server: Server = createServer(async (request: IncomingMessage, response) => {
    try {
      const delivery = await verify(request, handler.secrets)
      handler.deliveries.push(delivery)
      await handler.answer(delivery, response)
    } catch (error) {
      if (error instanceof VerificationError) handler.refusedCount++
      response.statusCode = error instanceof VerificationError ? 401 : 500
    }
    response.end()
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const handler: Handler = {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/hook`,
    secrets: [],
    deliveries: [],
    refusedCount: 0,
    answer: () => {},
    close() {
      server.close()
      server.closeAllConnections()
    },
  }
  return handler
}

describe.each(SQLITE_UNLESS_LONG)('on %s', (engine) => {
  let deployment: Deployment
  let api: Process
  let posthorn: Posthorn
  let handler: Handler
  beforeAll(async () => {
    deployment = deploy(engine)
    api = await deployment.startApi()
    await deployment.startWorker()
    posthorn = new Posthorn({ url: deployment.url() })
  })
  afterAll(() => deployment.close())
  beforeEach(async () => {
    handler = await startHandler()
  })
  afterEach(() => handler.close())

  async function register(name: string, settings = {}) {
    const { secret = '' } = await posthorn.endpoints.put(name, { url: handler.url, ...settings })
    handler.secrets = [secret]
  }

  it('a job is delivered, verified and done; its result comes back to who waits', async () => {
    await register('invoice-pdf')
    handler.answer = (_, response) => {
      response.write('{"pages":3}')
    }
    const rawPayload = '{"invoice": 12345678901234567890, "who": "Zoë 🐎"}'
    const { id, runAt } = await posthorn.enqueue({ endpoint: 'invoice-pdf', rawPayload })
    const job = await posthorn.wait<unknown, { pages: number }>(id, { timeoutMs: 15_000 })
    expect(job).toMatchObject({ state: 'succeeded', result: { pages: 3 } })

    const [delivery] = handler.deliveries
    expect(handler.deliveries).toHaveLength(1)
    expect(delivery).toMatchObject({
      jobId: id,
      endpoint: 'invoice-pdf',
      attempt: 1,
      attemptsLeft: 9,
      fence: 1,
      scheduledFor: new Date(runAt),
      schedule: null,
      completeUrl: null,
      isTest: false,
    })
    expect(Buffer.from(delivery?.rawPayload ?? []).toString()).toBe(rawPayload)
    expect(delivery?.deadline.getTime()).toBeGreaterThan(Date.parse(job.startedAt ?? ''))
  })

  it('a retry brings the same id, and a fence that grew', async () => {
    await register('flaky', {
      retry: { maxAttempts: 3, backoff: { type: 'fixed', delay: '0s', jitter: 0 } },
    })
    handler.answer = (_, response) => {
      response.statusCode = handler.deliveries.length < 3 ? 500 : 200
    }
    const { id } = await posthorn.enqueue({ endpoint: 'flaky', payload: {} })
    expect((await posthorn.wait(id, { timeoutMs: 15_000 })).state).toBe('succeeded')
    expect(handler.deliveries.map(({ jobId }) => jobId)).toEqual([id, id, id])
    expect(handler.deliveries.map(({ attempt, fence }) => [attempt, fence])).toEqual([
      [1, 1],
      [2, 2],
      [3, 3],
    ])
  })

  it('a handler with another secret believes nothing', async () => {
    await register('stranger', { retry: { maxAttempts: 1 } })
    handler.secrets = [`whsec_${Buffer.alloc(32, 7).toString('base64')}`]
    const { id } = await posthorn.enqueue({ endpoint: 'stranger', payload: {} })
    expect((await posthorn.wait(id, { timeoutMs: 15_000 })).state).toBe('dead')
    expect(handler).toMatchObject({ deliveries: [], refusedCount: 1 })
  })

  it('a slow handler responds with 202, reports its progress, and completes later', async () => {
    await register('slow', { completion: 'async' })
    handler.answer = (_, response) => {
      response.statusCode = 202
    }
    const { id } = await posthorn.enqueue({ endpoint: 'slow', payload: {} })
    await until(async () => (await posthorn.get(id)).phase === 'awaiting_completion')
    const { completeUrl, failUrl, heartbeatUrl } = handler.deliveries[0] as Delivery
    const beat = await posthorn.heartbeat(heartbeatUrl ?? '', { progress: 40, message: 'on it' })
    expect(beat.cancelRequested).toBe(false)
    expect((await posthorn.get(id)).progress).toMatchObject({ value: 40, message: 'on it' })

    const waiting = posthorn.wait(id, { timeoutMs: 15_000 })
    await posthorn.complete(completeUrl ?? '', { rows: 50_000 })
    expect(await waiting).toMatchObject({ state: 'succeeded', result: { rows: 50_000 } })
    await posthorn.complete(completeUrl ?? '', { rows: 50_000 })
    await expect(posthorn.fail(failUrl ?? '', { message: 'late' })).rejects.toMatchObject({
      code: 'lease_lost',
      status: 409,
    })
  })

  it('while a secret is rotated, handlers with the old one and the new one both believe', async () => {
    const backoff = { type: 'fixed', delay: '100ms', jitter: 0 }
    await register('rotated', { retry: { backoff } })
    const old = handler.secrets
    const { secret } = await posthorn.endpoints.rotateSecret('rotated', { overlap: '1h' })
    for (const secrets of [old, [secret], [...old, secret]]) {
      handler.secrets = secrets
      await until(async () => {
        const { id } = await posthorn.enqueue({ endpoint: 'rotated', payload: {} })
        return (await posthorn.wait(id, { timeoutMs: 15_000 })).attempts[0]?.statusCode === 200
      })
    }
    expect(handler.deliveries.length).toBeGreaterThanOrEqual(3)
  })

  // This test is the last: it restarts the API.
  it('the client goes on where a restarted API is back on its address', async () => {
    await register('restarted')
    const { port } = new URL(deployment.url())
    const { id } = await posthorn.enqueue({ endpoint: 'restarted', payload: {}, delay: '2s' })
    const waiting = posthorn.wait(id, { timeoutMs: 20_000 })
    await api.stop()
    await deployment.startApi({ PORT: port })
    expect((await waiting).state).toBe('succeeded')
  })
})
