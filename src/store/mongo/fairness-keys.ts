// What is stored of single fairness keys: their settings, the buckets of their rate limits, and
// their rests. A key without settings has an instant after which MongoDB deletes its document.
import type { AnyBulkWriteOperation, Collection, Document } from 'mongodb'
import {
  DEFAULT_WEIGHT,
  type FairnessKey,
  type KeyBucket,
  type KeySettings,
  type KeyState,
  NEW_KEY,
  weightOf,
} from '../../endpoint/key-limits.ts'
import type { KeyRest } from '../../endpoint/key-rest.ts'
import { type Deadline, type MongoContext, NEWEST, run } from './connection.ts'

/** The settings are written as JSON, so that an absent limit is not null. */
export interface FairnessKeyDocument {
  _id: string
  settings?: string
  version?: number
  updatedAt?: Date
  bucket?: KeyBucket
  rest?: StoredRest
  /** Only without settings. */
  expiresAt?: Date
}

/** `healthId`: random at each write, and the guard of the next one. */
export type StoredRest = KeyRest & { healthId: string }

/** For claims of processes whose clock is behind. */
const KEPT_MS = 60_000

/**
 * The last stage of each update of a key: when MongoDB deletes it. Settings may have been written
 * since the key was read.
 */
export function setExpiry(now: number): Document {
  const neededUntil = { $max: ['$bucket.fullAt', '$rest.keptUntil', now] }
  const expiresAt = { $add: [new Date(KEPT_MS), neededUntil] }
  return {
    $set: { expiresAt: { $cond: [{ $gt: ['$settings', null] }, '$$REMOVE', expiresAt] } },
  }
}

export function fairnessKeysIn({ db, names }: MongoContext): Collection<FairnessKeyDocument> {
  return db.collection<FairnessKeyDocument>(names.fairnessKeys)
}

/** A name has no line break, so that two keys never get one text. */
export function idOfKey({ endpoint, key }: FairnessKey): string {
  return `${endpoint}\n${key}`
}

/** The ids of all keys of an endpoint. */
export function idsOfEndpoint(endpoint: string) {
  return { $gt: `${endpoint}\n`, $lt: `${endpoint}\v` }
}

/** By idOfKey. Nothing is stored of the others. */
export async function findKeys(
  context: MongoContext,
  keys: FairnessKey[],
  deadline: Deadline,
): Promise<Map<string, KeyState>> {
  const ids = [...new Set(keys.map(idOfKey))]
  if (ids.length === 0) return new Map()
  const found = await run(deadline, (limit) =>
    fairnessKeysIn(context)
      .find(
        { _id: { $in: ids } },
        {
          projection: { settings: 1, bucket: 1, rest: 1 },
          ...{ batchSize: ids.length + 1, ...NEWEST, ...limit },
        },
      )
      .toArray(),
  )
  return new Map(found.map((document) => [document._id, stateOf(document)]))
}

export function settingsOf({ settings }: FairnessKeyDocument): KeySettings | null {
  return settings === undefined ? null : (JSON.parse(settings) as KeySettings)
}

function stateOf(document: FairnessKeyDocument): KeyState {
  return { settings: settingsOf(document), bucket: document.bucket ?? null, rest: restOf(document) }
}

export function restOf({ rest }: { rest?: StoredRest | undefined }): KeyRest | null {
  if (rest === undefined) return null
  const { healthId, ...fields } = rest
  return fields
}

/** The weights of these keys. Those of endpoints without settings of keys are not read. */
export async function weightsOf(
  context: MongoContext,
  keys: FairnessKey[],
  hasSettings: (endpoint: string) => boolean,
  deadline: Deadline,
): Promise<(key: FairnessKey) => number> {
  const asked = keys.filter(({ endpoint }) => hasSettings(endpoint))
  if (asked.length === 0) return () => DEFAULT_WEIGHT
  const found = await findKeys(context, asked, deadline)
  return (key) => weightOf(found.get(idOfKey(key)) ?? NEW_KEY)
}

/** Stores what a claim took, within the admission of the endpoint. */
export async function setBuckets(
  context: MongoContext,
  buckets: { id: string; bucket: KeyBucket }[],
  deadline: Deadline,
): Promise<void> {
  if (buckets.length === 0) return
  const expiry = setExpiry(context.clock.now())
  const writes = buckets.map(({ id, bucket }): AnyBulkWriteOperation<FairnessKeyDocument> => {
    const update = [{ $set: { bucket } }, expiry]
    return { updateOne: { filter: { _id: id }, update, upsert: true } }
  })
  await run(deadline, (limit) =>
    fairnessKeysIn(context).bulkWrite(writes, { ordered: false, ...limit }),
  )
}

/** The endpoint is deleted. */
export async function forgetKeys(
  context: MongoContext,
  endpoint: string,
  deadline: Deadline,
): Promise<void> {
  await run(deadline, (limit) =>
    fairnessKeysIn(context).deleteMany({ _id: idsOfEndpoint(endpoint) }, limit),
  )
}
