import { gunzipSync, gzipSync } from 'node:zlib'
import { request } from 'undici'
import { beforeAll, describe, expect, it } from 'vitest'
import { useServedApp } from '../support/served-app.ts'

const MAX_SCRIPT_BYTES = 60 * 1_024

let page: string
let names: string[]
const served = useServedApp({ apiKeys: ['a-key-of-twenty-four-characters'] })
beforeAll(async () => {
  page = await (await fetch(`${served.url}/dashboard`)).text()
  names = [...page.matchAll(/\b(?:src|href)="dashboard\/([^"]*)"/g)].map((match) => match[1] ?? '')
})

const load = (name: string, headers = {}) => fetch(`${served.url}/dashboard/${name}`, { headers })

describe('the files of the dashboard', () => {
  it('are open to all, and each that is named is there', async () => {
    expect(names.length).toBeGreaterThan(20)
    for (const name of names) {
      const answer = await load(name)
      expect([name, answer.status]).toEqual([name, 200])
      expect(answer.headers.get('x-content-type-options')).toBe('nosniff')
    }
  })

  it('import one another and nothing else', async () => {
    const scripts = names.filter((name) => name.endsWith('.js'))
    for (const name of scripts) {
      const text = await (await load(name)).text()
      const specifiers = [...text.matchAll(/\bfrom\s*["']([^"']+)["']/g)].map((match) => match[1])
      for (const one of specifiers)
        expect([name, one, scripts.includes(one?.slice('./'.length) ?? '')]).toEqual([
          name,
          one,
          true,
        ])
    }
  })

  it('are at most 60 KiB of script, compressed', async () => {
    let sum = 0
    for (const name of new Set(names.filter((one) => one.endsWith('.js'))))
      sum += gzipSync(Buffer.from(await (await load(name)).arrayBuffer())).length
    expect(sum).toBeGreaterThan(10_000)
    expect(sum).toBeLessThanOrEqual(MAX_SCRIPT_BYTES)
  })

  it('come compressed to a client that accepts that, and as they are to others', async () => {
    const url = `${served.url}/dashboard/words.js`
    const plain = await request(url)
    expect(plain.headers['content-encoding']).toBeUndefined()
    const text = await plain.body.text()
    const small = await request(url, { headers: { 'accept-encoding': 'br, gzip' } })
    expect(small.headers).toMatchObject({ 'content-encoding': 'gzip', vary: 'accept-encoding' })
    expect(small.headers.etag).not.toBe(plain.headers.etag)
    expect(gunzipSync(Buffer.from(await small.body.arrayBuffer())).toString()).toBe(text)
    const refused = await request(url, { headers: { 'accept-encoding': 'gzip;q=0' } })
    expect(refused.headers['content-encoding']).toBeUndefined()
    await refused.body.dump()
  })

  it('are sent once: a browser that has a file gets 304', async () => {
    const { headers } = await load('main.js')
    expect(headers.get('cache-control')).toBe('no-cache')
    const again = await load('main.js', { 'if-none-match': headers.get('etag') })
    expect([again.status, await again.text()]).toEqual([304, ''])
  })

  it('lie under a policy without inline script, inline style or another origin', async () => {
    const { headers } = await fetch(`${served.url}/dashboard`)
    const policy = headers.get('content-security-policy') ?? ''
    expect(policy).toContain("default-src 'none'; script-src 'self'; style-src 'self'")
    expect(policy).not.toMatch(/unsafe|https?:|\*/)
    expect(page).not.toMatch(/<script>|style=|\bon\w+=/)
  })

  it.each(['tsconfig.json', '..%2fpackage.json', '__proto__', 'nowhere.js'])(
    '%s is not one of them',
    async (name) => {
      expect((await load(name)).status).toBe(404)
    },
  )
})
