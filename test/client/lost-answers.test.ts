// A response is lost on its way: the call has done its work, and the client, which does not know
// that, repeats it. Nothing may be done twice, and the caller may not notice.
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { afterAll, beforeAll, beforeEach, expect, it } from 'vitest'
import { Posthorn } from '../../src/client/client.ts'
import { type ServedApp, serveApp } from '../support/served-app.ts'

let api: ServedApp
let proxy: Server
let posthorn: Posthorn
/** How many of the next responses are lost. */
let losses = 0
/** The statuses of all responses of the API, lost or not. */
let statuses: number[] = []

beforeAll(async () => {
  api = await serveApp()
  proxy = createServer(async (incoming, outgoing) => {
    const chunks: Buffer[] = []
    for await (const chunk of incoming) chunks.push(chunk as Buffer)
    const { host: _, connection: __, 'content-length': ___, ...headers } = incoming.headers
    const answer = await fetch(api.url + incoming.url, {
      method: incoming.method ?? 'GET',
      headers: headers as Record<string, string>,
      ...(chunks.length === 0 ? {} : { body: Buffer.concat(chunks) }),
    })
    statuses.push(answer.status)
    const body = Buffer.from(await answer.arrayBuffer())
    if (losses-- > 0) return void incoming.socket.destroy()
    outgoing.writeHead(answer.status, { 'content-type': 'application/json' }).end(body)
  })
  await new Promise<void>((resolve) => proxy.listen(0, '127.0.0.1', resolve))
  posthorn = new Posthorn({ url: `http://127.0.0.1:${(proxy.address() as AddressInfo).port}` })
  await posthorn.endpoints.put('pulled', { url: null })
})
afterAll(async () => {
  proxy.closeAllConnections()
  await new Promise((resolve) => proxy.close(resolve))
  await api.close()
})
beforeEach(() => {
  losses = 0
  statuses = []
})

async function storedCount(tag: string): Promise<number> {
  let count = 0
  for await (const _ of posthorn.list({ endpoint: 'pulled', tag })) count++
  return count
}

it('a job is stored once, though two responses were lost', async () => {
  losses = 2
  const job = await posthorn.enqueue({ endpoint: 'pulled', payload: 1, tags: ['one'] })
  expect(statuses).toEqual([201, 200, 200])
  expect(job.deduplicated).toBe(true)
  expect(await storedCount('one')).toBe(1)
})

it('so is each job of a batch', async () => {
  losses = 1
  const jobs = [1, 2, 3].map((payload) => ({ endpoint: 'pulled', payload, tags: ['batch'] }))
  const items = await posthorn.enqueueBatch(jobs)
  expect(items.map(({ status }) => status)).toEqual([200, 200, 200])
  expect(await storedCount('batch')).toBe(3)
})

it('a job is cancelled, and removed, as if at the first call', async () => {
  const { id } = await posthorn.enqueue({ endpoint: 'pulled', payload: 1, delay: '1h' })
  statuses = []
  losses = 1
  expect((await posthorn.cancel(id)).state).toBe('cancelled')
  losses = 1
  await posthorn.remove(id)
  expect(statuses).toEqual([200, 200, 204, 404])
})

it('an attempt is completed, or fails, once', async () => {
  await posthorn.enqueueBatch(
    [1, 2].map((payload) => ({ endpoint: 'pulled', payload, priority: 9, tags: ['reported'] })),
  )
  const [first, second] = await posthorn.claim('pulled', { limit: 2 })
  if (first === undefined || second === undefined) throw new Error('no two jobs were claimed')
  statuses = []
  losses = 1
  await posthorn.complete(first, { pages: 3 })
  losses = 1
  await posthorn.fail(second, { message: 'no paper', retryable: false })
  expect(statuses).toEqual([200, 200, 200, 200])
  const [done, failed] = [await posthorn.get(first.id), await posthorn.get(second.id)]
  expect([done.state, done.attempts.length]).toEqual(['succeeded', 1])
  expect([failed.state, failed.attempts.length]).toEqual(['dead', 1])
})

it('an endpoint is made once', async () => {
  losses = 1
  const { version } = await posthorn.endpoints.put('made', { url: null })
  expect(statuses).toEqual([201, 200])
  expect((await posthorn.endpoints.get('made')).version).toBe(version)
})
