import { describe, expect, it } from 'vitest'
import { until } from '../support/until.ts'
import { CHROMIUM, useFixture } from './fixture.ts'
import { isSideways, PHONE } from './page-width.ts'

const MEMBERS = 12

const fixture = useFixture({ SWEEP_INTERVAL: '100ms' })

/** A group with members, two of which are rejected. */
async function groupOf(endpoint: string, name: string) {
  const { posthorn, receiver } = fixture
  await posthorn.endpoint(endpoint, receiver.url)
  const { body } = await posthorn.request('POST', '/groups', {
    name,
    metadata: { file: 'rows.csv' },
    onFinish: { endpoint, when: 'all_final' },
  })
  const jobs = Array.from({ length: MEMBERS }, (_, row) => ({
    ...{ endpoint, payload: { row }, group: body.id },
  }))
  await posthorn.request('POST', '/jobs/batch', { jobs })
  return body.id as string
}

async function groupIs(id: string, wanted: object): Promise<void> {
  await until(async () => {
    const { body } = await fixture.posthorn.request('GET', `/groups/${id}`)
    return Object.entries(wanted).every(
      ([name, value]) => (body[name] ?? body.counts[name]) === value,
    )
  })
}

describe.skipIf(CHROMIUM === null)('the pages of groups', () => {
  it('show how far a group is, which jobs failed, and retry them', async () => {
    const { receiver, open } = fixture
    let isRepaired = false
    receiver.answerWith(({ body }) => {
      const { row } = JSON.parse(body.toString())
      return row < 2 && !isRepaired ? 422 : 200
    })
    const id = await groupOf('rows', 'import 7')
    await groupIs(id, { dead: 2, succeeded: MEMBERS - 2 })
    const page = await open(`/groups/${id}`)
    const bar = page.getByRole('img', { name: `${MEMBERS - 2} succeeded, 2 dead` })
    await bar.waitFor()
    await page.getByText('open', { exact: true }).waitFor()
    await page.getByText('99 %').waitFor()
    await page.getByRole('heading', { name: 'Dead jobs' }).waitFor()
    expect(await page.getByRole('table').getByText('rejected').count()).toBe(2)
    await page.setViewportSize(PHONE.viewport)
    expect(await isSideways(page)).toBe(false)

    await page.getByRole('button', { name: 'Close' }).click()
    await page.getByText('failed', { exact: true }).waitFor()
    isRepaired = true
    await page.getByRole('button', { name: 'Retry 2 jobs' }).click()
    await page.getByText('succeeded', { exact: true }).first().waitFor()
    await groupIs(id, { state: 'succeeded', finishes: 2, succeeded: MEMBERS })
    await page.getByText('100 %').waitFor()

    await page.getByRole('link', { name: 'All its jobs' }).click()
    await page.getByRole('row').nth(MEMBERS).waitFor()
    expect(await page.getByRole('row').count()).toBe(MEMBERS + 1)
    expect(await page.getByRole('button', { name: 'Retry …' }).isDisabled()).toBe(true)
  })

  it('cancel a group, and delete it', async () => {
    const { posthorn, receiver, open } = fixture
    receiver.answerWith(200)
    await posthorn.endpoint('later', receiver.url)
    await posthorn.request('POST', '/endpoints/later/pause')
    const { body } = await posthorn.request('POST', '/groups', {})
    const job = { endpoint: 'later', payload: 1, group: body.id }
    await posthorn.request('POST', '/jobs/batch', { jobs: [job, job, job] })
    const page = await open('/groups')
    await page.getByRole('link', { name: body.id }).click()
    await page.getByRole('button', { name: 'Cancel …' }).click()
    await page.getByRole('heading', { name: 'Cancel 3 jobs?' }).waitFor()
    await page.getByRole('button', { name: 'Cancel the group' }).click()
    await groupIs(body.id, { state: 'failed', cancelled: 3 })
    await page.getByRole('button', { name: 'Delete …' }).click()
    await page.getByRole('button', { name: 'Delete the group' }).click()
    await page.getByText('The group is deleted.').waitFor()
    await page.getByRole('heading', { name: 'Groups' }).waitFor()
    expect((await posthorn.request('GET', `/groups/${body.id}`)).status).toBe(404)
  })
})
