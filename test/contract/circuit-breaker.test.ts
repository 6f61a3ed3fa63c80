// The promises of the circuit breaker: the endpoint rests after failures in a row. Then one attempt
// at a time may start, in whichever process, until one succeeds.
import { describe, expect, test } from 'vitest'
import { newSecret } from '../../src/endpoint/endpoint.ts'
import type { ClaimedJob } from '../../src/job/job.ts'
import { ENGINES } from '../support/engines.ts'
import { useStore } from '../support/stores.ts'
import { until } from '../support/until.ts'
import {
  addEndpoint,
  claimFrom,
  claimOne,
  endpointOf,
  enqueueMany,
  holderOf,
  laterAgain,
  leaseOf,
  passed,
  report,
  settingsOf,
  success,
  sweep,
} from './fixtures.ts'

const HOUR_MS = 3_600_000
const COOLDOWN_MS = 300
const BREAKER = { failures: 3, cooldownMs: COOLDOWN_MS }

describe.each(ENGINES)('on %s', (engine) => {
  const place = useStore(engine)

  /** Adds an endpoint with ten jobs whose breaker has tripped and whose rest is over. */
  async function trip(): Promise<string> {
    const { store } = place
    const name = await addEndpoint(store, { circuitBreaker: BREAKER })
    await enqueueMany(store, name, 10)
    await report(store, name, { failures: 3 })
    await passed(store, (await endpointOf(store, name)).restingUntil as number)
    return name
  }

  test('failures in a row trip it, and the endpoint rests for the cooldown', async () => {
    const { store } = place
    const name = await addEndpoint(store, { circuitBreaker: BREAKER })
    await enqueueMany(store, name, 5)
    await report(store, name, { failures: 2 })
    expect(await endpointOf(store, name)).toMatchObject({ failureCount: 2, restingUntil: null })
    expect(await claimFrom(store, name, 2)).toHaveLength(2)
    const before = store.clock.now()
    await report(store, name, { failures: 1 })
    const { restingUntil, failureCount, version } = await endpointOf(store, name)
    expect([failureCount, version]).toEqual([3, 1])
    expect(restingUntil).toBeGreaterThanOrEqual(before + COOLDOWN_MS - 20)
    expect(restingUntil).toBeLessThanOrEqual(store.clock.now() + COOLDOWN_MS)
    await passed(store, restingUntil as number)
    expect(await claimFrom(store, name, 5)).toHaveLength(1)
  })

  test('a success between is the end of the row', async () => {
    const { store } = place
    const name = await addEndpoint(store, { circuitBreaker: BREAKER })
    await report(store, name, { failures: 2 })
    await report(store, name, { succeeded: [store.clock.now()], failures: 2 })
    expect(await endpointOf(store, name)).toMatchObject({ failureCount: 2, restingUntil: null })
  })

  test('failures that come in while it rests do not make the rest longer', async () => {
    const { store } = place
    const name = await addEndpoint(store, { circuitBreaker: { failures: 2, cooldownMs: HOUR_MS } })
    await report(store, name, { failures: 2 })
    const { restingUntil } = await endpointOf(store, name)
    await passed(store, store.clock.now())
    await report(store, name, { failures: 5 })
    expect(await endpointOf(store, name)).toMatchObject({ restingUntil, failureCount: 7 })
  })

  test('an endpoint without a breaker never rests for failures', async () => {
    const { store } = place
    const name = await addEndpoint(store)
    await enqueueMany(store, name, 5)
    await report(store, name, { failures: 1_000 })
    expect((await endpointOf(store, name)).restingUntil).toBeNull()
    expect(await claimFrom(store, name, 5)).toHaveLength(5)
  })

  test('after the rest one probe is let through, whichever of three processes asks', async () => {
    const stores = [place.store, await place.open(), await place.open()]
    const name = await trip()
    const claimed: ClaimedJob[] = []
    await until(async () => {
      const answers = await Promise.all(stores.map((store) => claimFrom(store, name, 5)))
      claimed.push(...answers.flat())
      return claimed.length > 0
    })
    expect(claimed).toHaveLength(1)
    for (const store of stores) {
      const asked = store.clock.now()
      const { jobs, limited } = await store.claim([{ endpoint: name, limit: 5 }], 5, holderOf())
      expect(jobs).toEqual([])
      expect(limited).toMatchObject([{ endpoint: name }])
      expect(limited[0]?.againAt).toBeGreaterThan(asked - 50)
      expect(limited[0]?.againAt).toBeLessThan(asked + 5_000)
    }
  })

  test('a probe that succeeds closes it, and then two attempts go, and four', async () => {
    const { store } = place
    const name = await trip()
    for (const slots of [1, 2, 4]) {
      const claimed = await claimFrom(store, name, 9)
      expect(claimed).toHaveLength(slots)
      expect(await claimFrom(store, name, 9)).toEqual([])
      await store.settle(claimed.map((one) => success(store, one)))
      await report(store, name, { succeeded: claimed.map(({ claimedAt }) => claimedAt) })
      expect((await endpointOf(store, name)).failureCount).toBe(0)
    }
  })

  test('any success closes it, though its attempt began before the rest', async () => {
    const { store } = place
    const name = await addEndpoint(store, { circuitBreaker: { failures: 1, cooldownMs: HOUR_MS } })
    await enqueueMany(store, name, 5)
    const before = await claimOne(store, name)
    await report(store, name, { failures: 1 })
    expect(await claimFrom(store, name, 5)).toEqual([])
    await store.settle([success(store, before)])
    await report(store, name, { succeeded: [before.claimedAt] })
    expect(await claimFrom(store, name, 5)).toHaveLength(2)
  })

  test('a probe that fails makes it rest again, and then another one is let through', async () => {
    const { store } = place
    const name = await trip()
    const probe = await claimOne(store, name)
    await store.settle([laterAgain(store, probe)])
    await report(store, name, { failures: 1 })
    const { restingUntil } = await endpointOf(store, name)
    expect(restingUntil).toBeGreaterThan(probe.claimedAt + COOLDOWN_MS)
    expect(await claimFrom(store, name, 5)).toEqual([])
    await passed(store, restingUntil as number)
    expect(await claimFrom(store, name, 5)).toHaveLength(1)
  })

  test('a probe that was released, cancelled or lost makes room for another', async () => {
    const { store } = place
    const name = await trip()
    const released = await claimOne(store, name)
    expect(await claimFrom(store, name, 5)).toEqual([])
    await store.release([leaseOf(released)])
    const cancelled = await claimOne(store, name)
    expect(await claimFrom(store, name, 5)).toEqual([])
    await store.cancel([cancelled.jobId])
    const lost = await claimOne(store, name, 1)
    // Its lease has expired, but its worker may still be at work until a sweep finds it.
    await passed(store, lost.claimedAt + 1)
    expect(await claimFrom(store, name, 5)).toEqual([])
    await until(async () => (await sweep(store)).reclaimed === 1)
    expect(await claimFrom(store, name, 5)).toHaveLength(1)
  })

  test('a resume ends the rest and what was counted', async () => {
    const { store } = place
    const name = await addEndpoint(store, { circuitBreaker: { failures: 1, cooldownMs: HOUR_MS } })
    await enqueueMany(store, name, 5)
    await report(store, name, { failures: 4 })
    expect(await store.resumeEndpoint(name)).toMatchObject({ failureCount: 0, restingUntil: null })
    expect(await claimFrom(store, name, 5)).toHaveLength(5)
  })

  test('a breaker that is taken away lets go at once', async () => {
    const { store } = place
    const name = await addEndpoint(store, { circuitBreaker: { failures: 1, cooldownMs: HOUR_MS } })
    await enqueueMany(store, name, 5)
    await report(store, name, { failures: 1 })
    expect(await claimFrom(store, name, 5)).toEqual([])
    const settings = settingsOf({ name, circuitBreaker: null })
    await store.putEndpoint(settings, { given: null, fresh: newSecret() }, null)
    expect((await endpointOf(store, name)).failureCount).toBe(0)
    expect(await claimFrom(store, name, 5)).toHaveLength(5)
  })

  test('but a rest that a throttled response began stays', async () => {
    const { store } = place
    const name = await addEndpoint(store, { circuitBreaker: BREAKER })
    const restingUntil = store.clock.now() + HOUR_MS
    await report(store, name, { throttle: { until: restingUntil } })
    const settings = settingsOf({ name, circuitBreaker: null })
    await store.putEndpoint(settings, { given: null, fresh: newSecret() }, null)
    expect((await endpointOf(store, name)).restingUntil).toBe(restingUntil)
  })
})
