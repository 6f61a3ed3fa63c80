// Sequences for which the model-based test once failed, as short as possible. They show that the
// bugs stay fixed.
import { describe, expect, test } from 'vitest'
import {
  addEndpoint,
  burial,
  claimOne,
  enqueueAndClaim,
  enqueueOne,
  jobOf,
  leaseOf,
  success,
} from '../contract/fixtures.ts'
import { ENGINES } from '../support/engines.ts'
import { useStore } from '../support/stores.ts'

describe.each(ENGINES)('on %s', (engine) => {
  const place = useStore(engine)

  test('a handler whose job was cancelled and retried by hand has lost its lease', async () => {
    const { store } = place
    const claimed = await enqueueAndClaim(store)
    const beat = { progress: null, extendMs: null, completionTimeoutMs: 1_000 }
    await store.cancel([claimed.jobId])
    expect(await store.heartbeat(leaseOf(claimed), beat)).toEqual({ kind: 'cancelled' })
    await store.retry([claimed.jobId])
    expect(await store.heartbeat(leaseOf(claimed), beat)).toEqual({ kind: 'lease_lost' })
  })

  test('a death takes the dependents of its dependents with it, without a sweep', async () => {
    const { store } = place
    const endpoint = await addEndpoint(store)
    const first = await enqueueOne(store, endpoint)
    const second = await enqueueOne(store, endpoint, { dependsOn: [first.id] })
    const third = await enqueueOne(store, endpoint, { dependsOn: [second.id] })
    const claimed = await claimOne(store, endpoint)
    await store.settle([burial(store, claimed)])
    for (const { id } of [second, third]) {
      expect((await jobOf(store, id)).failure?.reason).toBe('dependency_failed')
    }
  })

  test('a job that came to depend on a dead one starts when that was retried and has succeeded', async () => {
    const { store } = place
    const claimed = await enqueueAndClaim(store)
    const { endpoint, jobId } = claimed
    await store.settle([burial(store, claimed)])
    const dependent = await enqueueOne(store, endpoint, { dependsOn: [jobId] })
    await store.retry([jobId])
    await store.settle([success(store, await claimOne(store, endpoint))])
    expect(await jobOf(store, dependent.id)).toMatchObject({ isBlocked: false, waitingFor: [] })
  })
  test('one that depends on a dead job dies when its turn comes, and lets those behind it run', async () => {
    const { store } = place
    const orderingKey = 'o'
    const endpoint = await addEndpoint(store)
    const first = await enqueueOne(store, endpoint, { orderingKey })
    const dead = await enqueueOne(store, endpoint)
    await store.cancel([dead.id])
    const dependent = await enqueueOne(store, endpoint, { orderingKey, dependsOn: [dead.id] })
    const last = await enqueueOne(store, endpoint, { orderingKey })
    const claimed = await claimOne(store, endpoint)
    expect(claimed.jobId).toBe(first.id)
    await store.settle([success(store, claimed)])
    expect((await jobOf(store, dependent.id)).failure?.reason).toBe('dependency_failed')
    expect((await claimOne(store, endpoint)).jobId).toBe(last.id)
  })
})
