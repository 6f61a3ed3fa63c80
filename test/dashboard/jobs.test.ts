import type { Page } from 'playwright-core'
import { beforeAll, describe, expect, it } from 'vitest'
import { CHROMIUM, useFixture } from './fixture.ts'

const fixture = useFixture({}, false)
const PAGE = 50
const WAITING = 60

const rows = (page: Page) => page.locator('table.jobs tbody tr')
const stateOf = async (id: string) =>
  (await fixture.posthorn.request('GET', `/jobs/${id}`)).body.state

describe.skipIf(CHROMIUM === null)('the list of jobs', () => {
  const ids: string[] = []
  beforeAll(async () => {
    if (CHROMIUM === null) return
    const { posthorn, receiver, enqueue } = fixture
    await posthorn.endpoint('letters', receiver.url)
    await posthorn.endpoint('parcels', receiver.url)
    const job = { endpoint: 'letters', payload: {}, tags: ['slow'] }
    const jobs = Array.from({ length: WAITING }, () => job)
    const { body } = await posthorn.request('POST', '/jobs/batch', { jobs })
    for (const { id } of body.items) ids.push(id)
    ids.push(await enqueue('parcels', { tags: ['fragile'] }))
  })

  it('is newest first, and older pages are a link away, with a way back', async () => {
    const page = await fixture.open('/jobs')
    await rows(page)
      .nth(PAGE - 1)
      .waitFor()
    expect(await rows(page).first().textContent()).toContain(ids.at(-1))
    await page.getByRole('link', { name: 'Older' }).click()
    await page.getByRole('link', { name: 'Newest' }).waitFor()
    await page.getByRole('link', { name: ids[0] as string }).waitFor()
    expect(await rows(page).count()).toBe(WAITING + 1 - PAGE)
    await page.goBack()
    await page.getByRole('link', { name: ids.at(-1) as string }).waitFor()
  })

  it('is filtered by what stands in the address, and the form writes it there', async () => {
    const page = await fixture.open('/jobs?tag=fragile')
    await page.getByRole('link', { name: ids.at(-1) as string }).waitFor()
    expect(await rows(page).count()).toBe(1)
    expect(await page.getByRole('textbox', { name: 'Tag' }).inputValue()).toBe('fragile')
    await page.getByRole('checkbox', { name: 'dead' }).check()
    await page.getByRole('button', { name: 'Show', exact: true }).click()
    await page.getByText('No job matches').waitFor()
    expect(new URL(page.url()).hash).toBe('#/jobs?tag=fragile&state=dead')
    await page.getByRole('checkbox', { name: 'dead' }).uncheck()
    await page.getByLabel('Created before').fill('2020-01-01T00:00:00')
    await page.getByRole('button', { name: 'Show', exact: true }).click()
    await page.getByText('No job matches').waitFor()
    expect(new URL(page.url()).hash).toMatch(/createdBefore=20(19|20)-/)
  })

  it('shows a new job without being asked again', async () => {
    const page = await fixture.open('/jobs?endpoint=parcels')
    await rows(page).first().waitFor()
    const id = await fixture.enqueue('parcels')
    await page.getByRole('link', { name: id }).waitFor()
    await fixture.posthorn.request('POST', `/jobs/${id}/cancel`)
  })

  it('cancels all that match only after it has said how many, and was confirmed', async () => {
    const page = await fixture.open('/jobs?endpoint=letters')
    const cancel = page.getByRole('button', { name: 'Cancel …' })
    await cancel.click()
    const dialog = page.getByRole('dialog', { name: `Cancel ${WAITING} jobs?` })
    await dialog.waitFor()
    expect(await dialog.textContent()).toContain('endpoint = letters')
    await dialog.getByRole('button', { name: 'Keep them unchanged' }).click()
    await dialog.waitFor({ state: 'detached' })
    expect(await stateOf(ids[0] as string)).toBe('queued')

    await cancel.click()
    await dialog.getByRole('button', { name: `Cancel ${WAITING} jobs` }).click()
    await page.getByText(`${WAITING} jobs cancelled.`).waitFor()
    expect(await stateOf(ids[0] as string)).toBe('cancelled')
    expect(await stateOf(ids.at(-1) as string)).toBe('queued')
  })

  it('retries all that match, and no other', async () => {
    const page = await fixture.open('/jobs?endpoint=letters&state=cancelled&tag=slow')
    await page.getByRole('button', { name: 'Retry …' }).click()
    await page.getByRole('button', { name: `Retry ${WAITING} jobs` }).click()
    await page.getByText(`${WAITING} jobs queued again.`).waitFor()
    await page.getByText('No job matches').waitFor()
    expect(await stateOf(ids[0] as string)).toBe('queued')
  })

  it('changes nothing in bulk without a filter, or where nothing can be changed', async () => {
    const page = await fixture.open('/jobs')
    await rows(page).first().waitFor()
    const retry = page.getByRole('button', { name: 'Retry …' })
    expect(await retry.isDisabled()).toBe(true)
    expect(await page.getByRole('button', { name: 'Cancel …' }).isDisabled()).toBe(true)
    await page.goto(`${fixture.posthorn.url()}/dashboard#/jobs?state=succeeded&endpoint=letters`)
    await page.getByText('No job matches').waitFor()
    expect(await retry.isDisabled()).toBe(true)
  })

  it('opens a job whose id was read in a log', async () => {
    const page = await fixture.open('/jobs')
    await page.getByRole('textbox', { name: 'Job id' }).fill(`  ${ids[3]}  `)
    await page.getByRole('button', { name: 'Open' }).click()
    await page.getByRole('heading', { name: `Job ${ids[3]}` }).waitFor()
  })
})

describe.skipIf(CHROMIUM === null)('without a worker', () => {
  it('the overview says that nothing is delivered', async () => {
    const page = await fixture.open('/')
    await page.getByText('No live worker: nothing is delivered').waitFor()
    await page.getByText('none was seen in the last hour').waitFor()
  })

  it('the overview does not bury its table under what is wrong', async () => {
    const { posthorn, receiver, enqueue, open } = fixture
    for (let i = 0; i < 6; i++) {
      await posthorn.endpoint(`held-${i}`, receiver.url)
      await posthorn.request('POST', `/endpoints/held-${i}/pause`)
      await enqueue(`held-${i}`)
    }
    const page = await open('/')
    const further = page.getByText(/^\d+ more$/)
    await further.waitFor()
    const lines = page.getByLabel('What is wrong').locator('strong')
    expect(await lines.filter({ visible: true }).count()).toBe(5)
    await further.click()
    await page.getByLabel('What is wrong').getByRole('link', { name: 'held-5' }).waitFor()
  })
})
