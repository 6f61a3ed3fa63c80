// The overview while the only worker was started with another ENCRYPTION_KEY than the API.
import { randomBytes } from 'node:crypto'
import { describe, expect, it } from 'vitest'
import { CHROMIUM, useFixture } from './fixture.ts'

const fixture = useFixture({}, false)

describe.skipIf(CHROMIUM === null)('with a worker of another key', () => {
  it('the overview names it, and what it lacks', async () => {
    const ENCRYPTION_KEY = randomBytes(32).toString('base64')
    await fixture.posthorn.startWorker({ ENCRYPTION_KEY, WORKER_ID: 'worker-of-others' })
    await fixture.posthorn.endpoint('letters', fixture.receiver.url)
    const page = await fixture.open('/')
    await page.getByText('1 live worker without the encryption key').waitFor()
    const why = page.getByText('ENCRYPTION_KEY is not that of the API at worker-of-others')
    await why.waitFor()
    const row = page.locator('tr', { hasText: 'worker-of-others' })
    expect(await row.textContent()).toContain('live, lacks the encryption key')
  })
})
