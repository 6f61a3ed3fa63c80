import { describe, expect, it } from 'vitest'
import { RUN_LONG } from '../support/engines.ts'
import { until } from '../support/until.ts'
import { CHROMIUM, expected, useFixture } from './fixture.ts'
import { isSideways, PHONE } from './page-width.ts'

const fixture = useFixture()

describe.skipIf(CHROMIUM === null)('the overview', () => {
  it('shows a new user the next step', async () => {
    const page = await fixture.open()
    await page.getByText('No endpoint yet').waitFor()
    const line = await page.getByRole('region', { name: 'Command' }).textContent()
    expect(line).toContain(`curl -X PUT ${fixture.posthorn.url()}/endpoints/invoice-pdf`)
  })

  it('shows each endpoint with its counts, its last hour and how long it took', async () => {
    const { posthorn, receiver, enqueue, open } = fixture
    receiver.answerWith(({ path }) => (path === '/bad' ? 500 : 200))
    await posthorn.endpoint('good', `${receiver.url}/good`)
    await posthorn.endpoint('worse', `${receiver.url}/bad`, { retry: { maxAttempts: 1 } })
    const ids = [await enqueue('good'), await enqueue('good'), await enqueue('worse')]
    for (const id of ids) await posthorn.job(id, 'succeeded', 'dead')
    // Workers report their counts every 5 s.
    await until(async () => {
      const { body } = await posthorn.request('GET', '/stats?window=1h')
      const ended = body.minutes.map(
        (one: { succeeded: number; failed: number }) => one.succeeded + one.failed,
      )
      return ended.reduce((sum: number, count: number) => sum + count, 0) === ids.length
    })
    const page = await open()
    const good = page.getByRole('row', { name: /^good/ })
    await good.getByText('2 ok', { exact: true }).waitFor()
    await good.getByRole('img', { name: /2 attempts succeeded, none failed/ }).waitFor()
    expect(await good.textContent()).toMatch(/active[\s\S]*(≤ 10 ms|\d+ m?s – \d+ m?s)/)
    expect(await good.getByText('active', { exact: true }).getAttribute('class')).toMatch(/good/)
    const bad = page.getByRole('row', { name: /^worse/ })
    await bad.getByText('1 failed', { exact: true }).waitFor()
    // All attempts of this endpoint failed, so its chart has no green part.
    const state = bad.getByText('active, failing', { exact: true })
    expect(await state.getAttribute('class')).toMatch(/bad/)
    expect(await page.locator('table.endpoints tbody tr').first().textContent()).toMatch(/^worse/)
    const alone = await open('/endpoints/worse')
    await alone.getByText('active, failing', { exact: true }).waitFor()
    await bad.getByRole('link', { name: '1' }).click()
    await page.getByRole('heading', { name: 'Jobs' }).waitFor()
    expect(page.url()).toContain('#/jobs?endpoint=worse&state=dead')
  })

  it('says between which bounds p50 and p95 lie, and that it knows no more', async () => {
    const { open } = fixture
    const page = await open()
    await page.getByRole('row', { name: /^good/ }).waitFor()
    for (const name of ['p50', 'p95']) {
      const title = await page.getByRole('columnheader', { name }).getAttribute('title')
      expect(title).toMatch(/took no longer; .* the value lies between these bounds/)
    }
    const bounds = ['10ms', '2s500ms', '5s']
    const of = (...durations: number[]) => ({
      ended: { from: '', succeeded: [], failed: [], durations },
      durationBounds: bounds,
    })
    const all = [of(1, 0, 0, 0), of(0, 0, 1, 0), of(0, 0, 0, 1), of(0, 0, 0, 0)]
    const texts = await page.evaluate<
      string[]
    >(`import(new URL('dashboard/last-hour.js', document.baseURI))
      .then(({ within }) => ${JSON.stringify(all)}.map((one) => within(one, 0.5)))`)
    expect(texts).toEqual(['≤ 10 ms', '2.5 s – 5 s', '> 5 s', '–'])
  })

  // The test has sixty endpoints. test/routes/stats-of-many.test.ts tests that one request returns
  // all.
  it.runIf(RUN_LONG)(
    'asks once for all endpoints, and shows all at once: nothing comes late and moves the rest',
    async () => {
      const { posthorn, receiver, enqueue, open } = fixture
      const names = Array.from({ length: 30 }, (_, i) => `many-${i}`)
      for (const name of names) await posthorn.endpoint(name, receiver.url)
      await posthorn.request('POST', '/endpoints/many-7/pause')
      const id = await enqueue('many-7')
      await until(async () => {
        const { body } = await posthorn.request('GET', '/stats')
        return body.endpoints.some((one: { due: number }) => one.due > 0)
      })
      const page = await open('/schedules')
      await page.getByRole('heading', { name: 'Schedules' }).waitFor()
      const asked: string[] = []
      page.on('request', (request) => asked.push(request.url()))
      await page.evaluate(WATCH_SHIFTS)
      await page.getByRole('link', { name: 'Posthorn' }).click()
      await page.getByRole('row', { name: /^many-29/ }).waitFor()
      // The problem and its reason are shown together with the table.
      expect(await page.getByText('endpoint "many-7" is paused').count()).toBe(1)
      const stats = () => asked.filter((url) => url.includes('/stats'))
      const searches = () => stats().map((url) => new URL(url).search)
      expect(searches()).toEqual(['?window=1h&by=endpoint'])
      await until(() => stats().length >= 3, 60_000)
      expect(searches().filter((one) => one !== '' && one !== '?window=1h&by=endpoint')).toEqual([])
      expect(await page.evaluate<number>('window.shifted')).toBeLessThan(0.02)
      await posthorn.request('POST', '/endpoints/many-7/resume')
      await posthorn.job(id, 'succeeded')
      for (const name of names) await posthorn.request('DELETE', `/endpoints/${name}`)
      // The counts may be some seconds old.
      await until(async () => {
        const { body } = await posthorn.request('GET', '/stats')
        return !body.endpoints.some((one: { name: string }) => one.name.startsWith('many-'))
      })
    },
  )

  it('shows who works, and nothing at the top while all is well', async () => {
    const page = await fixture.open()
    const worker = page.getByRole('row', { name: /live/ })
    await worker.waitFor()
    expect(await worker.textContent()).toMatch(/0 of 100/)
    expect(await page.getByLabel('What is wrong').textContent()).toBe('')
  })

  it('says what is stuck and why, and takes it back when it is over', async () => {
    const { posthorn, receiver, enqueue, open } = fixture
    await posthorn.endpoint('held', receiver.url)
    await posthorn.request('POST', '/endpoints/held/pause')
    const id = await enqueue('held')
    const page = await open()
    const problem = page.getByLabel('What is wrong').getByText(/^held: 1 due/)
    await problem.waitFor()
    expect(await problem.textContent()).toMatch(/1 due, oldest .*, paused/)
    await page.getByText('endpoint "held" is paused').waitFor()
    await posthorn.request('POST', '/endpoints/held/resume')
    await posthorn.job(id, 'succeeded')
    await problem.waitFor({ state: 'detached' })
  })

  it('says why jobs that are due wait, not why an older one waits for others', async () => {
    const { posthorn, receiver, enqueue, open } = fixture
    await posthorn.endpoint('mixed', receiver.url)
    await posthorn.endpoint('before', receiver.url)
    await posthorn.request('POST', '/endpoints/before/pause')
    const first = await enqueue('before')
    const job = { endpoint: 'mixed', payload: 1 }
    const blocked = []
    for (const more of [{ dependsOn: [first] }, { dependsOn: [first] }]) {
      blocked.push((await posthorn.request('POST', '/jobs', { ...job, ...more })).body.id)
    }
    await posthorn.request('POST', '/endpoints/mixed/pause')
    const due = await enqueue('mixed')
    const page = await open()
    await page.getByText('endpoint "mixed" is paused').waitFor()
    expect(await page.getByText(`it waits for ${first}`).count()).toBe(0)
    for (const name of ['mixed', 'before']) {
      await posthorn.request('POST', `/endpoints/${name}/resume`)
    }
    for (const id of [first, due, ...blocked]) await posthorn.job(id, 'succeeded')
  })

  it('is reached by keyboard: the first key leads past the bar, and each page takes the focus', async () => {
    const page = await fixture.open('/', { ...PHONE })
    await page.getByRole('row', { name: /^good/ }).waitFor()
    expect(await isSideways(page)).toBe(false)
    await page.keyboard.press('Tab')
    await page.keyboard.press('Enter')
    await page.keyboard.press('Tab')
    const focused = () =>
      page.evaluate<string>('document.activeElement.closest("main, header").tagName')
    expect(await focused()).toBe('MAIN')
    await page.getByRole('link', { name: 'Schedules' }).focus()
    await page.keyboard.press('Enter')
    await page.getByRole('heading', { name: 'Schedules' }).waitFor()
    await until(async () => (await focused()) === 'MAIN')
  })

  it('says that the API is not reachable, since when, and goes on when it is again', async () => {
    const page = await fixture.open()
    await page.getByRole('row', { name: /^good/ }).waitFor()
    expected.wrongs = /ERR_INTERNET_DISCONNECTED/
    await page.context().setOffline(true)
    const alert = page.getByText(/Not reachable since \d\d:\d\d:\d\d/)
    await alert.waitFor()
    expect(await page.getByRole('row', { name: /^good/ }).count()).toBe(1)
    await page.context().setOffline(false)
    await alert.waitFor({ state: 'detached' })
  })

  it('makes no requests while the page is hidden, and one at once when it is shown', async () => {
    const page = await fixture.open('/', { clock: true })
    await page.getByRole('row', { name: /^good/ }).waitFor()
    let requestCount = 0
    page.on('request', () => {
      requestCount += 1
    })
    await page.clock.fastForward(60_000)
    await until(() => requestCount > 0)
    await page.waitForLoadState('networkidle')
    await page.evaluate(hide(true))
    const before = requestCount
    await page.clock.fastForward(60_000)
    await page.waitForLoadState('networkidle')
    expect(requestCount).toBe(before)
    await page.evaluate(hide(false))
    await until(() => requestCount > before)
  })
})

/** Runs in the page: adds up the layout shifts that content caused when it arrived. */
const WATCH_SHIFTS = `window.shifted = 0
  new PerformanceObserver((list) => {
    for (const { value } of list.getEntries()) window.shifted += value
  }).observe({ type: 'layout-shift' })`

/** Runs in the page: acts as if another tab came to the front, or this one came back. */
function hide(isHidden: boolean): string {
  return `Object.defineProperty(document, 'hidden', { value: ${isHidden}, configurable: true })
    document.dispatchEvent(new Event('visibilitychange'))`
}
