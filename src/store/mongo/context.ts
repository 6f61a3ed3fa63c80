// What the parts of the MongoDB store share.
import type { Collection } from 'mongodb'
import type { EndListeners } from '../ends.ts'
import type { OutboxName } from '../outbox.ts'
import type { SecretBox } from '../secret-box.ts'
import type { StoreClock, StoreSettings } from '../store.ts'
import type { UnreadableSchedules } from '../unreadable-schedules.ts'
import type { KnownDebts } from './debts.ts'
import type { JobDocument, MetaDocument, OutboxRecord, UpkeepDocument } from './documents.ts'
import type { EndpointDocument } from './endpoint-documents.ts'
import type { OutboxCollection } from './outbox-documents.ts'
import type { RecordCollections } from './record-documents.ts'

export interface MongoContext extends RecordCollections {
  jobs: Collection<JobDocument>
  endpoints: Collection<EndpointDocument>
  meta: Collection<MetaDocument>
  /** In the same collection. */
  upkeep: Collection<UpkeepDocument>
  outboxRecords: Collection<OutboxRecord>
  clock: StoreClock
  box: SecretBox
  settings: StoreSettings
  unreadable: UnreadableSchedules
  debts: KnownDebts
  ends: EndListeners
  /** Also one that is no longer set: its jobs may not be done. */
  outboxCollection(name: OutboxName): OutboxCollection
  /** Tells listeners that something may be due. */
  hint(): void
}

export function nowOf(context: MongoContext): Date {
  return new Date(context.clock.now())
}
