import { describe, expect, it } from 'vitest'
import { CHROMIUM, expected, useFixture } from './fixture.ts'

const KEY = 'an-admin-key-of-more-than-24-characters'
const fixture = useFixture({ API_KEYS: KEY }, false)
const authorization = { authorization: `Bearer ${KEY}` }

describe.skipIf(CHROMIUM === null)('an API with keys', () => {
  it('is asked for its key, and shows nothing before it has the right one', async () => {
    expected.wrongs = /401/
    const page = await fixture.open('/jobs')
    const field = page.getByLabel('Key', { exact: true })
    await field.fill('a-key-that-nobody-knows-anything-of')
    await page.getByRole('button', { name: 'Open the dashboard' }).click()
    await page.getByText('the key is unknown').waitFor()
    expect(await page.getByRole('table').count()).toBe(0)
    await field.fill(KEY)
    await page.getByRole('button', { name: 'Open the dashboard' }).click()
    await page.getByText('No job yet').waitFor()
  })

  it('gets the key from this tab alone, until the tab forgets it', async () => {
    expected.wrongs = /401/
    const page = await fixture.open('/')
    await page.getByLabel('Key', { exact: true }).fill(KEY)
    await page.getByRole('button', { name: 'Open the dashboard' }).click()
    await page.getByText('No endpoint yet').waitFor()
    const kept = await page.evaluate(
      '[localStorage.length, document.cookie, sessionStorage.length]',
    )
    expect(kept).toEqual([0, '', 1])
    await page.reload()
    await page.getByText('No endpoint yet').waitFor()
    await page.getByRole('button', { name: 'Forget key' }).click()
    await page.getByRole('heading', { name: 'API key' }).waitFor()
    expect(await page.evaluate('sessionStorage.length')).toBe(0)
  })

  it('shows the jobs to a key that may only enqueue, and says what else it needs', async () => {
    expected.wrongs = /40[13]/
    const made = { name: 'producer', scope: 'enqueue' }
    const { body } = await fixture.posthorn.request('POST', '/keys', made, authorization)
    const page = await fixture.open('/')
    await page.getByLabel('Key', { exact: true }).fill(body.key)
    await page.getByRole('button', { name: 'Open the dashboard' }).click()
    await page.getByText('the key has the scope enqueue; this needs admin').waitFor()
    await page.getByRole('link', { name: 'Jobs' }).click()
    await page.getByText('No job yet').waitFor()
  })

  it('asks again when the key is ended while the page is open', async () => {
    expected.wrongs = /401/
    const made = { name: 'night', scope: 'admin' }
    const { body } = await fixture.posthorn.request('POST', '/keys', made, authorization)
    const page = await fixture.open('/')
    await page.getByLabel('Key', { exact: true }).fill(body.key)
    await page.getByRole('button', { name: 'Open the dashboard' }).click()
    await page.getByText('No endpoint yet').waitFor()
    await fixture.posthorn.request('DELETE', `/keys/${body.id}`, undefined, authorization)
    await page.getByText('The API does not know this key.').waitFor()
  })
})
