// The indexes, each beside the query that it serves. Made when missing, never dropped by us.
// docs/scaling: every unique index begins with the endpoint, the shard key.
import {
  type CreateIndexesOptions,
  type Db,
  type IndexSpecification,
  MongoServerError,
} from 'mongodb'
import { COLLECTIONS } from '../collection-names.ts'
import { StoreUnusable } from '../store.ts'
import { RECORD_INDEXES } from './record-indexes.ts'

export interface NamedIndex {
  key: Record<string, 1 | -1>
  options: Pick<CreateIndexesOptions, 'unique' | 'expireAfterSeconds' | 'partialFilterExpression'>
}

/** For writes that name their jobs: a planner with a choice of indexes can choose wrongly. */
export const BY_ID = { hint: { _id: 1 } } as const

/** By name. A name that exists is taken to be ours: a changed index needs a new name. */
export const JOB_INDEXES = {
  /** claim: a lane's due jobs by priority, then runAt; and `due(null)`, from name to name. */
  claim: {
    key: { endpoint: 1, state: 1, priority: -1, runAt: 1 },
    options: { partialFilterExpression: { state: 'queued' } },
  },
  /** due(since): what became due lately, and what is due next. */
  due: {
    key: { state: 1, runAt: 1, endpoint: 1 },
    options: { partialFilterExpression: { state: 'queued' } },
  },
  /** due(since): what was let go or given back lately, whose runAt may be long past. */
  freed: {
    key: { state: 1, freedAt: 1, runAt: 1, endpoint: 1 },
    options: { partialFilterExpression: { state: 'queued', freedAt: { $exists: true } } },
  },
  /** sweep: lapsed leases. */
  lease: {
    key: { state: 1, leaseExpiresAt: 1 },
    options: { partialFilterExpression: { state: 'running' } },
  },
  /** sweep: queued jobs that expired. */
  expiry: {
    key: { state: 1, expiresAt: 1 },
    options: {
      partialFilterExpression: { state: 'queued', expiresAt: { $gt: new Date(0) } },
    },
  },
  /** enqueue: one job for each key of an endpoint. */
  idempotency: {
    key: { endpoint: 1, idempotencyKey: 1 },
    options: { unique: true, partialFilterExpression: { idempotencyKey: { $exists: true } } },
  },
  /** enqueue: the same over all keys of a job; the version before wrote none of these. */
  keys: {
    key: { endpoint: 1, 'keys.key': 1 },
    options: { unique: true, partialFilterExpression: { 'keys.key': { $exists: true } } },
  },
  /** enqueue: one job for each tick of a schedule, and for each finish that is told. */
  origin: {
    key: { endpoint: 1, originKey: 1 },
    options: { unique: true, partialFilterExpression: { originKey: { $exists: true } } },
  },
  /** enqueue, retry: one queued or running job for each dedupe key of an endpoint. */
  dedupe: {
    key: { endpoint: 1, dedupeHolder: 1 },
    options: { unique: true, partialFilterExpression: { dedupeHolder: { $exists: true } } },
  },
  /** promote: one job at a time for each ordering key of an endpoint. */
  turn: {
    key: { endpoint: 1, turn: 1 },
    options: { unique: true, partialFilterExpression: { turn: { $exists: true } } },
  },
  /** promote: the earliest job of an ordering key that is not final. */
  ordering: {
    key: { endpoint: 1, orderingKey: 1, state: 1, _id: 1 },
    options: { partialFilterExpression: { orderingKey: { $exists: true } } },
  },
  /** After a finish: the jobs that depend on it. */
  waiting: {
    key: { waitingFor: 1, state: 1 },
    options: { partialFilterExpression: { waitingFor: { $exists: true } } },
  },
  /** sweep: held jobs, least recently checked first. */
  held: {
    key: { state: 1, checkedAt: 1 },
    options: { partialFilterExpression: { state: 'held' } },
  },
  /** sweep: held jobs that expired. */
  held_expiry: {
    key: { expiresAt: 1, state: 1 },
    options: { partialFilterExpression: { state: 'held', expiresAt: { $gt: new Date(0) } } },
  },
  /** sweep: final jobs whose aftermath was left undone. */
  owing: {
    key: { owes: 1, state: 1 },
    options: { partialFilterExpression: { owes: true } },
  },
  /** lists by dedupe key. */
  by_dedupe_key: {
    key: { dedupeKey: 1, _id: -1 },
    options: { partialFilterExpression: { dedupeKey: { $exists: true } } },
  },
  /** lists and counts of an endpoint; abandon and evict. */
  by_endpoint: { key: { endpoint: 1, state: 1, _id: -1 }, options: {} },
  /** lists by state over all endpoints. */
  by_state: { key: { state: 1, _id: -1 }, options: {} },
  /** lists by tag. */
  by_tag: {
    key: { tags: 1, _id: -1 },
    options: { partialFilterExpression: { tags: { $exists: true } } },
  },
  /** sweep: final jobs past their retention. */
  purge: {
    key: { state: 1, hasKey: 1, finishedAt: 1 },
    options: { partialFilterExpression: { finishedAt: { $exists: true } } },
  },
} as const satisfies Record<string, NamedIndex>

export const ENDPOINT_INDEXES = {
  /** sweep: endpoints being deleted. */
  deleting: {
    key: { deleting: 1 },
    options: { partialFilterExpression: { deleting: true } },
  },
} as const satisfies Record<string, NamedIndex>

const INDEXES: Record<string, Record<string, NamedIndex>> = {
  [COLLECTIONS.jobs]: JOB_INDEXES,
  [COLLECTIONS.endpoints]: ENDPOINT_INDEXES,
  ...RECORD_INDEXES,
}

/** Names of indexes, by collection. */
export type IndexNames = Map<string, string[]>

/** Those that this database lacks: empty when it has all. */
export async function missingIndexes(db: Db): Promise<IndexNames> {
  const there = await db.listCollections({}, { nameOnly: true }).toArray()
  const collections = new Set(there.map(({ name }) => name))
  const missing: IndexNames = new Map()
  for (const [collection, indexes] of Object.entries(INDEXES)) {
    // A collection that is not there yet answers with an error: it has no index either.
    const known = collections.has(collection) ? await indexNamesOf(db, collection) : new Set()
    const names = Object.keys(indexes).filter((name) => !known.has(name))
    if (names.length > 0) missing.set(collection, names)
  }
  return missing
}

/** Makes them. On a large collection this takes its time; an index that is there costs nothing. */
export async function createIndexes(db: Db, missing: IndexNames): Promise<void> {
  for (const [collection, names] of missing) {
    await createSome(db, collection, INDEXES[collection] ?? {}, names)
  }
}

async function indexNamesOf(db: Db, collection: string): Promise<Set<string | undefined>> {
  const indexes = await db.collection(collection).listIndexes().toArray()
  return new Set(indexes.map(({ name }) => name))
}

async function createSome(
  db: Db,
  collection: string,
  indexes: Record<string, NamedIndex>,
  names: string[],
): Promise<void> {
  const specifications = Object.entries(indexes)
    .filter(([name]) => names.includes(name))
    .map(([name, { key, options }]) => ({ name, key: key as IndexSpecification, ...options }))
  if (specifications.length === 0) return
  try {
    await db
      .collection(collection)
      .createIndexes(specifications as Parameters<ReturnType<Db['collection']>['createIndexes']>[0])
  } catch (error) {
    throw asRefusal(collection, error)
  }
}

/** What createIndexes says of an index that waiting does not make possible. */
const REFUSALS: Record<number, (cause: MongoServerError) => string> = {
  // IndexOptionsConflict, IndexKeySpecsConflict
  85: conflictText,
  86: conflictText,
  // DuplicateKey. Its message would quote the keys.
  11000: ({ keyPattern }) =>
    `documents in it have the same ${Object.keys(keyPattern ?? {}).join(' and ')}.`,
}

function conflictText({ message }: MongoServerError): string {
  return `another index has its name or its keys. Drop that one and start again. ${message}`
}

function asRefusal(collection: string, cause: unknown): unknown {
  const refusal = cause instanceof MongoServerError ? REFUSALS[Number(cause.code)] : undefined
  if (refusal === undefined) return cause
  const why = refusal(cause as MongoServerError)
  return new StoreUnusable(`An index of ${collection} cannot be created: ${why}`, { cause })
}
