// The memory that the API uses for all clients together is bounded. It refuses the excess with a
// Retry-After. The excess harms no other request, and ends when the clients disconnect.
import { connect, type Socket } from 'node:net'
import { DatabaseSync } from 'node:sqlite'
import { afterEach, describe, expect, it } from 'vitest'
import { CONNECTION_LIMITS } from '../../routes/http/connections.ts'
import { INFLIGHT_LIMITS, type InflightLimits } from '../../routes/http/inflight-limits.ts'
import { answersIn, type RawAnswer } from '../hostile/raw-http.ts'
import { type ServedApp, serveApp } from '../support/served-app.ts'
import { until } from '../support/until.ts'

const MEGABYTE = 1_048_576
const HALF = MEGABYTE / 2
const JSON_TYPE = { 'content-type': 'application/json' }

const WAITING = 1_000
/**
 * If each waiting claim read the store by itself, eight to a transaction, there would be 125 more.
 */
const MOST_COMMANDS = 70

let served: ServedApp | null = null
const sockets: Socket[] = []
afterEach(async () => {
  for (const socket of sockets.splice(0)) socket.destroy()
  served?.app.server.closeAllConnections()
  await served?.close()
  served = null
})

async function serve(inflight: Partial<InflightLimits>): Promise<ServedApp> {
  served = await serveApp({ inflight })
  const registered = await send('PUT', '/endpoints/work', '{"url":null}')
  expect(registered.status).toBe(201)
  return served
}

/** Reads all responses until the end of the connection. */
async function rest(socket: Socket): Promise<RawAnswer[]> {
  const chunks: Buffer[] = []
  for await (const chunk of socket) chunks.push(chunk)
  return answersIn(Buffer.concat(chunks))
}

interface Answer {
  status: number
  headers: Headers
  text: string
}

/** Sends a request and reads its response: an unread response would count against the limit. */
async function send(method: string, path: string, body?: string): Promise<Answer> {
  const init = { method, headers: JSON_TYPE, ...(body ? { body } : {}) }
  const answer = await fetch(`${served?.url}${path}`, init)
  return { status: answer.status, headers: answer.headers, text: await answer.text() }
}

function jobText(payloadBytes: number): string {
  return JSON.stringify({ endpoint: 'work', payload: 'x'.repeat(payloadBytes) })
}

/** Opens a connection, writes the text and reads nothing. */
async function open(text: string): Promise<Socket> {
  const socket = connect(Number(new URL(served?.url ?? '').port), '127.0.0.1')
  sockets.push(socket)
  await new Promise<void>((resolve) => socket.pause().write(text, () => resolve()))
  return socket
}

/** A request without its end. */
const unfinished = (bytes: number) =>
  `POST /jobs HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n` +
  `content-length: ${bytes + 1}\r\n\r\n${' '.repeat(bytes)}`

function expectOverloaded({ status, headers, text }: Answer): void {
  expect(status).toBe(503)
  expect(headers.get('retry-after')).toBe('1')
  expect(JSON.parse(text)).toMatchObject({ code: 'overloaded' })
}

describe('what the API holds for all clients together', () => {
  it('has by default room for its waits, and for some hundred megabytes', () => {
    expect(INFLIGHT_LIMITS).toEqual({
      ...{ requests: 50_000, bodyBytes: 128 * MEGABYTE, responseBytes: 128 * MEGABYTE },
      openResponseBytes: 32 * MEGABYTE,
    })
  })

  it('bodies that do not end keep out large ones, and none once they are gone', async () => {
    const { app } = await serve({ bodyBytes: 2 * MEGABYTE })
    const accepted: Socket[] = []
    app.server.on('connection', (socket) => accepted.push(socket))
    const text = unfinished(MEGABYTE - 1_000)
    await open(text)
    await until(() => accepted[0]?.bytesRead === text.length)
    expectOverloaded(await send('POST', '/jobs', jobText(HALF)))
    expect((await send('POST', '/jobs', jobText(10))).status).toBe(201)

    for (const socket of sockets.splice(0)) socket.destroy()
    await until(async () => (await send('POST', '/jobs', jobText(HALF))).status === 201)
  })

  it('large responses that no client reads are refused in the end, small ones are not', async () => {
    await serve({ responseBytes: 20 * MEGABYTE })
    const made = await send('POST', '/jobs', jobText(MEGABYTE - 1_000))
    const { id } = JSON.parse(made.text) as { id: string }
    const count = CONNECTION_LIMITS.pending - 1
    const last = 'GET /health/live HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n'
    const asked = `GET /jobs/${id} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n`
    const socket = await open(asked.repeat(count) + last)
    expect((await send('GET', '/health/ready')).status).toBe(200)
    expect((await send('POST', '/jobs', jobText(10))).status).toBe(201)

    const answers = await rest(socket)
    const refused = answers.filter(({ status }) => status === 503)
    // Responses that the kernel buffered at once do not count against the limit.
    expect(refused.length).toBeGreaterThan(count / 2)
    expect(answers).toHaveLength(count + 1)
    for (const { headers, body } of refused) {
      expect(headers['retry-after']).toBe('1')
      expect(JSON.parse(body)).toMatchObject({ code: 'overloaded' })
      // The ETag would belong to the job that is not sent.
      expect(headers).not.toHaveProperty('etag')
    }
    expect((await send('GET', `/jobs/${id}`)).status).toBe(200)
  })

  it('requests that wait keep out further ones, and none once they have left', async () => {
    await serve({ requests: 20 })
    const made = await send('POST', '/jobs', jobText(10))
    const { id } = JSON.parse(made.text) as { id: string }
    await open(`GET /jobs/${id}?wait=60s HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n`.repeat(20))
    await until(async () => (await send('GET', `/jobs/${id}`)).status === 503)
    expectOverloaded(await send('GET', `/jobs/${id}`))

    for (const socket of sockets.splice(0)) socket.destroy()
    await until(async () => (await send('GET', `/jobs/${id}`)).status === 200)
  })

  it('lets go of what has a response: a connection is good for any number of requests', async () => {
    await serve({ requests: 3, bodyBytes: 4_000, responseBytes: 8_000 })
    for (let i = 0; i < 30; i++) {
      expect((await send('POST', '/jobs', jobText(1_000))).status).toBe(201)
    }
  })

  it('batches of over 20,000 jobs in all are refused while others are stored', async () => {
    const { filePath } = await serve({})
    const jobs = Array.from({ length: 1_000 }, () => ({ endpoint: 'work', payload: 1 }))
    const text = JSON.stringify({ jobs })
    const writer = new DatabaseSync(filePath)
    writer.exec('begin immediate')
    const answers = await Promise.all(
      Array.from({ length: 25 }, () => send('POST', '/jobs/batch', text)),
    )
    writer.close()
    const refused = answers.filter((answer) => answer.text.includes('"overloaded"'))
    expect(refused.length).toBeGreaterThan(0)
    for (const answer of refused) expectOverloaded(answer)
    expect((await send('POST', '/jobs/batch', text)).status).toBe(200)
  })
})

describe('a thousand claims that wait at one endpoint', () => {
  it('do not all reach for one job: one gets it, and the store hardly notices', async () => {
    const { store } = await serve({})
    const body = '{"wait":"60s"}'
    const claim =
      'POST /endpoints/work/claim HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n' +
      `content-length: ${body.length}\r\n\r\n${body}`
    const before = store.commandCount
    const { pending } = CONNECTION_LIMITS
    for (let i = 0; i < WAITING / pending; i++) await open(claim.repeat(pending))
    // Each claim has read its endpoint once. So no other claim is ahead of the next one.
    await until(() => store.commandCount - before >= WAITING)
    await send('POST', '/endpoints/work/claim', '{}')

    const atRest = store.commandCount
    const { id } = JSON.parse((await send('POST', '/jobs', jobText(10))).text) as { id: string }
    await until(async () => (await store.getJob(id))?.state === 'running')
    await send('POST', '/endpoints/work/claim', '{}')
    expect(store.commandCount - atRest).toBeLessThan(MOST_COMMANDS)
  })
})
