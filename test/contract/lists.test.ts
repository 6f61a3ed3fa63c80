// The promises of lists: newest first, every filter, and pages that do not change while jobs are
// added.
import { describe, expect, test } from 'vitest'
import { JOB_STATES, type JobState, type JobSummary, type NewJob } from '../../src/job/job.ts'
import type { JobQuery, Store } from '../../src/store/store.ts'
import { ENGINES } from '../support/engines.ts'
import { useStore } from '../support/stores.ts'
import { addEndpoint, bringTo, claimOne, enqueueOne, jobOf, success, sweep } from './fixtures.ts'

const START = Date.UTC(2026, 0, 1)
const MAX_PAGES = 1_000

describe.each(ENGINES)('on %s', (engine) => {
  const place = useStore(engine)

  /** Jobs that were created a minute apart, oldest first. */
  async function enqueueEachMinute(
    endpoint: string,
    count: number,
    fields: Partial<NewJob> = {},
  ): Promise<string[]> {
    const ids = []
    for (let i = 0; i < count; i++) {
      const createdAt = START + i * 60_000
      ids.push((await enqueueOne(place.store, endpoint, { ...fields, createdAt })).id)
    }
    return ids
  }

  test('jobs are listed newest first, in pages that together hold each once', async () => {
    const { store } = place
    const endpoint = await addEndpoint(store)
    const ids = await enqueueEachMinute(endpoint, 7)
    const pages = await pagesOf(store, { endpoint, limit: 3 })
    expect(pages.map((page) => page.length)).toEqual([3, 3, 1])
    expect(idsOf(pages.flat())).toEqual(ids.toReversed())
  })

  test.each([
    ['all states', {}],
    ['dead and cancelled ones', { states: ['dead', 'cancelled'] as JobState[] }],
    ['one tag', { tag: 'even' }],
    ['one reason', { failureReason: 'rejected' as const }],
  ])('jobs of %s are listed oldest first where that is asked for', async (_, filter) => {
    const { store } = place
    const endpoint = await addEndpoint(store)
    const ids: string[] = []
    for (let i = 0; i < 8; i++) {
      const createdAt = START + i * 60_000
      await enqueueOne(store, endpoint, { createdAt, tags: i % 2 === 0 ? ['even'] : [] })
      const claimed = await claimOne(store, endpoint)
      const state = (['dead', 'cancelled', 'succeeded'] as const)[i % 3] ?? 'dead'
      await bringTo(store, claimed, state)
      ids.push(claimed.jobId)
    }
    const newestFirst = await pagesOf(store, { endpoint, ...filter, limit: 9 })
    const expected = idsOf(newestFirst.flat()).toReversed()
    const pages = await pagesOf(store, { endpoint, ...filter, oldestFirst: true, limit: 2 })
    expect(idsOf(pages.flat())).toEqual(expected)
    expect(expected.length).toBeGreaterThan(2)
    const between = { createdAfter: START + 60_000, createdBefore: START + 7 * 60_000 }
    const some = await pagesOf(store, {
      ...{ endpoint, ...filter, ...between, oldestFirst: true, limit: 2 },
    })
    expect(idsOf(some.flat())).toEqual(expected.filter((id) => ids.slice(1, 7).includes(id)))
  })

  test('a page that ends with the last job has nothing beyond', async () => {
    const { store } = place
    const endpoint = await addEndpoint(store)
    await enqueueEachMinute(endpoint, 4)
    const first = await store.listJobs({ endpoint, limit: 2 })
    const second = await store.listJobs({ endpoint, limit: 2, after: first.next as string })
    expect(second.items).toHaveLength(2)
    expect(second.next).toBeNull()
  })

  test('pages hold still while newer jobs come in', async () => {
    const { store } = place
    const endpoint = await addEndpoint(store)
    const ids = await enqueueEachMinute(endpoint, 4)
    const first = await store.listJobs({ endpoint, limit: 2 })
    await enqueueOne(store, endpoint)
    const second = await store.listJobs({ endpoint, limit: 2, after: first.next as string })
    expect(idsOf([...first.items, ...second.items])).toEqual(ids.toReversed())
  })

  test('the list of all jobs holds those of every endpoint', async () => {
    const { store } = place
    const [one, two] = [await addEndpoint(store), await addEndpoint(store)]
    const first = await enqueueOne(store, one)
    const second = await enqueueOne(store, two)
    const { items } = await store.listJobs({ limit: 2 })
    expect(idsOf(items)).toEqual([first.id, second.id].toSorted().toReversed())
  })

  test.each([undefined, 'its endpoint'])('jobs are listed by state (of %s)', async (scope) => {
    const { store } = place
    const endpoint = await addEndpoint(store)
    const idsByState: Partial<Record<JobState, string[]>> = {}
    for (const state of JOB_STATES) {
      const ids = []
      for (let i = 0; i < 3; i++) {
        const tags = [`of-${endpoint}`]
        await enqueueOne(store, endpoint, { tags, runAt: START + i })
        const claimed = await claimOne(store, endpoint)
        await bringTo(store, claimed, state)
        ids.push(claimed.jobId)
        // Moves the queued job away, so that the next claim does not return it.
        if (state === 'queued') await postponeFar(claimed.endpoint)
      }
      idsByState[state] = ids
    }
    const query = scope === undefined ? { tag: `of-${endpoint}` } : { endpoint }
    for (const states of [...JOB_STATES.map((state) => [state]), ...SETS_OF_STATES]) {
      const wanted = states.flatMap((state) => idsByState[state] as string[])
      const pages = await pagesOf(store, { ...query, states, limit: 2 })
      expect(idsOf(pages.flat())).toEqual(wanted.toSorted().toReversed())
    }
  })

  async function postponeFar(endpoint: string): Promise<void> {
    const { store } = place
    const claimed = await claimOne(store, endpoint)
    await store.settle([
      {
        ...success(store, claimed),
        event: 'reschedule',
        runAt: store.clock.now() + 3_600_000,
      },
    ])
  }

  test('jobs are listed by tag, the whole tag and nothing but it', async () => {
    const { store } = place
    const endpoint = await addEndpoint(store)
    const hit = await enqueueOne(store, endpoint, { tags: ['red', 'a"b'] })
    await enqueueOne(store, endpoint, { tags: ['redder', 'x"red"', '%'] })
    await enqueueOne(store, endpoint)
    expect(idsOf((await store.listJobs({ endpoint, tag: 'red', limit: 9 })).items)).toEqual([
      hit.id,
    ])
    expect(idsOf((await store.listJobs({ endpoint, tag: 'a"b', limit: 9 })).items)).toEqual([
      hit.id,
    ])
    expect((await store.listJobs({ endpoint, tag: 're', limit: 9 })).items).toEqual([])
    expect((await store.listJobs({ tag: 'red', limit: 9 })).items).toHaveLength(1)
    const dead = { states: ['dead'] as JobState[], tag: 'red', limit: 9 }
    expect((await store.listJobs(dead)).items).toEqual([])
  })

  test('jobs are listed by dedupe key, final ones and those of other endpoints too', async () => {
    const { store } = place
    const [endpoint, other] = [await addEndpoint(store), await addEndpoint(store)]
    const dedupe = { key: `report-${endpoint}`, mode: 'keep' } as const
    const ids = []
    for (let i = 0; i < 5; i++) {
      const { id } = await enqueueOne(store, i < 4 ? endpoint : other, { dedupe })
      if (i < 3) await store.cancel([id])
      ids.push(id)
    }
    await enqueueOne(store, endpoint, { dedupe: { ...dedupe, key: 'another' } })
    await enqueueOne(store, endpoint)
    const query = { dedupeKey: dedupe.key, limit: 2 }
    const all = await pagesOf(store, query)
    expect(idsOf(all.flat())).toEqual(ids.toReversed())
    expect(all.map((page) => page.length)).toEqual([2, 2, 1])
    const here = await pagesOf(store, { ...query, endpoint })
    expect(idsOf(here.flat())).toEqual(ids.slice(0, 4).toReversed())
    const queued = await pagesOf(store, { ...query, endpoint, states: ['queued'] })
    expect(idsOf(queued.flat())).toEqual([ids[3]])
    const none = await store.listJobs({ dedupeKey: 'unknown', limit: 2 })
    expect(none).toEqual({ items: [], next: null })
  })

  test('jobs of an endpoint are listed by their fairness key, whatever else the filter has', async () => {
    const { store } = place
    const [endpoint, other] = [await addEndpoint(store), await addEndpoint(store)]
    const fairnessKey = 'tenant 7'
    const [final, tags] = [['dead', 'cancelled', 'succeeded'] as const, ['t']]
    const ids: string[] = []
    for (const [i, state] of final.entries()) {
      for (const key of [fairnessKey, 'tenant 70', null]) {
        const createdAt = START + i * 60_000
        await enqueueOne(store, endpoint, { createdAt, tags, fairnessKey: key })
        const claimed = await claimOne(store, endpoint)
        await bringTo(store, claimed, state)
        if (key === fairnessKey) ids.push(claimed.jobId)
      }
    }
    const dedupe = { key: `of-${endpoint}`, mode: 'keep' as const }
    const queued = await enqueueOne(store, endpoint, { tags, dedupe, fairnessKey })
    await enqueueOne(store, other, { tags, fairnessKey })
    const of = async (more: Partial<JobQuery>) =>
      idsOf((await pagesOf(store, { endpoint, fairnessKey, ...more, limit: 1 })).flat())
    const all = [...ids, queued.id]
    expect(await of({})).toEqual(all.toReversed())
    expect(await of({ oldestFirst: true })).toEqual(all)
    expect(await of({ tag: 't' })).toEqual(all.toReversed())
    expect(await of({ states: ['queued', 'succeeded'] })).toEqual([queued.id, ids[2]])
    expect(await of({ states: ['dead', 'cancelled'] })).toEqual([ids[1], ids[0]])
    expect(await of({ states: ['running'] })).toEqual([])
    expect(await of({ dedupeKey: dedupe.key })).toEqual([queued.id])
    expect(await of({ failureReason: 'rejected' })).toEqual([ids[0]])
    expect(await of({ fairnessKey: 'tenant' })).toEqual([])
    const running = await claimOne(store, endpoint)
    expect(await of({ states: ['running'] })).toEqual([running.jobId])
  })

  test('dead jobs are listed by the reason of their failure', async () => {
    const { store } = place
    const endpoint = await addEndpoint(store)
    const tags = [`of-${endpoint}`]
    const rejected = []
    for (let i = 0; i < 3; i++) {
      await enqueueOne(store, endpoint, { tags })
      const claimed = await claimOne(store, endpoint)
      await bringTo(store, claimed, 'dead')
      rejected.push(claimed.jobId)
      await enqueueOne(store, endpoint, { tags, expiresAt: store.clock.now() - 1 })
      await sweep(store)
    }
    await enqueueOne(store, endpoint, { tags })
    const query = { failureReason: 'rejected', limit: 2 } as const
    for (const scope of [{ endpoint }, { tag: tags[0] as string }]) {
      const pages = await pagesOf(store, { ...query, ...scope })
      expect(idsOf(pages.flat())).toEqual(rejected.toReversed())
      const dead = await pagesOf(store, { ...query, ...scope, states: ['dead', 'queued'] })
      expect(idsOf(dead.flat())).toEqual(rejected.toReversed())
    }
    const lost = await pagesOf(store, { endpoint, failureReason: 'lease_lost', limit: 2 })
    expect(lost.flat()).toEqual([])
  })

  test('jobs are listed by when they were made: from the one instant, before the other', async () => {
    const { store } = place
    const endpoint = await addEndpoint(store)
    const ids = await enqueueEachMinute(endpoint, 5)
    const createdAfter = START + 60_000
    const createdBefore = START + 3 * 60_000
    const between = await pagesOf(store, { endpoint, createdAfter, createdBefore, limit: 1 })
    expect(idsOf(between.flat())).toEqual([ids[2], ids[1]])
    const older = await pagesOf(store, { endpoint, createdBefore: createdAfter, limit: 9 })
    expect(idsOf(older.flat())).toEqual([ids[0]])
    const since = await pagesOf(store, { endpoint, createdAfter: createdBefore, limit: 9 })
    expect(idsOf(since.flat())).toEqual([ids[4], ids[3]])
  })

  test('an item of a list is the job without payload, result and attempts', async () => {
    const { store } = place
    const endpoint = await addEndpoint(store)
    await enqueueOne(store, endpoint, { tags: ['a'], metadata: { b: 'c' }, headers: { d: 'e' } })
    await store.settle([success(store, await claimOne(store, endpoint))])
    const [item] = (await store.listJobs({ endpoint, limit: 1 })).items
    const job = await jobOf(store, item?.id as string)
    const { payload, result, resultTruncated, attempts, ...summary } = job
    expect(item).toEqual(summary)
    expect(item).not.toHaveProperty('payload')
  })

  test('a list of an endpoint without jobs is empty', async () => {
    const { store } = place
    const endpoint = await addEndpoint(store)
    expect(await store.listJobs({ endpoint, limit: 5 })).toEqual({ items: [], next: null })
    const dead = { endpoint, states: ['dead'] as JobState[], limit: 5 }
    expect(await store.listJobs(dead)).toEqual({ items: [], next: null })
  })
})

const SETS_OF_STATES: JobState[][] = [
  ['dead', 'cancelled'],
  ['running', 'dead'],
  ['queued', 'dead'],
  ['succeeded', 'running', 'queued'],
  [...JOB_STATES],
]

/** Follows `next` to the end. Fails if there is no end. */
async function pagesOf(store: Store, query: JobQuery): Promise<JobSummary[][]> {
  const pages: JobSummary[][] = []
  let after: string | null | undefined
  do {
    const page = await store.listJobs({ ...query, ...(after ? { after } : {}) })
    pages.push(page.items)
    after = page.next
    expect(pages.length).toBeLessThan(MAX_PAGES)
  } while (after !== null)
  return pages
}

function idsOf(items: JobSummary[]): string[] {
  return items.map(({ id }) => id)
}
