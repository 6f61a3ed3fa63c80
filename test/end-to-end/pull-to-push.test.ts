// An endpoint whose jobs were pulled gets a URL: workers deliver its jobs within a second, as
// after any other change.
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest'
import { type Deployment, deploy } from '../support/deployment.ts'
import { ENGINES } from '../support/engines.ts'
import { startReceiver } from '../support/receiver.ts'
import { until } from '../support/until.ts'

/** The promise is a second; the rest is room for a busy machine. A full look takes 8 to 15 s. */
const DEADLINE_MS = 4_000
/** Longer than the time before the last look that each look covers (OVERLAP_MS). */
const FORGOTTEN_AFTER_MS = 6_000

describe.each(ENGINES)('on %s', { timeout: 60_000 }, (engine) => {
  let posthorn: Deployment
  beforeAll(async () => {
    posthorn = deploy(engine)
    await posthorn.startApi()
    await posthorn.startWorker()
  })
  afterAll(() => posthorn.close())

  async function put(name: string, url: string | null) {
    const { status } = await posthorn.request('PUT', `/endpoints/${name}`, { url })
    expect(status).toBe(url === null ? 201 : 200)
  }

  it('delivers the jobs that were due before', async () => {
    const receiver = await startReceiver()
    onTestFinished(() => receiver.close())
    // At most one of the changes comes just before a full look.
    const names = ['first', 'second', 'third']
    for (const name of names) {
      await put(name, null)
      const { status } = await posthorn.request('POST', '/jobs', { endpoint: name, payload: 1 })
      expect(status).toBe(201)
    }
    // Looks for jobs that have just become due find them no more.
    const forgottenAtMs = performance.now() + FORGOTTEN_AFTER_MS
    await until(() => performance.now() > forgottenAtMs, 2 * FORGOTTEN_AFTER_MS)
    for (const [i, name] of names.entries()) {
      await put(name, receiver.url)
      await receiver.waitFor((requests) => requests.length === i + 1, DEADLINE_MS)
    }
  })
})
