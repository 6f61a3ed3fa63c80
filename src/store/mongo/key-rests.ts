// The rests of fairness keys: what attempts report of a key, and what ends the rests of all keys of
// an endpoint. A claim parks a key that rests (key-limits.ts).
import type { AnyBulkWriteOperation } from 'mongodb'
import { type KeyHealthReport, keyRestAfter } from '../../endpoint/key-rest.ts'
import { StoreUnavailable } from '../store-errors.ts'
import {
  type Deadline,
  isDuplicateKey,
  type MongoContext,
  NEWEST,
  run,
  startDeadline,
} from './connection.ts'
import {
  type FairnessKeyDocument,
  fairnessKeysIn,
  idOfKey,
  idsOfEndpoint,
  restOf,
  type StoredRest,
  setExpiry,
} from './fairness-keys.ts'
import { randomId } from './job-document.ts'
import { applyKeyLimits, wake } from './key-limits.ts'

/** If several workers report at once, one of them succeeds in each round. */
const MAX_ROUNDS = 20

type SeenKey = { _id: string; rest: StoredRest | undefined }

export async function reportKeyHealth(
  context: MongoContext,
  reports: KeyHealthReport[],
): Promise<void> {
  const deadline = startDeadline()
  const throttled = reports.filter(({ throttle }) => throttle !== null)
  await markEndpoints(context, [...new Set(throttled.map(({ endpoint }) => endpoint))], deadline)
  let open = reports
  for (let round = 0; open.length > 0; round++) {
    if (round === MAX_ROUNDS) {
      throw new StoreUnavailable('the rests of the keys changed each time they were read')
    }
    open = await writeReports(context, open, deadline)
  }
  // These keys recover, and may have room.
  const recovering = reports.filter(({ succeeded }) => succeeded.length > 0)
  await wake(context, recovering, deadline)
}

/** From now on claims read what is stored of the keys of these endpoints. */
async function markEndpoints(
  context: MongoContext,
  names: string[],
  deadline: Deadline,
): Promise<void> {
  if (names.length === 0) return
  await run(deadline, (limit) =>
    context.endpoints.updateMany(
      { _id: { $in: names }, deleting: false },
      { $set: { hasKeySettings: true } },
      limit,
    ),
  )
}

/**
 * Returns the reports whose key changed since it was read. Of several reports, one whose key
 * changed once more after it was written is returned, too: it is then counted twice.
 */
async function writeReports(
  context: MongoContext,
  reports: KeyHealthReport[],
  deadline: Deadline,
): Promise<KeyHealthReport[]> {
  const seen = await readRests(context, reports, deadline)
  const now = context.clock.now()
  const healthId = randomId()
  const expiry = setExpiry(now)
  const changes = reports.flatMap((report) => {
    const stored = seen.get(idOfKey(report)) ?? { rest: undefined }
    const rest = keyRestAfter(restOf(stored), report, now)
    return stored.rest === undefined && rest === null ? [] : [{ report, rest, stored }]
  })
  if (changes.length === 0) return []
  const writes = changes.map(
    ({ report, rest, stored }): AnyBulkWriteOperation<FairnessKeyDocument> => {
      const asRead =
        stored.rest === undefined
          ? { rest: { $exists: false } }
          : { 'rest.healthId': stored.rest.healthId }
      const change =
        rest === null ? { $unset: ['rest'] } : { $set: { rest: { ...rest, healthId } } }
      const filter = { _id: idOfKey(report), ...asRead }
      return { updateOne: { filter, update: [change, expiry], upsert: stored.rest === undefined } }
    },
  )
  const writtenCount = await writeKeys(context, writes, deadline)
  if (writtenCount === writes.length) return []
  const after = await readRests(context, reports, deadline)
  return changes.flatMap(({ report, rest }) => {
    const idNow = after.get(idOfKey(report))?.rest?.healthId
    return idNow === (rest === null ? undefined : healthId) ? [] : [report]
  })
}

async function writeKeys(
  context: MongoContext,
  writes: AnyBulkWriteOperation<FairnessKeyDocument>[],
  deadline: Deadline,
): Promise<number> {
  try {
    const { matchedCount, upsertedCount } = await run(deadline, (limit) =>
      fairnessKeysIn(context).bulkWrite(writes, { ordered: false, ...limit }),
    )
    return matchedCount + upsertedCount
  } catch (error) {
    // Another process has just stored the first rest of one of the keys.
    if (isDuplicateKey(error)) return 0
    throw error
  }
}

async function readRests(
  context: MongoContext,
  keys: KeyHealthReport[],
  deadline: Deadline,
): Promise<Map<string, SeenKey>> {
  const found = await run(deadline, (limit) =>
    fairnessKeysIn(context)
      .find<SeenKey>(
        { _id: { $in: keys.map(idOfKey) } },
        { projection: { rest: 1 }, batchSize: keys.length + 1, ...NEWEST, ...limit },
      )
      .toArray(),
  )
  return new Map(found.map((document) => [document._id, document]))
}

/** Ends the rests of all keys of the endpoint. */
export async function endRests(context: MongoContext, endpoint: string): Promise<void> {
  const deadline = startDeadline()
  const { modifiedCount } = await run(deadline, (limit) =>
    fairnessKeysIn(context).updateMany(
      { _id: idsOfEndpoint(endpoint), rest: { $exists: true } },
      [{ $unset: ['rest'] }, setExpiry(context.clock.now())],
      limit,
    ),
  )
  if (modifiedCount > 0) await applyKeyLimits(context, endpoint, deadline)
}
