// The collections and indexes of Posthorn, in a database that an application may share. Their names
// have a prefix, and a record in one of them marks them as ours: without it, nothing is changed.
// Each index is listed with the query that it serves. While the store is in use, a watch notices
// that the database was dropped, or replaced by an older copy: without the unique indexes, keys
// would no longer be unique, and nothing else would show it.
import {
  type Collection,
  type CreateIndexesOptions,
  type Db,
  type IndexSpecification,
  MongoServerError,
} from 'mongodb'
import { COLLECTIONS } from '../collection-names.ts'
import { MINUTE_STATS_KEPT_MS } from '../minute-stats.ts'
import { type Store, type StoreSettings, WORKER_KEPT_MS } from '../store.ts'
import { StoreUnavailable, StoreUnusable } from '../store-errors.ts'
import {
  type Connection,
  connect,
  type Deadline,
  isDuplicateKey,
  open,
  run,
  startDeadline,
} from './connection.ts'

/** An index on a collection of many millions takes minutes, once. */
const INDEX_DEADLINE_MS = 15 * 60_000

const NAMES: string[] = Object.values(COLLECTIONS)
/** Increases when documents or indexes change so that an older version cannot use the database. */
const SCHEMA = 2

/** The first document that Posthorn writes into a database. */
interface SchemaRecord {
  _id: 'schema'
  product: 'posthorn'
  schema: number
}

interface NamedIndex {
  key: Record<string, 1 | -1>
  options: Pick<CreateIndexesOptions, 'unique' | 'expireAfterSeconds' | 'partialFilterExpression'>
}

/** By name. An existing index of the same name is not changed: a changed index needs a new name. */
const JOB_INDEXES = {
  /** claim: an endpoint's due jobs by priority, then runAt; and `due(null)`, from name to name. */
  claim: {
    key: { endpoint: 1, state: 1, priority: -1, runAt: 1 },
    options: { partialFilterExpression: { state: 'queued' } },
  },
  /** due(since): jobs that became due lately, and the job that is due next. */
  due: {
    key: { state: 1, runAt: 1, endpoint: 1 },
    options: { partialFilterExpression: { state: 'queued' } },
  },
  /** due(since): jobs that were unblocked or released lately; their runAt may be long past. */
  freed: {
    key: { state: 1, freedAt: 1, runAt: 1, endpoint: 1 },
    options: { partialFilterExpression: { state: 'queued', freedAt: { $exists: true } } },
  },
  /** sweep: expired leases. */
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
  /** enqueue: the same for the keys that later requests added by the job's dedupe key. */
  keys: {
    key: { endpoint: 1, 'keys.key': 1 },
    options: { unique: true, partialFilterExpression: { 'keys.key': { $exists: true } } },
  },
  /** enqueue: one job for each tick of a schedule, and for each finish with a notice. */
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
  ordering_slot: {
    key: { endpoint: 1, orderingSlot: 1 },
    options: { unique: true, partialFilterExpression: { orderingSlot: { $exists: true } } },
  },
  /** promote: the earliest job of an ordering key that is not final. */
  ordering: {
    key: { endpoint: 1, orderingKey: 1, state: 1, _id: 1 },
    options: { partialFilterExpression: { orderingKey: { $exists: true } } },
  },
  /** Finish effects: the jobs that depend on the finished one. */
  waiting: {
    key: { waitingFor: 1, state: 1 },
    options: { partialFilterExpression: { waitingFor: { $exists: true } } },
  },
  /** sweep: blocked jobs, least recently checked first. */
  blocked: {
    key: { state: 1, checkedAt: 1 },
    options: { partialFilterExpression: { state: 'blocked' } },
  },
  /** sweep: blocked jobs that expired. */
  blocked_expiry: {
    key: { expiresAt: 1, state: 1 },
    options: { partialFilterExpression: { state: 'blocked', expiresAt: { $gt: new Date(0) } } },
  },
  /** sweep: final jobs whose effects were left undone. */
  effects_pending: {
    key: { effectsPending: 1, state: 1 },
    options: { partialFilterExpression: { effectsPending: true } },
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

const ENDPOINT_INDEXES = {
  /** sweep: endpoints being deleted. */
  deleting: {
    key: { deleting: 1 },
    options: { partialFilterExpression: { deleting: true } },
  },
} as const satisfies Record<string, NamedIndex>

/** By collection, then by name, as in JOB_INDEXES. */
const RECORD_INDEXES = {
  [COLLECTIONS.schedules]: {
    /** dueSchedules. Those without a next tick have null here, which no instant matches. */
    due: { key: { paused: 1, nextRunAt: 1, _id: 1 }, options: {} },
    /** deleteEndpoint: whether a schedule names it. */
    by_endpoint: { key: { endpoint: 1, _id: 1 }, options: {} },
  },
  [COLLECTIONS.keys]: {
    hash: { key: { hash: 1 }, options: { unique: true } },
    /** listKeys: oldest first. */
    by_age: { key: { createdAt: 1, _id: 1 }, options: {} },
  },
  [COLLECTIONS.workers]: {
    /** listWorkers; also the TTL of workers that stopped reporting. */
    seen: { key: { seenAt: 1 }, options: { expireAfterSeconds: WORKER_KEPT_MS / 1_000 } },
  },
  [COLLECTIONS.minuteStats]: {
    /** minuteStatsSince; also their TTL. */
    by_minute: {
      key: { minute: 1 },
      options: { expireAfterSeconds: MINUTE_STATS_KEPT_MS / 1_000 },
    },
  },
} as const satisfies Record<string, Record<string, NamedIndex>>

const INDEXES: Record<string, Record<string, NamedIndex>> = {
  [COLLECTIONS.jobs]: JOB_INDEXES,
  [COLLECTIONS.endpoints]: ENDPOINT_INDEXES,
  ...RECORD_INDEXES,
}

/** Names of indexes, by collection. */
type IndexNames = Map<string, string[]>

const CHECK_EVERY_MS = 5_000
/** The code for a collection that does not exist. */
const NAMESPACE_NOT_FOUND = 26

interface DatabaseInPlace {
  /** Throws StoreUnavailable unless the database is complete and accepts a write. */
  prove(): Promise<void>
  /** What the last check found; null: the database is complete. */
  lost(): StoreUnavailable | null
  stop(): void
}

/**
 * Connects, makes sure that the collections are ours, and creates missing indexes.
 *
 * @throws StoreUnusable, StoreUnavailable, UnreadableUrl, and errors of the driver (startError)
 */
export async function openDatabase(url: string): Promise<Connection> {
  const connection = await connect(url)
  try {
    // First: an index on a collection of an application could delete its documents.
    await reserveCollections(connection.db)
    await makeIndexes(url, connection)
    return connection
  } catch (error) {
    await connection.client.close()
    throw error
  }
}

export function watchDatabaseInPlace(
  db: Db,
  settings: Pick<StoreSettings, 'warn' | 'error'>,
): DatabaseInPlace {
  const records = db.collection<{ _id: string; provedAt: Date }>(COLLECTIONS.meta)
  let lost: StoreUnavailable | null = null

  function note(found: string | null): void {
    if (found === (lost?.message ?? null)) return
    lost = found === null ? null : new StoreUnavailable(found, { kind: 'removed' })
    if (found === null) settings.warn({ detail: 'the database is as it was' }, 'store.back')
    else (settings.error ?? settings.warn)({ detail: `${found}. ${ADVICE}` }, 'store.lost')
  }

  async function check(deadline: Deadline): Promise<void> {
    const record = await run(deadline, (limit) => records.findOne({ _id: 'schema' }, { ...limit }))
    if (record === null) return note(`the database ${db.databaseName} was dropped or replaced`)
    const missing = await missingJobIndexes(db, deadline)
    if (missing.length === 0) return note(null)
    note(`${COLLECTIONS.jobs} was dropped or replaced: it lacks the indexes ${missing.join(', ')}`)
  }

  const timer = setInterval(() => {
    // A server that does not respond fails every other command, too.
    check(startDeadline()).catch(() => {})
  }, CHECK_EVERY_MS)
  timer.unref()

  return {
    async prove() {
      // One deadline for all three commands, because a probe does not wait longer.
      const deadline = startDeadline()
      await check(deadline)
      if (lost !== null) throw lost
      await run(deadline, (limit) =>
        records.updateOne({ _id: 'schema' }, { $set: { provedAt: new Date() } }, { ...limit }),
      )
    },
    lost: () => lost,
    stop: () => clearInterval(timer),
  }
}

/** The store, with verbs that reject while the database is lost. */
export function refusedWhileLost(store: Store, lost: () => StoreUnavailable | null): Store {
  // encryptionKeyIds returns no promise: nobody would handle a rejection, which ends the process.
  const always = new Set(['ready', 'close', 'onWork', 'onEnd', 'encryptionKeyIds'])
  const verbs = Object.entries(Object.getOwnPropertyDescriptors(store))
    .filter(([name, { value }]) => typeof value === 'function' && !always.has(name))
    .map(([name, { value }]) => {
      const guarded = (...given: unknown[]) => {
        const error = lost()
        return error === null ? value(...given) : Promise.reject(error)
      }
      return [name, guarded]
    })
  // Everything else is inherited, such as the getter of commandCount.
  return Object.assign(Object.create(store), Object.fromEntries(verbs)) as Store
}

async function makeIndexes(url: string, { db }: Connection): Promise<void> {
  const missing = await missingIndexes(db)
  if (missing.size === 0) return
  // A client of its own, with a longer deadline of its connections.
  const patient = await open(url, { retryWrites: false, socketTimeoutMS: INDEX_DEADLINE_MS })
  try {
    await createIndexes(patient.db, missing)
  } finally {
    await patient.client.close()
  }
}

/**
 * Makes sure that the collections with our names are ours, and marks a database without any of
 * them. Must come before every other write; any number of processes may call it at once.
 *
 * @throws StoreUnusable when another application or a newer version uses these names
 */
async function reserveCollections(db: Db): Promise<void> {
  const meta = db.collection<SchemaRecord>(COLLECTIONS.meta)
  const record = (await readRecord(meta, 'majority')) ?? (await markUnlessUsed(db, meta))
  if (record?.product !== 'posthorn') {
    throw new StoreUnusable(
      `The collection ${COLLECTIONS.meta} of the database ${db.databaseName} does not belong to ` +
        'Posthorn. Rename it, or name another database in STORE_URL.',
    )
  }
  if (record.schema !== SCHEMA) {
    throw new StoreUnusable(
      `The database ${db.databaseName} was written by another version of Posthorn (schema ` +
        `${record.schema}; this one uses ${SCHEMA}). Run that version.`,
    )
  }
}

async function markUnlessUsed(
  db: Db,
  meta: Collection<SchemaRecord>,
): Promise<SchemaRecord | null> {
  const used = await usedCollections(db)
  if (used.length > 0) {
    // Another process may have marked the database meanwhile, and written to these collections.
    const record = await readRecord(meta, 'local')
    if (record !== null) return record
    throw new StoreUnusable(
      `The database ${db.databaseName} holds ${used.join(', ')}, which Posthorn did not create: ` +
        `${COLLECTIONS.meta} has no record of it. Rename these collections, or name another ` +
        'database in STORE_URL.',
    )
  }
  const record: SchemaRecord = { _id: 'schema', product: 'posthorn', schema: SCHEMA }
  try {
    await run(startDeadline(), (limit) => meta.insertOne(record, limit))
    return record
  } catch (error) {
    // Another process that starts at the same time was first.
    if (isDuplicateKey(error)) return readRecord(meta, 'local')
    throw error
  }
}

/** `local` includes what the primary has not replicated yet. */
function readRecord(
  meta: Collection<SchemaRecord>,
  level: 'local' | 'majority',
): Promise<SchemaRecord | null> {
  return run(startDeadline(), (limit) =>
    meta.findOne({ _id: 'schema' }, { readConcern: { level }, ...limit }),
  )
}

/** Those with our names that contain documents, or that are not plain collections. */
async function usedCollections(db: Db): Promise<string[]> {
  const listed = await run(startDeadline(), () =>
    db.listCollections({ name: { $in: NAMES } }, { nameOnly: true }).toArray(),
  )
  const used = await Promise.all(
    listed.map(async ({ name, type }) => {
      const found = await run(startDeadline(), (limit) =>
        db.collection(name).findOne({}, { projection: { _id: 1 }, ...limit }),
      )
      return found !== null || type !== 'collection' ? [name] : []
    }),
  )
  return used.flat().sort()
}

/** The indexes that this database lacks. */
async function missingIndexes(db: Db): Promise<IndexNames> {
  const there = await db.listCollections({}, { nameOnly: true }).toArray()
  const collections = new Set(there.map(({ name }) => name))
  const missing: IndexNames = new Map()
  for (const [collection, indexes] of Object.entries(INDEXES)) {
    // listIndexes of a collection that does not exist is an error.
    const known = collections.has(collection) ? await indexNamesOf(db, collection) : new Set()
    const names = Object.keys(indexes).filter((name) => !known.has(name))
    if (names.length > 0) missing.set(collection, names)
  }
  return missing
}

/** Creates them. On a large collection this can take minutes; an existing index costs nothing. */
async function createIndexes(db: Db, missing: IndexNames): Promise<void> {
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

/** Errors of createIndexes that no repetition can help, by code. */
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

const ADVICE =
  'Nothing is accepted, claimed or recorded until it is back. To continue with the data that is ' +
  'there now, restart every process of Posthorn'

async function missingJobIndexes(db: Db, deadline: Deadline): Promise<string[]> {
  const jobs = db.collection(COLLECTIONS.jobs)
  const there = await run(deadline, () => jobs.listIndexes().toArray()).catch((error) => {
    const { cause } = error as Error
    if (cause instanceof MongoServerError && cause.code === NAMESPACE_NOT_FOUND) return []
    throw error
  })
  const names = new Set(there.map(({ name }) => name))
  return Object.keys(JOB_INDEXES).filter((name) => !names.has(name))
}
