// What the API tells the workers about itself, as one document that they read.
import type { Collection } from 'mongodb'
import { COLLECTIONS } from '../collection-names.ts'
import type { ApiMode } from '../records.ts'
import type { MongoContext } from './context.ts'
import { run, startDeadline } from './run-command.ts'

type ApiModeDocument = { _id: 'api_mode' } & ApiMode

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

function apiModeIn({ db }: MongoContext): Collection<ApiModeDocument> {
  return db.collection(COLLECTIONS.meta)
}
