import { describe, expect, it } from 'vitest'
import { restKey } from '../support/key-rest.ts'
import { CHROMIUM, expected, useFixture } from './fixture.ts'

const fixture = useFixture()
const shownEndpoint = async (name: string) =>
  (await fixture.posthorn.request('GET', `/endpoints/${name}`)).body

describe.skipIf(CHROMIUM === null)('the page of an endpoint', () => {
  it('shows its settings, its limits and how it is', async () => {
    const { posthorn, receiver, open } = fixture
    await posthorn.endpoint('letters', receiver.url, {
      description: 'Prints and posts',
      concurrency: 7,
      rateLimit: { count: 30, per: '1m' },
      circuitBreaker: { failures: 5, cooldown: '2m' },
      headers: { 'x-tenant': 'acme-production' },
    })
    const page = await open('/endpoints/letters')
    await page.getByText('Prints and posts').waitFor()
    const text = await page.getByRole('main').textContent()
    for (const part of [
      receiver.url,
      '30 per 1m',
      'after 5 failures in a row it rests 2m',
      '10 attempts, exponential from 5s × 3, at most 12h',
      (await shownEndpoint('letters')).secretHint,
    ])
      expect(text).toContain(part)
    expect(text).not.toContain('acme-production')
  })

  it('pauses and resumes', async () => {
    const page = await fixture.open('/endpoints/letters')
    await page.getByRole('button', { name: 'Pause' }).click()
    await page.getByText('paused', { exact: true }).waitFor()
    expect((await shownEndpoint('letters')).state).toBe('paused')
    await page.getByRole('button', { name: 'Resume' }).click()
    await page.getByText('active', { exact: true }).waitFor()
    expect((await shownEndpoint('letters')).state).toBe('active')
  })

  it('sends a test ping and shows the response', async () => {
    const { receiver, open } = fixture
    receiver.answerWith({ status: 418, body: 'short and stout' })
    const page = await open('/endpoints/letters')
    await page.getByRole('button', { name: 'Send a test ping' }).click()
    const answer = page.getByRole('region', { name: 'Response to the ping' })
    await answer.getByText('short and stout').waitFor()
    await page.getByText('418', { exact: true }).waitFor()
    expect(receiver.requests.at(-1)?.headers['posthorn-test']).toBe('true')
    receiver.answerWith(200)
  })

  it('rotates the secret only after a yes, and shows the new one once', async () => {
    const page = await fixture.open('/endpoints/letters')
    const before = (await shownEndpoint('letters')).secretHint
    await page.getByRole('button', { name: 'Rotate secret …' }).click()
    await page.getByRole('textbox', { name: /old secret/ }).fill('a while')
    expected.wrongs = /400/
    await page.getByRole('button', { name: 'Create a new secret' }).click()
    await page
      .getByText(/overlap/)
      .last()
      .waitFor()
    expect((await shownEndpoint('letters')).secretHint).toBe(before)
    await page.getByRole('textbox', { name: /old secret/ }).fill('1h')
    await page.getByRole('button', { name: 'Create a new secret' }).click()
    const secret = await page.getByRole('region', { name: 'Secret' }).textContent()
    expect(secret).toMatch(/^whsec_/)
    expect(secret?.endsWith((await shownEndpoint('letters')).secretHint)).toBe(true)
    await page.getByRole('dialog').getByRole('button', { name: 'Close' }).click()
    await page.getByRole('dialog').waitFor({ state: 'detached' })
    expect(await page.getByText(secret as string).count()).toBe(0)
  })

  it('shows what failed of late: the dead, those that wait for a retry, and why', async () => {
    const { posthorn, receiver, enqueue, open } = fixture
    receiver.answerWith(({ body }) => {
      const [status, text] = JSON.parse(body.toString())
      return { status, body: text }
    })
    const dead = await enqueue('letters', { payload: [422, 'no such street'] })
    await posthorn.job(dead, 'dead')
    const page = await open('/endpoints/letters')
    await page
      .getByRole('row', { name: new RegExp(dead) })
      .getByText(/rejected/)
      .waitFor()
    await page.getByText('no such street').waitFor()
    const retrying = await enqueue('letters', { payload: [500, 'out of stamps'] })
    await page
      .getByRole('row', { name: new RegExp(retrying) })
      .getByText(/next attempt/)
      .waitFor()
    await page.getByText('out of stamps').waitFor()
  })

  it('lists its fair keys, each page with one request', async () => {
    const { posthorn, enqueue, open } = fixture
    const { request } = posthorn
    await request('PUT', '/endpoints/fair', { url: null })
    const page = await open('/endpoints/fair')
    await page.getByRole('link', { name: 'Fair keys' }).click()
    await page.getByText('No fairness key has jobs here').waitFor()

    const keys = Array.from({ length: 60 }, (_, i) => `tenant ${String(i).padStart(2, '0')}`)
    const jobs = keys.map((fairnessKey) => ({ endpoint: 'fair', payload: 1, fairnessKey }))
    expect((await request('POST', '/jobs/batch', { jobs })).status).toBe(200)
    await enqueue('fair', { fairnessKey: 'tenant 07', delay: '1h' })
    await enqueue('fair', { fairnessKey: '<b>tenant</b>' })
    const row = page.getByRole('row', { name: /tenant 07/ })
    await row.waitFor()
    const cells = await row.getByRole('cell').allTextContents()
    expect(cells.map((text) => text.trim())).toEqual(['2', '1', '0', ''])
    const settings = { weight: 5, concurrency: 2, paused: true, rateLimit: { count: 3, per: '1m' } }
    await request('PUT', '/endpoints/fair/keys/tenant%2007', settings)
    await row.getByText('paused, weight 5, at most 2 at a time, 3 per 1m').waitFor()
    const until = await restKey(posthorn, { endpoint: 'fair', key: 'tenant 07' })
    await row.getByText(`resting until ${until.slice(11, 19)} UTC`).waitFor()
    await page.getByRole('row', { name: /<b>tenant<\/b>/ }).waitFor()
    expect(await page.getByRole('row').count()).toBe(51)

    const asked: string[] = []
    page.on('request', (one) => void asked.push(new URL(one.url()).pathname))
    await page.getByRole('link', { name: 'Further' }).click()
    await page.getByRole('row', { name: /tenant 59/ }).waitFor()
    expect(await page.getByRole('row').count()).toBe(12)
    const ofApi = asked.filter((path) => !path.startsWith('/dashboard'))
    expect(new Set(ofApi)).toEqual(new Set(['/endpoints/fair/keys']))
    await page.getByRole('link', { name: 'First', exact: true }).click()
    await row.waitFor()
    await page.getByRole('link', { name: 'Longest wait first' }).click()
    await page.getByText('the one that waits longest first').waitFor()
    await page.getByRole('link', { name: 'By key' }).click()
    await row.waitFor()
    await page.getByRole('link', { name: 'Endpoint', exact: true }).click()
    await page.getByRole('button', { name: 'Pause' }).waitFor()
  })
})
