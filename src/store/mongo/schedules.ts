// Schedules: their settings are encrypted; compare-and-set advances them from tick to tick.
import type { Collection, Filter } from 'mongodb'
import { type IfVersion, isMet } from '../precondition.ts'
import type {
  DeleteScheduleResult,
  Page,
  PutScheduleResult,
  Schedule,
  ScheduleChange,
  ScheduleMove,
} from '../store.ts'
import { StoreUnavailable } from '../store-errors.ts'
import {
  type Deadline,
  isDuplicateKey,
  type MongoContext,
  NEWEST,
  nowOf,
  run,
  startDeadline,
} from './connection.ts'
import { ownBytes } from './job-document.ts'

/**
 * The most tries of a change. More changes by others within 3 s mean that two deployments overwrite
 * each other.
 */
const MAX_ROUNDS = 10
/** A server that flushes for each of them completes so many within the deadline. */
const MOVED_PER_COMMAND = 200
/** Payloads in one result, which are in memory together. A page ends once it has this many. */
const MAX_ANSWER_BYTES = 16 * 1024 * 1024

export interface ScheduleDocument {
  /** The name of the schedule. */
  _id: string
  endpoint: string
  paused: boolean
  /** The encrypted settings. */
  settings: string
  payload: Uint8Array
  nextRunAt: Date | null
  lastJobId: string | null
  lastError: string | null
  createdAt: Date
  updatedAt: Date
  version: number
}

/** Does not decrypt the stored settings, so that a schedule with a lost key can be replaced. */
export async function putSchedule(
  context: MongoContext,
  change: ScheduleChange,
  ifVersion: IfVersion,
): Promise<PutScheduleResult> {
  const deadline = startDeadline()
  for (let round = 0; round < MAX_ROUNDS; round++) {
    const version = await versionOf(context, change.name, deadline)
    if (!isMet(ifVersion, version)) return { kind: 'stale', version }
    if (!(await endpointAccepts(context, change.endpoint, deadline)))
      return { kind: 'unknown_endpoint' }
    const written =
      version === null
        ? await insertSchedule(context, change, deadline)
        : await replaceSchedule(context, change, version, deadline)
    if (written === null) continue
    const schedule = scheduleOf(written, change.settings)
    return { kind: version === null ? 'created' : 'replaced', schedule }
  }
  throw new StoreUnavailable('the schedule changed each time it was read')
}

/** Throws StoreUnusable if no key decrypts its settings. */
export async function getSchedule(context: MongoContext, name: string): Promise<Schedule | null> {
  const found = await run(startDeadline(), (limit) =>
    schedulesIn(context).findOne({ _id: name }, { ...limit }),
  )
  if (found === null) return null
  return scheduleOf(found, context.box.open(found.settings, name))
}

export async function listSchedules(
  context: MongoContext,
  after: string | null,
  limit: number,
): Promise<Page<Schedule>> {
  const filter = after === null ? {} : { _id: { $gt: after } }
  const { documents, isAll } = await readSchedules(context, filter, { _id: 1 }, limit)
  const next = isAll ? null : (documents.at(-1)?._id ?? null)
  return { items: decryptable(context, documents), next }
}

export async function deleteSchedule(
  context: MongoContext,
  name: string,
  ifVersion: number | null,
): Promise<DeleteScheduleResult> {
  const deadline = startDeadline()
  const { deletedCount } = await run(deadline, (limit) =>
    schedulesIn(context).deleteOne(
      { _id: name, ...(ifVersion === null ? {} : { version: ifVersion }) },
      limit,
    ),
  )
  if (deletedCount === 1) return { kind: 'deleted' }
  const version = ifVersion === null ? null : await versionOf(context, name, deadline)
  return version === null ? { kind: 'not_found' } : { kind: 'stale', version }
}

export async function dueSchedules(context: MongoContext, limit: number): Promise<Schedule[]> {
  const passedOver = context.undecryptable.names()
  const due = { paused: false, nextRunAt: { $lte: nowOf(context) } }
  const filter = passedOver.length === 0 ? due : { ...due, _id: { $nin: passedOver } }
  const { documents } = await readSchedules(context, filter, { nextRunAt: 1 }, limit, NEWEST)
  return decryptable(context, documents)
}

export async function advanceSchedules(
  context: MongoContext,
  moves: ScheduleMove[],
): Promise<void> {
  const operations = moves.map(({ name, version, tickAt, nextRunAt, lastJobId, lastError }) => ({
    updateOne: {
      filter: { _id: name, version, nextRunAt: tickAt === null ? null : new Date(tickAt) },
      update: {
        $set: {
          nextRunAt: nextRunAt === null ? null : new Date(nextRunAt),
          lastError,
          ...(lastJobId === undefined ? {} : { lastJobId }),
        },
      },
    },
  }))
  for (let i = 0; i < operations.length; i += MOVED_PER_COMMAND) {
    const some = operations.slice(i, i + MOVED_PER_COMMAND)
    await run(startDeadline(), (limit) =>
      schedulesIn(context).bulkWrite(some, { ordered: false, ...limit }),
    )
  }
}

export function schedulesIn({ db, names }: MongoContext): Collection<ScheduleDocument> {
  return db.collection(names.schedules)
}

/** The first documents, and whether these are all. The server sends at most 16 MiB at once. */
function readSchedules(
  context: MongoContext,
  filter: Filter<ScheduleDocument>,
  sort: Record<string, 1>,
  limit: number,
  concern: Partial<typeof NEWEST> = {},
): Promise<{ documents: ScheduleDocument[]; isAll: boolean }> {
  return run(startDeadline(), async (commandLimit) => {
    const documents: ScheduleDocument[] = []
    let bytes = 0
    const most = { limit: limit + 1, batchSize: limit + 2 }
    for await (const document of schedulesIn(context).find(filter, {
      sort,
      ...most,
      ...concern,
      ...commandLimit,
    })) {
      if (documents.length === limit || bytes > MAX_ANSWER_BYTES) return { documents, isAll: false }
      bytes += document.payload.byteLength
      documents.push(document)
    }
    return { documents, isAll: true }
  })
}

function decryptable(
  { box, undecryptable }: MongoContext,
  documents: ScheduleDocument[],
): Schedule[] {
  return documents.flatMap((document) => {
    const { _id, settings } = document
    const opened = undecryptable.tryDecrypt(_id, () => box.open(settings, _id))
    return opened === null ? [] : [scheduleOf(document, opened)]
  })
}

async function versionOf(
  context: MongoContext,
  name: string,
  deadline: Deadline,
): Promise<number | null> {
  const found = await run(deadline, (limit) =>
    schedulesIn(context).findOne({ _id: name }, { projection: { version: 1 }, ...limit }),
  )
  return found?.version ?? null
}

async function endpointAccepts(
  context: MongoContext,
  name: string,
  deadline: Deadline,
): Promise<boolean> {
  const found = await run(deadline, (limit) =>
    context.endpoints.findOne(
      { _id: name, deleting: false },
      { projection: { _id: 1 }, ...NEWEST, ...limit },
    ),
  )
  return found !== null
}

/** Returns null if another process created it meanwhile. */
async function insertSchedule(
  context: MongoContext,
  change: ScheduleChange,
  deadline: Deadline,
): Promise<ScheduleDocument | null> {
  const fields = fieldsOf(context, change)
  const document: ScheduleDocument = {
    _id: change.name,
    ...fields,
    lastJobId: null,
    lastError: null,
    createdAt: fields.updatedAt,
    version: 1,
  }
  try {
    await run(deadline, (limit) => schedulesIn(context).insertOne(document, { ...limit }))
    return document
  } catch (error) {
    if (isDuplicateKey(error)) return null
    throw error
  }
}

/** Returns null if it has another version by now. The outcome of the last tick stays. */
async function replaceSchedule(
  context: MongoContext,
  change: ScheduleChange,
  version: number,
  deadline: Deadline,
): Promise<ScheduleDocument | null> {
  const fields = fieldsOf(context, change)
  const stored = await run(deadline, (limit) =>
    schedulesIn(context).findOneAndUpdate(
      { _id: change.name, version },
      { $set: fields, $inc: { version: 1 } },
      { returnDocument: 'after', projection: { payload: 0 }, ...limit },
    ),
  )
  return stored === null ? null : { ...stored, payload: fields.payload }
}

function fieldsOf(context: MongoContext, change: ScheduleChange) {
  return {
    endpoint: change.endpoint,
    paused: change.paused,
    settings: context.box.seal(change.settings, change.name),
    payload: change.payload,
    nextRunAt: change.nextRunAt === null ? null : new Date(change.nextRunAt),
    updatedAt: nowOf(context),
  }
}

/** @param settings decrypted */
function scheduleOf(document: ScheduleDocument, settings: string): Schedule {
  return {
    name: document._id,
    endpoint: document.endpoint,
    paused: document.paused,
    settings,
    payload: ownBytes(document.payload),
    nextRunAt: document.nextRunAt?.getTime() ?? null,
    lastJobId: document.lastJobId,
    lastError: document.lastError,
    createdAt: document.createdAt.getTime(),
    updatedAt: document.updatedAt.getTime(),
    version: document.version,
  }
}
