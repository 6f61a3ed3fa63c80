// The indexes, each beside the query that it serves. Made when missing, never dropped by us.
// docs/scaling: every unique index begins with the endpoint, the shard key.
import type { CreateIndexesOptions, Db, IndexSpecification } from 'mongodb'

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
  /** lists and counts of an endpoint; abandon and evict. */
  by_endpoint: { key: { endpoint: 1, state: 1, _id: -1 }, options: {} },
  /** lists by state over all endpoints. */
  by_state: { key: { state: 1, _id: -1 }, options: {} },
  /** lists by tag. */
  by_tag: {
    key: { tags: 1, _id: -1 },
    options: { partialFilterExpression: { tags: { $exists: true } } },
  },
  /** purge: MongoDB's own, and the sweeper's. */
  purge: {
    key: { purgeAt: 1 },
    options: {
      expireAfterSeconds: 0,
      partialFilterExpression: { finishedAt: { $exists: true } },
    },
  },
} as const satisfies Record<string, NamedIndex>

export const ENDPOINT_INDEXES = {
  /** sweep: endpoints being deleted. */
  deleting: {
    key: { deleting: 1 },
    options: { partialFilterExpression: { deleting: true } },
  },
} as const satisfies Record<string, NamedIndex>

/** The names of those that this database lacks, by collection. */
export async function missingIndexes(db: Db): Promise<{ jobs: string[]; endpoints: string[] }> {
  return {
    jobs: await missingOf(db, 'jobs', Object.keys(JOB_INDEXES)),
    endpoints: await missingOf(db, 'endpoints', Object.keys(ENDPOINT_INDEXES)),
  }
}

/** Makes them. On a large collection this takes its time; an index that is there costs nothing. */
export async function createIndexes(
  db: Db,
  missing: { jobs: string[]; endpoints: string[] },
): Promise<void> {
  await createSome(db, 'jobs', JOB_INDEXES, missing.jobs)
  await createSome(db, 'endpoints', ENDPOINT_INDEXES, missing.endpoints)
}

async function missingOf(db: Db, collection: string, names: string[]): Promise<string[]> {
  const known = new Set<string | undefined>()
  // A collection that is not there yet answers with an error: it has no index either.
  const there = await db.listCollections({ name: collection }, { nameOnly: true }).toArray()
  if (there.length > 0) {
    for (const { name } of await db.collection(collection).listIndexes().toArray()) known.add(name)
  }
  return names.filter((name) => !known.has(name))
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
  await db
    .collection(collection)
    .createIndexes(specifications as Parameters<ReturnType<Db['collection']>['createIndexes']>[0])
}
