// What the parts of the MongoDB store share.
import type { Collection, Db } from 'mongodb'
import type { EndListeners } from '../ends.ts'
import type { SecretBox } from '../secret-box.ts'
import type { StoreClock, StoreSettings } from '../store.ts'
import type { UnreadableSchedules } from '../unreadable-schedules.ts'
import type { JobDocument } from './documents.ts'
import type { EndpointDocument } from './endpoint-documents.ts'

export interface MongoContext {
  db: Db
  jobs: Collection<JobDocument>
  endpoints: Collection<EndpointDocument>
  clock: StoreClock
  box: SecretBox
  settings: StoreSettings
  unreadable: UnreadableSchedules
  debts: KnownDebts
  ends: EndListeners
  /** Tells listeners that something may be due. */
  hint(): void
}

export interface KnownDebts {
  noteClaimed(jobs: Pick<JobDocument, '_id' | 'owes'>[]): void
  /** Another job depends on these by now. */
  noteOwing(jobIds: string[]): void
  /** Those that owe something or that nobody here knows; from here on none of them is known. */
  takeOwing(jobIds: string[]): string[]
}

export function nowOf(context: MongoContext): Date {
  return new Date(context.clock.now())
}
