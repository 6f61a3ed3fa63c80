// GET /jobs/:id/explain describes the present, not the moment when the job was last written: for a
// job whose worker has died, whose lease or time has expired, or whose dependency has died
// meanwhile.
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import {
  acceptance,
  addEndpoint,
  claimOne,
  enqueueAndClaim,
  enqueueOne,
  holderOf,
  LONG_LEASE_MS,
  passed,
} from '../contract/fixtures.ts'
import { ENGINES } from '../support/engines.ts'
import { type ServedApp, serveApp } from '../support/served-app.ts'
import { useStore } from '../support/stores.ts'

const WORKER = {
  id: 'worker-1',
  version: '1',
  startedAt: 1,
  concurrency: 1,
  inFlight: 1,
  keyIds: [],
}

interface Explanation {
  state: string
  reason: string
  detail: string
  expectedAt: string | null
}

describe.each(ENGINES)('on %s', (engine) => {
  const place = useStore(engine)
  let served: ServedApp

  beforeAll(async () => {
    served = await serveApp({ store: place.store })
  })
  afterAll(() => served.close())

  async function explain(jobId: string) {
    const answer = await fetch(`${served.url}/jobs/${jobId}/explain`)
    const explanation = (await answer.json()) as Explanation
    const now = place.store.clock.now()
    if (explanation.expectedAt !== null)
      expect(Date.parse(explanation.expectedAt)).toBeGreaterThan(now)
    return explanation
  }

  async function claimed(leaseMs: number, pulls = false): Promise<string> {
    const endpoint = await addEndpoint(place.store)
    const { id } = await enqueueOne(place.store, endpoint)
    const holder = holderOf({ leaseMs, pulls, workerId: pulls ? 'pull' : WORKER.id })
    await place.store.claim([{ endpoint, limit: 1 }], 1, holder)
    return id
  }

  test('an attempt under way at a live worker; when it ends is not known', async () => {
    await place.store.reportWorker(WORKER)
    expect(await explain(await claimed(LONG_LEASE_MS))).toMatchObject({
      ...{ state: 'running', reason: 'running', expectedAt: null },
      detail: 'attempt 1 is in progress at worker worker-1',
    })
  })

  test('an attempt of a worker that is gone is probably lost, until its lease ends', async () => {
    await place.store.removeWorker(WORKER.id)
    const explanation = await explain(await claimed(LONG_LEASE_MS))
    expect(explanation.detail).toContain(
      'attempt 1 is probably lost: worker worker-1 is gone; its lease',
    )
    expect(explanation.detail).toContain(explanation.expectedAt)
  })

  test('an attempt whose lease has expired is lost, and who reclaims it is said', async () => {
    const { store } = place
    const id = await claimed(1)
    await passed(store, store.clock.now() + 1_000)
    await store.removeWorker(WORKER.id)
    const alone = await explain(id)
    expect(alone).toMatchObject({ state: 'running', reason: 'running', expectedAt: null })
    expect(alone.detail).toMatch(
      /^attempt 1 is lost: its lease expired [1-9]s ago; no worker is live/,
    )
    await store.reportWorker(WORKER)
    expect((await explain(id)).detail).toMatch(/ago; a worker reclaims it at its next sweep$/)
  })

  test('a pulled attempt is under way until its lease ends', async () => {
    const explanation = await explain(await claimed(LONG_LEASE_MS, true))
    expect(explanation.detail).toBe('attempt 1 is in progress at the worker that claimed it')
    expect(explanation.expectedAt).not.toBeNull()
  })

  test('a handler that was to report and did not is not waited for', async () => {
    const { store } = place
    const job = await enqueueAndClaim(store)
    const leaseExpiresAt = store.clock.now() + LONG_LEASE_MS
    await store.settle([acceptance(job, leaseExpiresAt)])
    expect(await explain(job.jobId)).toMatchObject({
      detail: expect.stringContaining('has not reported completion yet'),
      expectedAt: expect.any(String),
    })
    const late = await enqueueAndClaim(store, {}, 1)
    await store.settle([acceptance(late, store.clock.now())])
    await passed(store, store.clock.now())
    expect((await explain(late.jobId)).detail).toContain('is lost: its lease expired')
  })

  test('a queued job that has expired starts no more', async () => {
    const { store } = place
    const expiresAt = store.clock.now() - 1
    const { id } = await enqueueOne(store, await addEndpoint(store), { expiresAt })
    expect(await explain(id)).toMatchObject({
      ...{ state: 'queued', expectedAt: null },
      detail: expect.stringContaining('it expired at'),
    })
  })

  test('a dependency that is dead by now is not waited for', async () => {
    const { store } = place
    const endpoint = await addEndpoint(store)
    const [dead, open] = [await enqueueOne(store, endpoint), await enqueueOne(store, endpoint)]
    await store.cancel([dead.id])
    const doomed = await enqueueOne(store, endpoint, { dependsOn: [dead.id] })
    expect((await explain(doomed.id)).detail).toContain(`it waited for ${dead.id}, which is final`)
    const other = await enqueueOne(store, endpoint, { dependsOn: [dead.id, open.id] })
    expect((await explain(other.id)).detail).toBe(`it waits for ${open.id}`)
  })

  test('state and reason are of one version of the job, which the response names', async () => {
    const { store } = place
    const endpoint = await addEndpoint(store)
    const { id } = await enqueueOne(store, endpoint)
    await claimOne(store, endpoint)
    const job = await store.getJob(id)
    expect(await explain(id)).toMatchObject({ state: 'running', version: job?.version })
  })
})
