// The promise of fairness keys: a customer's flood does not delay the others.
import { afterEach, describe, expect, it } from 'vitest'
import { type Deployment, deploy } from '../support/deployment.ts'
import { ENGINES } from '../support/engines.ts'
import { type Receiver, startReceiver } from '../support/receiver.ts'

const FLOOD = 2_000
const BATCH = 500
const KEYS = 20
const SLOTS = 10
/** So many requests of the flood have arrived when the others enqueue their jobs. */
const UNDER_WAY = 200
/** What is claimed when they become due, and what the workers claim at that moment. */
const CLAIMED = 2 * SLOTS
const DEADLINE_MS = 15_000
const ENDPOINT = 'invoices'

describe.each(ENGINES)('on %s', (engine) => {
  let posthorn: Deployment
  let receiver: Receiver
  afterEach(async () => {
    await posthorn.close()
    await receiver.close()
  })

  async function post(fairnessKeys: string[]): Promise<void> {
    const jobs = fairnessKeys.map((fairnessKey) => ({
      ...{ endpoint: ENDPOINT, payload: fairnessKey, fairnessKey },
    }))
    const { body } = await posthorn.request('POST', '/jobs/batch', { jobs })
    for (const { status } of body.items) expect(status).toBe(201)
  }

  it('beside a flood, each other customer starts after two rounds of all', async () => {
    receiver = await startReceiver(200)
    posthorn = deploy(engine, { WORKER_CONCURRENCY: String(SLOTS), SHUTDOWN_GRACE: '0s' })
    await posthorn.startApi()
    await posthorn.endpoint(ENDPOINT, receiver.url)
    for (let i = 0; i < FLOOD; i += BATCH) await post(Array(BATCH).fill('flood'))
    await posthorn.startWorker()
    await receiver.waitFor(({ length }) => length >= UNDER_WAY, DEADLINE_MS)

    const customers = Array.from({ length: KEYS }, (_, i) => `customer ${i}`)
    await post(customers)
    const before = receiver.requests.length

    const begun = () => receiver.requests.map(({ body }) => JSON.parse(body.toString()))
    await receiver.waitFor(() => new Set(begun()).size === KEYS + 1, DEADLINE_MS)
    const order = begun()
    const waits = customers.map((name) => order.indexOf(name) - before)
    expect(Math.max(...waits)).toBeLessThan(2 * (KEYS + 1) + CLAIMED)
  })
})
