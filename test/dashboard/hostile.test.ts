import type { Page } from 'playwright-core'
import { beforeAll, describe, expect, it } from 'vitest'
import { CHROMIUM, expected, useFixture } from './fixture.ts'
import { isSideways, PHONE } from './page-width.ts'

const fixture = useFixture()

/** Each of these would call `hit` if the page treated it as more than text. */
const MARKUP = [
  '<script>hit()</script>',
  '<img src=x onerror=hit()>',
  '<svg/onload=hit()>',
  '"><iframe srcdoc="<script>parent.hit()</script>">',
  '<a href="javascript:hit()">press</a>',
  '$' + '{hit()} {{hit()}}',
].join(' ')
const TURNED = '\u202Etxt.exe\u202C \u2066hidden\u2069 \u200Bzero'
const TERMINAL = '\u001B[31mred\u001B[0m \u0007bell \u0000nul \u009Bcsi'
const LONG_LINE = 'W'.repeat(65_536)

/** Whether a script ran, or an element exists that the dashboard does not make. */
async function harm(page: Page): Promise<unknown> {
  const found = await page.evaluate<object>(`({
    hits: globalThis.hitCount ?? 0,
    elements: document.querySelectorAll('iframe, script:not([src]), img[src="x"], [onload], [onerror], a[href^="javascript"]').length,
  })`)
  return { ...found, sideways: await isSideways(page) }
}
const HARMLESS = { hits: 0, elements: 0, sideways: false }

async function openWatched(place: string, options = {}): Promise<Page> {
  const page = await fixture.open('/', options)
  await page.evaluate(
    'globalThis.hit = () => { globalThis.hitCount = (globalThis.hitCount ?? 0) + 1 }',
  )
  await page.evaluate(`location.hash = ${JSON.stringify(place)}`)
  return page
}

describe.skipIf(CHROMIUM === null)('text that a client or a handler wrote', () => {
  let id = ''
  let lineId = ''
  beforeAll(async () => {
    if (CHROMIUM === null) return
    const { posthorn, receiver, enqueue } = fixture
    receiver.answerWith(({ path }) =>
      path === '/line'
        ? { status: 422, body: LONG_LINE }
        : { status: 422, body: `${MARKUP}\n${TURNED}\n${TERMINAL}` },
    )
    await posthorn.endpoint('hostile', receiver.url, { description: MARKUP })
    await posthorn.endpoint('line', `${receiver.url}/line`)
    const tags = ['<img src=x onerror=hit()>', TURNED]
    id = await enqueue('hostile', {
      payload: { [MARKUP]: `${MARKUP}${TURNED}`, __proto__: { x: 1 }, constructor: MARKUP },
      tags,
      metadata: { '<svg/onload=hit()>': `${MARKUP}${TURNED}` },
      orderingKey: MARKUP,
      fairnessKey: MARKUP,
      dedupe: { key: MARKUP, mode: 'keep' },
    })
    lineId = await enqueue('line', { payload: LONG_LINE, metadata: { line: 'W'.repeat(512) } })
    for (const one of [id, lineId]) await posthorn.job(one, 'dead')
  })

  it('stays text on the page of the job: payload, response, tags, metadata, keys', async () => {
    const page = await openWatched(`/jobs/${id}`)
    const answer = page.getByRole('region', { name: 'Response to attempt 1' })
    await answer.waitFor()
    const text = (await answer.textContent()) ?? ''
    expect(text).toContain(MARKUP)
    expect(text).toContain('⟨U+202E⟩txt.exe⟨U+202C⟩')
    expect(text).toContain('␛[31mred')
    const payload = page.getByRole('region', { name: 'Payload as JSON' })
    await payload.getByText('<script>hit()</script>').first().waitFor()
    expect(await payload.textContent()).not.toContain('\u202E')
    expect(await harm(page)).toEqual(HARMLESS)
  })

  it.each([
    ['the list of jobs', '/jobs', 'tag'],
    ['the endpoint', '/endpoints/hostile', 'Recent failures'],
    ['a place that is not there', `/jobs/x?${encodeURIComponent(MARKUP)}`, 'cannot be shown'],
    [
      'a filter of markup',
      `/jobs?tag=${encodeURIComponent(MARKUP.slice(0, 60))}`,
      'No job matches',
    ],
  ])('stays text on %s, as wide as a phone', async (_, place, ready) => {
    expected.wrongs = place.startsWith('/jobs/x') ? /404/ : null
    const page = await openWatched(place, PHONE)
    if (ready === 'tag') await page.locator('.tag').first().waitFor()
    else await page.getByText(ready).first().waitFor()
    expect(await harm(page)).toEqual(HARMLESS)
  })

  it('does not push the page aside when it is one line of 64 KiB, on a phone either', async () => {
    const page = await openWatched(`/jobs/${lineId}`, PHONE)
    await page.getByRole('region', { name: 'Response to attempt 1' }).waitFor()
    await page.getByText('The first 64 Ki characters').waitFor()
    expect(await harm(page)).toEqual(HARMLESS)
  })

  it('could not run if it were ever made an element: the policy lets no inline script', async () => {
    const page = await openWatched('/')
    await page.getByRole('table').first().waitFor()
    expected.wrongs = /Content Security Policy/
    const violated = await page.evaluate(`new Promise((resolve) => {
      const seen = new Set()
      document.addEventListener('securitypolicyviolation', ({ effectiveDirective }) => {
        seen.add(effectiveDirective)
        if (seen.size === 3) resolve([...seen].sort())
      })
      const script = document.createElement('script')
      script.textContent = 'hit()'
      document.body.append(script)
      const box = document.createElement('div')
      box.innerHTML = '<b onclick="hit()" style="color:red">x</b>'
      document.body.append(box)
      box.firstChild.click()
    })`)
    expect(violated).toEqual(['script-src-attr', 'script-src-elem', 'style-src-attr'])
    expect(await page.evaluate('globalThis.hitCount ?? 0')).toBe(0)
  })
})
