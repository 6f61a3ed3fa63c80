// The indexes of jobs, each with the query that it serves. Compares the indexes of a database with
// their definitions, and creates, changes and drops what differs. It drops only indexes that an
// earlier version of Posthorn created.
import {
  type Collection,
  type CreateIndexesOptions,
  type Db,
  type Document,
  type IndexSpecification,
  MongoServerError,
} from 'mongodb'
import { StoreUnusable } from '../store-errors.ts'
import { type Deadline, run } from './connection.ts'

export interface IndexDefinition {
  key: Record<string, 1 | -1>
  options: Pick<CreateIndexesOptions, 'unique' | 'expireAfterSeconds' | 'partialFilterExpression'>
}

/** The keys are collections, and then names of indexes. */
export type Indexes = Record<string, Record<string, IndexDefinition>>

/** `cancelled` and `dead`, as a range: MongoDB 5.0 allows no list of values here. */
const UNSUCCESSFUL = { state: { $gte: 'cancelled', $lte: 'dead' } } as const
const WAITING = { partialFilterExpression: { state: 'waiting' } } as const
const BLOCKED = { partialFilterExpression: { state: 'blocked' } } as const
const ofKey = (state: 'running' | 'blocked') =>
  ({
    key: { endpoint: 1, state: 1, fairnessKey: 1 },
    options: { partialFilterExpression: { state, fairnessKey: { $exists: true } } },
  }) as const

/**
 * The keys are names. A changed definition needs a new name, and the old one goes to RETIRED: the
 * new index is created at the start, and `posthorn migrate` then drops the old one. Only the time
 * to live may change under one name.
 *
 * Each change of a job's state inserts and removes entries. Therefore the indexes that hold every
 * job have no state in them, and the others are partial. These have the fields of their condition
 * in the key: otherwise MongoDB reads each document to compare it (SERVER-28889).
 */
export const JOB_INDEXES = {
  /**
   * claim: an endpoint's due jobs by priority, then turn, then runAt, then id; and `due(null)`,
   * which goes from one endpoint's name to the next. With its last fields, a claim chooses jobs
   * without reading a document. To see that, explain the command of findCandidates with
   * `executionStats`: totalDocsExamined is 0.
   */
  claim: {
    key: {
      ...{ endpoint: 1, state: 1, priority: -1, turn: 1, runAt: 1 },
      ...{ _id: 1, expiresAt: 1, payloadBytes: 1, fairnessKey: 1, cost: 1, admitsNext: 1 },
    },
    options: { partialFilterExpression: { state: 'queued' } },
  },
  /** enqueue, claim, and each write that moves a job of a fairness key: the turns of the key. */
  turns: {
    key: {
      ...{ endpoint: 1, state: 1, priority: 1, fairnessKey: 1, turn: -1, runAt: 1 },
      ...{ _id: 1, cost: 1, admitsNext: 1 },
    },
    options: { partialFilterExpression: { state: 'queued', fairnessKey: { $exists: true } } },
  },
  /** claim, and each write that moves a job of a fairness key: the next jobs that are outside. */
  outside: {
    key: {
      ...{ endpoint: 1, state: 1, priority: 1, fairnessKey: 1, runAt: 1, _id: 1 },
      ...{ turn: 1, cost: 1 },
    },
    options: WAITING,
  },
  /** claim: jobs that ran within the limits of their key, and have ended. */
  held: {
    key: { endpoint: 1, held: 1, state: 1, fairnessKey: 1 },
    options: { partialFilterExpression: { held: true } },
  },
  /** claim: keys that are at their limit, and may have room. */
  parked: {
    key: { endpoint: 1, state: 1, turn: 1, priority: -1, parkedUntil: 1 },
    options: { partialFilterExpression: { parkedUntil: { $exists: true } } },
  },
  /** statsOf: jobs that are outside and due. */
  outside_due: { key: { endpoint: 1, state: 1, runAt: 1, promotedAt: 1 }, options: WAITING },
  /** sweep: jobs that are outside and expired. */
  outside_expiry: {
    key: { expiresAt: 1, state: 1 },
    options: { partialFilterExpression: { state: 'waiting', expiresAt: { $gt: new Date(0) } } },
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
    options: { partialFilterExpression: { state: 'queued', expiresAt: { $gt: new Date(0) } } },
  },
  /**
   * enqueue: one job for each idempotency key of an endpoint, whether it made the job or a later
   * request added it by the job's dedupe key.
   */
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
  /** dependentsOf: the jobs that are dead because of one. */
  failed_because: {
    key: { failureJobId: 1, _id: 1 },
    options: { partialFilterExpression: { failureJobId: { $exists: true } } },
  },
  /** deleteJob, sweep: waiting jobs that need the result of a job that is about to be deleted. */
  needed: {
    key: { 'needs.jobId': 1, awaitsInputs: 1, state: 1 },
    options: { partialFilterExpression: { awaitsInputs: true } },
  },
  /** sweep: blocked jobs that are marked to be checked. */
  recheck: {
    key: { state: 1, recheckAt: 1 },
    options: { partialFilterExpression: { state: 'blocked', recheckAt: { $exists: true } } },
  },
  /** sweep: blocked jobs that are not marked, in turn. */
  blocked_round: { key: { state: 1, _id: -1 }, options: BLOCKED },
  /** counts of an endpoint, abandon: its blocked jobs. */
  blocked_of_endpoint: { key: { endpoint: 1, state: 1 }, options: BLOCKED },
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
  /** lists of an endpoint. Those by a state that most jobs have are read from here, too. */
  by_endpoint: { key: { endpoint: 1, _id: -1 }, options: {} },
  /** lists and counts of running jobs, admission, evict. */
  running: {
    key: { endpoint: 1, state: 1, _id: -1 },
    options: { partialFilterExpression: { state: 'running' } },
  },
  /** fairnessKeysOf, claim: the running jobs of a fairness key. */
  running_of_key: ofKey('running'),
  /** fairnessKeysOf: its blocked jobs. */
  blocked_of_key: ofKey('blocked'),
  /** lists of dead or cancelled jobs over all endpoints. */
  unsuccessful: { key: { state: 1, _id: -1 }, options: { partialFilterExpression: UNSUCCESSFUL } },
  /** lists and counts of dead or cancelled jobs of an endpoint. */
  unsuccessful_of_endpoint: {
    key: { endpoint: 1, state: 1, _id: -1 },
    options: { partialFilterExpression: UNSUCCESSFUL },
  },
  /** lists of a group; sweep: the members that a cancel of the group visits. */
  of_group: {
    key: { group: 1, _id: -1 },
    options: { partialFilterExpression: { group: { $exists: true } } },
  },
  /** getGroup: its running members. */
  running_of_group: {
    key: { group: 1, state: 1 },
    options: { partialFilterExpression: { state: 'running', group: { $exists: true } } },
  },
  /** notices of groups; sweep: the members that a retry of the group visits. */
  unsuccessful_of_group: {
    key: { group: 1, state: 1, _id: 1 },
    options: { partialFilterExpression: { ...UNSUCCESSFUL, group: { $exists: true } } },
  },
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
} as const satisfies Record<string, IndexDefinition>

export type JobIndex = keyof typeof JOB_INDEXES

export interface IndexDifference {
  collection: string
  name: string
  /**
   * `not_unique`: its definition differs from that of a unique index, which another one cannot
   * replace. `ttl`: only its expireAfterSeconds differs. `hidden`: the planner does not use it.
   * `retired`: an earlier version created it, and this one does not use it.
   */
  kind: 'missing' | 'not_unique' | 'different' | 'ttl' | 'hidden' | 'retired'
  definition: IndexDefinition
}

/** Follows the name of the index. */
const DIFFERENCE_TEXT: Record<IndexDifference['kind'], string> = {
  missing: 'is missing',
  not_unique: 'has another definition, so that keys may not be unique',
  different: 'has another definition',
  ttl: 'has another time to live',
  hidden: 'is hidden from the query planner',
  retired: 'belongs to an earlier version',
}

/** `migrateDatabase` repairs the others. */
export const REPAIR_BY_HAND = {
  not_unique: 'Drop the index, and run posthorn migrate to create it again.',
  different: 'Drop the index, and run posthorn migrate to create it again.',
  hidden: 'Unhide the index: db.runCommand({collMod: …, index: {name: …, hidden: false}}).',
} as const satisfies Partial<Record<IndexDifference['kind'], string>>

/** @throws StoreUnusable if two jobs could get one idempotency key, one tick or one dedupe key */
export function missingAmong(differences: IndexDifference[]): IndexDifference[] {
  const broken = differences.find(({ kind }) => kind === 'not_unique')
  if (broken === undefined) return differences.filter(({ kind }) => kind === 'missing')
  throw new StoreUnusable(`The index ${differenceText(broken)}. ${REPAIR_BY_HAND.not_unique}`)
}

/** A sentence for each difference that `migrateDatabase` leaves. */
export function repairsByHand(differences: IndexDifference[]): string[] {
  const advice: Partial<Record<IndexDifference['kind'], string>> = REPAIR_BY_HAND
  return differences.flatMap((one) =>
    one.kind in advice ? [`${differenceText(one)}. ${advice[one.kind]}`] : [],
  )
}

export function differenceText({ collection, name, kind }: IndexDifference): string {
  return `${collection}.${name} ${DIFFERENCE_TEXT[kind]}`
}

const UNAUTHORIZED = 13
const INDEX_NOT_FOUND = 27
/** The collection does not exist. */
const NAMESPACE_NOT_FOUND = 26

/** @param retired definitions that earlier versions created */
export async function compareIndexes(
  db: Db,
  wanted: Indexes,
  retired: Indexes,
): Promise<IndexDifference[]> {
  const listed = await db.listCollections({}, { nameOnly: true }).toArray()
  const collections = new Set(listed.map(({ name }) => name))
  const names = new Set([...Object.keys(wanted), ...Object.keys(retired)])
  const differences = [...names].map(async (collection) => {
    // listIndexes of a collection that does not exist is an error.
    const isThere = collections.has(collection)
    const found = isThere ? await db.collection(collection).listIndexes().toArray() : []
    const byName = new Map(found.map((index) => [index.name, index]))
    return [
      ...Object.entries(wanted[collection] ?? {}).flatMap(([name, definition]) => {
        const index = byName.get(name) ?? null
        const kind = differenceOf(index, definition)
        return kind === null ? [] : [{ collection, name, kind, definition }]
      }),
      ...Object.entries(retired[collection] ?? {}).flatMap(([name, definition]) => {
        const index = byName.get(name)
        if (index === undefined || differenceOf(index, definition) !== null) return []
        return [{ collection, name, kind: 'retired' as const, definition }]
      }),
    ]
  })
  return (await Promise.all(differences)).flat()
}

/** Creates the missing indexes. On a large collection this can take minutes. */
export async function createMissing(db: Db, differences: IndexDifference[]): Promise<void> {
  const missing = differences.filter(({ kind }) => kind === 'missing')
  const byCollection = Map.groupBy(missing, ({ collection }) => collection)
  for (const [collection, indexes] of byCollection) {
    const specifications = indexes.map(({ name, definition: { key, options } }) => ({
      ...{ name, key: key as IndexSpecification },
      ...options,
    }))
    try {
      await db.collection(collection).createIndexes(specifications as CreateIndexes)
    } catch (error) {
      throw asRefusal(collection, error)
    }
  }
}

/** A sentence about the first collection that lacks indexes; null: none does. */
export async function lostCollection(
  db: Db,
  wanted: Indexes,
  deadline: Deadline,
): Promise<string | null> {
  const sentences = Object.entries(wanted).map(async ([collection, definitions]) => {
    const there = await namesOf(db.collection(collection), deadline)
    const missing = Object.keys(definitions).filter((name) => !there.has(name))
    if (missing.length === 0) return null
    return `${collection} was dropped or replaced: it lacks the indexes ${missing.join(', ')}`
  })
  return (await Promise.all(sentences)).find((sentence) => sentence !== null) ?? null
}

/** None if the collection does not exist. */
async function namesOf(collection: Collection, deadline: Deadline): Promise<Set<unknown>> {
  const found = await run(deadline, () => collection.listIndexes().toArray()).catch((error) => {
    const { cause } = error as Error
    if (cause instanceof MongoServerError && cause.code === NAMESPACE_NOT_FOUND) return []
    throw error
  })
  return new Set(found.map(({ name }) => name))
}

type CreateIndexes = Parameters<ReturnType<Db['collection']>['createIndexes']>[0]

/** Changes the time to live of one index. The role readWrite does not include collMod. */
export async function changeTtl(
  db: Db,
  { collection, name, definition: { key, options } }: IndexDifference,
): Promise<void> {
  const { expireAfterSeconds } = options
  try {
    await db.command({ collMod: collection, index: { name, expireAfterSeconds } })
  } catch (error) {
    if (!(error instanceof MongoServerError) || error.code !== UNAUTHORIZED) throw error
    await dropIndex(db, collection, name)
    await db.collection(collection).createIndex(key as IndexSpecification, { name, ...options })
  }
}

/** Does nothing if another process has dropped the index meanwhile. */
export async function dropIndex(db: Db, collection: string, name: string): Promise<void> {
  try {
    await db.collection(collection).dropIndex(name)
  } catch (error) {
    if (!(error instanceof MongoServerError) || error.code !== INDEX_NOT_FOUND) throw error
  }
}

function differenceOf(
  index: Document | null,
  { key, options }: IndexDefinition,
): Exclude<IndexDifference['kind'], 'retired'> | null {
  if (index === null) return 'missing'
  const isSame =
    text(index.key) === text(key) &&
    (index.unique ?? false) === (options.unique ?? false) &&
    text(index.partialFilterExpression) === text(options.partialFilterExpression) &&
    OTHER_OPTIONS.every((option) => index[option] === undefined || index[option] === false) &&
    (index.expireAfterSeconds === undefined) === (options.expireAfterSeconds === undefined)
  if (!isSame) return options.unique === true ? 'not_unique' : 'different'
  if (index.expireAfterSeconds !== options.expireAfterSeconds) return 'ttl'
  return index.hidden === true ? 'hidden' : null
}

/** Options that change what an index finds, and that ours never have. */
const OTHER_OPTIONS = ['sparse', 'collation', 'prepareUnique']

/** The keys keep their order, which is a part of the definition. A number may be 1 or Double(1). */
function text(value: unknown): string {
  return JSON.stringify(value ?? null)
}

/** Errors of createIndexes that no repetition can help, by code. */
const REFUSALS: Record<number, (cause: MongoServerError) => string> = {
  // IndexOptionsConflict, IndexKeySpecsConflict
  85: conflictText,
  86: conflictText,
  // DuplicateKey. Its message would quote the keys.
  11000: ({ keyPattern }) =>
    `documents in it have the same ${Object.keys(keyPattern ?? {}).join(' and ')}, which were ` +
    'stored while the index was missing, as after a drop of the collection. Rename the ' +
    'collection, or delete all but one of them (docs/mongodb.md), and start again.',
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
