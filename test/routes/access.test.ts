import request from 'supertest'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type ServedApp, serveApp } from '../support/served-app.ts'

const KEY = 'a-key-of-twenty-four-characters'
const OTHER_KEY = 'another-key-of-enough-characters'

describe('in local mode', () => {
  let served: ServedApp
  beforeAll(async () => {
    served = await serveApp()
  })
  afterAll(() => served.close())
  const get = (headers: Record<string, string>) =>
    request(served.app.server).get('/jobs').set(headers)

  it.each(['localhost', 'localhost:8080', '127.0.0.1:1', '127.9.9.9', '[::1]:8080', 'LOCALHOST'])(
    'a request to %s needs no key',
    async (host) => {
      await get({ host }).expect(200)
    },
  )

  it.each(['evil.example', 'localhost.evil.example', '10.0.0.1', '127.0.0.1.nip.io', '[::2]', 'x'])(
    'a name bound to this machine by somebody else, %s, is refused',
    async (host) => {
      const answer = await get({ host }).expect(403)
      expect(answer.body).toMatchObject({ code: 'forbidden' })
    },
  )

  it.each([
    { origin: 'https://evil.example' },
    { origin: 'null' },
    { origin: 'http://localhost:3000' },
    { 'sec-fetch-site': 'cross-site' },
    { 'sec-fetch-site': 'same-site' },
  ])('a web page of another site is refused: %j', async (headers) => {
    await get({ host: 'localhost:8080', ...headers }).expect(403)
  })

  it.each([
    { origin: 'http://localhost:8080' },
    { 'sec-fetch-site': 'same-origin' },
    { 'sec-fetch-site': 'none' },
  ])('its own pages may ask: %j', async (headers) => {
    await get({ host: 'localhost:8080', ...headers }).expect(200)
  })

  it('even the open routes are refused to other sites', async () => {
    await request(served.app.server).get('/').set({ host: 'evil.example' }).expect(403)
  })

  it('a key that is sent is still checked', async () => {
    await get({ authorization: `Bearer ${KEY}` }).expect(401)
  })
})

describe('with keys', () => {
  let served: ServedApp
  beforeAll(async () => {
    served = await serveApp({ apiKeys: [KEY, OTHER_KEY] })
  })
  afterAll(() => served.close())
  const get = (path: string, authorization?: string) => {
    const sending = request(served.app.server).get(path)
    return authorization === undefined ? sending : sending.set({ authorization })
  }

  it.each([`Bearer ${KEY}`, `bearer ${OTHER_KEY}`])(
    '%s is let in, from any host',
    async (value) => {
      await get('/jobs', value).set({ host: 'jobs.example' }).expect(200)
    },
  )

  it.each([undefined, '', 'Bearer', 'Bearer wrong', `Basic ${KEY}`, KEY, `Bearer ${KEY}x`])(
    '%s is not',
    async (value) => {
      const answer = await get('/jobs', value).expect(401)
      expect(answer.headers['www-authenticate']).toBe('Bearer')
      expect(answer.body).toMatchObject({ code: 'unauthorized' })
    },
  )

  it.each(['/jobs', '/jobs/x', '/jobs/x/payload', '/endpoints', '/endpoints/x'])(
    '%s needs a key',
    async (path) => {
      await get(path).expect(401)
    },
  )

  it.each(['/', '/health/live', '/health/ready', '/openapi.json'])('%s is open', async (path) => {
    await get(path).expect(200)
  })
})
