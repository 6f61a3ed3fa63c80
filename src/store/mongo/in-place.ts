// Notices that the database was dropped, or replaced by an older copy without what this version
// needs, while it was in use. Without its unique indexes keys are no longer unique, and nothing
// else would say so.
import { type Db, MongoServerError } from 'mongodb'
import { COLLECTIONS } from '../collection-names.ts'
import { type Store, type StoreSettings, StoreUnavailable } from '../store.ts'
import { JOB_INDEXES } from './indexes.ts'
import { type Deadline, run, startDeadline } from './run-command.ts'

const LOOK_EVERY_MS = 5_000
/** What the server says of a collection that is not there. */
const NAMESPACE_NOT_FOUND = 26

export interface DatabaseInPlace {
  /** Looks, and writes: throws StoreUnavailable unless the database is as it was and takes writes. */
  prove(): Promise<void>
  /** What the last look found; null: all is there. */
  lost(): StoreUnavailable | null
  stop(): void
}

export function watchDatabaseInPlace(
  db: Db,
  settings: Pick<StoreSettings, 'warn' | 'error'>,
): DatabaseInPlace {
  const records = db.collection<{ _id: string; provedAt: Date }>(COLLECTIONS.meta)
  let lost: StoreUnavailable | null = null

  function note(found: string | null): void {
    if (found === (lost?.message ?? null)) return
    lost = found === null ? null : new StoreUnavailable(found, { kind: 'removed' })
    if (found === null) settings.warn({ detail: 'the database is as it was' }, 'store.back')
    else (settings.error ?? settings.warn)({ detail: `${found}. ${ADVICE}` }, 'store.lost')
  }

  async function look(deadline: Deadline): Promise<void> {
    const record = await run(deadline, (limit) => records.findOne({ _id: 'schema' }, { ...limit }))
    if (record === null) return note(`the database ${db.databaseName} was dropped or replaced`)
    const missing = await missingJobIndexes(db, deadline)
    if (missing.length === 0) return note(null)
    note(`${COLLECTIONS.jobs} was dropped or replaced: it lacks the indexes ${missing.join(', ')}`)
  }

  const timer = setInterval(() => {
    // A server that does not answer is met by every other command, too.
    look(startDeadline()).catch(() => {})
  }, LOOK_EVERY_MS)
  timer.unref()

  return {
    async prove() {
      // One for all of it: a probe does not wait for three answers.
      const deadline = startDeadline()
      await look(deadline)
      if (lost !== null) throw lost
      await run(deadline, (limit) =>
        records.updateOne({ _id: 'schema' }, { $set: { provedAt: new Date() } }, { ...limit }),
      )
    },
    lost: () => lost,
    stop: () => clearInterval(timer),
  }
}

const ADVICE =
  'Nothing is accepted, claimed or recorded until it is back. To continue with the data that is ' +
  'there now, restart every process of Posthorn'

async function missingJobIndexes(db: Db, deadline: Deadline): Promise<string[]> {
  const jobs = db.collection(COLLECTIONS.jobs)
  const there = await run(deadline, () => jobs.listIndexes().toArray()).catch((error) => {
    const { cause } = error as Error
    if (cause instanceof MongoServerError && cause.code === NAMESPACE_NOT_FOUND) return []
    throw error
  })
  const names = new Set(there.map(({ name }) => name))
  return Object.keys(JOB_INDEXES).filter((name) => !names.has(name))
}

/** Each verb of the store, refused while the database is lost. */
export function refusedWhileLost(store: Store, lost: () => StoreUnavailable | null): Store {
  // encryptionKeyIds is no command and no promise: a rejection in its place would end the process.
  const always = new Set(['ready', 'close', 'onWork', 'onEnd', 'encryptionKeyIds'])
  const verbs = Object.entries(Object.getOwnPropertyDescriptors(store))
    .filter(([name, { value }]) => typeof value === 'function' && !always.has(name))
    .map(([name, { value }]) => {
      const guarded = (...given: unknown[]) => {
        const error = lost()
        return error === null ? value(...given) : Promise.reject(error)
      }
      return [name, guarded]
    })
  // The rest, a count among it that is asked for each time, is inherited.
  return Object.assign(Object.create(store), Object.fromEntries(verbs)) as Store
}
