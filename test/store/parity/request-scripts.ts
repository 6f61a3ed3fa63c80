// The requests of clients: every form of enqueue, dedupe keys, and the commands on a job.
import { retryOrder, splitUnmet } from '../../../src/job/dependencies.ts'
import type { NewJob } from '../../../src/job/job.ts'
import { newJobId } from '../../../src/job/job-id.ts'
import {
  acceptance,
  burial,
  laterAgain,
  leaseOf,
  postponement,
  report,
  success,
} from '../../contract/fixtures.ts'
import { HOUR_MS, type Stage } from './fixture.ts'

const keyed = (key: string, requestHash = `hash of ${key}`) => ({
  idempotency: { key, requestHash },
})

export async function enqueueing(stage: Stage): Promise<void> {
  const { store } = stage
  await stage.endpoint('notified')
  await stage.endpoint('plain')
  await stage.endpoint('notifying', { onFinish: { endpoint: 'notified', states: ['dead'] } })
  await stage.endpoint('silent', { onFinish: { endpoint: 'nowhere', states: ['dead'] } })
  await stage.enqueue(stage.job('plain', 'plain'))
  await stage.enqueue(stage.job('of-a-tenant', 'plain', { fairnessKey: 'tenant 7' }))
  await stage.enqueue(stage.job('costly', 'plain', { cost: 2 }))
  const full: Partial<NewJob> = {
    runAt: stage.now() + HOUR_MS,
    expiresAt: stage.now() + 2 * HOUR_MS,
    priority: 9,
    maxAttempts: 3,
    timeoutMs: 700,
    retry: { maxAttempts: 3, maxAgeMs: HOUR_MS },
    tags: ['a', 'b'],
    metadata: { customer: '7' },
    headers: { 'x-secret': 'open sesame' },
    onFinish: { endpoint: 'notified', states: ['succeeded', 'cancelled'] },
    scheduleName: 'nightly',
    trace: {
      traceparent: '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01',
      tracestate: null,
    },
    hops: 2,
    orderingKey: 'customer 7',
    fairnessKey: 'tenant 7',
    cost: 1_000,
    dedupe: { key: 'report', mode: 'keep' },
    ...keyed('full'),
  }
  await stage.enqueue(stage.job('full', 'notifying', full))
  await stage.enqueue(stage.job('inherits', 'notifying'))
  await stage.enqueue(stage.job('inherits-nowhere', 'silent'))
  await stage.enqueue(
    stage.job('asks-nowhere', 'silent', { onFinish: { endpoint: 'nope', states: [] } }),
  )
  const keyedJob = stage.job('keyed', 'plain', keyed('order'))
  await stage.enqueue(keyedJob)
  await stage.enqueue(keyedJob)
  await stage.enqueue(
    stage.job('repeat', 'plain', { ...keyed('order'), payload: keyedJob.payload }),
    stage.job('other-hash', 'plain', keyed('order', 'another')),
    stage.job('fresh', 'plain', { ...keyed('fresh'), payload: keyedJob.payload }),
    stage.job('fresh-again', 'plain', { ...keyed('fresh'), payload: keyedJob.payload }),
    stage.job('fresh-other', 'plain', keyed('fresh', 'another')),
  )
  const origin = stage.job('of-origin', 'plain', { originKey: 'schedule:nightly:1' })
  await stage.enqueue(
    origin,
    stage.job('same-origin', 'plain', { originKey: 'schedule:nightly:1' }),
  )
  await stage.enqueue({ ...origin, originKey: 'schedule:nightly:2' })
  await stage.enqueue({ ...origin, originKey: null })
  await stage.enqueue(
    stage.job('unknown', 'nowhere'),
    stage.job('unknown-keyed', 'nowhere', keyed('order')),
    stage.job('unknown-notified', 'plain', { onFinish: { endpoint: 'nowhere', states: ['dead'] } }),
    stage.job('unknown-notified-known', 'plain', {
      onFinish: { endpoint: 'nowhere', states: ['dead'] },
      ...keyed('order'),
    }),
    stage.job('depends-on-nothing', 'plain', { dependsOn: [newJobId(stage.now())] }),
    stage.job('depends-on-nothing-known', 'plain', {
      dependsOn: [newJobId(stage.now())],
      ...keyed('order'),
    }),
  )
  await stage.step('tell that the endpoint is gone', () =>
    report(store, 'notifying', { goneAtVersion: 1 }),
  )
  await stage.enqueue(
    stage.job('disabled', 'notifying'),
    stage.job('disabled-keyed', 'notifying', keyed('full')),
    stage.job('disabled-notice', 'notifying', { originKey: 'finish:x:1:1' }),
  )
  await stage.step('delete', () => store.deleteEndpoint('silent', { force: true, ifVersion: null }))
  await stage.enqueue(
    stage.job('being-deleted', 'silent'),
    stage.job('notifies-deleted', 'plain', { onFinish: { endpoint: 'silent', states: ['dead'] } }),
  )
  const first = stage.job('first', 'plain', keyed('first'))
  await stage.enqueue(
    first,
    stage.job('second', 'plain', { dependsOn: [first.id] }),
    stage.job('third', 'plain', { dependsOn: [first.id], orderingKey: 'one', ...keyed('third') }),
  )
  await stage.step('list', () => store.listJobs({ endpoint: 'plain', limit: 5 }))
  await stage.step('list by tag', () => store.listJobs({ tag: 'a', limit: 5 }))
  await stage.step('count', () => store.countJobs(['plain', 'notifying', 'nowhere']))
  await stage.step('stats', () => store.statsOf(['plain', 'notifying', 'nowhere']))
}

const deduped = (mode: 'keep' | 'replace' | 'reject', key = 'report') => ({ dedupe: { key, mode } })

export async function deduplicating(stage: Stage): Promise<void> {
  const { store } = stage
  await stage.endpoint('notified')
  await stage.endpoint('work', { onFinish: { endpoint: 'notified', states: ['cancelled'] } })
  const rich = { tags: ['x'], metadata: { a: '1' }, headers: { 'x-a': '1' }, priority: 8 }
  await stage.enqueue(stage.job('holder', 'work', { ...deduped('keep'), ...rich }))
  await stage.enqueue(stage.job('kept', 'work', { ...deduped('keep'), ...keyed('kept') }))
  await stage.enqueue(stage.job('kept-again', 'work', { ...deduped('keep'), ...keyed('kept') }))
  await stage.enqueue(stage.job('kept-other', 'work', keyed('kept', 'another')))
  await stage.enqueue(stage.job('kept-plain', 'work', deduped('keep')))
  await stage.enqueue(stage.job('rejected', 'work', { ...deduped('reject'), ...keyed('rejected') }))
  await stage.enqueue(
    stage.job('replacing', 'work', {
      ...deduped('replace'),
      ...keyed('replacing'),
      runAt: stage.now() + HOUR_MS,
      expiresAt: stage.now() + 2 * HOUR_MS,
      maxAttempts: 77,
    }),
  )
  await stage.enqueue(
    stage.job('replacing-1', 'work', { ...deduped('replace'), ...rich }),
    stage.job('replacing-2', 'work', { ...deduped('replace'), priority: 1 }),
    stage.job('rejected-2', 'work', deduped('reject')),
    stage.job('kept-2', 'work', deduped('keep')),
  )
  await stage.enqueue(
    stage.job('kept-3', 'work', deduped('keep')),
    stage.job('kept-4', 'work', { ...deduped('keep'), ...keyed('kept-4') }),
    stage.job('replacing-3', 'work', { ...deduped('replace'), priority: 3 }),
  )
  await stage.enqueue(stage.job('repeat-of-replacing', 'work', keyed('replacing')))
  const first = await stage.claimOne('work')
  await stage.enqueue(stage.job('kept-while-running', 'work', deduped('keep')))
  await stage.step('fail', () => store.settle([laterAgain(store, first)]))
  await stage.enqueue(stage.job('displacing', 'work', { ...deduped('replace'), ...rich }))
  await stage.step('retry the displaced', () => store.retry([stage.idOf('holder')]))
  const second = await stage.claimOne('work')
  await stage.enqueue(
    stage.job('superseding', 'work', { ...deduped('replace'), runAt: stage.now() + HOUR_MS }),
  )
  await stage.step('fail the superseded', () => store.settle([laterAgain(store, second)]))
  await stage.step('and again', () => store.settle([laterAgain(store, second)], { isRepeat: true }))
  for (const [name, end] of SUPERSEDED) {
    await stage.enqueue(stage.job(`old-${name}`, 'work', deduped('keep', name)))
    const lapses = name === 'lapses' || name === 'overdue'
    const claimed = lapses ? await stage.claimAndExpire('work') : await stage.claimOne('work')
    if (name === 'overdue') {
      await stage.step('await', () => store.settle([acceptance(claimed, claimed.claimedAt)]))
    }
    const later = stage.now() + HOUR_MS
    await stage.enqueue(
      stage.job(`new-${name}`, 'work', { ...deduped('replace', name), runAt: later }),
    )
    await end(stage, claimed)
  }
  await stage.step('retry what lost its key', () => store.retry([stage.idOf('old-succeeds')]))
  await stage.step('cancel the holder', () => store.cancel([stage.idOf('new-succeeds')]))
  await stage.step('retry what may have it again', () =>
    store.retry([stage.idOf('old-succeeds'), stage.idOf('old-dies')]),
  )
  await stage.enqueue(
    stage.job('ordered', 'work', { ...deduped('keep', 'ordered'), orderingKey: 'k' }),
  )
  await stage.enqueue(
    stage.job('behind', 'work', { ...deduped('keep', 'behind'), orderingKey: 'k' }),
  )
  await stage.enqueue(
    stage.job('replaces-behind', 'work', { ...deduped('replace', 'behind'), ...rich }),
  )
  await stage.sweep()
}

type Ends = (stage: Stage, claimed: Awaited<ReturnType<Stage['claimOne']>>) => Promise<unknown>

/** How the attempt of a superseded job ends. */
const SUPERSEDED: [string, Ends][] = [
  [
    'succeeds',
    (stage, c) => stage.step('succeed', () => stage.store.settle([success(stage.store, c)])),
  ],
  ['dies', (stage, c) => stage.step('bury', () => stage.store.settle([burial(stage.store, c)]))],
  [
    'waits',
    (stage, c) => stage.step('postpone', () => stage.store.settle([postponement(stage.store, c)])),
  ],
  ['is-released', (stage, c) => stage.step('release', () => stage.store.release([leaseOf(c)]))],
  ['is-cancelled', (stage, c) => stage.step('cancel', () => stage.store.cancel([c.jobId]))],
  ['lapses', (stage) => stage.sweep()],
  [
    'overdue',
    async (stage, claimed) => {
      const { store } = stage
      const [late] = await stage.step('overdue', () => store.overdue(10))
      if (late === undefined) throw new Error('nothing is overdue')
      const finishedAt = stage.now() - HOUR_MS
      const failed = laterAgain(store, claimed).attempt
      const attempt = { ...failed, finishedAt, outcome: 'timeout' as const }
      const end = { ...late, attempt, event: 'time_out' as const, runAt: stage.now() }
      await stage.step('time out', () => store.endOverdue([end]))
      await stage.step('time out again', () => store.endOverdue([end]))
    },
  ],
]

export async function commanding(stage: Stage): Promise<void> {
  const { store } = stage
  const at = (hours: number) => stage.now() + hours * HOUR_MS
  await stage.endpoint('work')
  const edit = (
    name: string,
    change: Parameters<typeof store.edit>[1],
    version: number | null = null,
  ) => stage.step(`edit ${name}`, () => store.edit(stage.idOf(name), change, version))
  await stage.enqueue(
    stage.job('edited', 'work', { expiresAt: at(3), tags: ['a'], metadata: { a: '1' } }),
  )
  await edit('edited', { runAt: at(1) })
  await edit('edited', { priority: 2, tags: [], metadata: {}, payload: Buffer.from('{"n":2}') })
  await edit('edited', { expiresInMs: 5 * HOUR_MS, tags: ['b', 'c'] })
  await edit('edited', { expiresInMs: null }, 4)
  await edit('edited', { priority: 3 }, 4)
  await edit('edited', { runAt: at(0), expiresInMs: HOUR_MS })
  await edit('nobody', { priority: 3 })
  const claimed = await stage.claimOne('work')
  await edit('edited', { priority: 4 })
  await stage.step('fail', () => store.settle([laterAgain(store, claimed, at(1))]))
  await edit('edited', { payload: Buffer.from('{"n":3}') })
  await edit('edited', { runAt: at(2), expiresInMs: 4 * HOUR_MS })
  const remove = (name: string) =>
    stage.step(`delete ${name}`, () => store.deleteJob(stage.idOf(name)))
  await remove('edited')
  await remove('nobody')
  const cancel = (...names: string[]) =>
    stage.step(`cancel ${names}`, () => store.cancel(names.map(stage.idOf)))
  await stage.enqueue(stage.job('running', 'work'), stage.job('awaiting', 'work', { priority: 9 }))
  const awaiting = await stage.claimOne('work')
  await stage.step('await', () => store.settle([acceptance(awaiting, at(1))]))
  const running = await stage.claimOne('work')
  await remove('running')
  await cancel('edited', 'edited', 'nobody', 'running', 'awaiting')
  const beat = {
    progress: { value: 5, message: 'half' },
    extendMs: null,
    completionTimeoutMs: HOUR_MS,
  }
  await stage.step('heartbeat of a cancelled one', () => store.heartbeat(leaseOf(running), beat))
  await stage.step('settle a cancelled one', () => store.settle([success(store, awaiting)]))
  await edit('running', { priority: 4 })
  const retry = (names: string[], waives = true) =>
    stage.step(`retry ${names}`, () => store.retry(names.map(stage.idOf), { waives }))
  await retry(['running', 'running', 'nobody', 'edited'])
  await remove('awaiting')
  await stage.enqueue(stage.job('base', 'work', { priority: 9 }))
  const base = await stage.claimOne('work')
  await stage.enqueue(
    stage.job('needs', 'work', { dependsOn: [base.jobId] }),
    stage.job('needs-too', 'work', { dependsOn: [base.jobId, stage.idOf('needs')] }),
  )
  await stage.step('bury', () => store.settle([burial(store, base)]))
  await retry(['needs-too', 'needs'], false)
  await retry(['needs'])
  await cancel('needs')
  const failed = await Promise.all(
    ['base', 'needs', 'needs-too'].map((name) => store.getJob(stage.idOf(name))),
  )
  const inOrder = retryOrder(failed.filter((job) => job !== null))
  await stage.step('retry in bulk', () => store.retry(inOrder, { waives: false }))
  await cancel('base')
  await stage.step('retry a copy', async () => {
    const original = await store.getJob(stage.idOf('needs'))
    const states = new Map(failed.map((job) => [job?.id, job?.state ?? null]))
    const { waitingFor } = splitUnmet(original?.waitingFor ?? [], (id) => states.get(id) ?? null)
    return store.enqueue([stage.job('copy', 'work', { dependsOn: waitingFor })])
  })
  await stage.step('delete the endpoint', () =>
    store.deleteEndpoint('work', { force: true, ifVersion: null }),
  )
  await retry(['base', 'running'])
  await stage.sweepAway('work')
  await retry(['needs', 'needs-too', 'copy', 'nobody'], false)
  await stage.step('final ones', () => store.finalAmong([stage.idOf('base'), stage.idOf('nobody')]))
}
