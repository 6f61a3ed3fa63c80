// Smaller records: workers, the lease of the upkeep, minute statistics, API keys, and the mode of
// the API, which workers read. TTL indexes delete old workers and minute statistics.
import type { AnyBulkWriteOperation, Collection } from 'mongodb'
import { type KeyScope, MAX_KEYS, type StoredKey } from '../api-key.ts'
import type { ApiMode } from '../api-mode.ts'
import {
  DURATION_BOUNDS_MS,
  MAX_MINUTE_STATS_READ,
  MINUTE_MS,
  MINUTE_STATS_KEPT_MS,
  type MinuteStats,
  type MinuteStatsRange,
  type MinuteStatsReport,
  minuteOf,
  refuseTooMany,
  wholeMinutes,
} from '../minute-stats.ts'
import { StoreUnavailable } from '../store-errors.ts'
import { latestUpkeepEnd, type StoredUpkeepLease, type UpkeepLease } from '../upkeep-lease.ts'
import {
  MAX_WORKERS,
  WORKER_KEPT_MS,
  type WorkerRecord,
  type WorkerReport,
} from '../worker-liveness.ts'
import {
  type Deadline,
  isDuplicateKey,
  isOnlyDuplicateKeys,
  type MongoContext,
  nowOf,
  run,
  startDeadline,
} from './connection.ts'
import type { IndexDefinition } from './indexes.ts'

/** The keys are collections, then names, as in JOB_INDEXES (indexes.ts). */
export const RECORD_INDEXES = {
  schedules: {
    /** dueSchedules. Those without a next tick have null here, which no instant matches. */
    due: { key: { paused: 1, nextRunAt: 1, _id: 1 }, options: {} },
    /** deleteEndpoint: whether a schedule names it. */
    by_endpoint: { key: { endpoint: 1, _id: 1 }, options: {} },
  },
  keys: {
    hash: { key: { hash: 1 }, options: { unique: true } },
    /** listKeys: oldest first. */
    by_age: { key: { createdAt: 1, _id: 1 }, options: {} },
  },
  fairnessKeys: {
    /** putFairnessKey: how many keys of an endpoint have settings. */
    with_settings: {
      key: { _id: 1, version: 1 },
      options: { partialFilterExpression: { settings: { $exists: true } } },
    },
    /** The TTL of keys without settings. */
    unneeded: { key: { expiresAt: 1 }, options: { expireAfterSeconds: 0 } },
  },
  workers: {
    /** listWorkers; also the TTL of workers that stopped reporting. */
    seen: { key: { seenAt: 1 }, options: { expireAfterSeconds: WORKER_KEPT_MS / 1_000 } },
  },
  minuteStats: {
    /** minuteStatsSince; also their TTL. */
    by_minute: {
      key: { minute: 1 },
      options: { expireAfterSeconds: MINUTE_STATS_KEPT_MS / 1_000 },
    },
  },
} as const satisfies Record<string, Record<string, IndexDefinition>>

interface KeyDocument {
  _id: string
  name: string
  scope: KeyScope
  /** The SHA-256 of the key, in base64. */
  hash: string
  createdAt: Date
}

interface WorkerDocument {
  _id: string
  version: string
  startedAt: Date
  concurrency: number
  inFlight: number
  keyIds: string[]
  seenAt: Date
}

interface MinuteStatsDocument {
  /** The minute and the endpoint, so that all workers add to the same document. */
  _id: string
  minute: Date
  endpoint: string
  succeeded: number
  failed: number
  /** Counts by bucket, without those that are 0. */
  durations?: Record<string, number>
  /** For each writer, the number of its last report. */
  reports: Record<string, number>
}

const UPKEEP = 'upkeep'

interface UpkeepDocument {
  _id: typeof UPKEEP
  holder: string
  isStandby: boolean
  expiresAt: Date
}

/** If two workers create a document at once, the second one finds it in the next round. */
const MAX_ROUNDS = 3
/** The buckets are named by their upper bound in ms, for people who look into the database. */
const BUCKETS = [...DURATION_BOUNDS_MS.map(String), 'above']

type ApiModeDocument = { _id: 'api_mode' } & ApiMode

export async function reportWorker(context: MongoContext, report: WorkerReport): Promise<void> {
  await run(startDeadline(), (limit) =>
    workersIn(context).updateOne(
      { _id: report.id },
      { $set: workerFields(report, nowOf(context)) },
      { upsert: true, ...limit },
    ),
  )
}

export async function removeWorker(context: MongoContext, id: string): Promise<void> {
  await run(startDeadline(), (limit) => workersIn(context).deleteOne({ _id: id }, limit))
}

/**
 * Returns the workers. Beyond the limit only the most recent reports count, so that dead workers do
 * not displace live ones.
 */
export async function listWorkers(context: MongoContext): Promise<WorkerRecord[]> {
  const since = new Date(context.clock.now() - WORKER_KEPT_MS)
  const found = await run(startDeadline(), (limit) =>
    workersIn(context)
      .find(
        { seenAt: { $gt: since } },
        {
          sort: { seenAt: -1 },
          limit: MAX_WORKERS,
          batchSize: MAX_WORKERS + 1,
          ...limit,
        },
      )
      .toArray(),
  )
  return found.map(workerOf).sort((a, b) => (a.id < b.id ? -1 : 1))
}

export async function upkeepLease(context: MongoContext): Promise<StoredUpkeepLease | null> {
  const found = await run(startDeadline(), (limit) =>
    upkeepIn(context).findOne({ _id: UPKEEP }, { ...limit }),
  )
  if (found === null) return null
  const { holder, isStandby, expiresAt } = found
  return { holder, isStandby, expiresAt: expiresAt.getTime() }
}

/** The filter is mayTakeUpkeep. */
export async function takeUpkeep(
  context: MongoContext,
  { holder, isStandby, leaseMs }: UpkeepLease,
): Promise<boolean> {
  const now = nowOf(context)
  const expiresAt = new Date(now.getTime() + leaseMs)
  const latest = new Date(latestUpkeepEnd(now.getTime(), leaseMs))
  const isFree = [
    { holder },
    { expiresAt: { $lte: now } },
    { expiresAt: { $gt: latest } },
    ...(isStandby ? [] : [{ isStandby: true }]),
  ]
  try {
    await run(startDeadline(), (limit) =>
      upkeepIn(context).updateOne(
        { _id: UPKEEP, $or: isFree },
        { $set: { holder, isStandby, expiresAt } },
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

export async function releaseUpkeep(context: MongoContext, holder: string): Promise<void> {
  await run(startDeadline(), (limit) => upkeepIn(context).deleteOne({ _id: UPKEEP, holder }, limit))
}

export async function addMinuteStats(
  context: MongoContext,
  stats: MinuteStats[],
  report: MinuteStatsReport,
): Promise<void> {
  refuseTooMany(stats)
  const deadline = startDeadline()
  let open = stats
  for (let round = 0; open.length > 0; round++) {
    if (round === MAX_ROUNDS) {
      throw new StoreUnavailable(
        'other processes created the minute statistics each time this one tried to add to them',
      )
    }
    const refused = await add(context, open, report, deadline)
    open = refused.length === 0 ? [] : await notAdded(context, refused, report, deadline)
  }
}

export async function minuteStatsSince(
  context: MongoContext,
  instant: number,
  endpoint: string | null,
): Promise<MinuteStatsRange> {
  if (endpoint !== null) return minuteStatsOfOne(context, instant, endpoint)
  const found = await run(startDeadline(), (limit) =>
    minuteStatsIn(context)
      .find(
        { minute: { $gte: new Date(minuteOf(instant)) } },
        { sort: { minute: -1 }, limit: MAX_MINUTE_STATS_READ + 1, ...limit },
      )
      .toArray(),
  )
  return wholeMinutes(found.map(minuteStatsOf))
}

/** Several processes that add the last allowed key at once may all succeed. */
export async function addKey(context: MongoContext, key: StoredKey): Promise<'added' | 'full'> {
  const deadline = startDeadline()
  const count = await run(deadline, (limit) =>
    keysIn(context).countDocuments({ _id: { $gt: '' } }, { limit: MAX_KEYS, ...limit }),
  )
  if (count >= MAX_KEYS) return 'full'
  const { id, createdAt, ...fields } = key
  await run(deadline, (limit) =>
    keysIn(context).insertOne({ _id: id, ...fields, createdAt: new Date(createdAt) }, { ...limit }),
  )
  return 'added'
}

export async function listKeys(context: MongoContext): Promise<StoredKey[]> {
  const found = await run(startDeadline(), (limit) =>
    keysIn(context)
      .find(
        {},
        {
          sort: { createdAt: 1, _id: 1 },
          limit: MAX_KEYS,
          batchSize: MAX_KEYS + 1,
          ...limit,
        },
      )
      .toArray(),
  )
  return found.map(keyOf)
}

export async function removeKey(context: MongoContext, id: string): Promise<boolean> {
  const { deletedCount } = await run(startDeadline(), (limit) =>
    keysIn(context).deleteOne({ _id: id }, limit),
  )
  return deletedCount === 1
}

export async function writeApiMode(context: MongoContext, mode: ApiMode): Promise<void> {
  await run(startDeadline(), (limit) =>
    apiModeIn(context).updateOne({ _id: 'api_mode' }, { $set: mode }, { upsert: true, ...limit }),
  )
}

export async function readApiMode(context: MongoContext): Promise<ApiMode | null> {
  const found = await run(startDeadline(), (limit) =>
    apiModeIn(context).findOne({ _id: 'api_mode' }, { ...limit }),
  )
  return found === null ? null : { localMode: found.localMode, publicUrl: found.publicUrl }
}

function keyOf({ _id, createdAt, ...key }: KeyDocument): StoredKey {
  return { id: _id, ...key, createdAt: createdAt.getTime() }
}

function workerFields({ id, startedAt, ...report }: WorkerReport, seenAt: Date) {
  return { ...report, startedAt: new Date(startedAt), seenAt } satisfies Omit<WorkerDocument, '_id'>
}

function workerOf(document: WorkerDocument): WorkerRecord {
  const { _id, startedAt, seenAt, ...report } = document
  return { id: _id, ...report, startedAt: startedAt.getTime(), seenAt: seenAt.getTime() }
}

function workersIn({ db, names }: MongoContext): Collection<WorkerDocument> {
  return db.collection(names.workers)
}

function upkeepIn({ db, names }: MongoContext): Collection<UpkeepDocument> {
  return db.collection(names.meta)
}

/**
 * Returns the additions whose document another process just created, or that have this report
 * already.
 */
async function add(
  context: MongoContext,
  stats: MinuteStats[],
  report: MinuteStatsReport,
  deadline: Deadline,
): Promise<MinuteStats[]> {
  const operations = stats.map((one) => additionOf(one, report))
  try {
    await run(deadline, (limit) =>
      minuteStatsIn(context).bulkWrite(operations, { ordered: false, ...limit }),
    )
    return []
  } catch (error) {
    if (!isOnlyDuplicateKeys(error)) throw error
    const failed = new Set([error.writeErrors].flat().map(({ index }) => index))
    return stats.filter((_, index) => failed.has(index))
  }
}

async function notAdded(
  context: MongoContext,
  stats: MinuteStats[],
  { writer, number }: MinuteStatsReport,
  deadline: Deadline,
): Promise<MinuteStats[]> {
  const ids = stats.map(({ minute, endpoint }) => idOf(minute, endpoint))
  const found = await run(deadline, (limit) =>
    minuteStatsIn(context)
      .find(
        { _id: { $in: ids }, [`reports.${writer}`]: { $gte: number } },
        { projection: { _id: 1 }, batchSize: ids.length + 1, ...limit },
      )
      .toArray(),
  )
  const added = new Set(found.map(({ _id }) => _id))
  return stats.filter(({ minute, endpoint }) => !added.has(idOf(minute, endpoint)))
}

/** Reads by id, so that it reads no statistics of other endpoints. */
async function minuteStatsOfOne(
  context: MongoContext,
  instant: number,
  endpoint: string,
): Promise<MinuteStatsRange> {
  const now = context.clock.now()
  const ids: string[] = []
  const first = minuteOf(Math.max(instant, now - MINUTE_STATS_KEPT_MS))
  for (let minute = first; minute <= now; minute += MINUTE_MS) ids.push(idOf(minute, endpoint))
  const found = await run(startDeadline(), (limit) =>
    minuteStatsIn(context)
      .find({ _id: { $in: ids } }, { batchSize: ids.length + 1, ...limit })
      .toArray(),
  )
  const stats = found.map(minuteStatsOf).sort((a, b) => a.minute - b.minute)
  return { stats, more: false }
}

function idOf(minute: number, endpoint: string): string {
  return `${minute} ${endpoint}`
}

/**
 * The counts are an object, because $inc creates fields of objects, but not elements of arrays. A
 * document that has the report already does not match, so that the upsert fails by its id.
 */
function additionOf(
  { minute, endpoint, succeeded, failed, durations }: MinuteStats,
  { writer, number }: MinuteStatsReport,
): AnyBulkWriteOperation<MinuteStatsDocument> {
  const counts = durations.flatMap((count, i) =>
    count === 0 ? [] : [[`durations.${BUCKETS[i]}`, count]],
  )
  const last = `reports.${writer}`
  return {
    updateOne: {
      // $ne would not be enough: a repeated write may come after a later report.
      filter: { _id: idOf(minute, endpoint), [last]: { $not: { $gte: number } } },
      update: {
        $setOnInsert: { minute: new Date(minute), endpoint },
        $set: { [last]: number },
        $inc: { succeeded, failed, ...Object.fromEntries(counts) },
      },
      upsert: true,
    },
  }
}

function minuteStatsOf({ minute, endpoint, succeeded, failed, durations }: MinuteStatsDocument) {
  const counts = BUCKETS.map((bucket) => durations?.[bucket] ?? 0)
  return { minute: minute.getTime(), endpoint, succeeded, failed, durations: counts }
}

function minuteStatsIn({ db, names }: MongoContext): Collection<MinuteStatsDocument> {
  return db.collection(names.minuteStats)
}

function keysIn({ db, names }: MongoContext): Collection<KeyDocument> {
  return db.collection(names.keys)
}

function apiModeIn({ db, names }: MongoContext): Collection<ApiModeDocument> {
  return db.collection(names.meta)
}
