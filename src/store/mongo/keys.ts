// API keys: only their SHA-256 is stored, so there is nothing to seal.
import type { Collection } from 'mongodb'
import { COLLECTIONS } from '../collection-names.ts'
import { MAX_KEYS, type StoredKey } from '../records.ts'
import type { MongoContext } from './context.ts'
import { type KeyDocument, keyOf } from './record-documents.ts'
import { run, startDeadline } from './run-command.ts'

/** Of several processes that add the last one at the same moment each may. */
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

function keysIn({ db }: MongoContext): Collection<KeyDocument> {
  return db.collection(COLLECTIONS.keys)
}
