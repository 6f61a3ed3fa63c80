import { describe, expect, it } from 'vitest'
import { useServedApp } from '../support/served-app.ts'

const served = useServedApp({ apiKeys: ['a-key-of-twenty-four-characters'] })

/**
 * Everything that a browser loads for the page, as a browser loads it: without a key, from this
 * server.
 */
async function load(path: string) {
  const answer = await fetch(new URL(path, `${served.url}/docs`))
  return { status: answer.status, headers: answer.headers, text: await answer.text() }
}

const referencesIn = (html: string) =>
  [...html.matchAll(/\b(?:src|href)="([^"]*)"/g)].map((match) => match[1] as string)

describe('the page of the API reference', () => {
  it('is open to all, and so is each file it is made of', async () => {
    const page = await load('/docs')
    expect([page.status, page.headers.get('content-type')]).toEqual([
      200,
      'text/html; charset=utf-8',
    ])
    const references = referencesIn(page.text)
    expect(references.length).toBeGreaterThanOrEqual(4)
    for (const reference of references) {
      const file = await load(reference)
      expect([reference, file.status]).toEqual([reference, 200])
      expect(file.text.length).toBeGreaterThan(100)
      if (reference.startsWith('docs/'))
        expect(file.headers.get('x-content-type-options')).toBe('nosniff')
    }
  })

  it('shows the document that this server gives', async () => {
    const script = await load('/docs/start.js')
    expect(script.text).toContain("url: 'openapi.json'")
    expect(JSON.parse((await load('openapi.json')).text).openapi).toMatch(/^3\.1/)
  })

  it('points nowhere else: every URL in page, script and styles is of this server', async () => {
    const page = await load('/docs')
    for (const reference of referencesIn(page.text))
      expect(new URL(reference, `${served.url}/docs`).origin).toBe(served.url)
    const own = [page.text, (await load('/docs/start.js')).text]
    for (const text of own) expect(text).not.toMatch(/https?:|\/\//)
    const styles = (await load('/docs/swagger-ui.css')).text
    const targets = [...styles.matchAll(/url\(\s*["']?([^"')]*)/g)].map((match) => match[1] ?? '')
    for (const target of targets) expect(target).toMatch(/^data:/)
    expect(styles).not.toContain('@import')
  })

  it('forbids the browser every other origin, and script that is not a file of ours', async () => {
    for (const path of ['/docs', '/docs/swagger-ui-bundle.js']) {
      const policy = (await load(path)).headers.get('content-security-policy') ?? ''
      const directives = Object.fromEntries(
        policy.split('; ').map((directive) => {
          const [name, ...sources] = directive.split(' ')
          return [name, sources]
        }),
      )
      expect(directives).toMatchObject({
        'default-src': ["'none'"],
        'script-src': ["'self'"],
        'connect-src': ["'self'"],
        'frame-ancestors': ["'none'"],
      })
      for (const source of Object.values(directives).flat())
        expect(source).toMatch(/^('self'|'none'|data:)$/)
    }
    expect((await load('/docs')).text).not.toMatch(/<script>|style=|\bon\w+=/)
  })

  it('is sent once: a browser that has a file gets 304', async () => {
    const first = await load('/docs/swagger-ui.css')
    const headers = { 'if-none-match': first.headers.get('etag') ?? '' }
    const again = await fetch(`${served.url}/docs/swagger-ui.css`, { headers })
    expect([again.status, await again.text()]).toEqual([304, ''])
  })

  it.each(['/docs/package.json', '/docs/..%2fpackage.json', '/docs/__proto__'])(
    '%s is not there',
    async (path) => {
      expect((await load(path)).status).toBe(404)
    },
  )
})
