// Limits of the cost of the SQLite store, as counts: the pages that the life of a job writes to the
// log, the transactions it takes, and the bytes of the file that a job uses while it is kept.
import { randomBytes } from 'node:crypto'
import { statSync } from 'node:fs'
import { DatabaseSync } from 'node:sqlite'
import { expect, it } from 'vitest'
import type { Store } from '../../src/store/store.ts'
import { addEndpoint, enqueueMany, holderOf, newJob, success } from '../contract/fixtures.ts'
import { useStore } from '../support/stores.ts'

const JOBS = 1_000
const BATCH = 50
const PAYLOAD = randomBytes(125).toString('hex')
/** sqlite.org/fileformat.html, "WAL File Format". */
const LOG_HEADER_BYTES = 32
const PAGE_BYTES = 4_096
const FRAME_BYTES = 24 + PAGE_BYTES

const place = useStore('sqlite', { retentionMs: 0 })
const pathOf = (url: string) => url.slice('sqlite:'.length)

/** The log grows until its first checkpoint, which the jobs of this test do not reach. */
const loggedPages = () =>
  (statSync(`${pathOf(place.url)}-wal`).size - LOG_HEADER_BYTES) / FRAME_BYTES

/** The pages of the database that are in use, those in the log included. */
function usedPages(): number {
  const db = new DatabaseSync(pathOf(place.url), { readOnly: true })
  try {
    const counted = db.prepare(
      'select page_count - freelist_count as used from pragma_page_count, pragma_freelist_count',
    )
    return counted.get()?.used as number
  } finally {
    db.close()
  }
}

/** As a busy worker does it: what has ended and the next claim are one transaction. */
async function deliverAll(store: Store, endpoint: string): Promise<void> {
  let delivered = 0
  let claimed = await claim()
  while (claimed.length > 0) {
    const [results, next] = await Promise.all([
      store.settle(claimed.map((job) => success(store, job))),
      claim(),
    ])
    delivered += results.filter((result) => result === 'applied').length
    claimed = next
  }
  expect(delivered).toBe(JOBS)

  async function claim() {
    const { jobs } = await store.claim([{ endpoint, limit: BATCH }], BATCH, holderOf())
    return jobs
  }
}

it('a job writes few pages and shares its transactions', async () => {
  const { store } = place
  const endpoint = await addEndpoint(store)
  const before = { pages: loggedPages(), commands: store.commandCount }
  for (let done = 0; done < JOBS; done += BATCH) {
    await enqueueMany(store, endpoint, BATCH, { payload: Buffer.from(PAYLOAD) })
  }
  const enqueued = { pages: loggedPages(), commands: store.commandCount }
  await deliverAll(store, endpoint)
  const after = { pages: loggedPages(), commands: store.commandCount }

  const perJob = (more: number, less: number) => (more - less) / JOBS
  expect(perJob(enqueued.pages, before.pages)).toBeLessThanOrEqual(0.55)
  expect(perJob(after.pages, enqueued.pages)).toBeLessThanOrEqual(0.5)
  expect(perJob(enqueued.commands, before.commands)).toBeLessThanOrEqual(1 / BATCH)
  expect(perJob(after.commands, enqueued.commands)).toBeLessThanOrEqual(1 / BATCH + 1 / JOBS)
})

it('a kept job uses at most 1.2 KB of the file', async () => {
  const { store } = place
  const endpoint = await addEndpoint(store)
  const before = usedPages()
  await enqueueMany(store, endpoint, JOBS, { payload: Buffer.from(PAYLOAD) })
  await deliverAll(store, endpoint)

  const bytes = (usedPages() - before) * PAGE_BYTES
  expect(bytes).toBeGreaterThan(JOBS * PAYLOAD.length)
  expect(bytes).toBeLessThanOrEqual(JOBS * 1_200)
})

/** In all indexes of jobs. */
function entryCount(): number {
  const db = new DatabaseSync(pathOf(place.url), { readOnly: true })
  try {
    const counted = db.prepare(
      `select sum(ncell) as count from dbstat
      where name in (select name from sqlite_schema where type = 'index' and tbl_name = 'jobs')`,
    )
    return counted.get()?.count as number
  } finally {
    db.close()
  }
}

it.each([
  ['without a fairness key', () => null, 4],
  ['with another key each', (i: number) => `key ${i}`, 5],
  // Those that are outside: without a turn they are in two indexes fewer, and in two others.
  ['of a key with a backlog', () => 'key', 4],
])('a job %s has few entries in indexes', async (_, keyOf, entries) => {
  const { store } = place
  const endpoint = await addEndpoint(store)
  const enqueueKeyed = (count: number) =>
    store.enqueue(
      Array.from({ length: count }, (_, i) => newJob(store, endpoint, { fairnessKey: keyOf(i) })),
    )
  await enqueueKeyed(2 * BATCH)
  const before = entryCount()
  await enqueueKeyed(BATCH)
  expect((entryCount() - before) / BATCH).toBe(entries)
})
