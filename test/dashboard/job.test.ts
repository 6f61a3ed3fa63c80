import { execFileSync } from 'node:child_process'
import type { Page } from 'playwright-core'
import { describe, expect, it } from 'vitest'
import { CHROMIUM, expected, useFixture } from './fixture.ts'

const fixture = useFixture({ RETENTION: '1d' })
/** JSON.parse and back would change each of these. */
const PAYLOAD =
  '{"big":12345678901234567890,"price":1.0,"price":2.50,  "text":"it\'s \\u00e9\\n$HOME `x`"}'

async function payloadOf(id: string): Promise<string> {
  return (await fetch(`${fixture.posthorn.url()}/jobs/${id}/payload`)).text()
}

async function copied(page: Page, button: string): Promise<string> {
  await page.getByRole('button', { name: button }).click()
  await page.getByText(/ copied\./).waitFor()
  return page.evaluate<string>('navigator.clipboard.readText()')
}

/** Role and name of each landmark of the page, as a screen reader lists them. */
const LANDMARKS = `[...document.querySelectorAll(
  'main, nav, aside, body > header, body > * > header, section, form, [role=region], [role=navigation]',
)].flatMap((one) => {
  const by = one.getAttribute('aria-labelledby')
  const label = one.getAttribute('aria-label') ?? (by && document.getElementById(by)?.textContent)
  const name = (label ?? '').trim().replace(/\\s+/g, ' ')
  const tag = one.getAttribute('role') ?? one.localName
  const role = tag === 'section' ? 'region' : tag
  // Without a name, these are not landmarks.
  return name === '' && ['region', 'form'].includes(role) ? [] : [role + ' ' + name]
})`

const withClipboard = { permissions: ['clipboard-read', 'clipboard-write'] }

describe.skipIf(CHROMIUM === null)('the page of a job', () => {
  it('draws its attempts to scale and shows each response', async () => {
    const { posthorn, receiver, enqueue, open } = fixture
    receiver.answerWith([{ status: 500, body: 'no paper' }, { status: 503, body: 'no ink' }, 200])
    const backoff = { type: 'schedule', delays: ['50ms', '800ms'], jitter: 0 }
    await posthorn.endpoint('print', receiver.url, { retry: { maxAttempts: 3, backoff } })
    const id = await enqueue('print', { payload: { page: 1 } })
    const { attempts, createdAt, finishedAt } = await posthorn.job(id, 'succeeded')
    const page = await open(`/jobs/${id}`)
    const drawing = page.getByRole('img', { name: /3 attempts over/ })
    await drawing.waitFor()
    expect(await drawing.getAttribute('aria-label')).toMatch(/http error, http error, succeeded/)
    const whole = Date.parse(finishedAt) - Date.parse(createdAt)
    for (const [i, one] of attempts.entries()) {
      const x = Number.parseFloat((await drawing.locator('rect').nth(i).getAttribute('x')) ?? '')
      const at = ((Date.parse(one.startedAt) - Date.parse(createdAt)) / whole) * 100
      expect(Math.abs(x - Math.min(at, 99.3))).toBeLessThan(0.5)
    }
    await page.getByText('Response, 8 characters kept').click()
    await page
      .getByRole('region', { name: 'Response to attempt 1' })
      .getByText('no paper')
      .waitFor()
    await page.getByText('the job is succeeded').waitFor()
  })

  it('says in words why it waits, and runs it now when asked to', async () => {
    const { posthorn, enqueue, open } = fixture
    const id = await enqueue('print', { delay: '1h' })
    const page = await open(`/jobs/${id}`)
    await page.getByText(/it is due at \d\d:\d\d:\d\d UTC \(in 59 min\)/).waitFor()
    await page.getByRole('button', { name: 'Run now' }).click()
    await posthorn.job(id, 'succeeded')
    await page.getByText('the job is succeeded').waitFor()
  })

  it('cancels, and retries what was cancelled', async () => {
    const { posthorn, enqueue, open } = fixture
    const id = await enqueue('print', { delay: '1h' })
    const page = await open(`/jobs/${id}`)
    await page.getByRole('button', { name: 'Cancel' }).click()
    await page.getByRole('button', { name: 'Retry' }).click()
    await page.getByText('The job is queued again.').waitFor()
    await posthorn.job(id, 'succeeded')
  })

  it('copies the payload byte for byte, and shows it as it was sent', async () => {
    const { posthorn, open } = fixture
    const job = `{"endpoint":"print","delay":"1h","payload":${PAYLOAD}}`
    const { body } = await posthorn.request('POST', '/jobs', job)
    const page = await open(`/jobs/${body.id}`, withClipboard)
    const shown = page.getByRole('region', { name: 'Payload as JSON' })
    await shown.getByText('"big": 12345678901234567890,').waitFor()
    expect((await shown.textContent())?.replaceAll(/\n */g, '')).toBe(
      PAYLOAD.replaceAll(/":/g, '": ').replace(',  "text"', ',"text"'),
    )
    expect(await copied(page, 'Copy payload')).toBe(await payloadOf(body.id))
  })

  it('copies a curl line that enqueues the same, whatever stands in it', async () => {
    const { posthorn, open } = fixture
    const more = '"tags":["it\'s"],"priority":7,"retry":{"maxAttempts":2}'
    const job = `{"endpoint":"print","delay":"1h",${more},"payload":${PAYLOAD}}`
    const { body } = await posthorn.request('POST', '/jobs', job)
    const page = await open(`/jobs/${body.id}`, withClipboard)
    const line = await copied(page, 'Copy as curl')
    const made = JSON.parse(
      execFileSync('sh', ['-c', `${line} -s`], { timeout: 10_000 }).toString(),
    )
    expect(made).toMatchObject({ endpoint: 'print', tags: ["it's"], priority: 7, maxAttempts: 2 })
    expect(await payloadOf(made.id)).toBe(PAYLOAD)
  })

  it('edits what is queued: its time, its priority, and a payload that was never sent', async () => {
    const { posthorn, enqueue, open } = fixture
    const id = await enqueue('print', { delay: '1h' })
    const page = await open(`/jobs/${id}`, { timezoneId: 'Asia/Kolkata' })
    await page.getByRole('button', { name: 'Edit …' }).click()
    const payload = page.getByRole('textbox', { name: /Payload/ })
    await payload.fill('{"page":')
    await page.getByRole('button', { name: 'Save' }).click()
    await page.getByText(/The payload is not JSON/).waitFor()
    await payload.fill(PAYLOAD)
    await page.getByLabel('Priority').selectOption('9')
    const due = new Date(Date.now() + 48 * 3_600_000).toISOString().slice(0, 10)
    await page.getByLabel('Due').fill(`${due}T06:30:00`)
    await page.getByRole('button', { name: 'Save' }).click()
    await page.getByText('The job is changed.').waitFor()
    const { body } = await posthorn.request('GET', `/jobs/${id}`)
    expect(body).toMatchObject({ priority: 9, runAt: `${due}T01:00:00.000Z` })
    expect(await payloadOf(id)).toBe(PAYLOAD)
  })

  it('does not save over what another client has changed meanwhile', async () => {
    const { posthorn, enqueue, open } = fixture
    const id = await enqueue('print', { delay: '1h' })
    const page = await open(`/jobs/${id}`)
    await page.getByRole('button', { name: 'Edit …' }).click()
    await posthorn.request('PATCH', `/jobs/${id}`, { priority: 1 })
    await page.getByLabel('Priority').selectOption('9')
    expected.wrongs = /412/
    await page.getByRole('button', { name: 'Save' }).click()
    await page.getByText(/If-Match names another version/).waitFor()
    expect((await posthorn.request('GET', `/jobs/${id}`)).body.priority).toBe(1)
  })

  it('asks for what it has only whether it has changed', async () => {
    const { enqueue, open } = fixture
    const id = await enqueue('print', { delay: '1h' })
    const page = await open(`/jobs/${id}`)
    await page.waitForResponse(
      (answer) => answer.url().endsWith(`/jobs/${id}`) && answer.status() === 304,
    )
  })

  it('lists what it waits for, an id a line, and does not call it due', async () => {
    const { posthorn, enqueue, open } = fixture
    await posthorn.request('PUT', '/endpoints/pulled', { url: null })
    const ids = [await enqueue('pulled'), await enqueue('pulled')]
    const id = await enqueue('pulled', { dependsOn: ids })
    const page = await open(`/jobs/${id}`)
    const waitsFor = page.locator('dt', { hasText: 'Waits for' }).locator('xpath=../dd')
    await waitsFor.waitFor()
    expect(await waitsFor.locator('li').allTextContents()).toEqual(ids)
    const due = page.locator('dt', { hasText: 'Due' }).locator('xpath=../dd')
    expect(await due.textContent()).toMatch(/^at the earliest \d{4}-\d\d-\d\d [\d:]+ UTC$/)
    const list = await open('/jobs?endpoint=pulled')
    const row = list.locator('tr', { has: list.getByRole('link', { name: id }) })
    await row.getByText('depends on 2 jobs').waitFor()
    expect(await row.textContent()).not.toMatch(/due\b/)
    const first = list.locator('tr', { has: list.getByRole('link', { name: ids[0] as string }) })
    expect(await first.textContent()).toMatch(/due\b/)
  })

  it('never says that more attempts were sent than there may be', async () => {
    const { posthorn, receiver, enqueue, open } = fixture
    receiver.answerWith(500)
    const retry = { maxAttempts: 2, backoff: { type: 'fixed', delay: '0s' } }
    await posthorn.endpoint('failing', receiver.url, { retry })
    const id = await enqueue('failing')
    await posthorn.job(id, 'dead')
    const list = await open('/jobs?endpoint=failing')
    await list.getByRole('cell', { name: '2 of 2', exact: true }).waitFor()
    await posthorn.request('POST', `/jobs/${id}/retry`)
    await list.getByRole('cell', { name: '4', exact: true }).waitFor()
    const page = await open(`/jobs/${id}`)
    await page.getByText('4 sent; 2 allowed after each retry by hand').waitFor()
    receiver.answerWith({ body: '{"pages":3}' })
  })

  it('gives each region of a page a name of its own, as all pages do', async () => {
    const { posthorn, receiver, enqueue, open } = fixture
    receiver.answerWith([500, { body: '{"pages":3}' }])
    const retry = { maxAttempts: 2, backoff: { type: 'fixed', delay: '0s' } }
    await posthorn.endpoint('named', receiver.url, { retry })
    const id = await enqueue('named', { payload: { page: 1 } })
    await posthorn.job(id, 'succeeded')
    const places = {
      [`/jobs/${id}`]: 'Payload as JSON',
      '/jobs': 'Filters',
      '/': null,
      '/endpoints/named': null,
      '/schedules': null,
    }
    for (const [place, last] of Object.entries(places)) {
      const page = await open(place)
      if (last !== null) await page.getByLabel(last, { exact: true }).first().waitFor()
      await page.getByRole('heading', { level: 1 }).waitFor()
      await page.waitForLoadState('networkidle')
      const landmarks = await page.evaluate<string[]>(LANDMARKS)
      expect(landmarks.length).toBeGreaterThan(1)
      expect([place, landmarks.toSorted()]).toEqual([place, [...new Set(landmarks)].toSorted()])
      await page.close()
    }
  })

  it('says so when there is no such job', async () => {
    expected.wrongs = /404/
    const page = await fixture.open('/jobs/job_00000000000000000000000000')
    await page.getByText('The job cannot be shown').waitFor()
  })
})
