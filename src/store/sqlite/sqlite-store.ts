// The store on one SQLite file, shared by all processes of one machine. This is its table of
// contents: each verb is in the file named after it.
import { resolve } from 'node:path'
import { type Store, type StoreSettings, StoreUnusable } from '../store.ts'
import { claim } from './claim.ts'
import { createClock } from './clock.ts'
import { cancel, retry } from './commands.ts'
import { createConnection } from './connection.ts'
import type { Database } from './database.ts'
import { due } from './due.ts'
import {
  countJobs,
  deleteEndpoint,
  endpointsNamed,
  listEndpoints,
  proveKeys,
  putEndpoint,
  readApiMode,
  writeApiMode,
} from './endpoints.ts'
import { enqueue } from './enqueue.ts'
import { finalAmong, getJob, getPayload, listJobs } from './jobs.ts'
import { createKeyRing } from './key-file.ts'
import { openFile } from './open-file.ts'
import { release, renew, settle } from './settle.ts'
import { sweep } from './sweep.ts'
import { createWatch } from './watch.ts'

/** Opens the file at `path`, making it where it is missing. Throws StoreUnusable. */
export async function openSqliteStore(path: string, settings: StoreSettings): Promise<Store> {
  if (path === '') throw new StoreUnusable('STORE_URL names no file: sqlite:PATH is expected')
  // Resolved, so that no path is taken for one of SQLite's special names.
  const file = resolve(path)
  const connection = createConnection(await openFile(file), file)
  const database: Database = {
    connection,
    clock: createClock(),
    keys: createKeyRing(file, settings.encryptionKeys),
    watch: createWatch(connection, file),
    settings,
    burial: { lookedUpTo: '' },
  }
  try {
    await proveKeys(database)
  } catch (error) {
    await connection.close()
    throw error
  }
  return createStore(database)
}

function createStore(database: Database): Store {
  const { clock, connection, watch } = database
  return {
    clock,
    get commandCount() {
      return connection.commandCount
    },
    enqueue: (jobs) => enqueue(database, jobs),
    due: (since) => due(database, since),
    claim: (lanes, limit, holder) => claim(database, lanes, limit, holder),
    settle: (settlements) => settle(database, settlements),
    renew: (leases, leaseMs) => renew(database, leases, leaseMs),
    release: (leases) => release(database, leases),
    sweep: (options) => sweep(database, options),
    cancel: (ids) => cancel(database, ids),
    retry: (ids) => retry(database, ids),
    getJob: (id) => getJob(database, id),
    getPayload: (id) => getPayload(database, id),
    listJobs: (query) => listJobs(database, query),
    finalAmong: (ids) => finalAmong(database, ids),
    putEndpoint: (settings, secrets, ifVersion) =>
      putEndpoint(database, settings, secrets, ifVersion),
    endpointsNamed: (names) => endpointsNamed(database, names),
    listEndpoints: (after, limit) => listEndpoints(database, after, limit),
    countJobs: (names) => countJobs(database, names),
    deleteEndpoint: (name, options) => deleteEndpoint(database, name, options),
    writeApiMode: (mode) => writeApiMode(database, mode),
    readApiMode: () => readApiMode(database),
    onWork: (listener) => watch.onWork(listener),
    ready: () =>
      connection.read(() => void connection.statement('select 1 from meta limit 1').get()),
    async close() {
      watch.stop()
      await connection.close()
    },
  }
}
