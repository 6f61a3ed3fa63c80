// Whether the collections of an outbox may be used. What is moved from there is gone from there, so
// a collection that holds other data of an application is refused before anything is taken. Once
// accepted it is remembered: a document that is wrong later is set aside and stops no start.
import type { Collection } from 'mongodb'
import { COLLECTIONS } from '../collection-names.ts'
import { type OutboxName, outboxNameProblem, REJECTED_SUFFIX } from '../outbox.ts'
import { SettingUnusable } from '../store.ts'
import type { MongoContext } from './context.ts'
import type { OutboxCollection } from './outbox-documents.ts'
import { isDuplicateKey, run, startDeadline } from './run-command.ts'

/** As many documents are looked at, from the beginning. */
const MAX_LOOKED_AT = 100

/** That an outbox was found to hold jobs alone, or nothing, when it was first used. */
interface OutboxRecord {
  _id: `outbox:${string}`
  acceptedAt: Date
}

interface Place {
  name: OutboxName
  waiting: OutboxCollection
  rejected: OutboxCollection
}

/** @throws SettingUnusable with a sentence */
export async function acceptOutbox(context: MongoContext, place: Place): Promise<void> {
  const { database, collection } = place.name
  const problem = outboxNameProblem(place.name)
  if (problem !== null) {
    throw new SettingUnusable(`OUTBOX names ${collection}; expected ${problem}.`)
  }
  await refuseUnmovable(place)
  const records = context.db.collection<OutboxRecord>(COLLECTIONS.meta)
  const _id = `outbox:${database}.${collection}` as const
  const known = await run(startDeadline(), (limit) => records.findOne({ _id }, limit))
  if (known !== null) return
  await refuseOtherData(place)
  await remember(records, { _id, acceptedAt: new Date(context.clock.now()) })
}

/** From a view nothing can be removed, from a capped collection or a time series not everywhere. */
async function refuseUnmovable({ name, waiting, rejected }: Place): Promise<void> {
  const { database } = name
  const names = [waiting.collectionName, rejected.collectionName]
  const listed = await run(startDeadline(), () =>
    waiting.db.listCollections({ name: { $in: names } }).toArray(),
  )
  for (const { name: found, type, ...info } of listed) {
    const isCapped = 'options' in info && info.options?.capped === true
    if (type === 'collection' && !isCapped) continue
    throw new SettingUnusable(
      `OUTBOX needs plain collections, but ${database}.${found} is a ` +
        `${isCapped ? 'capped collection' : type}: documents cannot be moved there. Name another.`,
    )
  }
}

async function refuseOtherData({ name, waiting, rejected }: Place): Promise<void> {
  const { database, collection } = name
  const found = await typesOf(waiting)
  const isJob = ({ endpoint, payload, payloadJson }: FieldTypes) =>
    endpoint === 'string' && (payload !== 'missing' || payloadJson !== 'missing')
  if (found.length > 0 && !found.some(isJob)) {
    throw new SettingUnusable(
      `OUTBOX names ${database}.${collection}, which holds documents that are not jobs: none has ` +
        'an endpoint and a payload. Name a collection that holds outbox documents only.',
    )
  }
  const aside = await typesOf(rejected)
  if (aside.length > 0 && !aside.some(({ reason }) => reason === 'string')) {
    throw new SettingUnusable(
      `Documents of the outbox are set aside in ${database}.${collection}${REJECTED_SUFFIX}, but ` +
        'it holds other documents. Name another collection in OUTBOX.',
    )
  }
}

/** The names of BSON types, or `missing`. */
type FieldTypes = Record<'endpoint' | 'payload' | 'payloadJson' | 'reason', string>

/** Not the values, which may be large. */
function typesOf(collection: OutboxCollection): Promise<FieldTypes[]> {
  const fields = {
    _id: 0,
    endpoint: { $type: '$endpoint' },
    payload: { $type: '$payload' },
    payloadJson: { $type: '$payloadJson' },
    reason: { $type: '$posthornError.reason' },
  }
  return run(startDeadline(), (limit) =>
    collection
      .aggregate<FieldTypes>([{ $limit: MAX_LOOKED_AT }, { $project: fields }], limit)
      .toArray(),
  )
}

async function remember(records: Collection<OutboxRecord>, record: OutboxRecord): Promise<void> {
  try {
    await run(startDeadline(), (limit) => records.insertOne(record, limit))
  } catch (error) {
    // Another process that starts at the same time was first.
    if (!isDuplicateKey(error)) throw error
  }
}
