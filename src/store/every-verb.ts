// Calls every verb of a store as API and workers do, on a few hundred jobs of its own: for
// `posthorn doctor store` and the test of query plans. Only for a store that holds nothing else.
import { type EndpointSettings, newSecret, type PutEndpointResult } from '../endpoint/endpoint.ts'
import type { Attempt, ClaimedJob, DedupeMode, Lease, NewJob } from '../job/job.ts'
import { newGroupId, newJobId } from '../job/job-id.ts'
import { DEFAULT_RETRY } from '../job/retry-policy.ts'
import type { JobQuery, Settlement, Store } from './store.ts'

const DAY_MS = 86_400_000
const LARGE_BYTES = 10_000
const LEASE_MS = 60_000
/** How often each of the most frequent verbs is called, so that percentiles are meaningful. */
const ROUNDS = 20
const JOBS_PER_BATCH = 10
const SWEEP = { limit: 100, reclaim: true }
/** More jobs of one fairness key than have a turn. */
const FLOOD = 200
/** The most sweeps that are needed until one finds nothing more. */
const MAX_SWEEPS = 20

/** @throws StoreUnavailable, or an Error that says which verb gave another result than expected */
export async function useEveryVerb(store: Store): Promise<void> {
  const busy = await addEndpoint(store, 'doctor-busy-endpoint')
  // Before the first sweep: it looks at all keys with jobs outside, and the next ones may not.
  const fair = await addEndpoint(store, 'doctor-fair-endpoint')
  await enqueue(store, fair, FLOOD, { fairnessKey: 'a' })
  await useUsualVerbs(store, busy)
  await useEndings(store)
  await useKeys(store)
  await useLargePayloads(store)
  await useLimits(store)
  await useDependencies(store)
  await useNeeds(store)
  await useFairnessKeys(store, fair)
  await useKeyLimits(store)
  await useSharedLimits(store)
  await useGroups(store)
  await useAsyncJobs(store)
  await useDeletion(store)
  await useRecords(store, busy)
  await readAll(store, busy)
  await sweepAll(store)
}

/** The verbs that every job needs. */
async function useUsualVerbs(store: Store, endpoint: string): Promise<void> {
  for (let i = 0; i < ROUNDS; i++) {
    await enqueue(store, endpoint, JOBS_PER_BATCH, {
      ...{ priority: i % 3, tags: ['doctor'], expiresAt: store.clock.now() + DAY_MS },
    })
    await enqueue(store, endpoint, 1, { idempotency: { key: `key-${i}`, requestHash: 'hash' } })
    await store.due(i === 0 ? null : store.clock.now() - 5_000)
    const claimed = await claim(store, endpoint, 5)
    await store.renew(claimed.map(leaseOf), LEASE_MS)
    await store.settle(claimed.slice(1).map((job) => success(store, job)))
    await store.release(claimed.slice(0, 1).map(leaseOf))
    await store.getJob(jobIdOf(claimed))
    await store.getJobWithAttempts(jobIdOf(claimed))
    await store.getPayload(jobIdOf(claimed))
    await store.finalAmong(claimed.map(({ jobId }) => jobId))
    await store.sweep(SWEEP)
  }
}

async function useEndings(store: Store): Promise<void> {
  const now = store.clock.now()
  const endpoint = await addEndpoint(store, 'doctor-endings-endpoint')
  await enqueue(store, endpoint, 8)
  const [first, second, third, fourth] = await claim(store, endpoint, 4)
  if (!first || !second || !third || !fourth) throw new Error('claim: 4 jobs were due')
  const attempt = attemptOf(store, second, 'http_error')
  const failure = { reason: 'rejected', message: 'HTTP 422' } as const
  const stale = { ...leaseOf(first), fence: first.fence + 99 }
  await store.settle([
    success(store, first),
    { ...leaseOf(second), attempt, event: 'bury', failure },
    { ...leaseOf(third), attempt, event: 'reschedule', runAt: now },
  ])
  await store.settle([success(store, first)], { isRepeat: true })
  await store.renew([stale], LEASE_MS)
  await store.cancel([fourth.jobId, third.jobId])
  await store.retry([second.jobId, fourth.jobId])
  await store.edit(second.jobId, { priority: 9 }, null)
  await store.claim([{ endpoint, limit: 1 }], 1, { ...HOLDER, leaseMs: 1 })
  await enqueue(store, endpoint, 1, { expiresAt: now })
  const [old = ''] = await enqueue(store, endpoint, 1, { createdAt: now - 2 * DAY_MS })
  await store.cancel([old])
  await store.deleteJob(third.jobId)
  await sweepAll(store)
}

/** Idempotency keys, dedupe keys and origins. */
async function useKeys(store: Store): Promise<void> {
  const endpoint = await addEndpoint(store, 'doctor-keys-endpoint')
  const ask = (mode: DedupeMode, key: string) =>
    store.enqueue([
      newJob(store, endpoint, {
        dedupe: { key: 'd', mode },
        idempotency: { key, requestHash: 'hash' },
        originKey: `origin ${key}`,
      }),
    ])
  for (const [mode, key] of [
    ...[['keep', 'a'] as const, ['keep', 'b'] as const, ['keep', 'b'] as const],
    ['replace', 'c'] as const,
  ]) {
    await ask(mode, key)
  }
  const claimed = await claim(store, endpoint, 1)
  await ask('replace', 'd')
  await store.release(claimed.map(leaseOf))
  await ask('reject', 'e')
  await store.retry([jobIdOf(claimed)])
  // Jobs without a key: if all jobs had one, to read them all would be as good as an index of keys.
  await enqueue(store, endpoint, 50)
  // Known keys of a batch, beside new ones.
  const batch = ['a', 'b', 'c', 'f', 'g'].map((key) =>
    newJob(store, endpoint, { idempotency: { key, requestHash: 'hash' } }),
  )
  await store.enqueue(batch)
  await store.enqueue(batch, () => true)
}

/** MongoDB stores these apart from their jobs. */
async function useLargePayloads(store: Store): Promise<void> {
  const endpoint = await addEndpoint(store, 'doctor-large-endpoint')
  const large = (text: string) => Buffer.from(`"${text.repeat(LARGE_BYTES)}"`)
  const dedupe = { key: 'large', mode: 'replace' } as const
  const [id = ''] = await enqueue(store, endpoint, 1, { payload: large('a'), dedupe })
  await store.enqueue([newJob(store, endpoint, { payload: large('b'), dedupe })])
  await store.edit(id, { payload: large('c') }, null)
  const [claimed] = await claim(store, endpoint, 1)
  if (!claimed) throw new Error('claim: a large job was due')
  if (claimed.payload[1] !== large('c')[1]) throw new Error('claim: not the edited payload')
  await store.settle([{ ...success(store, claimed), result: large('d').toString() }])
  const job = await store.getJob(id)
  if (job?.result?.[1] !== 'd') throw new Error('getJob: not the result')
}

async function useLimits(store: Store): Promise<void> {
  const limits = { concurrency: 5, rateLimit: { count: 5, perMs: 60_000 } }
  const breaker = { circuitBreaker: { failures: 1, cooldownMs: 1 } }
  const first = await addEndpoint(store, 'doctor-limited-endpoint', limits)
  const second = await addEndpoint(store, 'doctor-broken-endpoint', { ...limits, ...breaker })
  for (const name of [first, second]) await enqueue(store, name, 3)
  const none = { succeeded: [], failures: 0, throttle: null, goneAtVersion: null }
  await store.reportHealth([{ ...none, endpoint: second, failures: 1 }])
  for (let i = 0; i < 2; i++) {
    const shares = [first, second].map((endpoint) => ({ endpoint, limit: 1 }))
    const { jobs } = await store.claim(shares, 2, HOLDER)
    await store.settle(jobs.map((job) => success(store, job)))
  }
  await store.pauseEndpoint(first)
  await store.resumeEndpoint(first)
  await store.rotateSecret(first, newSecret(), 1_000)
}

/** Jobs that wait for others: dependencies, ordering keys and notices. */
async function useDependencies(store: Store): Promise<void> {
  const target = await addEndpoint(store, 'doctor-notices-endpoint')
  const endpoint = await addEndpoint(store, 'doctor-ordered-endpoint')
  const states = ['succeeded' as const, 'dead' as const]
  const ordered = { orderingKey: 'k', onFinish: { endpoint: target, states } }
  const [first = ''] = await enqueue(store, endpoint, 2, ordered)
  await enqueue(store, target, 2, {
    ...{ dependsOn: [first], expiresAt: store.clock.now() + DAY_MS },
  })
  await store.settle((await claim(store, endpoint, 1)).map((job) => success(store, job)))
  const [second] = await claim(store, endpoint, 1)
  if (second === undefined) throw new Error('claim: the second job of the ordering key was due')
  await enqueue(store, target, 1, { dependsOn: [second.jobId] })
  const failure = { reason: 'rejected', message: 'HTTP 422' } as const
  const attempt = attemptOf(store, second, 'http_error')
  await store.settle([{ ...leaseOf(second), attempt, event: 'bury', failure }])
  await enqueue(store, endpoint, 1, { orderingKey: 'k' })
  await store.retry([second.jobId])
  const expiresAt = store.clock.now()
  await enqueue(store, target, 1, { dependsOn: [second.jobId], expiresAt })
  await store.headOfOrderingKey(endpoint, 'k')
  await store.deleteJob(first)
  await sweepAll(store)
}

/** Jobs that get results of others, of which one is large. */
async function useNeeds(store: Store): Promise<void> {
  const base = await addEndpoint(store, 'doctor-needed-endpoint')
  const endpoint = await addEndpoint(store, 'doctor-needing-endpoint')
  const [first = '', second = ''] = await enqueue(store, base, 2)
  const needOf = (jobId: string, name: string, pointer = '') =>
    ({ name, jobId, pointer, ifFailed: 'fail' }) as const
  const needs = [needOf(first, 'a'), needOf(second, 'b')]
  const [last = ''] = await enqueue(store, endpoint, 5, { needs })
  await enqueue(store, endpoint, 1, { needs: [needOf(first, 'a', '/absent')] })
  await enqueue(store, endpoint, 1, { needs, orderingKey: 'k' })
  const result = JSON.stringify('x'.repeat(LARGE_BYTES))
  const claimed = await claim(store, base, 2)
  for (const job of claimed) await store.settle([{ ...success(store, job), result }])
  const inputs = await store.getInputs(last)
  if (inputs === null) throw new Error('getInputs: the needed jobs have succeeded')
  const attempted = (await claim(store, endpoint, 9)).find(({ jobId }) => jobId === last)
  if (attempted?.inputs?.byteLength !== inputs.byteLength) throw new Error('claim: other inputs')
  await store.cancel([last])
  await store.retry([last])
  await store.dependentsOf([first], 10)
  await store.deleteJob(first)
  await sweepAll(store)
}

/** Jobs with a turn, with the alarm of their key, and outside. */
async function useFairnessKeys(store: Store, endpoint: string): Promise<void> {
  const later = { runAt: store.clock.now() + DAY_MS, expiresAt: store.clock.now() + 2 * DAY_MS }
  await enqueue(store, endpoint, 50)
  const ids = await enqueue(store, endpoint, FLOOD, { fairnessKey: 'c' })
  await enqueue(store, endpoint, 20, { fairnessKey: 'b', cost: 2, ...later })
  for (let i = 0; i < 4; i++) {
    const [released, again, ...others] = await claim(store, endpoint, 20)
    if (!released || !again) throw new Error('claim: jobs with a fairness key were due')
    const attempt = attemptOf(store, again, 'http_error')
    await store.settle([
      { ...leaseOf(again), attempt, event: 'reschedule', runAt: store.clock.now() },
      ...others.map((job) => success(store, job)),
    ])
    await store.release([leaseOf(released)])
  }
  const open = (await store.listJobs({ endpoint, states: ['queued'], limit: 100 })).items
  await store.cancel(open.slice(0, 3).map(({ id }) => id))
  await store.cancel(ids.slice(0, 100))
  await store.edit(ids.at(-1) ?? '', { priority: 9 }, null)
  await enqueue(store, endpoint, 3, { fairnessKey: 'a', expiresAt: store.clock.now() })
  await store.statsOf([endpoint])
  await store.fairnessKeysOf(endpoint, null, 10)
  await store.keysByWait(endpoint, null, 10)
  const { items } = await store.listJobs({ endpoint, limit: 20 })
  for (const { id } of items) await store.placeInLine(endpoint, id)
  await sweepAll(store)
}

/** Keys at their limit, and a limit that changes while jobs run. */
async function useKeyLimits(store: Store): Promise<void> {
  const name = 'doctor-key-limits-endpoint'
  await addEndpoint(store, name, { perKey: { concurrency: 2, rateLimit: null } })
  const later = { runAt: store.clock.now() + DAY_MS }
  for (const key of ['a', 'b']) await enqueue(store, name, 8, { fairnessKey: key })
  await enqueue(store, name, 3, { fairnessKey: 'c', ...later })
  for (let i = 0; i < 3; i++) {
    const [again, ...others] = await claim(store, name, 20)
    if (!again || others.length !== 3) throw new Error('claim: 2 jobs of each key could run')
    const attempt = attemptOf(store, again, 'http_error')
    await store.settle([
      { ...leaseOf(again), attempt, event: 'reschedule', runAt: store.clock.now() },
      ...others.map((job) => success(store, job)),
    ])
  }
  await claim(store, name, 20)
  const rateLimit = { count: 1, perMs: DAY_MS }
  await addEndpoint(store, name, { perKey: { concurrency: 1, rateLimit } }, 'replaced')
  await claim(store, name, 20)
  await useKeySettings(store, name)
  await sweepAll(store)
}

async function useKeySettings(store: Store, endpoint: string): Promise<void> {
  const settings = { weight: 2, concurrency: null, rateLimit: null, paused: false }
  for (const key of ['a', 'b']) await store.putFairnessKey({ endpoint, key }, settings, null)
  await enqueue(store, endpoint, 2, { fairnessKey: 'a' })
  await claim(store, endpoint, 20)
  await store.putFairnessKey({ endpoint, key: 'b' }, { weight: 1, paused: true }, 1)
  await claim(store, endpoint, 20)
  await store.fairnessKeyState({ endpoint, key: 'a' })
  const stored = await store.fairnessKeysNamed(endpoint, ['a', 'b', 'c'])
  if (stored.length !== 2) throw new Error('fairnessKeysNamed: two keys have settings')
  await store.deleteFairnessKey({ endpoint, key: 'b' }, 2)
  await useKeyRests(store, endpoint)
}

/** A key without settings that rests, and one that recovers. */
async function useKeyRests(store: Store, endpoint: string): Promise<void> {
  const key = { endpoint, key: 'c' }
  const now = store.clock.now()
  await store.reportKeyHealth([{ ...key, succeeded: [], throttle: { until: now + DAY_MS } }])
  await enqueue(store, endpoint, 2, { fairnessKey: 'c' })
  const claimed = await claim(store, endpoint, 20)
  if (claimed.some(({ fairnessKey }) => fairnessKey === 'c')) throw new Error('claim: key c rests')
  await store.reportKeyHealth([{ ...key, succeeded: [now + DAY_MS], throttle: null }])
  await claim(store, endpoint, 20)
  await store.fairnessKeyState(key)
  await store.resumeEndpoint(endpoint)
}

/** Limits that endpoints share: full, and with tokens. */
async function useSharedLimits(store: Store): Promise<void> {
  const rateLimit = { count: 5, perMs: DAY_MS }
  for (const name of ['doctor-slots', 'doctor-tokens']) {
    await store.putLimit({ name, concurrency: 2, rateLimit: null }, 'none')
  }
  await store.putLimit({ name: 'doctor-tokens', concurrency: null, rateLimit }, 1)
  const limits = ['doctor-slots', 'doctor-tokens']
  const first = await addEndpoint(store, 'doctor-sharing-endpoint', { limits })
  const second = await addEndpoint(store, 'doctor-waiting-endpoint', { limits })
  for (const name of [first, second]) await enqueue(store, name, 3)
  const held = await claim(store, first, 2)
  if (held.length !== 2) throw new Error('claim: a shared limit let 2 jobs start')
  const shares = [first, second].map((endpoint) => ({ endpoint, limit: 2 }))
  const refused = await store.claim(shares, 4, HOLDER)
  if (refused.jobs.length !== 0) throw new Error('claim: a shared limit was full')
  await store.settle(held.map((job) => success(store, job)))
  await store.claim(shares, 4, HOLDER)
  await store.limitsNamed(limits)
  await store.listLimits(null, 10)
  await store.listLimits('a', 10)
  await store.limitUse('doctor-slots')
  await store.deleteLimit('doctor-slots', null)
  await store.putLimit({ name: 'doctor-unused', concurrency: 1, rateLimit: null }, null)
  await store.deleteLimit('doctor-unused', 1)
}

async function useAsyncJobs(store: Store): Promise<void> {
  const endpoint = await addEndpoint(store, 'doctor-async-endpoint')
  await enqueue(store, endpoint, 2)
  // A lease is never shortened: that of the first expires at once.
  const short = { ...HOLDER, leaseMs: 1 }
  const [first] = (await store.claim([{ endpoint, limit: 1 }], 1, short)).jobs
  const [second] = await claim(store, endpoint, 1)
  if (!first || !second) throw new Error('claim: 2 jobs were due')
  await store.settle([
    { ...leaseOf(first), event: 'await', leaseExpiresAt: first.claimedAt + 1 },
    { ...leaseOf(second), event: 'await', leaseExpiresAt: second.claimedAt + LEASE_MS },
  ])
  const progress = { value: 1, message: null }
  await store.heartbeat(second, { progress, extendMs: 1_000, completionTimeoutMs: 1_000 })
  const overdue = await store.overdue(10)
  if (overdue.length === 0) throw new Error('overdue: the completion of a job was due')
  await store.endOverdue(
    overdue.map((job) => ({
      ...leaseOf(job),
      endpoint: job.endpoint,
      leaseExpiresAt: job.leaseExpiresAt,
      attempt: attemptOf(store, job, 'timeout'),
      event: 'time_out' as const,
      runAt: store.clock.now(),
    })),
  )
}

/** Several groups, so that a query of one of them is worth an index. */
async function useGroups(store: Store): Promise<void> {
  const endpoint = await addEndpoint(store, 'doctor-groups-endpoint')
  const when = ['first_dead' as const, 'all_final' as const]
  const notices = when.map((one) => ({ endpoint, when: one }))
  const ids: string[] = []
  for (let i = 0; i < ROUNDS; i++) {
    const createdAt = store.clock.now()
    const idempotency = { key: `group-${i}`, requestHash: 'hash' }
    const id = newGroupId(createdAt)
    ids.push(id)
    await store.createGroup({
      ...{ id, createdAt, name: `group ${i % 3}`, metadata: {}, tags: [], fairnessKey: null },
      ...{ notices, closeAfterMs: i === 0 ? 1 : DAY_MS, hops: 0, idempotency },
    })
    await enqueue(store, endpoint, JOBS_PER_BATCH, { group: id })
  }
  const claimed = await claim(store, endpoint, (ROUNDS * JOBS_PER_BATCH) / 2)
  const failure = { reason: 'rejected', message: 'HTTP 422' } as const
  await store.settle(
    claimed.map((job, i) =>
      i % 2 === 0
        ? success(store, job)
        : { ...leaseOf(job), attempt: attemptOf(store, job, 'http_error'), event: 'bury', failure },
    ),
  )
  const [, first = '', second = '', third = '', empty = ''] = ids
  for (const id of [first, second, third]) await store.closeGroup(id)
  await store.commandGroup(first, 'retry')
  await store.commandGroup(second, 'cancel')
  await sweepAll(store)
  await store.deleteGroup(second)
  await store.deleteGroup(empty)
  for (const id of [first, third]) await store.getGroup(id)
  await store.finalGroupsAmong(ids)
  for (const query of [{}, { state: 'open' as const }, { name: 'group 1' }, { after: third }]) {
    await store.listGroups({ ...query, limit: 10 })
  }
  for (const states of [{}, { states: ['dead' as const] }]) {
    await store.listJobs({ group: first, ...states, limit: 10 })
  }
}

async function useDeletion(store: Store): Promise<void> {
  const unused = await addEndpoint(store, 'doctor-unused-endpoint')
  await store.deleteEndpoint(unused, { force: false, ifVersion: null })
  const doomed = await addEndpoint(store, 'doctor-deleted-endpoint')
  await enqueue(store, doomed, 3)
  await claim(store, doomed, 1)
  await store.deleteEndpoint(doomed, { force: false, ifVersion: null })
  await store.deleteEndpoint(doomed, { force: true, ifVersion: null })
  for (let i = 0; i < MAX_SWEEPS; i++) {
    await store.sweep(SWEEP)
    if ((await store.endpointsNamed([doomed])).length === 0) break
  }
  await store.deletedEndpoints()
}

/** Schedules, keys, workers and statistics. */
async function useRecords(store: Store, endpoint: string): Promise<void> {
  const now = store.clock.now()
  const change = { name: 'doctor-schedule', endpoint, paused: false, settings: '{}' }
  const full = { ...change, payload: Buffer.from('{}'), nextRunAt: now - 1_000 }
  await store.putSchedule(full, null)
  await store.putSchedule(full, 1)
  await store.getSchedule(change.name)
  await store.listSchedules(null, 10)
  await store.listSchedules('a', 10)
  const due = await store.dueSchedules(10)
  await store.advanceSchedules(
    due.map(({ name, version, nextRunAt: tickAt }) => ({
      ...{ name, version, tickAt, nextRunAt: null, lastError: null },
    })),
  )
  await store.deleteSchedule(change.name, null)
  const key = { id: 'key_1', name: 'doctor', scope: 'work' as const, createdAt: now }
  await store.addKey({ ...key, hash: 'aGFzaA==' })
  await store.listKeys()
  await store.removeKey(key.id)
  const report = { id: 'doctor-worker', version: '1', startedAt: now, concurrency: 1, inFlight: 0 }
  await store.reportWorker({ ...report, keyIds: [] })
  await store.listWorkers()
  await store.removeWorker(report.id)
  const minute = Math.floor(now / 60_000) * 60_000
  const stats = [{ minute, endpoint, succeeded: 1, failed: 0, durations: [1] }]
  // The second call finds that the row was added.
  for (let i = 0; i < 2; i++) await store.addMinuteStats(stats, { writer: 'doctor', number: 1 })
  await store.minuteStatsSince(now, null)
  await store.minuteStatsSince(now, endpoint)
  await store.upkeepLease()
  await store.takeUpkeep({ holder: 'doctor', isStandby: true, leaseMs: 1_000 })
  await store.releaseUpkeep('doctor')
  await store.writeApiMode({ localMode: true, publicUrl: null })
  await store.readApiMode()
  await store.correctInstants(null)
  store.onWork(() => {})()
  store.onEnd(() => {})()
  store.encryptionKeyIds()
  await store.ready()
}

/** Lists, counts and statistics. */
async function readAll(store: Store, endpoint: string): Promise<void> {
  const now = store.clock.now()
  const others = Array.from({ length: 20 }, (_, i) => `doctor-absent-${i}`)
  await store.countJobs([endpoint, ...others.slice(0, 1)])
  await store.statsOf([endpoint, ...others.slice(0, 1)])
  // Of many names, the store reads only those that have jobs.
  await store.statsOf([endpoint, ...others])
  await store.endpointsNamed([endpoint])
  await store.listEndpoints(null, 10)
  await store.listEndpoints('a', 10)
  const { items } = await store.listJobs({ endpoint, limit: 10 })
  const after = items.at(-1)?.id
  const states = ['dead' as const, 'cancelled' as const]
  const queries: Omit<JobQuery, 'limit'>[] = [
    {},
    { createdAfter: now - 1_000, createdBefore: now + 1_000 },
    { endpoint, states, ...(after === undefined ? {} : { after }) },
    { states: ['dead'] },
    { tag: 'doctor' },
    { tag: 'doctor', endpoint, createdAfter: now - DAY_MS },
    { dedupeKey: 'd' },
    { dedupeKey: 'd', endpoint },
    { fairnessKey: 'd', endpoint },
    { failureReason: 'expired' },
    { endpoint, failureReason: 'expired' },
    { endpoint, states, oldestFirst: true },
    { endpoint, failureReason: 'expired', oldestFirst: true },
  ]
  for (const query of queries) await store.listJobs({ ...query, limit: 10 })
}

async function sweepAll(store: Store): Promise<void> {
  for (let i = 0; i < MAX_SWEEPS; i++) {
    const counts = await store.sweep(SWEEP)
    if (Object.values(counts).every((count) => count === 0)) return
  }
}

const HOLDER = { workerId: 'doctor-worker', leaseMs: LEASE_MS, pulls: false }

async function addEndpoint(
  store: Store,
  name: string,
  fields: Partial<EndpointSettings> = {},
  expected: PutEndpointResult['kind'] = 'created',
): Promise<string> {
  const settings: EndpointSettings = {
    ...{ name, url: 'https://receiver.example/', description: '', headers: {}, statuses: {} },
    ...{ timeoutMs: 15_000, retry: DEFAULT_RETRY, concurrency: null, rateLimit: null },
    ...{ perKey: null, limits: [] },
    ...{ completion: 'sync', completionTimeoutMs: 900_000, onFinish: null, circuitBreaker: null },
    ...fields,
  }
  const { kind } = await store.putEndpoint(settings, { given: null, fresh: newSecret() }, null)
  if (kind !== expected) throw new Error(`putEndpoint: ${kind}`)
  return name
}

function newJob(store: Store, endpoint: string, fields: Partial<NewJob> = {}): NewJob {
  const createdAt = fields.createdAt ?? store.clock.now()
  return {
    ...{ id: newJobId(createdAt), endpoint, payload: Buffer.from('{"doctor":true}') },
    ...{ createdAt, runAt: createdAt, priority: 5, expiresAt: null, hops: 0, trace: null },
    ...{ maxAttempts: null, timeoutMs: null, retry: null, tags: [], metadata: {}, headers: {} },
    needs: [],
    ...{ idempotency: null, dedupe: null, orderingKey: null, fairnessKey: null, cost: 1 },
    ...{ group: null, dependsOn: [], onFinish: 'inherited', scheduleName: null, originKey: null },
    ...fields,
  }
}

/** The ids of the new jobs. */
async function enqueue(
  store: Store,
  endpoint: string,
  count: number,
  fields: Partial<NewJob> = {},
): Promise<string[]> {
  const jobs = Array.from({ length: count }, () => newJob(store, endpoint, fields))
  const results = await store.enqueue(jobs)
  const other = results.find(({ kind }) => kind !== 'inserted')
  if (other !== undefined) throw new Error(`enqueue: ${other.kind}`)
  return jobs.map(({ id }) => id)
}

async function claim(store: Store, endpoint: string, limit: number): Promise<ClaimedJob[]> {
  const { jobs } = await store.claim([{ endpoint, limit }], limit, HOLDER)
  return jobs
}

function jobIdOf([first]: ClaimedJob[]): string {
  if (first === undefined) throw new Error('claim: a job was due')
  return first.jobId
}

function leaseOf({ jobId, endpoint, fence, leaseId }: Lease): Lease {
  return { jobId, endpoint, fence, leaseId }
}

function attemptOf(
  store: Store,
  { attemptNumber, claimedAt }: Pick<ClaimedJob, 'attemptNumber' | 'claimedAt'>,
  outcome: Attempt['outcome'],
): Attempt {
  return {
    ...{ number: attemptNumber, startedAt: claimedAt, finishedAt: store.clock.now() },
    ...{ durationMs: 1, outcome, statusCode: null, errorCode: null, message: outcome },
    ...{ responseBody: null, workerId: HOLDER.workerId },
  }
}

function success(store: Store, claimed: ClaimedJob): Extract<Settlement, { event: 'succeed' }> {
  const attempt = attemptOf(store, claimed, 'succeeded')
  return { ...leaseOf(claimed), attempt, event: 'succeed', result: null, resultTruncated: false }
}
