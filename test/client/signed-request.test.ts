// verify takes a request in the form in which a server hands it to a handler, and returns
// everything that it contains.
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { afterEach, describe, expect, it } from 'vitest'
import { type Delivery, type SignedRequest, verify } from '../../src/client/client.ts'
import { JOB_ID, newSecret, nowSeconds, signedHeaders } from './signed.ts'

const SECRET = newSecret()
const BODY = '{"invoice": 12345678901234567890, "who":"Zoë 🐎"}'
const TOO_LONG = `"${'x'.repeat(8 * 1_048_576)}"`

const closers: (() => Promise<unknown>)[] = []
afterEach(async () => {
  await Promise.all(closers.splice(0).map((close) => close()))
})

/** The result of verify for a real request over a real connection. */
async function received(
  forVerify: (request: IncomingMessage) => SignedRequest | Promise<SignedRequest>,
  body: string | null = BODY,
): Promise<Delivery | string> {
  let settle: (outcome: Delivery | string) => void
  const outcome = new Promise<Delivery | string>((resolve) => {
    settle = resolve
  })
  const server = createServer(async (request: IncomingMessage, answer: ServerResponse) => {
    settle(
      await Promise.resolve(forVerify(request))
        .then((one) => verify(one, SECRET))
        .catch(String),
    )
    answer.end()
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  closers.push(() => new Promise((resolve) => server.close(resolve)))
  const { port } = server.address() as AddressInfo
  await fetch(`http://127.0.0.1:${port}/`, {
    method: 'POST',
    headers: signedHeaders(SECRET, body ?? ''),
    body,
  }).catch(() => {
    // The server may close the connection if a body is too long; the result of verify is checked
    // below.
  })
  return outcome
}

async function read(request: IncomingMessage): Promise<Buffer> {
  const chunks: Buffer[] = []
  for await (const chunk of request) chunks.push(chunk as Buffer)
  return Buffer.concat(chunks)
}

const FORMS: Record<string, (request: IncomingMessage) => SignedRequest | Promise<SignedRequest>> =
  {
    'a request of Node, unread': (request) => request,
    'a request with its body kept as bytes (express.raw)': async (request) =>
      Object.assign(request, { body: await read(request) }),
    'a request with its body kept as text (express.text)': async (request) =>
      Object.assign(request, { body: String(await read(request)) }),
    'a parsed request that kept its raw body': async (request) => {
      const rawBody = await read(request)
      return Object.assign(request, { rawBody, body: JSON.parse(String(rawBody)) })
    },
    'headers and body': async (request) => ({
      headers: request.headers,
      body: await read(request),
    }),
    'headers of Fetch and an ArrayBuffer': async (request) => {
      const { buffer } = new Uint8Array(await read(request))
      return { headers: new Headers(request.headers as Record<string, string>), body: buffer }
    },
    'a Request of Fetch': async (request) =>
      new Request('http://localhost/', {
        method: 'POST',
        headers: request.headers as Record<string, string>,
        body: await read(request),
      }),
  }

describe('the delivery is read from', () => {
  it.each(Object.keys(FORMS))('%s', async (name) => {
    const delivery = await received(FORMS[name] as (typeof FORMS)[string])
    expect(delivery).toMatchObject({ jobId: JOB_ID, payload: { who: 'Zoë 🐎' } })
    expect(Buffer.from((delivery as Delivery).rawPayload).toString()).toBe(BODY)
  })

  it('headers of any case', async () => {
    const headers = Object.fromEntries(
      Object.entries(signedHeaders(SECRET, BODY)).map(([name, value]) => [
        name.toUpperCase(),
        value,
      ]),
    )
    expect(await verify({ headers, body: BODY }, SECRET)).toMatchObject({ jobId: JOB_ID })
  })
})

describe('when the bytes are gone, it says how to keep them', () => {
  const wrong: typeof FORMS = {
    'a parsed body': async (request) =>
      Object.assign(request, { body: JSON.parse(String(await read(request))) }),
    'a request that was read before': async (request) => {
      await read(request)
      return request
    },
    'a Request of Fetch that was read before': async (request) => {
      const copy = new Request('http://localhost/', {
        method: 'POST',
        headers: request.headers as Record<string, string>,
        body: await read(request),
      })
      await copy.text()
      return copy
    },
  }
  it.each(Object.keys(wrong))('%s', async (name) => {
    const error = await received(wrong[name] as (typeof wrong)[string])
    expect(error).toMatch(/^TypeError: .*before a body parser/)
  })
})

it('a body that is longer than any payload is not read to its end', async () => {
  expect(await received((request) => request, TOO_LONG)).toMatch(/body_too_large/)
  const request = { headers: signedHeaders(SECRET, TOO_LONG), body: TOO_LONG }
  await expect(verify(request, SECRET)).rejects.toMatchObject({ code: 'body_too_large' })
})

it('headers cannot be verified without a body, nor with one that was parsed', async () => {
  const headers = signedHeaders(SECRET, BODY)
  const without = verify({ headers, body: undefined }, SECRET)
  await expect(without).rejects.toThrow(/^verify needs .* there is no body/)
  const parsed = verify({ headers, body: JSON.parse(BODY) }, SECRET)
  await expect(parsed).rejects.toThrow(/^verify needs .* its body was parsed/)
})

it('no more of an endless body is read than a payload may have', async () => {
  let readBytes = 0
  const endless = async function* () {
    for (;;) {
      readBytes += 1_048_576
      yield Buffer.alloc(1_048_576)
    }
  }
  const request = { headers: signedHeaders(SECRET, BODY), body: endless() }
  await expect(verify(request, SECRET)).rejects.toMatchObject({ code: 'body_too_large' })
  expect(readBytes).toBe(9 * 1_048_576)
})

it('a request without a body is refused', async () => {
  expect(await received((request) => request, null)).toMatch(/invalid_payload/)
  const fetched = new Request('http://localhost/', { headers: signedHeaders(SECRET, BODY) })
  await expect(verify(fetched, SECRET)).rejects.toMatchObject({ code: 'no_matching_signature' })
})

describe('a delivery', () => {
  it('contains all that came with it', async () => {
    const url = 'http://127.0.0.1:8080/jobs/job_x/complete?token=t'
    const headers = {
      ...signedHeaders(SECRET, BODY),
      'posthorn-schedule': 'nightly',
      'posthorn-complete-url': url,
    }
    const delivery = await verify<{ who: string }>({ headers, body: BODY }, SECRET)
    expect(delivery).toEqual({
      jobId: JOB_ID,
      endpoint: 'invoice-pdf',
      attempt: 2,
      attemptsLeft: 8,
      fence: 3,
      scheduledFor: new Date('2026-11-24T08:30:00.000Z'),
      deadline: new Date('2026-11-24T08:30:15.000Z'),
      schedule: 'nightly',
      completeUrl: url,
      failUrl: null,
      heartbeatUrl: null,
      isTest: false,
      payload: JSON.parse(BODY),
      rawPayload: Buffer.from(BODY),
    })
    expect(delivery.payload.who).toBe('Zoë 🐎')
  })

  it('of a test ping may lack what only jobs have', async () => {
    const body = '{"type":"posthorn.test"}'
    const all = signedHeaders(SECRET, body, { timestampSeconds: nowSeconds() })
    const signed = Object.entries(all).filter(([name]) => name.startsWith('webhook-'))
    const headers = { ...Object.fromEntries(signed), 'posthorn-test': 'true' }
    expect(await verify({ headers, body }, SECRET)).toMatchObject({ isTest: true, fence: 0 })
  })
})
