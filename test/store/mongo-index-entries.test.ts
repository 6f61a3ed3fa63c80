// The cost of the indexes of jobs: the entries that MongoDB inserts and removes over the life of a
// job. They are computed from the index definitions, and from the job as it was stored before and
// after each write, by the rules of mongod:
// - A document has one entry in an index, or one for each distinct value of an array that is
//   indexed: https://www.mongodb.com/docs/manual/core/indexes/index-types/index-multikey/
// - A partial index has no entry for a document that does not meet its condition:
//   https://www.mongodb.com/docs/manual/core/index-partial/
// - An update writes only those entries that it changes:
//   https://www.mongodb.com/docs/manual/core/write-performance/
import { type Document, MongoClient } from 'mongodb'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { COLLECTIONS } from '../../src/store/collection-names.ts'
import { JOB_INDEXES } from '../../src/store/mongo/indexes.ts'
import { addEndpoint, claimOne, enqueueOne, success } from '../contract/fixtures.ts'
import { useStore } from '../support/stores.ts'
import { until } from '../support/until.ts'

const MAX_ENTRIES = 14

interface Index {
  key: Record<string, unknown>
  options: { partialFilterExpression?: Document }
}

/** Every collection has the index `_id_`. */
const INDEXES: Record<string, Index> = { _id_: { key: { _id: 1 }, options: {} }, ...JOB_INDEXES }

/** The document before a write, and after it; null: none. */
type Write = [before: Document | null, after: Document | null]

const place = useStore('mongo', { retentionMs: 0 })
let client: MongoClient

beforeAll(async () => {
  client = await MongoClient.connect(place.url)
})

afterAll(() => client.close())

it(`a job that succeeds at once costs at most ${MAX_ENTRIES} index entries`, async () => {
  const life = await lifeOf()
  const counts = Object.fromEntries(
    Object.entries(life).map(([write, documents]) => [write, countsOf(documents)]),
  )
  expect(counts).toEqual({
    enqueue: { _id_: 1, by_endpoint: 1, claim: 1, due: 1 },
    claim: { claim: 1, due: 1, lease: 1, running: 1 },
    settle: { lease: 1, running: 1, purge: 1 },
    purge: { _id_: 1, by_endpoint: 1, purge: 1 },
  })
  expect(sum(Object.values(counts).map((count) => sum(Object.values(count))))).toBeLessThanOrEqual(
    MAX_ENTRIES,
  )
})

it('an idempotency key costs two more, as one index has it', async () => {
  const key = { idempotency: { key: 'order-7', requestHash: 'h' } }
  const { enqueue } = await lifeOf(key)
  expect(countsOf(enqueue)).toMatchObject({ keys: 1 })
  expect(sum(Object.values(countsOf(enqueue)))).toBe(5)
})

describe('the count', () => {
  it('has an entry for each distinct value of an array', () => {
    const tagged = (tags?: string[]) => ({ _id: 'a', endpoint: 'e', tags })
    expect(countsOf([null, tagged(['x', 'y', 'x'])])).toMatchObject({ by_tag: 2 })
    expect(countsOf([tagged(['x', 'y']), tagged(['y', 'z'])])).toEqual({ by_tag: 2 })
    expect(countsOf([null, tagged()])).toEqual({ _id_: 1, by_endpoint: 1 })
  })

  it('has an entry for each key in an array of objects', () => {
    const keyed = (keys: string[]) => ({ endpoint: 'e', keys: keys.map((key) => ({ key })) })
    expect(countsOf([keyed(['k1']), keyed(['k1', 'k2', 'k3'])])).toEqual({ keys: 2 })
  })

  it('has none for a field that changes outside of every key', () => {
    const queued = { _id: 'a', endpoint: 'e', state: 'queued', priority: 1, runAt: new Date(1) }
    expect(countsOf([queued, { ...queued, version: 2 }])).toEqual({})
    expect(countsOf([queued, { ...queued, priority: 2 }])).toEqual({ claim: 2 })
    expect(countsOf([queued, { ...queued, runAt: new Date(2) }])).toEqual({ claim: 2, due: 2 })
  })

  it('has none in a partial index whose condition is not met', () => {
    const inState = (state: string) => ({ _id: 'a', endpoint: 'e', state })
    const partial = (state: string) => {
      const { _id_, by_endpoint, ...rest } = countsOf([null, inState(state)])
      return Object.keys(rest)
    }
    expect(partial('dead')).toEqual(['unsuccessful', 'unsuccessful_of_endpoint'])
    expect(partial('cancelled')).toEqual(['unsuccessful', 'unsuccessful_of_endpoint'])
    expect(partial('blocked')).toEqual(['blocked_round', 'blocked_of_endpoint'])
    expect(partial('running')).toEqual(['lease', 'running'])
    expect(partial('queued')).toEqual(['claim', 'due'])
    expect(partial('succeeded')).toEqual([])
  })
})

/** The writes of a job's life, as the store makes them. */
async function lifeOf(fields: Parameters<typeof enqueueOne>[2] = {}) {
  const { store } = place
  const jobs = client.db().collection<{ _id: string }>(COLLECTIONS.jobs)
  const endpoint = await addEndpoint(store)
  const { id } = await enqueueOne(store, endpoint, fields)
  const read = () => jobs.findOne({ _id: id }) as Promise<Document | null>
  const queued = await read()
  const claimed = await claimOne(store, endpoint)
  const running = await read()
  await store.settle([success(store, claimed)])
  const succeeded = await read()
  expect([queued, running, succeeded].map((job) => job?.state)).toEqual([
    'queued',
    'running',
    'succeeded',
  ])
  if (fields.idempotency === undefined) {
    await until(async () => {
      await store.sweep({ limit: 100, reclaim: true })
      return (await read()) === null
    })
  }
  return {
    enqueue: [null, queued] as Write,
    claim: [queued, running] as Write,
    settle: [running, succeeded] as Write,
    purge: [succeeded, null] as Write,
  }
}

/**
 * Entries that a write inserts and removes, by index. Indexes that it does not change are absent.
 */
function countsOf([before, after]: Write): Record<string, number> {
  const counts = Object.entries(INDEXES).map(([name, index]): [string, number] => {
    const old = entriesOf(index, before)
    const fresh = entriesOf(index, after)
    return [name, countMissing(old, fresh) + countMissing(fresh, old)]
  })
  return Object.fromEntries(counts.filter(([, count]) => count > 0))
}

function countMissing(entries: Set<string>, others: Set<string>): number {
  return [...entries].filter((entry) => !others.has(entry)).length
}

function entriesOf({ key, options }: Index, document: Document | null): Set<string> {
  if (document === null || !meets(document, options.partialFilterExpression ?? {})) return new Set()
  const paths = Object.keys(key)
  const combinations = paths.reduce<unknown[][]>(
    (found, path) =>
      found.flatMap((start) => entryValues(document, path).map((v) => [...start, v])),
    [[]],
  )
  return new Set(combinations.map((values) => JSON.stringify(values)))
}

/** The values that an index stores for a path: null if the path is absent. */
function entryValues(document: Document, path: string): unknown[] {
  const values = valuesAt(document, path)
  return values.length === 0 ? [null] : values
}

/** The values at a path, which may lead through elements of arrays. */
function valuesAt(value: unknown, path: string): unknown[] {
  if (Array.isArray(value)) return value.flatMap((element) => valuesAt(element, path))
  if (path === '') return value === undefined ? [] : [value]
  if (typeof value !== 'object' || value === null) return []
  const [name = '', ...rest] = path.split('.')
  return valuesAt((value as Document)[name], rest.join('.'))
}

function meets(document: Document, filter: Document): boolean {
  return Object.entries(filter).every(([path, condition]) => {
    const values = valuesAt(document, path)
    if (!isOperators(condition)) return values.includes(condition)
    return Object.entries(condition).every(([operator, operand]) => {
      if (operator === '$exists') return values.length > 0 === operand
      return values.some((value) => compares(operator, value, operand))
    })
  })
}

function isOperators(condition: unknown): condition is Document {
  return typeof condition === 'object' && Object.keys(condition ?? {})[0]?.startsWith('$') === true
}

/** MongoDB compares only values of one type. */
function compares(operator: string, value: unknown, operand: unknown): boolean {
  if (value === null || typeof value !== typeof operand) return false
  const [one, other] = [value, operand] as [string, string]
  if (operator === '$gt') return one > other
  if (operator === '$gte') return one >= other
  if (operator === '$lte') return one <= other
  throw new Error(`a partial index with ${operator} is not understood here`)
}

function sum(numbers: number[]): number {
  return numbers.reduce((total, number) => total + number, 0)
}
