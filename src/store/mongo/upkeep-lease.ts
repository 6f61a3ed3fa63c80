// Which process does the upkeep while no worker lives: one document, held by a lease.
import type { Collection } from 'mongodb'
import { COLLECTIONS } from '../collection-names.ts'
import { latestUpkeepEnd, type UpkeepLease } from '../records.ts'
import { type MongoContext, nowOf } from './context.ts'
import { isDuplicateKey, run, startDeadline } from './run-command.ts'

const UPKEEP = 'upkeep'

interface UpkeepDocument {
  _id: typeof UPKEEP
  holder: string
  expiresAt: Date
}

export async function takeUpkeep(
  context: MongoContext,
  { holder, leaseMs }: UpkeepLease,
): Promise<boolean> {
  const now = nowOf(context)
  const expiresAt = new Date(now.getTime() + leaseMs)
  const latest = new Date(latestUpkeepEnd(now.getTime(), leaseMs))
  const isFree = [{ holder }, { expiresAt: { $lte: now } }, { expiresAt: { $gt: latest } }]
  try {
    await run(startDeadline(), (limit) =>
      upkeepIn(context).updateOne(
        { _id: UPKEEP, $or: isFree },
        { $set: { holder, expiresAt } },
        { upsert: true, ...limit },
      ),
    )
    return true
  } catch (error) {
    // It is there, and the filter did not find it: another process has it.
    if (isDuplicateKey(error)) return false
    throw error
  }
}

export async function releaseUpkeep(context: MongoContext, holder: string): Promise<void> {
  await run(startDeadline(), (limit) => upkeepIn(context).deleteOne({ _id: UPKEEP, holder }, limit))
}

function upkeepIn({ db }: MongoContext): Collection<UpkeepDocument> {
  return db.collection(COLLECTIONS.meta)
}
