// What every verb of the SQLite store works with.
import type { End, EndListeners } from '../ends.ts'
import type { StoreSettings } from '../store.ts'
import type { UnreadableSchedules } from '../unreadable-schedules.ts'
import type { SqliteClock } from './clock.ts'
import type { Connection } from './connection.ts'
import type { KeyRing } from './key-file.ts'
import type { Watch } from './watch.ts'

export interface Database {
  connection: Connection
  clock: SqliteClock
  keys: KeyRing
  watch: Watch
  settings: StoreSettings
  ends: EndListeners
  unreadable: UnreadableSchedules
  /** How far the look for jobs of missing endpoints has come on its way round the names. */
  burial: { lookedUpTo: string }
  /** And the one for held jobs that somebody forgot. */
  rechecks: { endpoint: string; seq: number }
}

/** To be called in the transaction that ends it; told once that is committed. */
export function tellEnd({ connection, ends }: Database, end: End): void {
  connection.afterCommit(() => ends.tell(end))
}
