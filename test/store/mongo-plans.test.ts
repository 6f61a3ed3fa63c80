// mongo-plans.txt states how MongoDB serves each query of the store. The test lets mongod explain
// each query, with many jobs stored. The explanations of a stand-in mean nothing: with a stand-in,
// the test only compares the queries and the fields of the indexes with the table.
import { randomBytes } from 'node:crypto'
import type { CommandStartedEvent, Db, Document } from 'mongodb'
import { afterAll, beforeAll, expect, inject, it } from 'vitest'
import { newJobId } from '../../src/job/job-id.ts'
import { COLLECTIONS } from '../../src/store/collection-names.ts'
import { accessesOf, checkPlan, explainableParts } from '../../src/store/mongo/plan.ts'
import { openDatabase } from '../../src/store/mongo/schema.ts'
import { openMongoStore, storeOn } from '../../src/store/mongo/store.ts'
import type { Store, StoreSettings } from '../../src/store/store.ts'
import { databaseUrl } from '../support/mongo.ts'
import {
  isOperators,
  type PlanRow,
  planOf,
  queryOf,
  readTable,
  writeTable,
} from './mongo-plan-table.ts'
import { useEveryVerb } from './mongo-verbs.ts'

const DAY_MS = 86_400_000
const IS_STAND_IN = inject('mongoEngine') === 'secantusd-rs'
/** Jobs of each endpoint: enough that MongoDB can find the plan which reads least. */
const JOBS_BY_STATE = {
  ...{ succeeded: 400, queued: 200, blocked: 20, running: 20, dead: 20, cancelled: 20 },
}
/** Commands that search for documents. */
const EXPLAINABLE = new Set(['find', 'aggregate', 'update', 'delete', 'findAndModify'])
const PLANS_DEADLINE_MS = 120_000

let db: Db
let store: Store
let other: Store
/** By collection and shape: the commands that the store sent. */
const sent: Document[] = []

beforeAll(async () => {
  const url = databaseUrl(inject('mongoUrl'), `test-${randomBytes(6).toString('hex')}`)
  const connection = await openDatabase(url)
  db = connection.db
  const record = ({ command }: CommandStartedEvent) => void sent.push(command)
  connection.client.on('commandStarted', record)
  const settings: StoreSettings = {
    retentionMs: 0,
    retentionDeadMs: DAY_MS,
    encryptionKeys: [randomBytes(32)],
    warn: () => {},
  }
  store = await storeOn(connection, settings)
  other = await openMongoStore(url, { ...settings, retentionDeadMs: 0 })
  await useEveryVerb(store, other)
  connection.client.off('commandStarted', record)
})

afterAll(async () => {
  await db.dropDatabase()
  await store.close()
  await other.close()
})

it('every verb of the store has been tried, so that no query is left out', () => {
  const names = new Set(sent.map((command) => Object.keys(command)[0]))
  for (const name of ['find', 'aggregate', 'update', 'delete', 'insert']) {
    expect(names).toContain(name)
  }
})

it('no path of an array is asked two things, of which MongoDB would bound a scan by one', async () => {
  const documents = await db.collection(COLLECTIONS.jobs).find().toArray()
  const arrays = new Set(documents.flatMap((document) => namesOfArrays(document)))
  expect([...arrays]).toEqual(expect.arrayContaining(['keys', 'tags', 'waitingFor']))
  const conditions = queries()
    .flatMap(conditionsIn)
    .filter(({ path }) => arrays.has(rootOf(path)))
  for (const path of ['keys.key', 'tags', 'waitingFor']) {
    expect(conditions.map((condition) => condition.path)).toContain(path)
  }
  expect(conditions.filter(({ operators }) => operators.length > 1)).toEqual([])
})

it('endpoints with work are read from name to name by the index that begins with the name', () => {
  const byName = sent.filter(({ pipeline }) => {
    const [{ $match = {} } = {}, { $group = {} } = {}] = (pipeline ?? []) as Document[]
    return $group._id === '$endpoint' && $match.endpoint?.$gt === ''
  })
  const hints = byName.map(({ hint, pipeline }) => [pipeline[0].$match.state, hint])
  expect(new Set(hints.map((hint) => JSON.stringify(hint)))).toEqual(
    new Set([
      '["queued","claim"]',
      '["waiting","outside"]',
      '["blocked","blocked_of_endpoint"]',
      '["running","running"]',
      '["dead","unsuccessful_of_endpoint"]',
    ]),
  )
  // `distinct` takes no hint before MongoDB 7.1, so no method may use it here.
  expect(sent.filter(({ distinct }) => distinct !== undefined)).toEqual([])
})

it('each query is in the table, and none that is no longer sent', () => {
  const found = new Set(queries().map(queryOf))
  const listed = readTable().map(({ query }) => query)
  expect(found.size).toBeGreaterThan(50)
  if (process.env.WRITE_PLANS === undefined) expect([...found].sort()).toEqual(listed)
})

it('the bounds of the table are those of the fields of each index, in their order', async () => {
  const keys = new Map<string, string>()
  for (const { name } of await db.listCollections().toArray()) {
    for (const index of await db.collection(name).indexes()) {
      keys.set(`${name} ${index.name}`, Object.keys(index.key).join(' '))
    }
  }
  const wrong = readTable().flatMap(({ query, scans }) =>
    scans.filter((scan) => {
      const [name = '', bounds = ''] = scan.split(': ')
      const index = name.replace('distinct ', '')
      const fields = bounds.split(', ').map((bound) => bound.split(' ')[0])
      const key = keys.get(`${query.split(':')[0]} ${index}`)
      return key === undefined || (bounds !== '' && fields.join(' ') !== key)
    }),
  )
  expect(wrong).toEqual([])
})

const PLANS = 'each query is carried out as the table says, and reads little more than it returns'

it.skipIf(IS_STAND_IN)(
  IS_STAND_IN ? `NOT SHOWN, the engine is a stand-in: ${PLANS}` : PLANS,
  async () => {
    await addManyJobs()
    const allowed = new Map(readTable().map((row) => [row.query, row.allowed]))
    const rows: PlanRow[] = []
    const faults: string[] = []
    for (const command of queries()) {
      const query = queryOf(command)
      const explained = await db.command({ explain: command, verbosity: 'executionStats' })
      const accesses = accessesOf(explained)
      expect(accesses).toHaveLength(1)
      const own = allowed.get(query) ?? []
      rows.push({ query, ...planOf(accesses[0] as (typeof accesses)[0]), allowed: own })
      for (const { message } of checkPlan(explained, own)) faults.push(`${message}: ${query}`)
    }
    rows.sort((a, b) => (a.query < b.query ? -1 : 1))
    if (process.env.WRITE_PLANS !== undefined) writeTable(rows)
    expect(faults).toEqual([])
    expect(rows).toEqual(readTable())
  },
  PLANS_DEADLINE_MS,
)

/** Each query once, as a command that explain accepts. */
function queries(): Document[] {
  const asking = sent.filter((command) => EXPLAINABLE.has(Object.keys(command)[0] as string))
  const parts = asking.flatMap(explainableParts)
  return [...new Map(parts.map((part) => [queryOf(part), part])).values()]
}

/** Adds copies of one job for each endpoint that has a job. */
async function addManyJobs(): Promise<void> {
  const jobs = db.collection<{ _id: string } & Document>(COLLECTIONS.jobs)
  const like = await jobs.findOne({
    originKey: { $exists: false },
    orderingKey: { $exists: false },
  })
  const names = await jobs.distinct('endpoint')
  const { keys, idempotencyKey, dedupeHolder, effectsPending, ...plain } = (like ?? {}) as Document
  for (const endpoint of [...names, 'busy-1', 'busy-2', 'busy-3']) {
    const copies = Object.entries(JOBS_BY_STATE).flatMap(([state, count]) =>
      Array.from({ length: count }, (_, i) => copyOf({ ...plain, endpoint, state }, i)),
    )
    await jobs.insertMany(copies as { _id: string }[])
  }
}

function copyOf(job: Document, i: number): Document {
  const now = Date.now()
  const isFinal = ['succeeded', 'dead', 'cancelled'].includes(job.state)
  const { finishedAt, checkedAt, ...rest } = job
  return {
    ...rest,
    _id: newJobId(now - DAY_MS + i),
    priority: i % 3,
    runAt: new Date(now + (i % 2 === 0 ? -1 : 1) * i * 1_000),
    ...(job.state === 'running' ? { leaseId: 'l', leaseExpiresAt: new Date(now + i * 1_000) } : {}),
    ...(job.state === 'blocked' ? { checkedAt: new Date(now - i) } : {}),
    ...(isFinal ? { finishedAt: new Date(now - i * 1_000), hasKey: i % 2 === 0 } : {}),
  }
}

/** Names of fields that hold an array, which makes the indexes on them multikey. */
function namesOfArrays(document: Document): string[] {
  return Object.keys(document).filter((name) => Array.isArray(document[name]))
}

function rootOf(path: string): string {
  return path.split('.')[0] ?? ''
}

interface Condition {
  path: string
  operators: string[]
}

/**
 * The conditions of a filter, by path. Those of an `$and` are merged, those of an `$or` are
 * separate.
 */
function conditionsIn(query: Document): Condition[] {
  const [change] = query.updates ?? query.deletes ?? []
  const stages: Document[] = query.pipeline ?? []
  const filters = [query.filter, query.query, change?.q, ...stages.map(({ $match }) => $match)]
  return filters.flatMap((filter) => (filter === undefined ? [] : conditionsOfFilter(filter)))
}

function conditionsOfFilter(filter: Document): Condition[] {
  const { $or = [], $and = [], ...own } = filter
  const all = [own, ...$and].flatMap((part: Document) => Object.entries(part))
  const byPath = Map.groupBy(all, ([path]) => path)
  const joined = [...byPath].map(([path, some]) => ({
    path,
    operators: some.flatMap(([, condition]) => operatorsOf(condition)),
  }))
  return [...joined, ...$or.flatMap(conditionsOfFilter)]
}

function operatorsOf(condition: unknown): string[] {
  return isOperators(condition) ? Object.keys(condition) : ['$eq']
}
