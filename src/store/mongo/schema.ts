// The collections and indexes of Posthorn, in a database that an application may share. Their names
// have a prefix, and a record in one of them marks them as ours: without it, nothing is changed.
// Each index is listed with the query that it serves. While the store is in use, a watch notices
// that the database was dropped or replaced: without the unique indexes, keys are not unique.
import { randomUUID } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import type { Db } from 'mongodb'
import { COLLECTIONS, type CollectionKind, type CollectionNames } from '../collection-names.ts'
import type { Store, StoreSettings } from '../store.ts'
import { StoreUnavailable, StoreUnusable } from '../store-errors.ts'
import {
  type Migrated,
  missingStore,
  outstandingSteps,
  refuseSteps,
  refuseWhileInUse,
  type Step,
  type Upgrades,
  WORKER_RUNS_MS,
  waitForApi,
} from '../upgrade.ts'
import { startClock } from './clock.ts'
import {
  type Connection,
  connect,
  type Deadline,
  isDuplicateKey,
  open,
  run,
  startDeadline,
} from './connection.ts'
import { GROUP_INDEXES } from './group-document.ts'
import {
  changeTtl,
  compareIndexes,
  createMissing,
  dropIndex,
  type IndexDefinition,
  type IndexDifference,
  type Indexes,
  JOB_INDEXES,
  lostCollection,
  missingAmong,
  repairsByHand,
} from './indexes.ts'
import { RECORD_INDEXES } from './records.ts'

/** An index on a collection of many millions takes minutes, once. */
const INDEX_DEADLINE_MS = 15 * 60_000

/**
 * A step between two schemas. It may run again if its process is killed, or on another process that
 * takes over from one that no longer responds: each of its writes can be repeated.
 */
export interface Migration extends Step {
  run(db: Db, names: CollectionNames): Promise<void>
}

/** A new database gets the last schema at once; the first one therefore has nothing to do. */
export const MIGRATIONS: readonly Migration[] = [{ number: 8, online: true, run: async () => {} }]

/** The first document that Posthorn writes into a database. */
interface SchemaRecord {
  _id: 'schema'
  product: 'posthorn'
  schema: number
}

const ENDPOINT_INDEXES = {
  /** claim, putEndpoint, deleteLimit: the endpoints that name a limit. */
  limits: { key: { limits: 1 }, options: {} },
  /** sweep: endpoints being deleted. */
  deleting: { key: { deleting: 1 }, options: { partialFilterExpression: { deleting: true } } },
} as const satisfies Record<string, IndexDefinition>

const INDEXES: Partial<Record<CollectionKind, Record<string, IndexDefinition>>> = {
  jobs: JOB_INDEXES,
  endpoints: ENDPOINT_INDEXES,
  groups: GROUP_INDEXES,
  ...RECORD_INDEXES,
}

/** Indexes that earlier versions created and this one does not use, as they defined them. */
const RETIRED: typeof INDEXES = {}

export interface Definitions {
  indexes: typeof INDEXES
  retired: typeof INDEXES
  migrations: readonly Migration[]
}

export const DEFINITIONS: Definitions = {
  indexes: INDEXES,
  retired: RETIRED,
  migrations: MIGRATIONS,
}

/** Longer than any command of a process that still works. */
const MIGRATION_LEASE_MS = 30_000
const MIGRATION_LOOK_MS = 500

const CHECK_EVERY_MS = 5_000
/** Workers and statistics are reported again. Payloads that are stored apart have no index. */
const KINDS_IN_PLACE: readonly string[] = ['jobs', 'endpoints', 'groups', 'schedules', 'keys']

interface DatabaseInPlace {
  /** Throws StoreUnavailable unless the database is complete and accepts a write. */
  prove(): Promise<void>
  /** The problem that the last check found; null: the database is complete. */
  lost(): StoreUnavailable | null
  /** An endpoint was not found: the next check looks at all collections, not only at the jobs. */
  suspect(): void
  stop(): void
}

/**
 * Connects, makes sure that the collections are ours and have the schema of this version, and
 * creates missing indexes.
 *
 * @param upgrades `none`: waits for another process to create or upgrade the store
 * @throws StoreUnusable, StoreUnavailable, UnreadableUrl, and errors of the driver (startError)
 */
export async function openDatabase(
  url: string,
  upgrades: Exclude<Upgrades, 'all'> = 'online',
  { names = COLLECTIONS, definitions = DEFINITIONS } = {},
): Promise<Connection> {
  const connection = { ...(await connect(url)), names }
  try {
    if (upgrades === 'none') {
      await waitForApi(() => isUpgraded(connection, definitions))
      if ((await readRecord(connection, 'majority')) === null)
        throw missingStore(placeOf(connection))
    } else {
      // This comes first: an index on a collection of an application could delete its documents.
      await markUnlessUsed(connection, definitions)
    }
    await takeSteps(url, connection, upgrades, definitions)
    const missing = missingAmong(await differencesOf(connection, definitions))
    if (missing.length > 0) await withPatience(url, (db) => createMissing(db, missing))
    return connection
  } catch (error) {
    await connection.client.close()
    throw error
  }
}

/**
 * Takes all steps, creates missing indexes, and then changes and drops those of earlier versions.
 * API and workers of this version may run meanwhile.
 */
export async function migrateDatabase(url: string, definitions = DEFINITIONS): Promise<Migrated> {
  const connection = { ...(await connect(url)), names: COLLECTIONS }
  try {
    const record = await readRecord(connection, 'majority')
    if (record === null) throw missingStore(placeOf(connection))
    const to = await takeSteps(url, connection, 'all', definitions)
    const differences = await differencesOf(connection, definitions)
    const ofKind = (kind: IndexDifference['kind']) =>
      differences.filter((difference) => difference.kind === kind)
    await withPatience(url, async (db) => {
      await createMissing(db, differences)
      for (const difference of ofKind('ttl')) await changeTtl(db, difference)
      // This comes last: by now each retired index has its successor.
      for (const { collection, name } of ofKind('retired')) await dropIndex(db, collection, name)
    })
    const shown = (kind: IndexDifference['kind']) =>
      ofKind(kind).map(({ collection, name }) => `${collection}.${name}`)
    return {
      ...{ from: record.schema, to, createdIndexes: shown('missing') },
      ...{ changedIndexes: shown('ttl'), droppedIndexes: shown('retired') },
      faults: repairsByHand(differences),
    }
  } finally {
    await connection.client.close()
  }
}

/** How the indexes of the database differ from those of this version. */
export function differencesOf(
  { db, names }: Connection,
  { indexes, retired }: Definitions = DEFINITIONS,
): Promise<IndexDifference[]> {
  return compareIndexes(db, named(indexes, names), named(retired, names))
}

function named(indexes: typeof INDEXES, names: CollectionNames): Indexes {
  const entries = Object.entries(indexes)
  return Object.fromEntries(entries.map(([kind, some]) => [names[kind as CollectionKind], some]))
}

export function watchDatabaseInPlace(
  { db, names }: Pick<Connection, 'db' | 'names'>,
  settings: Pick<StoreSettings, 'warn' | 'error'>,
): DatabaseInPlace {
  const records = db.collection<{ _id: string; provedAt: Date }>(names.meta)
  let lost: StoreUnavailable | null = null
  let isSuspected = false

  function note(found: string | null): void {
    if (found === (lost?.message ?? null)) return
    lost = found === null ? null : new StoreUnavailable(found, { kind: 'removed' })
    if (found === null) settings.warn({ detail: 'the database is as it was' }, 'store.back')
    else (settings.error ?? settings.warn)({ detail: `${found}. ${ADVICE}` }, 'store.lost')
  }

  /** A database that was dropped lacks the indexes too: only a thorough check reads the record. */
  async function check(deadline: Deadline, isThorough: boolean): Promise<void> {
    const isWhole = isThorough || lost !== null || isSuspected
    isSuspected = false
    const kinds = isWhole ? KINDS_IN_PLACE : ['jobs']
    const needed = Object.entries(INDEXES).filter(([kind]) => kinds.includes(kind))
    const found = await lostCollection(db, named(Object.fromEntries(needed), names), deadline)
    if (found === null && lost === null && !isThorough) return
    const record = await run(deadline, (limit) => records.findOne({ _id: 'schema' }, { ...limit }))
    note(record === null ? `the database ${db.databaseName} was dropped or replaced` : found)
  }

  // A server that does not respond fails every other command, too.
  const timer = setInterval(() => check(startDeadline(), false).catch(() => {}), CHECK_EVERY_MS)
  timer.unref()

  return {
    async prove() {
      // One deadline for all commands, because a probe does not wait longer.
      const deadline = startDeadline()
      await check(deadline, true)
      if (lost !== null) throw lost
      await run(deadline, (limit) =>
        records.updateOne({ _id: 'schema' }, { $set: { provedAt: new Date() } }, { ...limit }),
      )
    },
    lost: () => lost,
    suspect() {
      isSuspected = true
    },
    stop: () => clearInterval(timer),
  }
}

/** The store, with verbs that reject while the database is lost. */
export function refusedWhileLost(store: Store, lost: () => StoreUnavailable | null): Store {
  // encryptionKeyIds returns no promise: a rejection without a handler would end the process.
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

/** The client waits as long as the build of an index can take, even for the majority. */
async function withPatience<T>(url: string, work: (db: Db) => Promise<T>): Promise<T> {
  const patient = await open(url, {
    retryWrites: false,
    socketTimeoutMS: INDEX_DEADLINE_MS,
    wtimeoutMS: 0,
  })
  try {
    return await work(patient.db)
  } finally {
    await patient.client.close()
  }
}

function placeOf({ db }: Connection): string {
  return `in the database ${db.databaseName}`
}

/** @throws StoreUnusable if another application or a later version uses these collections */
function stepsOf(
  { db, names }: Connection,
  record: SchemaRecord | null,
  { migrations }: Definitions,
): readonly Migration[] {
  if (record?.product !== 'posthorn') {
    throw new StoreUnusable(
      `The collection ${names.meta} of the database ${db.databaseName} does not belong to ` +
        'Posthorn. Rename it, or name another database in STORE_URL.',
    )
  }
  return outstandingSteps(`The database ${db.databaseName}`, record.schema, migrations)
}

async function isUpgraded(connection: Connection, definitions: Definitions): Promise<boolean> {
  const record = await readRecord(connection, 'majority')
  return record !== null && stepsOf(connection, record, definitions).length === 0
}

/** Takes the steps that are left, one process at a time. Returns the schema that it leads to. */
async function takeSteps(
  url: string,
  connection: Connection,
  upgrades: Upgrades,
  definitions: Definitions,
): Promise<number> {
  const { db, names } = connection
  const left = async () => {
    const record =
      (await readRecord(connection, 'majority')) ?? (await readRecord(connection, 'local'))
    const steps = stepsOf(connection, record, definitions)
    refuseSteps(`The database ${db.databaseName}`, steps, upgrades)
    return { schema: (record as SchemaRecord).schema, steps }
  }
  const { schema, steps } = await left()
  if (steps.length === 0) return schema
  return withMigrationLease(connection, async (now) => {
    // Another process may have made these steps meanwhile.
    let { schema: number, steps: open } = await left()
    const workers = db.collection(names.workers)
    const since = new Date(now() - WORKER_RUNS_MS)
    refuseWhileInUse(open, await workers.countDocuments({ seenAt: { $gt: since } }))
    for (const step of open) {
      await withPatience(url, (patient) => step.run(patient, names))
      const meta = db.collection<SchemaRecord>(names.meta)
      await run(startDeadline(), (limit) =>
        meta.updateOne(
          { _id: 'schema', schema: number },
          { $set: { schema: step.number } },
          { ...limit },
        ),
      )
      number = step.number
    }
    return number
  })
}

/** Runs `work` while no other process does. @param work gets the server's clock */
async function withMigrationLease<T>(
  { client, db, names }: Connection,
  work: (now: () => number) => Promise<T>,
): Promise<T> {
  const clock = await startClock(client)
  const leases = db.collection<{ _id: string; holder: string; expiresAt: Date }>(names.meta)
  const holder = randomUUID()
  const giveUpAt = performance.now() + INDEX_DEADLINE_MS
  const take = async (): Promise<boolean> => {
    const now = clock.now()
    const isFree = [{ holder }, { expiresAt: { $lte: new Date(now) } }]
    const expiresAt = new Date(now + MIGRATION_LEASE_MS)
    try {
      await run(startDeadline(), (limit) =>
        leases.updateOne(
          { _id: 'migration', $or: isFree },
          { $set: { holder, expiresAt } },
          { upsert: true, ...limit },
        ),
      )
      return true
    } catch (error) {
      // The document exists, and the filter did not match: another process has the lease.
      if (isDuplicateKey(error)) return false
      throw error
    }
  }
  let timer: NodeJS.Timeout | undefined
  try {
    while (!(await take())) {
      if (performance.now() > giveUpAt) {
        throw new StoreUnavailable('another process has been upgrading the database for too long')
      }
      await delay(MIGRATION_LOOK_MS)
    }
    // A renewal that fails is repeated; a lease that is lost meanwhile lets a step run twice.
    timer = setInterval(() => void take().catch(() => {}), MIGRATION_LEASE_MS / 3)
    return await work(clock.now)
  } finally {
    clearInterval(timer)
    clock.stop()
    // A failure does no harm: the lease expires anyway.
    await leases.deleteOne({ _id: 'migration', holder }).catch(() => {})
  }
}

/**
 * Makes sure that the collections with our names are ours, and marks a database without any of
 * them. Must come before every other write; any number of processes may call it at once.
 */
async function markUnlessUsed(connection: Connection, definitions: Definitions): Promise<void> {
  if ((await readRecord(connection, 'majority')) !== null) return
  const { db, names } = connection
  const used = await usedCollections(db, Object.values(names))
  if (used.length > 0) {
    // Another process may have marked the database meanwhile, and written to these collections.
    if ((await readRecord(connection, 'local')) !== null) return
    throw new StoreUnusable(
      `The database ${db.databaseName} holds ${used.join(', ')}, which Posthorn did not create: ` +
        `${names.meta} has no record of it. Rename these collections, or name another ` +
        'database in STORE_URL.',
    )
  }
  const schema = definitions.migrations.at(-1)?.number as number
  const meta = db.collection<SchemaRecord>(names.meta)
  const record: SchemaRecord = { _id: 'schema', product: 'posthorn', schema }
  try {
    await run(startDeadline(), (limit) => meta.insertOne(record, limit))
  } catch (error) {
    // Another process that starts at the same time was first.
    if (!isDuplicateKey(error)) throw error
  }
}

/** `local` includes what the primary has not replicated yet. */
export function readRecord(
  { db, names }: Connection,
  level: 'local' | 'majority',
): Promise<SchemaRecord | null> {
  const meta = db.collection<SchemaRecord>(names.meta)
  return run(startDeadline(), (limit) =>
    meta.findOne({ _id: 'schema' }, { readConcern: { level }, ...limit }),
  )
}

/** The collections with our names that contain documents, or that are not plain collections. */
async function usedCollections(db: Db, names: string[]): Promise<string[]> {
  const listed = await run(startDeadline(), () =>
    db.listCollections({ name: { $in: names } }, { nameOnly: true }).toArray(),
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

const ADVICE =
  'Nothing is accepted, claimed or recorded until it is back. To continue with the data that is ' +
  'there now, restart every process of Posthorn. A start is refused, and says what to do, if two ' +
  'documents were stored with one key meanwhile'
