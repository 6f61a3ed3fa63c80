// What the parts of the MongoDB store share.
import type { Collection } from 'mongodb'
import type { SecretBox } from '../secret-box.ts'
import type { StoreClock, StoreSettings } from '../store.ts'
import type { EndpointDocument, JobDocument, MetaDocument } from './documents.ts'

export interface MongoContext {
  jobs: Collection<JobDocument>
  endpoints: Collection<EndpointDocument>
  meta: Collection<MetaDocument>
  clock: StoreClock
  box: SecretBox
  settings: StoreSettings
  /** Tells listeners that something may be due. */
  hint(): void
}

export function nowOf(context: MongoContext): Date {
  return new Date(context.clock.now())
}
