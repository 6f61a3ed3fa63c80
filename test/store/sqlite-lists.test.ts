// Lists of the SQLite store with more jobs than a page may read: pages may be short or empty, but
// together they contain each job once.
import { DatabaseSync } from 'node:sqlite'
import { expect, test } from 'vitest'
import type { NewJob } from '../../src/job/job.ts'
import { type JobQuery, MAX_ENTRIES_PER_PAGE } from '../../src/store/store.ts'
import { addEndpoint, enqueueMany, enqueueOne, newJob } from '../contract/fixtures.ts'
import { useStore } from '../support/stores.ts'

const START = Date.UTC(2026, 0, 1)
const BATCH = 1_000
const MAX_PAGES = 50

const place = useStore('sqlite', { encryptionKeys: null })

test('a tag that only the oldest job has is found beyond empty pages', async () => {
  const { store } = place
  const endpoint = await addEndpoint(store)
  const { id } = await enqueueOne(store, endpoint, { createdAt: START, tags: ['red'] })
  await enqueueAfter(endpoint, 1, MAX_ENTRIES_PER_PAGE + BATCH)
  const query = { endpoint, tag: 'red', limit: 10 }
  const first = await store.listJobs(query)
  expect(first.items).toEqual([])
  expect(first.next).not.toBeNull()
  expect(await idsOf(query)).toEqual([id])
})

test('of several states, more than a page may look at, each job is listed once', async () => {
  const { store } = place
  const endpoint = await addEndpoint(store)
  const red = { tags: ['red'] }
  const oldDead = (await enqueueOne(store, endpoint, { createdAt: START, ...red })).id
  const cancelled = (await enqueueOne(store, endpoint, { createdAt: START + 1, ...red })).id
  await enqueueAfter(endpoint, 2, MAX_ENTRIES_PER_PAGE / 2 + BATCH)
  const newDead = (await enqueueOne(store, endpoint, { createdAt: START + 3, ...red })).id
  end(endpoint, 'dead')
  end(endpoint, 'cancelled', cancelled)
  const query: JobQuery = { endpoint, states: ['dead', 'cancelled'], tag: 'red', limit: 10 }
  expect((await store.listJobs(query)).items.map(({ id }) => id)).toEqual([newDead])
  expect(await idsOf(query)).toEqual([newDead, cancelled, oldDead])
})

test('dead jobs of very many endpoints are listed together, newest first', async () => {
  const { store } = place
  const jobs: NewJob[] = []
  for (let i = 0; i < 150; i++) {
    jobs.push(newJob(store, await addEndpoint(store), { tags: ['wide'], createdAt: START + i }))
  }
  await store.enqueue(jobs)
  for (const { endpoint } of jobs) end(endpoint, 'dead')
  const wanted = jobs.map(({ id }) => id).toReversed()
  expect(await idsOf({ states: ['dead'], tag: 'wide', limit: 40 })).toEqual(wanted)
})

async function enqueueAfter(endpoint: string, ms: number, count: number): Promise<void> {
  for (let made = 0; made < count; made += BATCH) {
    await enqueueMany(place.store, endpoint, BATCH, { createdAt: START + ms })
  }
}

/** Ends jobs directly, because thousands of them cannot be ended one by one. */
function end(endpoint: string, state: 'dead' | 'cancelled', id: string | null = null): void {
  const db = new DatabaseSync(place.url.slice('sqlite:'.length), { timeout: 5_000 })
  db.prepare(
    `update jobs set state = $state, unsuccessful = $state, claimable = null
    where endpoint = $endpoint and id = coalesce($id, id)`,
  ).run({ state, endpoint, id })
  db.close()
}

/** Follows `next` to the end. Fails if there is no end. */
async function idsOf(query: JobQuery): Promise<string[]> {
  const ids: string[] = []
  let after: string | null = null
  for (let page = 0; page < MAX_PAGES; page++) {
    const found = await place.store.listJobs(after === null ? query : { ...query, after })
    ids.push(...found.items.map(({ id }) => id))
    after = found.next
    if (after === null) return ids
  }
  throw new Error(`no end after ${MAX_PAGES} pages`)
}
