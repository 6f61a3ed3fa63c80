// The turns of fairness keys beside a flood of one of them, in sizes that the callers choose.
import { describe, expect, test } from 'vitest'
import type { NewJob } from '../../src/job/job.ts'
import type { Store } from '../../src/store/store.ts'
import { ENGINES, type Engine } from '../support/engines.ts'
import { useStore } from '../support/stores.ts'
import { addEndpoint, claimFrom, enqueueMany, passed, success } from './fixtures.ts'

const BATCH = 500
const CANCELLED_AT_ONCE = 100
/** Jobs that are claimed at once. */
const SLOTS = 10
/** A claim on MongoDB may remember for 0.4 s that an endpoint has no keys. */
const KEYS_KNOWN_MS = 450
const PRIORITY = 5
const BUSY_PRIORITY = 9
const TIMEOUT_MS = 600_000

export interface FloodSize {
  /** Jobs of the flood. */
  flood: number
  /** Other keys, each with one job. */
  keys: number
  /** Jobs of a second flood, which become due during a pause. */
  paused: number
  /** Deliveries beside a key with a backlog, each of a new key. */
  once: number
  /** Jobs without a key before one that has a key. */
  plain: number
}

/** An endpoint whose jobs are claimed in parts and succeed. */
async function openLane(store: Store) {
  const endpoint = await addEndpoint(store)
  /** The keys of the jobs that began, in order, without those of another priority. */
  const begun: (string | null)[] = []
  const keyOf = new Map<string, string | null>()
  /** How many jobs had begun when a key became due. */
  const dueAt = new Map<string, number>()
  return {
    endpoint,
    begun,
    async add(key: string | null, count = 1, fields: Partial<NewJob> = {}) {
      const ids: string[] = []
      for (let left = count; left > 0; left -= BATCH) {
        const part = { fairnessKey: key, priority: PRIORITY, ...fields }
        ids.push(...(await enqueueMany(store, endpoint, Math.min(left, BATCH), part)))
      }
      for (const id of ids) keyOf.set(id, fields.priority === undefined ? key : BUSY)
      if (key !== null) dueAt.set(key, begun.length)
      return ids
    },
    async claim(count: number) {
      for (let left = count; left > 0; left -= SLOTS) {
        const jobs = await claimFrom(store, endpoint, Math.min(SLOTS, left))
        for (const { jobId } of jobs) {
          const key = keyOf.get(jobId) ?? null
          if (key !== BUSY) begun.push(key)
        }
        await store.settle(jobs.map((job) => success(store, job)))
      }
    },
    /** How many jobs began from when a key became due to its last job; Infinity: it did not begin. */
    wait(key: string) {
      const at = begun.lastIndexOf(key)
      return at < 0 ? Number.POSITIVE_INFINITY : at - (dueAt.get(key) as number)
    },
  }
}

type Lane = Awaited<ReturnType<typeof openLane>>

const BUSY = 'of another priority'

export function testFloods(sizes: Record<Engine, FloodSize>): void {
  describe.each(ENGINES)('on %s', (engine) => {
    const place = useStore(engine)
    const { flood, keys, paused, once, plain } = sizes[engine]

    test(`${keys} keys begin at once beside a flood of ${flood}`, {
      timeout: TIMEOUT_MS,
    }, async () => {
      const { store } = place
      const lane = await openLane(store)
      const small = (when: string) => Array.from({ length: keys }, (_, i) => `${when} ${i}`)
      const expectBegun = async (when: string, keyCount = keys) => {
        const bound = 2 * (keyCount + 1) + SLOTS
        await lane.claim(bound)
        const longest = Math.max(...small(when).map(lane.wait))
        expect(longest, when).toBeLessThan(bound)
      }

      for (const key of small('before')) await lane.add(key)
      const ids = await lane.add('flood', flood)
      await expectBegun('before')

      for (const key of small('after')) await lane.add(key)
      await expectBegun('after')

      for (const key of small('one by one')) {
        await lane.claim(3)
        await lane.add(key)
      }
      await expectBegun('one by one')

      const last = ids.slice(flood / 2)
      for (let at = 0; at < last.length; at += CANCELLED_AT_ONCE) {
        await store.cancel(last.slice(at, at + CANCELLED_AT_ONCE))
      }
      for (const key of small('half cancelled')) await lane.add(key)
      await expectBegun('half cancelled')

      for (const key of small('beside priority 9')) {
        await lane.add('flood', 2, { priority: BUSY_PRIORITY })
        await lane.claim(3)
        await lane.add(key)
      }
      await expectBegun('beside priority 9')

      await store.pauseEndpoint(lane.endpoint)
      await lane.add('paused', paused)
      for (const key of small('after a pause')) await lane.add(key)
      await lane.claim(SLOTS)
      await store.resumeEndpoint(lane.endpoint)
      // The second flood is one key more.
      await expectBegun('after a pause', keys + 1)
      await expectAlternate(lane, 'paused', 'flood')
    })

    test(`a key with a backlog has its turn beside ${once} new keys`, {
      timeout: TIMEOUT_MS,
    }, async () => {
      const lane = await openLane(place.store)
      await lane.add('backlog', Math.ceil(once / 4))
      const startsOfBacklog: number[] = []
      let waitingFrom = 0
      for (let i = 0; i < once; i++) {
        await lane.add(`once ${i}`)
        await lane.claim(1)
        if (lane.begun.at(-1) !== 'backlog') continue
        // Those that began since its last turn were due before that.
        const since = lane.begun.slice(startsOfBacklog.at(-1) ?? 0, -1)
        for (const key of since) expect(Number(key?.split(' ')[1])).toBeLessThanOrEqual(waitingFrom)
        startsOfBacklog.push(lane.begun.length)
        waitingFrom = i
      }
      // Each turn has one new key more than the one before.
      expect(startsOfBacklog.length).toBeGreaterThan(Math.sqrt(once))
    })

    test(`a job with a key is one of the next two, after ${plain} without a key`, {
      timeout: TIMEOUT_MS,
    }, async () => {
      const lane = await openLane(place.store)
      await lane.add(null, plain)
      await lane.claim(3 * SLOTS)
      const { length } = lane.begun
      await lane.add('one')
      await passed(place.store, place.store.clock.now() + KEYS_KNOWN_MS)
      await lane.claim(2)
      expect(lane.begun.slice(length)).toContain('one')
    })
  })
}

async function expectAlternate(lane: Lane, one: string, other: string): Promise<void> {
  const { length } = lane.begun
  await lane.claim(100)
  const keys = lane.begun.slice(length)
  expect(new Set(keys)).toEqual(new Set([one, other]))
  expect(Math.abs(keys.filter((key) => key === one).length - 50)).toBeLessThanOrEqual(1)
}
