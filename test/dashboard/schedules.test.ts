import { describe, expect, it } from 'vitest'
import { until } from '../support/until.ts'
import { CHROMIUM, useFixture } from './fixture.ts'
import { isSideways, PHONE } from './page-width.ts'

const fixture = useFixture()

describe.skipIf(CHROMIUM === null)('the page of the schedules', () => {
  it('shows the next five runs in the zone of the schedule and in the reader’s', async () => {
    const { posthorn, receiver, open } = fixture
    await posthorn.endpoint('reports', receiver.url)
    await posthorn.request('PUT', '/schedules/nightly', {
      cron: '30 1 * * *',
      timezone: 'Asia/Kolkata',
      endpoint: 'reports',
      payload: {},
    })
    const page = await open('/schedules', { timezoneId: 'America/New_York' })
    const card = page.getByRole('region', { name: 'nightly' })
    const rows = card.locator('.runs tbody tr')
    await rows.nth(4).waitFor()
    expect(await rows.count()).toBe(5)
    for (const row of await rows.all())
      expect(await row.textContent()).toMatch(/01:30:00.*1[56]:00:00/)
    await card.getByText('America/New_York, yours').waitFor()
    await page.setViewportSize(PHONE.viewport)
    expect(await isSideways(page)).toBe(false)
  })

  it('runs one now, and leads to the job', async () => {
    const { posthorn, receiver, open } = fixture
    const page = await open('/schedules/nightly')
    await page.getByRole('button', { name: 'Run now' }).click()
    const said = await page.getByText(/Job job_\w+ is enqueued/).textContent()
    const [id = ''] = /job_\w+/.exec(said ?? '') ?? []
    await posthorn.job(id, 'succeeded')
    expect(receiver.requests.at(-1)?.headers['posthorn-schedule']).toBe('nightly')
  })

  it('pauses and resumes', async () => {
    const { posthorn, open } = fixture
    const isPaused = async () => (await posthorn.request('GET', '/schedules/nightly')).body.paused
    const page = await open('/schedules')
    await page.getByRole('button', { name: 'Pause' }).click()
    await page.getByText('paused', { exact: true }).waitFor()
    expect(await isPaused()).toBe(true)
    await page.getByRole('button', { name: 'Resume' }).click()
    await page.getByText('active', { exact: true }).waitFor()
    expect(await isPaused()).toBe(false)
  })

  it('shows the outcome of the last tick', async () => {
    const { posthorn, receiver, open } = fixture
    receiver.answerWith(422)
    const every = { every: '1s', endpoint: 'reports', payload: {} }
    await posthorn.request('PUT', '/schedules/often', every)
    await until(async () => {
      const { body } = await posthorn.request('GET', '/schedules/often')
      return body.lastJobId !== null
    })
    await posthorn.request('POST', '/schedules/often/pause')
    const { body } = await posthorn.request('GET', '/schedules/often')
    await posthorn.job(body.lastJobId, 'dead')
    const page = await open('/schedules/often')
    await page.getByText('dead', { exact: true }).waitFor()
    await page.getByRole('link', { name: body.lastJobId }).waitFor()
  })
})
