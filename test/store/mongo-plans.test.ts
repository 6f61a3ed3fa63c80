// Each command that the MongoDB store sends is served by an index. A mongod is asked how it would
// carry the command out; a stand-in explains nothing that could be believed, so that there only the
// index is looked for that would serve it.
import { randomBytes } from 'node:crypto'
import type { CommandStartedEvent, Db, Document } from 'mongodb'
import { afterAll, beforeAll, expect, inject, it } from 'vitest'
import { COLLECTIONS } from '../../src/store/collection-names.ts'
import { openDatabase } from '../../src/store/mongo/schema.ts'
import { storeOn } from '../../src/store/mongo/store.ts'

import type { Store } from '../../src/store/store.ts'
import { databaseUrl } from '../support/mongo.ts'
import { useEveryVerb } from './mongo-verbs.ts'

const DAY_MS = 86_400_000

let db: Db
let store: Store
let isStandIn: boolean
/** By collection and shape: the commands that the store sent. */
const sent: Document[] = []

beforeAll(async () => {
  const url = databaseUrl(inject('mongoUrl'), `test-${randomBytes(6).toString('hex')}`)
  const connection = await openDatabase(url)
  db = connection.db
  const record = ({ command }: CommandStartedEvent) => void sent.push(command)
  connection.client.on('commandStarted', record)
  isStandIn = 'secantusVersion' in (await db.admin().command({ buildInfo: 1 }))
  store = await storeOn(connection, {
    retentionMs: 0,
    retentionDeadMs: DAY_MS,
    encryptionKeys: [randomBytes(32)],
    warn: () => {},
  })
  await useEveryVerb(store)
  connection.client.off('commandStarted', record)
})

afterAll(async () => {
  await db.dropDatabase()
  await store.close()
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
  const conditions = sent.flatMap(conditionsIn).filter(({ path }) => arrays.has(rootOf(path)))
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
      ...['blocked', 'running', 'dead'].map((state) => JSON.stringify([state, 'by_endpoint'])),
    ]),
  )
  // It takes no hint before MongoDB 7.1.
  expect(sent.filter(({ distinct }) => distinct !== undefined)).toEqual([])
})

const PLANS = 'no query walks a collection, all of an index that it names, or sorts in memory'

it(
  inject('mongoEngine') === 'secantusd-rs'
    ? `NOT SHOWN, the engine is a stand-in: ${PLANS}`
    : PLANS,
  async () => {
    if (isStandIn) return expect(isStandIn).toBe(true)
    const bad: string[] = []
    for (const query of queriesOf(sent)) {
      const plan = await db.command({ explain: explainable(query), verbosity: 'queryPlanner' })
      const stages = stagesOf(plan)
      expect(stages.length).toBeGreaterThan(0)
      if (stages.includes('COLLSCAN') || sortsInMemory(plan)) bad.push(JSON.stringify(query))
      const named = new Set(conditionsIn(query).map(({ path }) => path))
      const unbounded = unboundedFieldsOf(plan).filter((field) => named.has(field))
      if (unbounded.length > 0) bad.push(`all of ${unbounded}: ${JSON.stringify(query)}`)
    }
    expect(bad).toEqual([])
  },
)

it('each query has an index that begins with what it asks and sorts as it wants', async () => {
  const unserved: string[] = []
  const indexes: Record<string, Document[]> = {}
  for (const { name } of await db.listCollections().toArray()) {
    indexes[name] = await db.collection(name).indexes()
  }
  const accesses = queriesOf(sent).flatMap(accessesOf)
  expect(accesses.length).toBeGreaterThan(20)
  for (const access of accesses) {
    const own = indexes[access.collection] ?? []
    if (!own.some((index) => serves(index, access))) unserved.push(JSON.stringify(access))
  }
  expect(unserved).toEqual([])
})

/** One of each update of a batch, for only one at a time can be explained. */
function queriesOf(commands: Document[]): Document[] {
  const queries = commands.map(asFind).flatMap((command) => {
    const { find, aggregate, distinct, update, delete: deletion } = command
    if (update !== undefined) {
      return (command.updates as Document[]).map((one) => ({ ...command, updates: [one] }))
    }
    return (find ?? aggregate ?? distinct ?? deletion) === undefined ? [] : [command]
  })
  return [...new Map(queries.map((query) => [shapeOf(query), query])).values()]
}

/** A findAndModify reaches its document as a find does. */
function asFind(command: Document): Document {
  const { findAndModify, query } = command
  return findAndModify === undefined ? command : { find: findAndModify, filter: query }
}

function shapeOf(query: Document): string {
  return JSON.stringify(explainable(query), (_, value) =>
    typeof value === 'string' && value.length > 12 ? '…' : plain(value),
  )
}

function explainable(query: Document): Document {
  const { lsid, $db, $clusterTime, txnNumber, maxTimeMS, readConcern, writeConcern, ...rest } =
    query
  return rest
}

function stagesOf(plan: unknown): string[] {
  if (typeof plan !== 'object' || plan === null) return []
  const own = 'stage' in plan && typeof plan.stage === 'string' ? [plan.stage] : []
  // Plans that lost do not count.
  const rest = Object.entries(plan).filter(([key]) => key !== 'rejectedPlans')
  return own.concat(rest.flatMap(([, part]) => stagesOf(part)))
}

/**
 * Whether no plan that was tried takes the order from an index. Of few documents, as here, the plan
 * that sorts them may win; mongod plans anew once it reads ten times as much as in the trial.
 */
function sortsInMemory(plan: unknown): boolean {
  if (typeof plan !== 'object' || plan === null) return false
  const { winningPlan, rejectedPlans = [] } = plan as Document
  if (winningPlan === undefined) return Object.values(plan).some(sortsInMemory)
  return [winningPlan, ...rejectedPlans].every((one) => stagesOf(one).includes('SORT'))
}

/** Fields of indexes that are walked from end to end. */
function unboundedFieldsOf(plan: unknown): string[] {
  if (typeof plan !== 'object' || plan === null) return []
  const bounds = 'indexBounds' in plan ? Object.entries(plan.indexBounds as Document) : []
  const own = bounds.flatMap(([field, intervals]) =>
    /\[(MinKey, MaxKey|MaxKey, MinKey)\]/.test(String(intervals)) ? [field] : [],
  )
  const rest = Object.entries(plan).filter(([key]) => key !== 'rejectedPlans')
  return own.concat(rest.flatMap(([, part]) => unboundedFieldsOf(part)))
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

/** What the filters of a command ask, by path; those of an `$and` together, of an `$or` apart. */
function conditionsIn(command: Document): Condition[] {
  const changes: Document[] = [...(command.updates ?? []), ...(command.deletes ?? [])]
  const matches = pipelinesOf(command.pipeline ?? []).flatMap((stages) =>
    stages.flatMap(({ $match }) => $match ?? []),
  )
  const filters = [command.filter, command.query, ...changes.map(({ q }) => q), ...matches]
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
  const isPlain = Object.getPrototypeOf(condition ?? 0) === Object.prototype
  const names = isPlain ? Object.keys(condition as object) : []
  return names.some((name) => name.startsWith('$')) ? names : ['$eq']
}

interface Access {
  collection: string
  filter: Document
  sort: Document
}

function accessesOf(query: Document): Access[] {
  const { find, aggregate, distinct, update, delete: deletion } = query
  const collection = find ?? aggregate ?? distinct ?? update ?? deletion
  if (aggregate !== undefined) return pipelinesOf(query.pipeline).map(accessOfPipeline(collection))
  const [change] = query.updates ?? query.deletes ?? []
  const filter = flat(query.filter ?? query.query ?? change?.q ?? {})
  // A collection of endpoints is read by name; alternatives are looked at one by one.
  const alternatives: Document[] = filter.$or ?? [filter]
  const sort = plain(query.sort ?? {})
  return alternatives.map((one) => ({ collection, filter: one, sort }))
}

function pipelinesOf(pipeline: Document[]): Document[][] {
  const unions = pipeline.flatMap((stage) => (stage.$unionWith ? [stage.$unionWith.pipeline] : []))
  return [pipeline, ...unions]
}

function accessOfPipeline(collection: string) {
  return (pipeline: Document[]): Access => ({
    collection,
    filter: flat(pipeline[0]?.$match ?? {}),
    sort: pipeline[1]?.$sort ?? {},
  })
}

/** The driver keeps the order of a sort in a Map. */
function plain(sort: Document | Map<string, unknown>): Document {
  return sort instanceof Map ? Object.fromEntries(sort) : sort
}

function flat(filter: Document): Document {
  const { $and = [], ...rest } = filter
  return Object.assign(rest, ...$and)
}

/** Whether this index holds all that the filter can match, begins with it, and sorts as asked. */
function serves(index: Document, { filter, sort }: Access): boolean {
  const partial = Object.entries(index.partialFilterExpression ?? {})
  if (!partial.every(([field, condition]) => implies(filter[field], condition))) return false
  const keys = Object.entries(index.key as Record<string, number>)
  const [firstField = ''] = keys[0] ?? []
  const wantsOrder = Object.entries(sort)
  if (!(firstField in filter)) {
    // Without any condition, an index in the order asked is walked only as far as is read; and the
    // names of all endpoints with queued jobs are skipped through in the index of claims.
    return (wantsOrder[0]?.[0] ?? '') === firstField || partial.some(([field]) => field in filter)
  }
  const equal = keys.findIndex(([field]) => !isEquality(filter[field]))
  const ordered = keys.slice(
    Math.max(
      0,
      keys.findIndex(([field]) => field === wantsOrder[0]?.[0]),
    ),
  )
  if (wantsOrder.length === 0) return true
  const start = keys.length - ordered.length
  return (
    ordered[0]?.[0] === wantsOrder[0]?.[0] &&
    (equal === -1 || start <= equal) &&
    wantsOrder.every(([field, way], i) => {
      const [key, keyWay = 0] = ordered[i] ?? []
      return key === field && keyWay * way === (ordered[0]?.[1] ?? 0) * (wantsOrder[0]?.[1] ?? 0)
    })
  )
}

function isEquality(condition: unknown): boolean {
  if (condition === undefined) return false
  const isOperator =
    typeof condition === 'object' && condition !== null && !(condition instanceof Date)
  return !isOperator || '$in' in condition || '$eq' in condition
}

function implies(condition: unknown, asked: unknown): boolean {
  if (condition === undefined) return false
  if (typeof asked !== 'object' || asked === null) return condition === asked
  // By any condition of ours: none of them matches null, which stands for what is not there.
  if ('$exists' in asked) return true
  return typeof condition === 'object' && condition !== null && '$gt' in condition
}
