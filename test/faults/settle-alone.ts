// Measures how many outcomes a slow store can settle without other work: without claims and
// renewals.
import { randomBytes } from 'node:crypto'
import { openStore } from '../../src/store/open-store.ts'
import type { Store } from '../../src/store/store.ts'
import { addEndpoint, claimFrom, enqueueMany, success } from '../contract/fixtures.ts'
import { nowMs } from './history.ts'
import type { StoreFixture } from './store-fixture.ts'

const DAY_MS = 86_400_000
/** As many as the workers of the round. */
const SETTLERS = 3
/** A write of this size ends well within its deadline, however slow the store is. */
const BATCH = 4
const ENQUEUED_AT_ONCE = 100
/**
 * The number of jobs for each settler and each millisecond of the measurement: more than any store
 * here can settle.
 */
const JOBS_PER_MS = { sqlite: 1, mongo: 1 / 12 }
const MOST_JOBS = 3_000

/** How many jobs a second several settlers settle at once, on an empty store in the same place. */
export async function settleAlone(
  fixture: StoreFixture,
  slowMs: number,
  forMs: number,
): Promise<number> {
  const store = await openStore(fixture.siblingUrl, {
    ...{ retentionMs: DAY_MS, retentionDeadMs: DAY_MS, encryptionKeys: [randomBytes(32)] },
    warn: () => {},
  })
  try {
    const endpoint = await addEndpoint(store, { name: 'alone' })
    const engine = fixture.filePath === null ? 'mongo' : 'sqlite'
    const most = Math.min(MOST_JOBS, Math.ceil(forMs * JOBS_PER_MS[engine]))
    const held = []
    for (let i = 0; i < SETTLERS; i++) held.push(await claimed(store, endpoint, most))
    const restore = await fixture.slowWrites(slowMs)
    try {
      const beganAtMs = nowMs()
      const isOver = () => nowMs() - beganAtMs > forMs
      const counts = await Promise.all(held.map((jobs) => settleAll(store, jobs, isOver)))
      const settled = counts.reduce((sum, count) => sum + count, 0)
      return Math.round((settled / (nowMs() - beganAtMs)) * 1_000)
    } finally {
      await restore()
    }
  } finally {
    await store.close()
  }
}

type Held = Awaited<ReturnType<typeof claimFrom>>

async function claimed(store: Store, endpoint: string, count: number): Promise<Held> {
  const jobs: Held = []
  while (jobs.length < count) {
    const size = Math.min(ENQUEUED_AT_ONCE, count - jobs.length)
    await enqueueMany(store, endpoint, size)
    jobs.push(...(await claimFrom(store, endpoint, size)))
  }
  return jobs
}

async function settleAll(store: Store, jobs: Held, isOver: () => boolean): Promise<number> {
  let count = 0
  while (count < jobs.length && !isOver()) {
    const batch = jobs.slice(count, count + BATCH)
    await store.settle(batch.map((job) => success(store, job)))
    count += batch.length
  }
  return count
}
