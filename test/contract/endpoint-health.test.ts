// The promises of the store about endpoints that are paused, resting or disabled, and how each of
// these states ends.
import { describe, expect, test } from 'vitest'
import { type Endpoint, MAX_SECRETS, newSecret } from '../../src/endpoint/endpoint.ts'
import type { ClaimedJob } from '../../src/job/job.ts'
import type { Store } from '../../src/store/store.ts'
import { ENGINES } from '../support/engines.ts'
import { useStore } from '../support/stores.ts'
import { until } from '../support/until.ts'
import {
  addEndpoint,
  claimFrom,
  claimOne,
  endpointOf,
  enqueueMany,
  enqueueOne,
  freshName,
  jobOf,
  laterAgain,
  leaseOf,
  newJob,
  passed,
  report,
  settingsOf,
  success,
  sweep,
} from './fixtures.ts'

const HOUR_MS = 3_600_000
const DAY_MS = 24 * HOUR_MS
/** More time than a report takes on a busy machine. */
const SLACK_MS = 5_000

describe.each(ENGINES)('a pause on %s', (engine) => {
  const place = useStore(engine)

  test('holds back jobs, not enqueues, until it is resumed', async () => {
    const { store } = place
    const name = await addEndpoint(store)
    await enqueueOne(store, name)
    expect(await store.pauseEndpoint(name)).toMatchObject({ paused: true, version: 2 })
    await enqueueOne(store, name)
    expect(await claimFrom(store, name, 5)).toEqual([])
    expect(await store.resumeEndpoint(name)).toMatchObject({ paused: false, version: 3 })
    expect(await claimFrom(store, name, 5)).toHaveLength(2)
  })

  test('leaves attempts under way to their holders', async () => {
    const { store } = place
    const name = await addEndpoint(store)
    await enqueueOne(store, name)
    const claimed = await claimOne(store, name)
    await store.pauseEndpoint(name)
    expect(await store.renew([leaseOf(claimed)], 2 * HOUR_MS)).toEqual(['applied'])
    expect(await store.settle([success(store, claimed)])).toEqual(['applied'])
  })

  test('reaches every process within a second, and so does its end', async () => {
    const other = await place.open()
    const name = await addEndpoint(place.store)
    await enqueueMany(place.store, name, 500)
    expect(await claimFrom(other, name, 1)).toHaveLength(1)
    await place.store.pauseEndpoint(name)
    expect(await claimFrom(place.store, name, 1)).toEqual([])
    await until(async () => (await claimFrom(other, name, 1)).length === 0, 1_000)
    await other.resumeEndpoint(name)
    expect(await claimFrom(other, name, 1)).toHaveLength(1)
    await until(async () => (await claimFrom(place.store, name, 1)).length === 1, 1_000)
  })

  test('that names another version changes nothing', async () => {
    const { store } = place
    const name = await addEndpoint(store)
    const before = await endpointOf(store, name)
    const other = before.version + 1
    const found = { storedVersion: before.version }
    expect(await store.pauseEndpoint(name, other)).toEqual(found)
    expect(await store.resumeEndpoint(name, other)).toEqual(found)
    expect(await store.rotateSecret(name, newSecret(), 0, other)).toEqual(found)
    expect(await endpointOf(store, name)).toEqual(before)
    expect(await store.pauseEndpoint(name, 1)).toMatchObject({ paused: true, version: 2 })
    expect(await store.resumeEndpoint(name, 2)).toMatchObject({ paused: false, version: 3 })
    expect(await store.rotateSecret(name, newSecret(), 0, 3)).toMatchObject({ version: 4 })
  })

  test('that changes nothing keeps version and updatedAt, and so does a resume', async () => {
    const { store } = place
    const name = await addEndpoint(store)
    const fresh = await endpointOf(store, name)
    await passed(store, fresh.updatedAt)
    expect(await store.resumeEndpoint(name)).toEqual(fresh)
    const paused = (await store.pauseEndpoint(name)) as Endpoint
    expect(paused).toMatchObject({ paused: true, version: 2 })
    expect(paused.updatedAt).toBeGreaterThan(fresh.updatedAt)
    await passed(store, paused.updatedAt)
    expect(await store.pauseEndpoint(name)).toEqual(paused)
    expect(await store.pauseEndpoint(name, 2)).toEqual(paused)
    expect(await store.pauseEndpoint(name, 1)).toEqual({ storedVersion: 2 })
    const resumed = (await store.resumeEndpoint(name)) as Endpoint
    expect(resumed).toMatchObject({ paused: false, version: 3 })
    await passed(store, resumed.updatedAt)
    expect(await store.resumeEndpoint(name)).toEqual(resumed)
  })

  test('a resume that ends a rest or enables again raises the version, one that resets counts does not', async () => {
    const { store } = place
    const name = await addEndpoint(store)
    await report(store, name, { failures: 1 })
    expect(await store.resumeEndpoint(name)).toMatchObject({ failureCount: 0, version: 1 })
    await report(store, name, { throttle: { until: null } })
    expect(await store.resumeEndpoint(name)).toMatchObject({ restingUntil: null, version: 2 })
    await report(store, name, { goneAtVersion: 2 })
    expect(await store.resumeEndpoint(name)).toMatchObject({ disabledReason: null, version: 4 })
  })

  test('of an unknown endpoint is none, and of one being deleted changes nothing', async () => {
    const { store } = place
    const unknown = freshName()
    expect(await store.pauseEndpoint(unknown)).toBeNull()
    expect(await store.resumeEndpoint(unknown)).toBeNull()
    expect(await store.rotateSecret(unknown, newSecret(), 0)).toBeNull()
    const name = await addEndpoint(store)
    await enqueueOne(store, name)
    await store.deleteEndpoint(name, { force: true, ifVersion: null })
    const before = await endpointOf(store, name)
    expect(await store.pauseEndpoint(name)).toEqual(before)
    expect(await store.resumeEndpoint(name)).toEqual(before)
    expect(await store.rotateSecret(name, newSecret(), 0)).toEqual(before)
    expect(await endpointOf(store, name)).toEqual(before)
  })

  test('outlives the replacing of the endpoint, as rest, count and disabling do', async () => {
    const { store } = place
    const circuitBreaker = { failures: 5, cooldownMs: HOUR_MS }
    const name = await addEndpoint(store, { circuitBreaker })
    await store.pauseEndpoint(name)
    const restsUntil = store.clock.now() + HOUR_MS
    await report(store, name, { failures: 3, throttle: { until: restsUntil } })
    await report(store, name, { goneAtVersion: 2 })
    const settings = settingsOf({ name, circuitBreaker, description: 'replaced' })
    await store.putEndpoint(settings, { given: null, fresh: newSecret() }, null)
    expect(await endpointOf(store, name)).toMatchObject({
      description: 'replaced',
      paused: true,
      disabledReason: 'gone',
      restingUntil: restsUntil,
      failureCount: 3,
      version: 4,
    })
  })
})

describe.each(ENGINES)('a rest on %s', (engine) => {
  const place = useStore(engine)

  test('lasts until the instant that the response named, for all its jobs', async () => {
    const { store } = place
    const name = await addEndpoint(store)
    await enqueueMany(store, name, 2)
    const restsUntil = store.clock.now() + 1_300
    await report(store, name, { throttle: { until: restsUntil } })
    expect(await endpointOf(store, name)).toMatchObject({ restingUntil: restsUntil, version: 1 })
    expect(await claimFrom(store, name, 2)).toEqual([])
    await passed(store, restsUntil)
    expect(await claimFrom(store, name, 2)).toHaveLength(1)
  })

  test('is never shortened by a later response, and lasts no longer than a day', async () => {
    const { store } = place
    const name = await addEndpoint(store)
    const now = store.clock.now()
    await report(store, name, { throttle: { until: now + HOUR_MS } })
    await report(store, name, { throttle: { until: now + 1_000 } })
    await report(store, name, { throttle: { until: null } })
    expect((await endpointOf(store, name)).restingUntil).toBe(now + HOUR_MS)
    await report(store, name, { throttle: { until: now + 30 * DAY_MS } })
    expectAbout((await endpointOf(store, name)).restingUntil, now + DAY_MS)
  })

  test('without a named instant doubles from throttle to throttle, not while it lasts', async () => {
    const { store } = place
    const name = await addEndpoint(store)
    await report(store, name, { throttle: { until: null } })
    const first = (await endpointOf(store, name)).restingUntil as number
    expect(first).toBeLessThanOrEqual(store.clock.now() + 1_050)
    await report(store, name, { throttle: { until: null } })
    const again = (await endpointOf(store, name)).restingUntil as number
    expect(again).toBeLessThanOrEqual(store.clock.now() + 1_050)
    await passed(store, again)
    const now = store.clock.now()
    await report(store, name, { throttle: { until: null } })
    const second = (await endpointOf(store, name)).restingUntil as number
    expect(second).toBeGreaterThan(now + 1_900)
    expect(second).toBeLessThanOrEqual(store.clock.now() + 2_050)
    // After a success, the next throttled attempt counts as the first one again.
    await passed(store, second)
    await report(store, name, { succeeded: [store.clock.now()], throttle: { until: null } })
    const fresh = (await endpointOf(store, name)).restingUntil as number
    expect(fresh).toBeLessThanOrEqual(store.clock.now() + 1_050)
  })

  test('lasts no shorter than our own back-off, whatever instant was named', async () => {
    const { store } = place
    const name = await addEndpoint(store)
    for (const ownMs of [1_000, 2_000]) {
      const now = store.clock.now()
      await report(store, name, { throttle: { until: now - HOUR_MS } })
      const { restingUntil } = await endpointOf(store, name)
      expect(restingUntil).toBeGreaterThanOrEqual(now + ownMs)
      await passed(store, restingUntil as number)
    }
  })

  test('ends with a resume, not with a success that began before it', async () => {
    const { store } = place
    const name = await addEndpoint(store)
    await enqueueMany(store, name, 3)
    const before = await claimOne(store, name)
    await report(store, name, { throttle: { until: store.clock.now() + HOUR_MS } })
    await report(store, name, { succeeded: [before.claimedAt] })
    expect(await claimFrom(store, name, 5)).toEqual([])
    expect(await store.resumeEndpoint(name)).toMatchObject({ restingUntil: null, ramp: null })
    expect(await claimFrom(store, name, 5)).toHaveLength(2)
  })

  test('is followed by one attempt, then two, four, … over all processes, then by all', async () => {
    const stores = [place.store, await place.open(), await place.open()]
    const [store] = stores as [Store]
    const name = await addEndpoint(store)
    await enqueueMany(store, name, 200)
    // Attempts that began before the rest and still run use no slot.
    const before = await claimFrom(store, name, 3)
    await report(store, name, { throttle: { until: null } })
    await passed(store, (await endpointOf(store, name)).restingUntil as number)
    for (let slots = 1; slots <= 32; slots *= 2) {
      const claimed: ClaimedJob[] = []
      await until(async () => {
        const answers = await Promise.all(stores.map((one) => claimFrom(one, name, 40)))
        claimed.push(...answers.flat())
        return claimed.length >= slots
      })
      expect(claimed).toHaveLength(slots)
      for (const one of stores) expect(await claimFrom(one, name, 40)).toEqual([])
      await store.settle(claimed.map((one) => success(store, one)))
      const succeeded = [...before, ...claimed].map(({ claimedAt }) => claimedAt)
      await report(store, name, { succeeded })
    }
    await report(store, name, { succeeded: [store.clock.now()] })
    expect(await endpointOf(store, name)).toMatchObject({ restingUntil: null, ramp: null })
    expect(await claimFrom(store, name, 100)).toHaveLength(100)
  })

  test('that follows a throttle on the way back begins the way back again', async () => {
    const { store } = place
    const name = await addEndpoint(store)
    await enqueueMany(store, name, 20)
    await report(store, name, { throttle: { until: null } })
    await passed(store, (await endpointOf(store, name)).restingUntil as number)
    const probe = await claimOne(store, name)
    await store.settle([success(store, probe)])
    await report(store, name, { succeeded: [probe.claimedAt] })
    const two = await claimFrom(store, name, 5)
    await store.settle(two.map((one) => laterAgain(store, one)))
    await report(store, name, { throttle: { until: null } })
    const { restingUntil } = await endpointOf(store, name)
    expect(await claimFrom(store, name, 5)).toEqual([])
    await passed(store, restingUntil as number)
    expect(await claimFrom(store, name, 5)).toHaveLength(1)
  })

  test('is forgotten when the endpoint is replaced by one that is pulled', async () => {
    const { store } = place
    const circuitBreaker = { failures: 1, cooldownMs: HOUR_MS }
    const name = await addEndpoint(store, { circuitBreaker })
    await enqueueMany(store, name, 3)
    await report(store, name, { failures: 1, throttle: { until: null } })
    const settings = settingsOf({ name, url: null, circuitBreaker })
    await store.putEndpoint(settings, { given: null, fresh: newSecret() }, null)
    const none = { restingUntil: null, ramp: null, failureCount: 0 }
    expect(await endpointOf(store, name)).toMatchObject(none)
    expect(await claimFrom(store, name, 3)).toHaveLength(3)
  })

  test('of an unknown endpoint changes nothing', async () => {
    await report(place.store, freshName(), {
      succeeded: [1],
      failures: 1,
      throttle: { until: null },
    })
    await place.store.reportHealth([])
  })
})

describe.each(ENGINES)('an endpoint that responded with 410 on %s', (engine) => {
  const place = useStore(engine)

  test('is disabled if it is still the version that responded', async () => {
    const { store } = place
    const name = await addEndpoint(store)
    await store.pauseEndpoint(name)
    await store.resumeEndpoint(name)
    await report(store, name, { goneAtVersion: 1 })
    expect(await endpointOf(store, name)).toMatchObject({ disabledReason: null, version: 3 })
    await report(store, name, { goneAtVersion: 3 })
    expect(await endpointOf(store, name)).toMatchObject({ disabledReason: 'gone', version: 4 })
  })

  test('keeps its jobs and refuses new ones until it is resumed', async () => {
    const { store } = place
    const name = await addEndpoint(store)
    await enqueueOne(store, name)
    await report(store, name, { goneAtVersion: 1 })
    const [refused, notice] = await store.enqueue([
      newJob(store, name),
      newJob(store, name, { originKey: 'finish:job_x:1' }),
    ])
    expect(refused).toEqual({ kind: 'endpoint_disabled' })
    expect(notice?.kind).toBe('inserted')
    expect(await claimFrom(store, name, 5)).toEqual([])
    expect(await store.resumeEndpoint(name)).toMatchObject({ disabledReason: null, version: 3 })
    expect(await claimFrom(store, name, 5)).toHaveLength(2)
  })
})

describe.each(ENGINES)('a rotated secret on %s', (engine) => {
  const place = useStore(engine)

  test('comes first, and the one before stays until the overlap ends', async () => {
    const { store } = place
    const name = await addEndpoint(store)
    const [before] = (await endpointOf(store, name)).secrets
    const secret = newSecret()
    const overlapEnd = store.clock.now() + 500
    const rotated = await store.rotateSecret(name, secret, 500)
    expect(rotated).toMatchObject({ secrets: [secret, before], version: 2 })
    await passed(store, overlapEnd + SLACK_MS / 10)
    expect((await endpointOf(store, name)).secrets).toEqual([secret])
    const last = newSecret()
    expect(await store.rotateSecret(name, last, 0)).toMatchObject({ secrets: [last] })
  })

  test('is one of five at most: a sixth is refused, because it would end the oldest too soon', async () => {
    const { store } = place
    const name = await addEndpoint(store)
    const before = store.clock.now()
    for (let i = 1; i < MAX_SECRETS; i++) await store.rotateSecret(name, newSecret(), HOUR_MS)
    const { secrets, version } = await endpointOf(store, name)
    expect(secrets).toHaveLength(MAX_SECRETS)
    const refused = await store.rotateSecret(name, newSecret(), HOUR_MS)
    expect(refused).toEqual({ fullUntil: expect.any(Number) })
    const { fullUntil } = refused as { fullUntil: number }
    expect(fullUntil).toBeGreaterThanOrEqual(before + HOUR_MS)
    expect(fullUntil).toBeLessThanOrEqual(store.clock.now() + HOUR_MS)
    expect(await endpointOf(store, name)).toMatchObject({ secrets, version })
    // Without an overlap all old secrets end at once, which an owner needs if a secret was stolen.
    const secret = newSecret()
    expect(await store.rotateSecret(name, secret, 0)).toMatchObject({ secrets: [secret] })
  })

  test('stays with its overlap when the endpoint is put with it again, and not with another', async () => {
    const { store } = place
    const name = await addEndpoint(store)
    const given = newSecret()
    await store.rotateSecret(name, given, HOUR_MS)
    const { secrets } = await endpointOf(store, name)
    await store.putEndpoint(settingsOf({ name }), { given, fresh: newSecret() }, null)
    expect((await endpointOf(store, name)).secrets).toEqual(secrets)
    const other = newSecret()
    await store.putEndpoint(settingsOf({ name }), { given: other, fresh: newSecret() }, null)
    expect((await endpointOf(store, name)).secrets).toEqual([other])
  })

  test('stays with its overlap when the endpoint is replaced', async () => {
    const { store } = place
    const name = await addEndpoint(store)
    await store.rotateSecret(name, newSecret(), HOUR_MS)
    const { secrets } = await endpointOf(store, name)
    const settings = settingsOf({ name, description: 'replaced' })
    await store.putEndpoint(settings, { given: null, fresh: newSecret() }, null)
    expect((await endpointOf(store, name)).secrets).toEqual(secrets)
  })

  test('rotated by four requests at once is lost for none of them', async () => {
    const { store } = place
    const stores = [store, await place.open()]
    const name = await addEndpoint(store)
    const answers = await Promise.all(
      Array.from({ length: 4 }, (_, i) => {
        const secret = newSecret()
        const own = stores[i % 2] as typeof store
        return own.rotateSecret(name, secret, HOUR_MS).then((endpoint) => ({ secret, endpoint }))
      }),
    )
    const { secrets, version } = await endpointOf(store, name)
    expect(version).toBe(5)
    for (const { secret, endpoint } of answers) {
      expect(endpoint).toMatchObject({ secrets: expect.arrayContaining([secret]) })
      expect(secrets).toContain(secret)
    }
  })

  test('and headers outlive a change of the encryption key, while the old one is there', async () => {
    const { store } = place
    const name = await addEndpoint(store, { headers: { 'x-tenant': 'blue' } })
    const { id } = await enqueueOne(store, name, { headers: { 'x-token': 'green' } })
    const before = await endpointOf(store, name)
    const first = place.encryptionKey
    const second = Buffer.alloc(32, 7)
    const both = await place.open({ encryptionKeys: [second, first] })
    const [keyId] = both.encryptionKeyIds()
    expect(await endpointOf(both, name)).toEqual({ ...before, keyId })
    expect((await jobOf(both, id)).headers).toEqual({ 'x-token': 'green' })
    const { id: later } = await enqueueOne(both, name, { headers: { 'x-token': 'red' } })
    // A process without the new key can read the jobs: the fields that it cannot decrypt are null,
    // and there is no error.
    expect((await jobOf(store, later)).headers).toBeNull()
    const { items } = await store.listJobs({ endpoint: name, limit: 2 })
    expect(items.map(({ headers }) => headers)).toEqual([null, { 'x-token': 'green' }])
    const claimed = await claimFrom(store, name, 2)
    expect(claimed.map(({ headers }) => headers)).toEqual([{ 'x-token': 'green' }, null])
    await sweep(store)
  })
})

function expectAbout(instant: number | null, wanted: number): void {
  expect(Math.abs((instant ?? 0) - wanted)).toBeLessThan(SLACK_MS)
}
