// Adds, ends, a close and sweeps of several processes at one group, in a random order that a seed
// decides: the group waits for each job that was stored, and its counts equal the records.
import { setImmediate } from 'node:timers/promises'
import { describe, expect, test } from 'vitest'
import { finalCount } from '../../src/job/groups.ts'
import type { JobState } from '../../src/job/job.ts'
import { newGroupId } from '../../src/job/job-id.ts'
import type { Store } from '../../src/store/store.ts'
import { ENGINES } from '../support/engines.ts'
import { useStore } from '../support/stores.ts'
import { addEndpoint, burial, claimFrom, newJob, success, sweep, sweepClean } from './fixtures.ts'

const ROUNDS = 12
const PROCESSES = 3
const STEPS = 8
/** On MongoDB, a transaction takes each one out. */
const MEMBERS_RETRIED = { sqlite: 2_000, mongo: 200 }

/** A generator of numbers from 0 to 1 (mulberry32). */
function randomOf(seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296
  }
}

describe.each(ENGINES)('on %s', (engine) => {
  const place = useStore(engine)

  test.each(Array.from({ length: ROUNDS }, (_, i) => i + 1))(
    'whatever happens at once, a group waits for each member, seed %d',
    { timeout: 60_000 },
    async (seed) => {
      const random = randomOf(seed)
      const stores = [place.store]
      while (stores.length < PROCESSES) stores.push(await place.open())
      const { store } = place
      const { endpoint, notified, group } = await setUp(store)
      const added: string[] = []
      const add = async (one: Store, count: number) => {
        const key = random() < 0.3 ? { idempotency: { key: `k-${seed}`, requestHash: 'h' } } : {}
        const jobs = Array.from({ length: count }, () => newJob(one, endpoint, { group, ...key }))
        const results = await one.enqueue(jobs)
        for (const result of results) if (result.kind === 'inserted') added.push(result.job.id)
      }
      const end = async (one: Store) => {
        const claimed = await claimFrom(one, endpoint, 1 + Math.floor(random() * 5))
        await one.settle(
          claimed.map((job) => (random() < 0.8 ? success(one, job) : burial(one, job))),
        )
      }
      await add(store, 3)
      const closeAt = Math.floor(random() * STEPS)
      await Promise.all(
        stores.map(async (one, process) => {
          for (let step = 0; step < STEPS; step++) {
            const chance = random()
            if (process === 0 && step === closeAt) await one.closeGroup(group)
            else if (chance < 0.4) await add(one, 1 + Math.floor(random() * 4))
            else if (chance < 0.9) await end(one)
            else await sweep(one)
            const seen = await one.getGroup(group)
            // A job is stored before its add returns: the group counts at least those that did.
            expect(finalCount(seen?.counts ?? never())).toBeLessThanOrEqual(seen?.memberCount ?? 0)
          }
        }),
      )
      await store.closeGroup(group)
      for (;;) {
        const claimed = await claimFrom(store, endpoint, 100)
        if (claimed.length === 0) break
        const before = await store.getGroup(group)
        expect(before?.finishes).toBe(0)
        await store.settle(claimed.map((job) => success(store, job)))
      }
      for (const one of stores) await sweepClean(one)

      const states = await Promise.all(added.map(async (id) => (await store.getJob(id))?.state))
      const count = (state: JobState) => states.filter((one) => one === state).length
      const seen = await store.getGroup(group)
      expect(seen).toMatchObject({
        ...{ memberCount: added.length, finishes: 1, running: 0 },
        counts: { succeeded: count('succeeded'), dead: count('dead'), cancelled: 0 },
        state: count('dead') === 0 ? 'succeeded' : 'failed',
      })
      const notices = await store.listJobs({ endpoint: notified, limit: 10 })
      expect(notices.items).toHaveLength(1)
    },
  )

  const members = MEMBERS_RETRIED[engine]

  test(`${members} dead members, retried while others end them, have one more notice`, {
    timeout: 120_000,
  }, async () => {
    const { store } = place
    const worker = await place.open()
    const { endpoint, notified, group } = await setUp(store)
    for (let left = members; left > 0; left -= 100) {
      await store.enqueue(Array.from({ length: 100 }, () => newJob(store, endpoint, { group })))
      const claimed = await claimFrom(store, endpoint, 100)
      await store.settle(claimed.map((job) => burial(store, job)))
    }
    await store.closeGroup(group)
    await sweepClean(store)
    expect(await store.getGroup(group)).toMatchObject({ state: 'failed', finishes: 1 })

    await store.commandGroup(group, 'retry')
    let ended = 0
    const work = async () => {
      while (ended < members) {
        const claimed = await claimFrom(worker, endpoint, 50)
        await worker.settle(claimed.map((job) => success(worker, job)))
        ended += claimed.length
      }
    }
    const visit = async () => {
      while (ended < members) {
        await sweep(store)
        await setImmediate()
      }
    }
    await Promise.all([work(), visit()])
    for (const one of [store, worker]) await sweepClean(one)
    expect(await store.getGroup(group)).toMatchObject({
      ...{ state: 'succeeded', finishes: 2, memberCount: members },
      counts: { succeeded: members, dead: 0, cancelled: 0 },
    })
    const notices = await store.listJobs({ endpoint: notified, limit: 10 })
    expect(notices.items).toHaveLength(2)
  })
})

async function setUp(store: Store) {
  const endpoint = await addEndpoint(store)
  const notified = await addEndpoint(store)
  const createdAt = store.clock.now()
  const group = newGroupId(createdAt)
  await store.createGroup({
    ...{ id: group, createdAt, name: null, metadata: {}, tags: [], fairnessKey: null, hops: 0 },
    notices: [{ endpoint: notified, when: 'all_final' }],
    ...{ closeAfterMs: null, idempotency: null },
  })
  return { endpoint, notified, group }
}

function never(): never {
  throw new Error('the group is gone')
}
