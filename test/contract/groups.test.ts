// The promises of groups: a member that was stored is waited for, each finish has one notice with
// counts that equal the members, and each event does what the table of src/job/groups.ts says.
import { describe, expect, test } from 'vitest'
import {
  type CountedGroup,
  finalCount,
  GROUP_LIFECYCLE,
  GROUP_STATES,
  type GroupEventName,
  type GroupNotice,
  type GroupState,
  isFrom,
  MAX_FAILURES_NAMED,
  type NewGroup,
  progressOf,
  queuedCount,
} from '../../src/job/groups.ts'
import type { ClaimedJob, Job, NewJob } from '../../src/job/job.ts'
import { newGroupId } from '../../src/job/job-id.ts'
import type { Settlement, Store } from '../../src/store/store.ts'
import { ENGINES } from '../support/engines.ts'
import { useStore } from '../support/stores.ts'
import {
  addEndpoint,
  burial,
  claimFrom,
  claimOne,
  enqueueMany,
  enqueueOne,
  jobOf,
  newJob,
  passed,
  success,
  sweep,
  sweepClean,
} from './fixtures.ts'

const HOUR_MS = 3_600_000

function newGroup(store: Store, fields: Partial<NewGroup> = {}): NewGroup {
  const createdAt = store.clock.now()
  return {
    ...{ id: newGroupId(createdAt), createdAt, name: null, metadata: {}, tags: [], hops: 0 },
    ...{ fairnessKey: null, notices: [], closeAfterMs: null, idempotency: null },
    ...fields,
  }
}

async function addGroup(store: Store, fields: Partial<NewGroup> = {}): Promise<string> {
  const result = await store.createGroup(newGroup(store, fields))
  if (result.kind !== 'created') throw new Error(`createGroup: ${result.kind}`)
  return result.group.id
}

async function groupOf(store: Store, id: string): Promise<CountedGroup> {
  const group = await store.getGroup(id)
  if (group === null) throw new Error(`${id} is gone`)
  return group
}

/** Claims and settles all due jobs of the endpoint. Returns their ids. */
async function finishAll(
  store: Store,
  endpoint: string,
  settle: (store: Store, job: ClaimedJob) => Settlement = success,
): Promise<string[]> {
  const claimed = await claimFrom(store, endpoint, 1_000)
  await store.settle(claimed.map((job) => settle(store, job)))
  return claimed.map(({ jobId }) => jobId)
}

describe.each(ENGINES)('on %s', (engine) => {
  const place = useStore(engine)

  async function noticesAt(endpoint: string): Promise<{ job: Job; notice: Notice }[]> {
    const { items } = await place.store.listJobs({ endpoint, limit: 100 })
    const jobs = await Promise.all(items.toReversed().map(({ id }) => jobOf(place.store, id)))
    return jobs.map((job) => ({ job, notice: JSON.parse(Buffer.from(job.payload).toString()) }))
  }

  /** A group with an endpoint for its notices, and one for its members. */
  async function setUp(when: GroupNotice['when'][] = ['all_final'], fields = {}) {
    const { store } = place
    const notified = await addEndpoint(store)
    const endpoint = await addEndpoint(store)
    const notices = when.map((one) => ({ endpoint: notified, when: one }))
    return { store, notified, endpoint, group: await addGroup(store, { notices, ...fields }) }
  }

  test('a new group is open and empty, and reads as it was created', async () => {
    const { store } = place
    const asked = newGroup(store, {
      ...{ name: 'import', metadata: { file: 'a.csv' }, tags: ['x'], fairnessKey: 'tenant' },
      ...{ closeAfterMs: HOUR_MS, hops: 2 },
    })
    const created = await store.createGroup(asked)
    const { idempotency: _, ...fields } = asked
    const expected = {
      ...fields,
      ...{ state: 'open', memberCount: 0, counts: { succeeded: 0, dead: 0, cancelled: 0 } },
      ...{ closesAt: asked.createdAt + HOUR_MS, closedAt: null, closedBy: null },
      ...{ finishedAt: null, finishes: 0, idempotencyKey: null },
    }
    expect(created).toEqual({ kind: 'created', group: expected })
    expect(await store.getGroup(asked.id)).toEqual({ ...expected, running: 0 })
    expect(await store.getGroup(newGroupId(0))).toBeNull()
  })

  test('a key returns the same group, and is refused for another request', async () => {
    const { store } = place
    const ask = (requestHash: string) =>
      store.createGroup(newGroup(store, { idempotency: { key: 'import-7', requestHash } }))
    const first = await ask('a')
    expect(first).toMatchObject({ kind: 'created', group: { idempotencyKey: 'import-7' } })
    expect(await ask('a')).toEqual({ ...first, kind: 'existing' })
    const { id } = (first as Extract<typeof first, { kind: 'created' }>).group
    expect(await ask('b')).toEqual({ kind: 'key_reused', groupId: id })
    const racing = await Promise.all(
      Array.from({ length: 4 }, () =>
        store.createGroup(newGroup(store, { idempotency: { key: 'race', requestHash: 'a' } })),
      ),
    )
    expect(racing.map(({ kind }) => kind).sort()).toEqual([
      'created',
      ...['existing', 'existing', 'existing'],
    ])
  })

  test('a notice to an endpoint that does not exist is refused', async () => {
    const { store } = place
    const notices = [{ endpoint: 'nowhere', when: 'all_final' as const }]
    expect(await store.createGroup(newGroup(store, { notices }))).toEqual({
      ...{ kind: 'unknown_notice_endpoint', endpoint: 'nowhere' },
    })
  })

  test('the counts follow the members: queued, running and final', async () => {
    const { store, endpoint, group } = await setUp()
    await enqueueMany(store, endpoint, 5, { group })
    const [first, second, third] = await claimFrom(store, endpoint, 3)
    expect(await groupOf(store, group)).toMatchObject({ memberCount: 5, running: 3 })
    await store.settle([success(store, first as never), burial(store, second as never)])
    await store.cancel([(third as NonNullable<typeof third>).jobId])
    const seen = await groupOf(store, group)
    expect(seen).toMatchObject({
      ...{ state: 'open', running: 0, memberCount: 5 },
      counts: { succeeded: 1, dead: 1, cancelled: 1 },
    })
    expect([queuedCount(seen, seen.running), progressOf(seen)]).toEqual([2, 60])
    const { items } = await store.listJobs({ group, limit: 10 })
    expect(items).toHaveLength(5)
    expect(items.every((job) => job.group === group)).toBe(true)
    const dead = await store.listJobs({ group, states: ['dead'], limit: 10 })
    expect(dead.items.map(({ id }) => id)).toEqual([second?.jobId])
  })

  test('the notice comes once, after the last member, with counts and failures', async () => {
    const { store, endpoint, notified, group } = await setUp(['all_final'], {
      ...{ name: 'import', metadata: { file: 'a.csv' }, fairnessKey: 'tenant', hops: 3 },
    })
    const ids = await enqueueMany(store, endpoint, 4, { group })
    const [first] = await claimFrom(store, endpoint, 1)
    await store.settle([burial(store, first as never)])
    expect(await store.closeGroup(group)).toEqual({ kind: 'applied' })
    await sweep(store)
    expect(await noticesAt(notified)).toEqual([])
    await finishAll(store, endpoint)
    await sweepClean(store)
    const notices = await noticesAt(notified)
    expect(notices.map(({ notice }) => notice)).toEqual([
      {
        ...{ groupId: group, name: 'import', state: 'failed', when: 'all_final' },
        counts: { queued: 0, running: 0, succeeded: 3, dead: 1, cancelled: 0 },
        failures: [
          { jobId: ids[0], endpoint, failure: { reason: 'rejected', message: 'HTTP 422' } },
        ],
        metadata: { file: 'a.csv' },
      },
    ])
    expect(notices[0]?.job).toMatchObject({ group: null, onFinish: null, fairnessKey: 'tenant' })
    expect(await groupOf(store, group)).toMatchObject({
      ...{ state: 'failed', finishes: 1, closedBy: 'request' },
    })
  })

  test('an empty group that is closed has succeeded', async () => {
    const { store, notified, group } = await setUp(['all_final', 'all_succeeded', 'first_dead'])
    await store.closeGroup(group)
    expect(await groupOf(store, group)).toMatchObject({ state: 'succeeded', finishes: 1 })
    expect((await noticesAt(notified)).map(({ notice }) => notice.when)).toEqual([
      ...['all_final', 'all_succeeded'],
    ])
  })

  test('all_succeeded comes after a success only, first_dead once before each finish', async () => {
    const { store, endpoint, notified, group } = await setUp(['all_succeeded', 'first_dead'])
    const ids = await enqueueMany(store, endpoint, 2, { group })
    for (const _ of ids) {
      const [one] = await claimFrom(store, endpoint, 1)
      await store.settle([burial(store, one as never)])
    }
    const whens = async () => (await noticesAt(notified)).map(({ notice }) => notice.when)
    expect(await whens()).toEqual(['first_dead'])
    await store.closeGroup(group)
    expect(await whens()).toEqual(['first_dead'])
    await store.retry(ids)
    await finishAll(store, endpoint, burial)
    await sweepClean(store)
    expect(await whens()).toEqual(['first_dead', 'first_dead'])
    await store.retry(ids)
    await finishAll(store, endpoint)
    await sweepClean(store)
    expect(await whens()).toEqual(['first_dead', 'first_dead', 'all_succeeded'])
    expect(await groupOf(store, group)).toMatchObject({ state: 'succeeded', finishes: 3 })
  })

  test('a notice names the first dead members, with messages that are cut', async () => {
    const { store, endpoint, notified, group } = await setUp()
    const ids = await enqueueMany(store, endpoint, MAX_FAILURES_NAMED + 3, { group })
    const failure = { reason: 'rejected', message: 'x'.repeat(2_000) } as const
    await finishAll(store, endpoint, (...job) => ({ ...burial(...job), failure }))
    await store.closeGroup(group)
    const [notice] = await noticesAt(notified)
    expect(notice?.notice.failures.map(({ jobId }) => jobId)).toEqual(
      ids.slice(0, MAX_FAILURES_NAMED),
    )
    expect(notice?.notice.failures[0]?.failure.message).toBe('x'.repeat(500))
  })

  test('a notice names the job because of which a member is dead', async () => {
    const { store, endpoint, notified, group } = await setUp()
    const needed = await enqueueOne(store, endpoint)
    const member = await enqueueOne(store, endpoint, { group, dependsOn: [needed.id] })
    await store.closeGroup(group)
    await finishAll(store, endpoint, burial)
    await sweepClean(store)
    const [notice] = await noticesAt(notified)
    expect(notice?.notice.failures).toMatchObject([
      { jobId: member.id, failure: { reason: 'dependency_failed', jobId: needed.id } },
    ])
  })

  test('a retried member makes the group go on, and its next finish has a notice, too', async () => {
    const { store, endpoint, notified, group } = await setUp()
    const { id } = await enqueueOne(store, endpoint, { group })
    await finishAll(store, endpoint, burial)
    await store.closeGroup(group)
    expect(await store.retry([id])).toEqual([{ kind: 'applied' }])
    const again = await groupOf(store, group)
    expect(again).toMatchObject({ state: 'closed', finishedAt: null, memberCount: 1 })
    expect(finalCount(again.counts)).toBe(0)
    await finishAll(store, endpoint)
    await sweepClean(store)
    expect((await noticesAt(notified)).map(({ notice }) => notice.state)).toEqual([
      ...['failed', 'succeeded'],
    ])
  })

  test('deleted members stay counted', async () => {
    const { store, endpoint, group } = await setUp()
    await enqueueMany(store, endpoint, 2, { group })
    const [id = ''] = await finishAll(store, endpoint)
    expect(await store.deleteJob(id)).toEqual({ kind: 'applied' })
    await store.closeGroup(group)
    expect(await groupOf(store, group)).toMatchObject({
      ...{ state: 'succeeded', memberCount: 2, counts: { succeeded: 2 } },
    })
  })

  test('a closed group refuses members, but a repeated request finds its own', async () => {
    const { store, endpoint, group } = await setUp()
    const idempotency = { key: 'k', requestHash: 'h' }
    const job = await enqueueOne(store, endpoint, { group, idempotency })
    await store.closeGroup(group)
    const results = await store.enqueue([
      newJob(store, endpoint, { group }),
      newJob(store, endpoint, { group, idempotency }),
      newJob(store, endpoint, { group: newGroupId(0) }),
      newJob(store, endpoint),
    ])
    expect(results).toMatchObject([
      { kind: 'group_closed', groupId: group, state: 'closed' },
      { kind: 'existing', job: { id: job.id } },
      { kind: 'unknown_group' },
      { kind: 'inserted', job: { group: null } },
    ])
    expect((await groupOf(store, group)).memberCount).toBe(1)
  })

  test('a job that was found by a key does not join', async () => {
    const { store, endpoint, group } = await setUp()
    const idempotency = { key: 'found', requestHash: 'h' }
    const dedupe = { key: 'd', mode: 'keep' as const }
    await enqueueOne(store, endpoint, { idempotency, dedupe })
    const results = await store.enqueue([
      newJob(store, endpoint, { group, idempotency }),
      newJob(store, endpoint, { group, dedupe }),
      newJob(store, endpoint, { group }),
      newJob(store, 'nowhere', { group }),
    ])
    expect(results).toMatchObject([
      { kind: 'existing', job: { group: null } },
      { kind: 'existing', job: { group: null } },
      { kind: 'inserted', job: { group } },
      { kind: 'unknown_endpoint' },
    ])
    expect((await groupOf(store, group)).memberCount).toBe(1)
    await store.closeGroup(group)
    await finishAll(store, endpoint)
    expect(await groupOf(store, group)).toMatchObject({ state: 'succeeded', memberCount: 1 })
  })

  test('a group without an add for its closeAfter is closed', async () => {
    const { store, endpoint, group } = await setUp(['all_final'], { closeAfterMs: 300 })
    await enqueueOne(store, endpoint, { group })
    const { closesAt } = await groupOf(store, group)
    await passed(store, closesAt ?? 0)
    await sweepClean(store)
    expect(await groupOf(store, group)).toMatchObject({
      ...{ state: 'closed', closedBy: 'idle', closesAt: null },
    })
  })

  test('an add moves the time at which the group is closed', async () => {
    const { store, endpoint, group } = await setUp(['all_final'], { closeAfterMs: HOUR_MS })
    const before = await groupOf(store, group)
    await passed(store, before.createdAt)
    await enqueueOne(store, endpoint, { group })
    const { closesAt } = await groupOf(store, group)
    expect(closesAt).toBeGreaterThan(before.closesAt ?? 0)
    await sweepClean(store)
    expect((await groupOf(store, group)).state).toBe('open')
  })

  test('a cancel closes the group and cancels its members in batches', async () => {
    const { store, endpoint, notified, group } = await setUp()
    await enqueueMany(store, endpoint, 25, { group })
    await finishAll(store, await addEndpoint(store))
    await claimFrom(store, endpoint, 3)
    expect(await store.commandGroup(group, 'cancel')).toEqual({ kind: 'applied' })
    expect(await groupOf(store, group)).toMatchObject({ state: 'cancelling', closedBy: 'cancel' })
    await store.sweep({ limit: 10, reclaim: false })
    expect(await groupOf(store, group)).toMatchObject({
      ...{ state: 'cancelling', counts: { cancelled: 10 } },
    })
    expect(await noticesAt(notified)).toEqual([])
    await sweepClean(store)
    expect(await groupOf(store, group)).toMatchObject({
      ...{ state: 'failed', running: 0, counts: { cancelled: 25 } },
    })
    expect(await noticesAt(notified)).toHaveLength(1)
  })

  test('a retry of the group retries its dead and cancelled members: one more notice', async () => {
    const { store, endpoint, notified, group } = await setUp()
    const other = await addEndpoint(store)
    await enqueueMany(store, endpoint, 12, { group })
    await enqueueMany(store, other, 3, { group })
    const doomed = await enqueueMany(store, other, 2, { group, runAt: store.clock.now() + HOUR_MS })
    await store.cancel(doomed)
    await finishAll(store, endpoint, burial)
    await finishAll(store, other)
    await store.closeGroup(group)
    expect(await groupOf(store, group)).toMatchObject({ state: 'failed', finishes: 1 })
    expect(await store.commandGroup(group, 'retry')).toEqual({ kind: 'applied' })
    expect((await groupOf(store, group)).state).toBe('retrying')
    for (let i = 0; i < 4; i++) {
      await store.sweep({ limit: 5, reclaim: false })
      // The workers are fast: what was retried ends before the rest is.
      await finishAll(store, endpoint)
      await finishAll(store, other)
    }
    await sweepClean(store)
    expect(await groupOf(store, group)).toMatchObject({
      ...{ state: 'succeeded', finishes: 2, counts: { succeeded: 17, dead: 0, cancelled: 0 } },
    })
    expect(await noticesAt(notified)).toHaveLength(2)
  })

  test('a retry that can retry nothing ends, and has a notice', async () => {
    const { store, endpoint, notified, group } = await setUp()
    await enqueueOne(store, endpoint, { group })
    await finishAll(store, endpoint, burial)
    await store.closeGroup(group)
    await store.deleteEndpoint(endpoint, { force: true, ifVersion: null })
    await store.commandGroup(group, 'retry')
    await sweepClean(store)
    expect(await groupOf(store, group)).toMatchObject({ state: 'failed', finishes: 2 })
    expect(await noticesAt(notified)).toHaveLength(2)
  })

  test('a job that depends on a group starts after it has succeeded, and fails with it', async () => {
    const { store, endpoint, group } = await setUp()
    const other = await addEndpoint(store)
    await enqueueOne(store, endpoint, { group })
    const [open] = await store.enqueue([newJob(store, other, { dependsOn: [group] })])
    expect(open).toEqual({ kind: 'group_open', groupId: group })
    const gone = newGroupId(1)
    const [unknown] = await store.enqueue([newJob(store, other, { dependsOn: [gone] })])
    expect(unknown).toEqual({ kind: 'unknown_dependency', jobId: gone })
    await store.closeGroup(group)
    const waiting = await enqueueOne(store, other, { dependsOn: [group] })
    expect(waiting).toMatchObject({ isBlocked: true, waitingFor: [group] })
    await sweepClean(store)
    expect((await jobOf(store, waiting.id)).isBlocked).toBe(true)
    await finishAll(store, endpoint)
    await sweepClean(store)
    expect(await jobOf(store, waiting.id)).toMatchObject({ isBlocked: false, waitingFor: [] })
    // Met stays met.
    await store.deleteGroup(group)
    expect(await finishAll(store, other)).toEqual([waiting.id])

    const failed = await addGroup(store)
    const member = await enqueueOne(store, endpoint, { group: failed })
    await store.closeGroup(failed)
    const doomed = await enqueueOne(store, other, { dependsOn: [failed] })
    const chained = await enqueueOne(store, other, { dependsOn: [doomed.id] })
    await store.cancel([member.id])
    await sweepClean(store)
    for (const { id } of [doomed, chained]) {
      expect(await jobOf(store, id)).toMatchObject({
        ...{ state: 'dead', failure: { reason: 'dependency_failed' } },
      })
    }
    const late = await enqueueOne(store, other, { dependsOn: [failed] })
    await sweepClean(store)
    expect((await jobOf(store, late.id)).state).toBe('dead')
    const early = await addGroup(store)
    await store.closeGroup(early)
    expect((await enqueueOne(store, other, { dependsOn: [early] })).isBlocked).toBe(false)
  })

  test('a job that waits for a group keeps it from being deleted', async () => {
    const { store, endpoint, group } = await setUp()
    const first = await enqueueOne(store, endpoint)
    await enqueueOne(store, endpoint, { group })
    await store.closeGroup(group)
    const waiting = await enqueueOne(store, endpoint, { dependsOn: [group, first.id] })
    expect(await store.deleteGroup(group)).toEqual({ kind: 'depended_on', jobId: waiting.id })
  })

  test('lists are newest first, by state and name', async () => {
    const { store } = place
    const ids: string[] = []
    for (const name of ['a', 'b', 'a', 'c', 'a']) ids.push(await addGroup(store, { name }))
    await store.closeGroup(ids[2] as string)
    const list = async (query: object) => {
      const { items, next } = await store.listGroups({ limit: 100, ...query })
      return { own: items.map(({ id }) => id).filter((id) => ids.includes(id)), next }
    }
    const [a1, b, a2, c, a3] = ids
    expect((await list({})).own).toEqual([a3, c, a2, b, a1])
    expect((await list({ name: 'a' })).own).toEqual([a3, a2, a1])
    expect((await list({ name: 'a', state: 'succeeded' })).own).toEqual([a2])
    expect((await list({ state: 'open' })).own).toEqual([a3, c, b, a1])
    const first = await store.listGroups({ name: 'a', limit: 2 })
    expect(first.items.map(({ id }) => id)).toEqual([a3, a2])
    const after = first.next ?? ''
    expect(await list({ name: 'a', limit: 2, after })).toEqual({ own: [a1], next: null })
  })

  test('final and unknown groups are those that no request waits for', async () => {
    const { store } = place
    const open = await addGroup(store)
    const done = await addGroup(store)
    await store.closeGroup(done)
    const gone = newGroupId(1)
    expect(await store.finalGroupsAmong([open, done, gone])).toEqual([done, gone])
  })

  // A sweep also ends a cancel and a retry, so a group that has one is not tried.
  test.each(['open', 'closed', 'succeeded', 'failed'] as const)(
    'a group that is %s and past its retention is purged if the table says so',
    async (state) => {
      const { store } = place
      const endpoint = await addEndpoint(store)
      const { group } = await bring(store, endpoint, state)
      await sweepClean(await place.open({ retentionMs: 0, retentionDeadMs: 0 }))
      expect((await store.getGroup(group)) === null).toBe(isFrom('purge', state))
    },
  )

  test('batches of two processes that end members of one group lose no count', async () => {
    const { store, endpoint, notified, group } = await setUp()
    const second = await place.open()
    const stores = [store, second]
    await enqueueMany(store, endpoint, 120, { group })
    await store.closeGroup(group)
    const batches = await Promise.all(
      Array.from({ length: 12 }, (_, i) => claimFrom(stores[i % 2] as Store, endpoint, 10)),
    )
    await Promise.all(
      batches.map((claimed, i) =>
        (stores[i % 2] as Store).settle(claimed.map((job) => success(store, job))),
      ),
    )
    await sweepClean(store)
    await sweepClean(second)
    expect(await groupOf(store, group)).toMatchObject({
      ...{ state: 'succeeded', finishes: 1, counts: { succeeded: 120 } },
    })
    expect(await noticesAt(notified)).toHaveLength(1)
  })

  describe.each(Object.keys(EVENTS) as TriedEvent[])('%s', (name) => {
    test.each(GROUP_STATES)('of a group that is %s does what the table says', async (state) => {
      const { store } = place
      const endpoint = await addEndpoint(store)
      const { group, member } = await bring(store, endpoint, state)
      expect((await groupOf(store, group)).state).toBe(state)
      const { fire } = EVENTS[name]
      const event = GROUP_LIFECYCLE[name]
      const isApplied = await fire(store, { group, member, endpoint })
      expect(isApplied).toBe(isFrom(name, state))
      const to = event.to === 'same' || !isApplied ? state : event.to
      expect((await store.getGroup(group))?.state ?? null).toBe(to)
    })
  })
})

interface Notice {
  groupId: string
  name: string | null
  state: GroupState
  when: GroupNotice['when']
  counts: Record<string, number>
  failures: { jobId: string; endpoint: string; failure: { message: string; jobId?: string } }[]
  metadata: Record<string, string>
}

/** A group in a state, and a member of it that is dead; an empty one that has succeeded. */
async function bring(store: Store, endpoint: string, state: GroupState) {
  const group = await addGroup(store, { closeAfterMs: state === 'open' ? 1 : HOUR_MS })
  if (state === 'succeeded') {
    await store.closeGroup(group)
    return { group, member: null }
  }
  const member = await enqueueOne(store, endpoint, { group })
  await store.settle([burial(store, await claimOne(store, endpoint))])
  // The last one keeps the group from being final.
  if (state !== 'failed') {
    await enqueueOne(store, endpoint, { group, runAt: store.clock.now() + HOUR_MS })
  }
  if (state !== 'open') await store.closeGroup(group)
  if (state === 'cancelling') await store.commandGroup(group, 'cancel')
  if (state === 'retrying') await store.commandGroup(group, 'retry')
  return { group, member: member.id }
}

interface Tried {
  group: string
  member: string | null
  endpoint: string
}

/** How a test fires an event. Returns whether it was applied. */
const EVENTS = {
  add: { fire: (store: Store, { group, endpoint }: Tried) => isAdded(store, endpoint, { group }) },
  close: {
    fire: async (store: Store, { group }: Tried) =>
      (await store.closeGroup(group)).kind === 'applied',
  },
  cancel: {
    fire: async (store: Store, { group }: Tried) =>
      (await store.commandGroup(group, 'cancel')).kind === 'applied',
  },
  retry: {
    fire: async (store: Store, { group }: Tried) =>
      (await store.commandGroup(group, 'retry')).kind === 'applied',
  },
  take_out: {
    fire: async (store: Store, { group, member }: Tried) => {
      const before = await groupOf(store, group)
      if (member === null || before.state === 'failed') return false
      await store.retry([member])
      const { counts } = await groupOf(store, group)
      return counts.dead === before.counts.dead - 1
    },
  },
  reopen: {
    fire: async (store: Store, { group, member }: Tried) => {
      const before = await groupOf(store, group)
      if (member === null || before.state !== 'failed') return false
      await store.retry([member])
      return (await groupOf(store, group)).counts.dead === 0
    },
  },
  delete: {
    fire: async (store: Store, { group }: Tried) =>
      (await store.deleteGroup(group)).kind === 'applied',
  },
} satisfies Partial<
  Record<GroupEventName, { fire: (store: Store, tried: Tried) => Promise<boolean> }>
>
type TriedEvent = keyof typeof EVENTS

async function isAdded(store: Store, endpoint: string, fields: Partial<NewJob>): Promise<boolean> {
  const [result] = await store.enqueue([newJob(store, endpoint, fields)])
  return result?.kind === 'inserted'
}
