// What is stored of single fairness keys: their settings, and the buckets of their rate limits. A
// key without settings has an instant after which MongoDB deletes its document.
import type { AnyBulkWriteOperation, Collection } from 'mongodb'
import {
  DEFAULT_WEIGHT,
  type FairnessKey,
  type KeyBucket,
  type KeySettings,
  type KeyState,
  NEW_KEY,
  weightOf,
} from '../../endpoint/key-limits.ts'
import { type Deadline, type MongoContext, NEWEST, run } from './connection.ts'

/** The settings are written as JSON, so that an absent limit is not null. */
export interface FairnessKeyDocument {
  _id: string
  settings?: string
  version?: number
  updatedAt?: Date
  bucket?: KeyBucket
  /** Only without settings. */
  bucketExpiresAt?: Date
}

/** For claims of processes whose clock is behind. */
const BUCKET_KEPT_MS = 60_000

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
          projection: { settings: 1, bucket: 1 },
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
  return { settings: settingsOf(document), bucket: document.bucket ?? null }
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
  const writes = buckets.map(({ id, bucket }): AnyBulkWriteOperation<FairnessKeyDocument> => {
    const fields = {
      bucket,
      // Settings may have been written since the key was read.
      bucketExpiresAt: {
        $cond: [{ $gt: ['$settings', null] }, '$$REMOVE', bucketExpiry(bucket.fullAt)],
      },
    }
    return { updateOne: { filter: { _id: id }, update: [{ $set: fields }], upsert: true } }
  })
  await run(deadline, (limit) =>
    fairnessKeysIn(context).bulkWrite(writes, { ordered: false, ...limit }),
  )
}

/** @param fullAt epoch milliseconds, with fractions */
export function bucketExpiry(fullAt: number): Date {
  return new Date(Math.ceil(fullAt) + BUCKET_KEPT_MS)
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
