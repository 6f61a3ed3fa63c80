import { request } from 'undici'
import { describe, expect, it } from 'vitest'
import { useServedApp } from '../support/served-app.ts'

const KEY = 'a-key-of-twenty-four-characters'
const OTHER_KEY = 'another-key-of-enough-characters'

/** Sends headers that fetch does not let a program set, such as Host. */
async function answerOf(url: string, headers: Record<string, string>) {
  const { statusCode: status, body } = await request(url, { headers })
  return { status, body: await body.json() }
}

describe('in local mode', () => {
  const served = useServedApp()
  const get = (headers: Record<string, string>, path = '/jobs') =>
    answerOf(served.url + path, headers)

  it.each(['localhost', 'localhost:8080', '127.0.0.1:1', '127.9.9.9', '[::1]:8080', 'LOCALHOST'])(
    'a request to %s needs no key',
    async (host) => {
      expect(await get({ host })).toMatchObject({ status: 200 })
    },
  )

  it.each(['evil.example', 'localhost.evil.example', '10.0.0.1', '127.0.0.1.nip.io', '[::2]', 'x'])(
    'a name bound to this machine by another party, %s, is refused',
    async (host) => {
      const forbidden = { status: 403, body: { code: 'forbidden' } }
      expect(await get({ host })).toMatchObject(forbidden)
    },
  )

  it.each([
    { origin: 'https://evil.example' },
    { origin: 'null' },
    { origin: 'http://localhost:3000' },
    { 'sec-fetch-site': 'cross-site' },
    { 'sec-fetch-site': 'same-site' },
  ])('a web page of another site is refused: %j', async (headers) => {
    expect(await get({ host: 'localhost:8080', ...headers })).toMatchObject({ status: 403 })
  })

  it.each([
    { origin: 'http://localhost:8080' },
    { 'sec-fetch-site': 'same-origin' },
    { 'sec-fetch-site': 'none' },
  ])('its own pages may ask: %j', async (headers) => {
    expect(await get({ host: 'localhost:8080', ...headers })).toMatchObject({ status: 200 })
  })

  it('even the open routes are refused to other sites', async () => {
    expect(await get({ host: 'evil.example' }, '/')).toMatchObject({ status: 403 })
  })

  it('a key that is sent is still checked', async () => {
    expect(await get({ authorization: `Bearer ${KEY}` })).toMatchObject({ status: 401 })
  })
})

describe('with keys', () => {
  const served = useServedApp({ apiKeys: [KEY, OTHER_KEY] })
  const get = (path: string, authorization?: string) =>
    served.request('GET', path, undefined, authorization === undefined ? {} : { authorization })

  it.each([`Bearer ${KEY}`, `bearer ${OTHER_KEY}`])(
    '%s is let in, from any host',
    async (value) => {
      const headers = { authorization: value, host: 'jobs.example' }
      expect(await answerOf(`${served.url}/jobs`, headers)).toMatchObject({ status: 200 })
    },
  )

  it.each([undefined, '', 'Bearer', 'Bearer wrong', `Basic ${KEY}`, KEY, `Bearer ${KEY}x`])(
    '%s is not',
    async (value) => {
      const answer = await get('/jobs', value).expect(401)
      expect(answer.headers.get('www-authenticate')).toBe('Bearer')
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
