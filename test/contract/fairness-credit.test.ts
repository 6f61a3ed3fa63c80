// A fairness key saves nothing up: turns that it did not use give it no deliveries in a row.
import { describe, expect, test } from 'vitest'
import { ENGINES } from '../support/engines.ts'
import { useStore } from '../support/stores.ts'
import { addEndpoint, claimFrom, enqueueMany, passed, sweep } from './fixtures.ts'

const EXPIRY_MS = 300
const MISSED = 20
/** A claim on MongoDB may remember for 0.4 s that an endpoint has no keys. */
const KEYS_KNOWN_MS = 450

describe.each(ENGINES)('on %s', (engine) => {
  const place = useStore(engine)

  test('jobs that expired before the sweep give the next of their key one turn', async () => {
    const { store } = place
    const endpoint = await addEndpoint(store)
    const expiresAt = store.clock.now() + EXPIRY_MS
    await enqueueMany(store, endpoint, MISSED, { fairnessKey: 'a', expiresAt })
    const a = new Set(await enqueueMany(store, endpoint, MISSED, { fairnessKey: 'a' }))
    await enqueueMany(store, endpoint, 3 * MISSED, { fairnessKey: 'b' })
    await passed(store, expiresAt)
    // Until the sweep has ended them, the jobs of a wait behind those that expired.
    await claimFrom(store, endpoint, MISSED)
    await sweep(store)

    const jobs = await claimFrom(store, endpoint, MISSED)

    const count = jobs.filter(({ jobId }) => a.has(jobId)).length
    expect(Math.abs(count - MISSED / 2)).toBeLessThanOrEqual(1)
    expect(jobs.slice(0, 4).filter(({ jobId }) => a.has(jobId)).length).toBeLessThanOrEqual(3)
  })

  test('a costly job without a key that is cancelled gives the next of them one turn', async () => {
    const { store } = place
    const endpoint = await addEndpoint(store)
    await enqueueMany(store, endpoint, 6 * MISSED, { fairnessKey: 'other' })
    const costly = await enqueueMany(store, endpoint, 1, { cost: 10 * MISSED })
    await passed(store, store.clock.now() + KEYS_KNOWN_MS)
    for (let i = 0; i < 3; i++) await claimFrom(store, endpoint, MISSED)
    await store.cancel(costly)
    const plain = new Set(await enqueueMany(store, endpoint, 2 * MISSED))

    const jobs = await claimFrom(store, endpoint, MISSED)

    const count = jobs.filter(({ jobId }) => plain.has(jobId)).length
    expect(Math.abs(count - MISSED / 2)).toBeLessThanOrEqual(1)
  })
})
