// Calls every method of a store, for tests that record what the MongoDB store sends.
import type { Document } from 'mongodb'
import { newSecret } from '../../src/endpoint/endpoint.ts'
import type { DedupeMode } from '../../src/job/job.ts'
import { newGroupId } from '../../src/job/job-id.ts'
import type { Outbox } from '../../src/store/outbox.ts'
import type { Store } from '../../src/store/store.ts'
import {
  acceptance,
  addEndpoint,
  attemptOf,
  burial,
  claimFrom,
  claimOne,
  enqueueAndClaim,
  enqueueMany,
  enqueueOne,
  holderOf,
  laterAgain,
  leaseOf,
  newJob,
  passed,
  postponement,
  settingsOf,
  success,
  sweep,
  sweepClean,
} from '../contract/fixtures.ts'
import { neededForLong, needOf } from '../contract/lifecycle-cases/needs-cases.ts'
import { until } from '../support/until.ts'
import { useRecordVerbs } from './record-verbs.ts'

const DAY_MS = 86_400_000
const LARGE = Buffer.from(`"${'x'.repeat(10_000)}"`)

/** More blocked jobs than one sweep checks: the round over them continues in the next sweep. */
const BLOCKED = 201

/**
 * Calls every method of a store except those of the outbox, most of them in several situations.
 *
 * @param store one that has not swept yet
 * @param other a store of another process on the same data, which keeps no final jobs
 */
export async function useEveryVerb(store: Store, other: Store): Promise<void> {
  const now = store.clock.now()
  const endpoint = await addEndpoint(store)
  const keyed = await addEndpoint(store)
  const doomed = await addEndpoint(store)
  await enqueueMany(store, endpoint, 4, { tags: ['a'], expiresAt: now + DAY_MS })
  const fair = await addEndpoint(store, { name: 'fair' })
  const { count, cost } = FLOOD
  const flood = await enqueueMany(store, fair, count, { fairnessKey: 'a', cost })
  await sweepBlocked(store, other)
  const key = { idempotency: { key: 'k', requestHash: 'h' } }
  await enqueueMany(store, keyed, 1, key)
  await store.enqueue([newJob(store, keyed, key)])
  await store.enqueue([newJob(store, keyed, key)], () => true)
  await enqueueMany(store, keyed, 1, { expiresAt: now })
  await enqueueMany(store, doomed, 2)
  await claimFrom(store, doomed, 1)
  await store.claim(
    [endpoint, keyed].map((name) => ({ endpoint: name, limit: 1 })),
    2,
    holderOf({ leaseMs: 1 }),
  )
  const [first, second] = await claimFrom(store, endpoint, 2)
  if (first === undefined || second === undefined) throw new Error('nothing was claimed')
  await store.renew([first, { ...second, fence: 99 }], 60_000)
  await store.settle([success(store, first), burial(store, { ...second, fence: 99 })])
  await store.release([second, first])
  await store.cancel([second.jobId])
  await store.retry([second.jobId])
  await store.deleteEndpoint(doomed, { force: true, ifVersion: null })
  await store.deleteEndpoint(endpoint, { force: false, ifVersion: null })
  const createdAt = now - 2 * DAY_MS
  const [old = ''] = await enqueueMany(store, keyed, 1, { createdAt })
  await store.cancel([old])
  // The first sweep with a job to purge finds that it is needed.
  const needed = await neededForLong(other)
  const unused = await addEndpoint(store)
  await store.deleteEndpoint(unused, { force: false, ifVersion: null })
  await until(async () => {
    await store.sweep({ limit: 100, reclaim: true })
    return (await store.endpointsNamed([doomed])).length === 0
  })
  if ((await store.getJob(old)) !== null) throw new Error('the old job was not purged')
  await useLargePayloads(store)
  await useFairnessKeys(store, fair, flood)
  await useKeyLimits(store)
  await useKeyRests(store)
  await useSharedLimits(store)
  await useGroups(store, other)
  await useWaitingVerbs(store)
  await useLateVerbs(store)
  await readAll(store, endpoint, first.jobId)
  await useRecordVerbs(store, keyed)
  await useNeeds(store, needed.jobId)
}

/**
 * Sweeps more blocked jobs than one sweep checks, a finished job whose effects are left to the
 * sweep, and a blocked job that has expired.
 */
async function sweepBlocked(store: Store, other: Store): Promise<void> {
  const endpoint = await addEndpoint(store)
  const waitedFor = await enqueueOne(store, endpoint)
  const dependsOn = [waitedFor.id]
  await enqueueMany(other, endpoint, BLOCKED, { dependsOn })
  // A round leaves out the new jobs, which have marks until a sweep has checked them.
  await sweepClean(other)
  // A repeated claim finds no other job here.
  const claimed = await enqueueAndClaim(store)
  // The process that settles a job does not know dependents that another one has stored since the
  // claim.
  await enqueueMany(other, endpoint, 1, { dependsOn: [claimed.jobId] })
  await store.settle([success(store, claimed)])
  await enqueueMany(store, endpoint, 1, { dependsOn, expiresAt: store.clock.now() })
  await sweep(store)
  await sweep(store)
  // The jobs that wait for it become dead, and are purged.
  await other.cancel([waitedFor.id])
  await sweepClean(other)
}

async function readAll(store: Store, endpoint: string, jobId: string): Promise<void> {
  const now = store.clock.now()
  await store.getJob(jobId)
  await store.getJobWithAttempts(jobId)
  await store.getPayload(jobId)
  await store.getInputs(jobId)
  await store.finalAmong([jobId])
  await store.due(null)
  await store.due(now - 5_000)
  await store.countJobs([endpoint, 'nobody'])
  await store.endpointsNamed([endpoint])
  await store.listEndpoints('a', 10)
  await store.writeApiMode({ localMode: true, publicUrl: null })
  await store.readApiMode()
  for (const query of [
    {},
    { createdAfter: now - 1_000, createdBefore: now + 1_000 },
    { endpoint },
    { endpoint, states: ['dead' as const, 'queued' as const], after: jobId },
    { states: ['dead' as const] },
    { tag: 'a' },
    { dedupeKey: 'd' },
    { dedupeKey: 'd', endpoint },
    { fairnessKey: 'd', endpoint },
    { fairnessKey: 'd', endpoint, states: ['dead' as const] },
    { failureReason: 'expired' as const },
    { endpoint, failureReason: 'expired' as const },
    { tag: 'a', endpoint, createdAfter: now - 1_000 },
    { endpoint, states: ['dead' as const, 'cancelled' as const], after: jobId, oldestFirst: true },
    { endpoint, failureReason: 'expired' as const, oldestFirst: true },
  ]) {
    await store.listJobs({ ...query, limit: 10 })
  }
}

async function useLargePayloads(store: Store): Promise<void> {
  const endpoint = await addEndpoint(store)
  const fields = { payload: LARGE, dedupe: { key: 'large', mode: 'replace' } } as const
  const { id } = await enqueueOne(store, endpoint, fields)
  await store.edit(id, { payload: Buffer.concat([LARGE, Buffer.from(' ')]) }, null)
  const claimed = await claimOne(store, endpoint)
  await store.settle([{ ...success(store, claimed), result: LARGE.toString() }])
  await store.getJob(id)
  await store.getPayload(id)
  await sweep(store)
}

/** @param other a store of another process on the same data, which keeps no final groups */
async function useGroups(store: Store, other: Store): Promise<void> {
  const endpoint = await addEndpoint(store)
  const notified = await addEndpoint(store)
  const now = store.clock.now()
  const empty = {
    ...{ createdAt: now, name: null, metadata: {}, tags: [], fairnessKey: null, hops: 0 },
    ...{ notices: [], closeAfterMs: null, idempotency: null },
  }
  const id = newGroupId(now)
  const notices = (['first_dead', 'all_final'] as const).map((when) => ({
    ...{ endpoint: notified, when },
  }))
  const idempotency = { key: 'group', requestHash: 'h' }
  const named = { ...empty, id, name: 'a', notices, idempotency, closeAfterMs: DAY_MS }
  for (let i = 0; i < 2; i++) await store.createGroup(named)
  const [first = '', second = ''] = await enqueueMany(store, endpoint, 4, { group: id })
  await store.enqueue([newJob(store, endpoint, { group: newGroupId(1) })])
  const claimed = await claimFrom(store, endpoint, 3)
  const [dead, done, last] = claimed
  if (!dead || !done || !last) throw new Error('nothing was claimed')
  await store.getGroup(id)
  await store.settle([burial(store, dead), success(store, done)])
  await store.closeGroup(id)
  await store.commandGroup(id, 'cancel')
  await store.sweep({ limit: 2, reclaim: false })
  await sweepClean(store)
  await store.retry([first])
  await store.cancel([first])
  await store.commandGroup(id, 'retry')
  await sweep(store)
  await store.settle((await claimFrom(store, endpoint, 10)).map((job) => success(store, job)))
  for (const query of [{}, { state: 'open' as const }, { name: 'a' }, { name: 'a', after: id }]) {
    await store.listGroups({ ...query, limit: 10 })
  }
  await store.listJobs({ group: id, limit: 10 })
  await store.listJobs({ group: id, states: ['dead'], endpoint, limit: 10 })
  await store.finalGroupsAmong([id, newGroupId(1)])
  await store.deleteJob(second)
  const idle = { ...empty, id: newGroupId(now), closeAfterMs: 1 }
  await store.createGroup(idle)
  await passed(store, now + 1)
  await sweep(store)
  await store.deleteGroup(idle.id)
  const waited = { ...empty, id: newGroupId(now) }
  await store.createGroup(waited)
  await enqueueMany(store, notified, 1, { group: waited.id, priority: 9 })
  await store.closeGroup(waited.id)
  await enqueueMany(store, endpoint, 1, { dependsOn: [waited.id] })
  await store.settle([success(store, await claimOne(store, notified))])
  const brief = { ...empty, id: newGroupId(now) }
  await store.createGroup(brief)
  await store.closeGroup(brief.id)
  await passed(store, store.clock.now())
  await sweepClean(other)
}

async function useWaitingVerbs(store: Store): Promise<void> {
  await useLimitsAndHealth(store)
  await useAftermath(store)
  await useDedupe(store)
  await useAsync(store)
}

async function useLimitsAndHealth(store: Store): Promise<void> {
  const limits = { concurrency: 5, rateLimit: { count: 5, perMs: 60_000 } }
  const breaker = { circuitBreaker: { failures: 1, cooldownMs: 1 } }
  // The order of their names decides about the order of writes.
  const first = await addEndpoint(store, { name: 'limited', ...limits })
  const second = await addEndpoint(store, { name: 'limited-broken', ...limits, ...breaker })
  for (const name of [first, second]) await enqueueMany(store, name, 2)
  const none = { succeeded: [], failures: 0, throttle: null, goneAtVersion: null }
  await store.reportHealth([{ ...none, endpoint: second, failures: 1 }])
  // Its rest is over, however fast the claims come.
  await passed(store, store.clock.now())
  for (let i = 0; i < 2; i++) {
    const shares = [first, second].map((endpoint) => ({ endpoint, limit: 1 }))
    await store.claim(shares, 2, holderOf())
  }
  await store.pauseEndpoint(first)
  await store.resumeEndpoint(first)
  await store.rotateSecret(first, newSecret(), 1_000)
}

/** Only the first of these jobs has a turn: each has the cost of many. */
const FLOOD = { count: 6, cost: 40 }

/** Jobs with a turn, with the alarm of their key, and outside. */
async function useFairnessKeys(store: Store, endpoint: string, ids: string[]): Promise<void> {
  const now = store.clock.now()
  const later = { runAt: now + DAY_MS, expiresAt: now + 2 * DAY_MS }
  await enqueueMany(store, endpoint, 3, { fairnessKey: 'b', ...later })
  await enqueueMany(store, endpoint, 3)
  const released = await claimOne(store, endpoint)
  const again = await claimOne(store, endpoint)
  await store.settle([laterAgain(store, again), success(store, await claimOne(store, endpoint))])
  await store.release([leaseOf(released)])
  await claimOne(store, endpoint)
  await claimOne(store, endpoint)
  await store.cancel(ids.slice(3, 4))
  await store.edit(ids.at(-1) as string, { priority: 9 }, null)
  await enqueueMany(store, endpoint, 1, { fairnessKey: 'a', expiresAt: store.clock.now() })
  await store.sweep({ limit: 10, reclaim: true })
  await store.statsOf([endpoint])
  await store.fairnessKeysOf(endpoint, null, 10)
  await store.keysByWait(endpoint, null, 10)
  const { items } = await store.listJobs({ endpoint, limit: 100 })
  for (const { id } of items) await store.placeInLine(endpoint, id)
  // Its alarm has come, and other jobs begin before it.
  const [moved] = await enqueueMany(store, endpoint, 1, { fairnessKey: 'c', cost: 1_000 })
  await store.edit(moved as string, { priority: 8 }, null)
  await enqueueMany(store, endpoint, 1, { fairnessKey: 'd', priority: 8 })
  await claimFrom(store, endpoint, 2)
}

/** Keys at their limit, with settings of their own, and paused. */
async function useKeyLimits(store: Store): Promise<void> {
  const perKey = { concurrency: 1, rateLimit: { count: 2, perMs: DAY_MS } }
  const endpoint = await addEndpoint(store, { perKey })
  await enqueueMany(store, endpoint, 4, { fairnessKey: 'a' })
  const first = await claimOne(store, endpoint)
  await store.settle([success(store, first)])
  const again = await claimOne(store, endpoint)
  await store.settle([laterAgain(store, again)])
  await claimFrom(store, endpoint, 5)
  await store.putFairnessKey({ endpoint, key: 'a' }, { weight: 2, paused: true }, null)
  await claimFrom(store, endpoint, 5)
  await store.fairnessKeysNamed(endpoint, ['a'])
  await store.fairnessKeyState({ endpoint, key: 'a' })
  await store.putFairnessKey({ endpoint, key: 'a' }, { weight: 2, paused: false }, 1)
  await enqueueMany(store, endpoint, 1, { fairnessKey: 'a' })
  // It is purged before a claim has seen that it has ended.
  await enqueueMany(store, endpoint, 1, { fairnessKey: 'b' })
  await store.settle([success(store, await claimOne(store, endpoint))])
  await store.sweep({ limit: 10, reclaim: true })
  await store.deleteFairnessKey({ endpoint, key: 'a' }, null)
  const settings = settingsOf({ name: endpoint })
  await store.putEndpoint(settings, { given: null, fresh: newSecret() }, null)
  // No key waits for a round of the sweep, which comes at any time.
  const left = await store.listJobs({ endpoint, states: ['queued'], limit: 10 })
  await store.cancel(left.items.map(({ id }) => id))
}

/** The rest of a key that throttled once. */
const FIRST_REST_MS = 1_000

/** A key that rests, and recovers. */
async function useKeyRests(store: Store): Promise<void> {
  const endpoint = await addEndpoint(store)
  // The last resume then changes the key alone, and not the endpoint.
  await store.resumeEndpoint(endpoint)
  const key = { endpoint, key: 'a' }
  await store.reportKeyHealth([{ ...key, succeeded: [], throttle: { until: null } }])
  // The rest is over, and nothing has succeeded since: this lasts longer than any test.
  const rested = store.clock.now() + FIRST_REST_MS
  await passed(store, rested)
  await enqueueMany(store, endpoint, 1, { fairnessKey: 'a' })
  await store.settle([success(store, await claimOne(store, endpoint))])
  await store.fairnessKeyState(key)
  await store.reportKeyHealth([{ ...key, succeeded: [rested], throttle: null }])
  await store.resumeEndpoint(endpoint)
}

/** Limits that endpoints share: with room, full, and with tokens. */
async function useSharedLimits(store: Store): Promise<void> {
  const slots = { name: 'slots', concurrency: 1, rateLimit: null }
  const tokens = { name: 'tokens', concurrency: null, rateLimit: { count: 5, perMs: DAY_MS } }
  await store.putLimit({ ...tokens, rateLimit: null }, 'none')
  await store.putLimit(tokens, 1)
  await store.putLimit(slots, null)
  const first = await addEndpoint(store, { limits: ['slots', 'tokens'] })
  const second = await addEndpoint(store, { limits: ['slots'] })
  for (const name of [first, second]) await enqueueMany(store, name, 2)
  const held = await claimOne(store, first)
  await claimFrom(store, second, 2)
  await store.limitUse('slots')
  await store.settle([success(store, held)])
  await store.settle([success(store, await claimOne(store, second))])
  await store.limitsNamed(['slots', 'none'])
  await store.listLimits(null, 1)
  await store.listLimits('slots', 1)
  await store.deleteLimit('slots', null)
  await store.putLimit({ ...slots, name: 'unused' }, null)
  await store.deleteLimit('unused', 1)
  for (const name of [first, second]) {
    const { items } = await store.listJobs({ endpoint: name, states: ['queued'], limit: 10 })
    await store.cancel(items.map(({ id }) => id))
  }
}

/**
 * Calls methods for jobs that another job unblocks, makes dead or notifies when it becomes final.
 */
async function useAftermath(store: Store): Promise<void> {
  const told = await addEndpoint(store)
  const endpoint = await addEndpoint(store)
  const onFinish = { endpoint: told, states: ['succeeded' as const, 'dead' as const] }
  const [first = ''] = await enqueueMany(store, endpoint, 2, { orderingKey: 'k', onFinish })
  await enqueueMany(store, told, 2, { dependsOn: [first], expiresAt: store.clock.now() + DAY_MS })
  await store.settle([success(store, await claimOne(store, endpoint))])
  const second = await claimOne(store, endpoint)
  await enqueueMany(store, told, 1, { dependsOn: [second.jobId] })
  await store.settle([burial(store, second)])
  await enqueueMany(store, endpoint, 1, { orderingKey: 'k' })
  await store.retry([second.jobId])
  await store.headOfOrderingKey(endpoint, 'k')
  await store.deleteJob(first)
  await enqueueMany(store, endpoint, 1, { orderingKey: 'k' })
  await store.sweep({ limit: 10, reclaim: true })
}

/** Jobs that get results of others: small and large ones, in order, again, and not at all. */
async function useNeeds(store: Store, needed: string): Promise<void> {
  const [base, endpoint] = [await addEndpoint(store), await addEndpoint(store)]
  const [first = '', second = ''] = await enqueueMany(store, base, 2)
  const [small, large] = [needOf(first), needOf(second, { name: 'large' })]
  const absent = needOf(first, { pointer: '/absent' })
  await enqueueMany(store, endpoint, 1, { needs: [small] })
  const [last = ''] = await enqueueMany(store, endpoint, 1, { needs: [small, large] })
  await enqueueMany(store, endpoint, 1, { needs: [absent] })
  await enqueueMany(store, endpoint, 1, { needs: [small], orderingKey: 'k' })
  await enqueueMany(store, endpoint, 1, { needs: [absent], orderingKey: 'k' })
  await store.settle([success(store, await claimOne(store, base))])
  await store.deleteJob(first)
  const claimed = await claimOne(store, base)
  await store.settle([{ ...success(store, claimed), result: LARGE.toString() }])
  await store.settle((await claimFrom(store, endpoint, 4)).map((job) => burial(store, job)))
  await store.getInputs(last)
  await store.dependentsOf([first], 10)
  await store.retry([last])
  await enqueueMany(store, endpoint, 1, { needs: [large] })
  await enqueueMany(store, endpoint, 1, { inputs: LARGE })
  await store.deleteJob(second)
  await store.deleteJob(needed)
}

async function useDedupe(store: Store): Promise<void> {
  const endpoint = await addEndpoint(store)
  const ask = (mode: DedupeMode, key: string) =>
    store.enqueue([
      newJob(store, endpoint, {
        dedupe: { key: 'd', mode },
        idempotency: { key, requestHash: 'h' },
        originKey: `origin ${key}`,
      }),
    ])
  await ask('keep', 'a')
  await ask('keep', 'b')
  await ask('replace', 'c')
  const claimed = await claimOne(store, endpoint)
  await ask('replace', 'd')
  await store.release([claimed])
  await ask('reject', 'e')
  await store.retry([claimed.jobId])
  const [last = ''] = await enqueueMany(store, endpoint, 1)
  await store.edit(last, { priority: 9 }, null)
}

async function useAsync(store: Store): Promise<void> {
  const endpoint = await addEndpoint(store)
  await enqueueMany(store, endpoint, 1)
  const claimed = await claimOne(store, endpoint, 1)
  await store.settle([acceptance(claimed, claimed.claimedAt + 1)])
  const progress = { value: 1, message: null }
  await store.heartbeat(claimed, { progress, extendMs: 1, completionTimeoutMs: 1 })
  await store.overdue(10)
}

/** Calls methods for deadlines that pass, and for rare cases. */
async function useLateVerbs(store: Store): Promise<void> {
  const endpoint = await addEndpoint(store)
  await enqueueMany(store, endpoint, 4)
  const [first, second, third, last] = await claimFrom(store, endpoint, 4)
  if (!first || !second || !third || !last) throw new Error('not all were claimed')
  await store.settle([laterAgain(store, first), postponement(store, second)])
  const dueAt = store.clock.now()
  await store.settle([acceptance(third, dueAt)])
  await passed(store, dueAt)
  const ends = (await store.overdue(10)).map((job) => ({
    ...{ ...leaseOf(job), endpoint, leaseExpiresAt: job.leaseExpiresAt },
    attempt: attemptOf(store, third, { outcome: 'timeout', statusCode: null }),
  }))
  await store.endOverdue(ends.map((end) => ({ ...end, event: 'time_out', runAt: dueAt })))
  await store.settle([success(store, last)], { isRepeat: true })
  await store.settle([success(store, last)], { isRepeat: true })
  await store.cancel([first.jobId, second.jobId, 'job_none'])

  const pulled = await addEndpoint(store, { url: null })
  const { id } = await enqueueOne(store, pulled)
  const claim = () => store.claim([{ endpoint: pulled, limit: 1 }], 1, holderOf({ pulls: true }))
  const [held] = (await claim()).jobs
  if (held === undefined) throw new Error('nothing was claimed')
  await store.heartbeat(held, { progress: null, extendMs: null, completionTimeoutMs: 1 })
  await store.cancel([id])
  await store.heartbeat(held, { progress: null, extendMs: null, completionTimeoutMs: 1 })
  await enqueueOne(store, pulled)
  await store.putEndpoint(settingsOf({ name: pulled }), { given: null, fresh: newSecret() }, null)

  const lease = { holder: 'api', isStandby: true, leaseMs: 3_600_000 }
  await store.takeUpkeep(lease)
  await store.upkeepLease()
  await store.takeUpkeep(lease)
  await store.releaseUpkeep(lease.holder)
}

/** Calls the methods of the outbox. `insert` inserts documents into it. */
export async function useOutboxVerbs(
  outbox: Outbox,
  endpoint: string,
  insert: (documents: Document[]) => Promise<unknown>,
): Promise<void> {
  const message = 'a sentence'
  await insert([1, 2, 3].map((_id) => ({ _id, endpoint, payload: _id })))
  const [first, ...others] = await outbox.take(10)
  if (first === undefined) throw new Error('no document was taken')
  await outbox.stats()
  await outbox.remove([first])
  await outbox.setAside(others.map((document) => ({ document, reason: 'invalid', message })))
  // These documents have the same ids, and one of them has another content.
  await insert([2, 3].map((_id) => ({ _id, endpoint, payload: _id === 2 ? 2 : 'other' })))
  const again = await outbox.take(10)
  await outbox.setAside(again.map((document) => ({ document, reason: 'invalid', message })))
}
