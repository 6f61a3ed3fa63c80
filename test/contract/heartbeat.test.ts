// The promises of heartbeats and attempt tokens: only the holder of a job moves its deadline, and
// only forward. A token authorizes reports about one attempt of one job.
import { describe, expect, test } from 'vitest'
import type { ClaimedJob, Lease } from '../../src/job/job.ts'
import type { Heartbeat, HeartbeatResult } from '../../src/store/store.ts'
import { ENGINES } from '../support/engines.ts'
import { useStore } from '../support/stores.ts'
import {
  acceptance,
  addEndpoint,
  burial,
  claimOne,
  enqueueAndClaim,
  enqueueOne,
  holderOf,
  jobOf,
  laterAgain,
  leaseOf,
  passed,
  success,
} from './fixtures.ts'

const HOUR_MS = 3_600_000
const MINUTE_MS = 60_000
/** More time than a heartbeat takes on a busy machine. */
const SLACK_MS = 5_000

describe.each(ENGINES)('a heartbeat on %s', (engine) => {
  const place = useStore(engine)

  function beat(lease: Lease, fields: Partial<Heartbeat> = {}): Promise<HeartbeatResult> {
    const plain = { progress: null, extendMs: null, completionTimeoutMs: 15 * MINUTE_MS }
    return place.store.heartbeat(leaseOf(lease), { ...plain, ...fields })
  }

  async function accepted(deadlineMs: number): Promise<ClaimedJob> {
    const claimed = await enqueueAndClaim(place.store, {}, 1)
    await place.store.settle([acceptance(claimed, claimed.claimedAt + deadlineMs)])
    return claimed
  }

  async function pulled(leaseMs: number): Promise<ClaimedJob> {
    const { store } = place
    const endpoint = await addEndpoint(store, { url: null })
    await enqueueOne(store, endpoint)
    const holder = holderOf({ pulls: true, leaseMs })
    const [claimed] = (await store.claim([{ endpoint, limit: 1 }], 1, holder)).jobs
    return claimed as ClaimedJob
  }

  async function leaseEnd({ jobId }: Lease): Promise<number> {
    return (await jobOf(place.store, jobId)).lease?.expiresAt ?? 0
  }

  test('of one that awaits completion moves its deadline, never back', async () => {
    const claimed = await accepted(1_000)
    const before = await jobOf(place.store, claimed.jobId)
    const first = await beat(claimed)
    expectAbout(await leaseEnd(claimed), place.store.clock.now() + 15 * MINUTE_MS)
    expect(first).toEqual({ kind: 'applied', leaseExpiresAt: await leaseEnd(claimed) })
    const after = await jobOf(place.store, claimed.jobId)
    expect(after).toMatchObject({ version: before.version + 1, phase: 'awaiting_completion' })
    expect(await beat(claimed, { extendMs: 1_000 })).toEqual(first)
    await beat(claimed, { extendMs: HOUR_MS })
    expectAbout(await leaseEnd(claimed), place.store.clock.now() + HOUR_MS)
  })

  test('of one whose deadline has passed keeps it, if no sweep has ended it yet', async () => {
    const claimed = await accepted(1)
    await passed(place.store, claimed.claimedAt + 1)
    expect((await beat(claimed)).kind).toBe('applied')
    const overdue = await place.store.overdue(1_000)
    expect(overdue.map(({ jobId }) => jobId)).not.toContain(claimed.jobId)
  })

  test('of a pulled one extends it by its own lease, or by what it asks for', async () => {
    const { store } = place
    const claimed = await pulled(2 * MINUTE_MS)
    expect(await leaseEnd(claimed)).toBe(claimed.claimedAt + 2 * MINUTE_MS)
    await passed(store, store.clock.now())
    const result = await beat(claimed)
    const extended = await leaseEnd(claimed)
    expect(extended).toBeGreaterThan(claimed.claimedAt + 2 * MINUTE_MS)
    expectAbout(extended, store.clock.now() + 2 * MINUTE_MS)
    expect(result).toEqual({ kind: 'applied', leaseExpiresAt: extended })
    expect(await beat(claimed, { extendMs: 1_000 })).toEqual(result)
    await beat(claimed, { extendMs: HOUR_MS })
    expectAbout(await leaseEnd(claimed), store.clock.now() + HOUR_MS)
    expect((await jobOf(store, claimed.jobId)).phase).toBe('sending')
  })

  test('of one that is still being sent stores its progress and moves nothing', async () => {
    const claimed = await enqueueAndClaim(place.store, {}, 10 * MINUTE_MS)
    const result = await beat(claimed, {
      extendMs: 5 * HOUR_MS,
      progress: { value: 10, message: null },
    })
    expect(result).toEqual({
      kind: 'applied',
      leaseExpiresAt: claimed.claimedAt + 10 * MINUTE_MS,
    })
    expect(await leaseEnd(claimed)).toBe(claimed.claimedAt + 10 * MINUTE_MS)
    expect((await jobOf(place.store, claimed.jobId)).progress?.value).toBe(10)
  })

  test('that comes before the response is stored extends the deadline after it', async () => {
    const { store } = place
    const claimed = await enqueueAndClaim(store, {}, MINUTE_MS)
    const asked = store.clock.now() + 5 * HOUR_MS
    await beat(claimed, { extendMs: 5 * HOUR_MS })
    await beat(claimed, { extendMs: 1_000 })
    await beat(claimed)
    expect(await leaseEnd(claimed)).toBe(claimed.claimedAt + MINUTE_MS)
    await store.settle([acceptance(claimed, claimed.claimedAt + 2 * MINUTE_MS)])
    expectAbout(await leaseEnd(claimed), asked)
    expect(await leaseEnd(claimed)).toBeGreaterThanOrEqual(asked)
    expect((await beat(claimed, { extendMs: 1_000 })).kind).toBe('applied')
    expect(await leaseEnd(claimed)).toBeGreaterThanOrEqual(asked)
  })

  test('extends the deadline of its own attempt alone', async () => {
    const { store } = place
    const first = await enqueueAndClaim(store, {}, MINUTE_MS)
    await beat(first, { extendMs: 5 * HOUR_MS })
    await store.settle([laterAgain(store, first)])
    const second = await claimOne(store, first.endpoint)
    await store.settle([acceptance(second, second.claimedAt + 1_000)])
    expect(await leaseEnd(second)).toBeLessThan(store.clock.now() + 4 * HOUR_MS)
  })

  test('keeps the last progress until another is reported', async () => {
    const { store } = place
    const claimed = await accepted(HOUR_MS)
    const before = store.clock.now()
    await beat(claimed, { progress: { value: 40, message: 'page 4 of 10' } })
    const { progress } = await jobOf(store, claimed.jobId)
    expect(progress).toMatchObject({ value: 40, message: 'page 4 of 10' })
    expectAbout(progress?.at ?? 0, before)
    await beat(claimed)
    expect((await jobOf(store, claimed.jobId)).progress).toEqual(progress)
    await beat(claimed, { progress: { value: null, message: 'binding' } })
    expect((await jobOf(store, claimed.jobId)).progress).toMatchObject({
      value: null,
      message: 'binding',
    })
    await store.settle([success(store, claimed)])
    expect((await jobOf(store, claimed.jobId)).progress?.message).toBe('binding')
  })

  test('has said nothing of the next attempt: a claim and a retry forget it', async () => {
    const { store } = place
    const progress = { value: 50, message: null }
    const first = await enqueueAndClaim(store)
    await beat(first, { progress })
    await store.settle([laterAgain(store, first)])
    const second = await claimOne(store, first.endpoint)
    expect((await jobOf(store, first.jobId)).progress).toBeNull()
    await beat(second, { progress })
    await store.settle([burial(store, second)])
    await store.retry([first.jobId])
    expect((await jobOf(store, first.jobId)).progress).toBeNull()
  })

  test('by a lease that is not the present one has lost it', async () => {
    const { store } = place
    const old = await enqueueAndClaim(store)
    await store.settle([laterAgain(store, old)])
    expect(await beat(old)).toEqual({ kind: 'lease_lost' })
    const present = await claimOne(store, old.endpoint)
    expect(await beat(old)).toEqual({ kind: 'lease_lost' })
    expect(await beat({ ...present, leaseId: 'forged' })).toEqual({ kind: 'lease_lost' })
    await store.settle([success(store, present)])
    expect(await beat(present)).toEqual({ kind: 'lease_lost' })
  })

  test('of a cancelled job learns that, if its lease held the job at that moment', async () => {
    const { store } = place
    const old = await enqueueAndClaim(store)
    await store.settle([laterAgain(store, old)])
    const present = await claimOne(store, old.endpoint)
    await store.cancel([old.jobId])
    expect(await beat(present)).toEqual({ kind: 'cancelled' })
    expect(await beat(old)).toEqual({ kind: 'lease_lost' })
    expect(await beat({ ...present, leaseId: 'forged' })).toEqual({ kind: 'lease_lost' })
    const queued = await enqueueAndClaim(store)
    await store.settle([laterAgain(store, queued)])
    await store.cancel([queued.jobId])
    expect(await beat(queued)).toEqual({ kind: 'lease_lost' })
  })
})

describe.each(ENGINES)('an attempt token on %s', (engine) => {
  const place = useStore(engine)

  test('is read back as the lease it was minted for, by every process', async () => {
    const { store } = place
    const other = await place.open()
    const claimed = await enqueueAndClaim(store)
    const token = store.attemptTokens.issue(leaseOf(claimed))
    expect(store.attemptTokens.read(claimed.jobId, token)).toEqual(provenOf(claimed))
    expect(other.attemptTokens.read(claimed.jobId, token)).toEqual(provenOf(claimed))
    expect(encodeURIComponent(token)).toBe(token)
  })

  test('is none for another job, another fence, or when anything in it is changed', async () => {
    const { attemptTokens } = place.store
    const claimed = await enqueueAndClaim(place.store)
    const other = await enqueueAndClaim(place.store)
    const token = attemptTokens.issue(leaseOf(claimed))
    expect(attemptTokens.read(other.jobId, token)).toBeNull()
    // The last character holds four bits that base64 ignores.
    for (let at = 0; at < token.length - 1; at++) {
      const changed = token[at] === 'A' ? 'B' : 'A'
      const forged = token.slice(0, at) + changed + token.slice(at + 1)
      expect(attemptTokens.read(claimed.jobId, forged)).toBeNull()
    }
    for (const text of ['', '.', '..', '1.a.b', `${token}x`, ` ${token}`, '💥']) {
      expect(attemptTokens.read(claimed.jobId, text)).toBeNull()
    }
  })

  test('of an earlier attempt is known and has lost the lease', async () => {
    const { store } = place
    const first = await enqueueAndClaim(store)
    const token = store.attemptTokens.issue(leaseOf(first))
    await store.settle([laterAgain(store, first)])
    const second = await claimOne(store, first.endpoint)
    const lease = store.attemptTokens.read(first.jobId, token)
    expect(lease).toEqual(provenOf(first))
    expect(await store.settle([{ ...success(store, second), ...lease }])).toEqual(['lease_lost'])
  })

  test('outlives a change of keys as long as the old key is there', async () => {
    const { store } = place
    const next = Buffer.alloc(32, 9)
    const both = await place.open({ encryptionKeys: [next, place.encryptionKey] })
    const claimed = await enqueueAndClaim(store)
    const old = store.attemptTokens.issue(leaseOf(claimed))
    expect(both.attemptTokens.read(claimed.jobId, old)).toEqual(provenOf(claimed))
    const fresh = both.attemptTokens.issue(leaseOf(claimed))
    expect(store.attemptTokens.read(claimed.jobId, fresh)).toBeNull()
  })
})

/** The parts of a lease that a token proves. */
function provenOf({ jobId, fence, leaseId }: Lease) {
  return { jobId, fence, leaseId }
}

function expectAbout(instant: number, wanted: number): void {
  expect(Math.abs(instant - wanted)).toBeLessThan(SLACK_MS)
}
