// The store on one SQLite file that all processes of one machine share. This file is the table of
// contents: it joins the verbs of the other files to the port.

import { resolve } from 'node:path'
import type { IsMinimal, NewJob } from '../../job/job.ts'
import { type AttemptTokens, createAttemptTokens } from '../attempt-token.ts'
import { createEndListeners } from '../ends.ts'
import type { EnqueueResult, Store, StoreSettings } from '../store.ts'
import { StoreUnusable } from '../store-errors.ts'
import { rememberUndecryptableSchedules } from '../undecryptable-schedules.ts'
import { headOfOrderingKey } from './blocked-jobs.ts'
import { claim, due } from './claim.ts'
import { cancel, deleteJob, edit, retry } from './commands.ts'
import { createClock, createConnection, type Database, openFile } from './connection.ts'
import {
  countJobs,
  deleteEndpoint,
  endpointsNamed,
  listEndpoints,
  pauseEndpoint,
  putEndpoint,
  reportHealth,
  resumeEndpoint,
  rotateSecret,
} from './endpoints.ts'
import { enqueue } from './enqueue.ts'
import { openFences } from './fences.ts'
import { watchFileInPlace } from './file-in-place.ts'
import {
  closeGroup,
  commandGroup,
  createGroup,
  deleteGroup,
  finalGroupsAmong,
  getGroup,
  listGroups,
} from './groups.ts'
import { getInputs } from './inputs.ts'
import {
  dependentsOf,
  finalAmong,
  getJob,
  getJobWithAttempts,
  getPayload,
  listJobs,
} from './jobs.ts'
import { createKeyRing } from './key-file.ts'
import { reportKeyHealth } from './key-rests.ts'
import { reencryptEndpoints, reencryptSchedules } from './key-rotation.ts'
import {
  deleteFairnessKey,
  fairnessKeyState,
  fairnessKeysNamed,
  putFairnessKey,
} from './key-settings.ts'
import { heartbeat, release, renew } from './leases.ts'
import { createNotifier } from './notifier.ts'
import {
  addKey,
  addMinuteStats,
  listKeys,
  listWorkers,
  minuteStatsSince,
  readApiMode,
  releaseUpkeep,
  removeKey,
  removeWorker,
  reportWorker,
  takeUpkeep,
  upkeepLease,
  writeApiMode,
} from './records.ts'
import {
  advanceSchedules,
  deleteSchedule,
  dueSchedules,
  getSchedule,
  listSchedules,
  putSchedule,
} from './schedules.ts'
import { correctInstants } from './set-back.ts'
import { settle } from './settle.ts'
import { deleteLimit, limitsNamed, limitUse, listLimits, putLimit } from './shared-limits.ts'
import { deletedEndpoints, fairnessKeysOf, keysByWait, placeInLine, statsOf } from './stats.ts'
import { endOverdue, overdue, sweep } from './sweep.ts'

/** Opens the file at `path`, and creates it if it is missing. Throws StoreUnusable. */
export async function openSqliteStore(path: string, settings: StoreSettings): Promise<Store> {
  if (path === '') throw new StoreUnusable('STORE_URL names no file: sqlite:PATH is expected')
  // The path is resolved, so that SQLite takes no path for one of its special names.
  const file = resolve(path)
  const db = await openFile(file, settings.mayCreate ?? true)
  const inPlace = watchFileInPlace(file, settings)
  const connection = createConnection(db, file, inPlace)
  const clock = createClock()
  try {
    const database: Database = {
      ...{ connection, clock, settings },
      fences: await openFences({ connection, clock }, file),
      keys: createKeyRing(file, settings.encryptionKeys, inPlace.add),
      notifier: createNotifier(connection.peekVersion, file),
      ends: createEndListeners(),
      undecryptable: rememberUndecryptableSchedules(settings.warn),
      nextSweep: { afterName: '', afterBlocked: { endpoint: '', seq: 0 } },
    }
    await reencryptEndpoints(database)
    await reencryptSchedules(database)
    return createStore(database)
  } catch (error) {
    await connection.close()
    throw error
  }
}

function createStore(database: Database): Store {
  const { clock, connection, notifier } = database
  return {
    clock,
    outbox: null,
    encryptionKeyIds: () => database.keys.ids(),
    attemptTokens: lazyAttemptTokens(() => database.keys.all()),
    get commandCount() {
      return connection.commandCount
    },
    enqueue: (jobs: NewJob[], isMinimal: IsMinimal = () => false) =>
      enqueue(database, jobs, isMinimal) as Promise<EnqueueResult[]>,
    due: (since) => due(database, since),
    claim: (shares, limit, holder) => claim(database, shares, limit, holder),
    settle: (settlements, options) => settle(database, settlements, options),
    renew: (leases, leaseMs) => renew(database, leases, leaseMs),
    heartbeat: (lease, beat) => heartbeat(database, lease, beat),
    release: (leases) => release(database, leases),
    sweep: (options) => sweep(database, options),
    overdue: (limit) => overdue(database, limit),
    correctInstants: (setBackMs) => correctInstants(database, setBackMs),
    endOverdue: (ends) => endOverdue(database, ends),
    cancel: (ids) => cancel(database, ids),
    retry: (ids, options) => retry(database, ids, options),
    edit: (id, change, ifVersion) => edit(database, id, change, ifVersion),
    deleteJob: (id, ifVersion) => deleteJob(database, id, ifVersion),
    getJob: (id) => getJob(database, id),
    getJobWithAttempts: (id) => getJobWithAttempts(database, id),
    getPayload: (id) => getPayload(database, id),
    getInputs: (id) => getInputs(database, id),
    listJobs: (query) => listJobs(database, query),
    dependentsOf: (ids, limit) => dependentsOf(database, ids, limit),
    finalAmong: (ids) => finalAmong(database, ids),
    headOfOrderingKey: (endpoint, key) => headOfOrderingKey(database, endpoint, key),
    putEndpoint: (settings, secrets, ifVersion) =>
      putEndpoint(database, settings, secrets, ifVersion),
    pauseEndpoint: (name, ifVersion) => pauseEndpoint(database, name, ifVersion),
    resumeEndpoint: (name, ifVersion) => resumeEndpoint(database, name, ifVersion),
    rotateSecret: (...given) => rotateSecret(database, ...given),
    reportHealth: (reports) => reportHealth(database, reports),
    reportKeyHealth: (reports) => reportKeyHealth(database, reports),
    endpointsNamed: (names) => endpointsNamed(database, names),
    listEndpoints: (after, limit) => listEndpoints(database, after, limit),
    countJobs: (names) => countJobs(database, names),
    deleteEndpoint: (name, options) => deleteEndpoint(database, name, options),
    ...recordVerbs(database),
    onEnd: (listener) => database.ends.add(listener),
    onWork: (listener) => notifier.onWork(listener),
    // A look costs some microseconds here, so that looks need not be rare.
    hintsAtAllWork: false,
    ready: () => connection.ready(),
    async close() {
      notifier.stop()
      await connection.close(database.fences.noteClose)
    },
  }
}

/** Creates the key file with the first token, not at the start. */
function lazyAttemptTokens(keys: () => Buffer[]): AttemptTokens {
  let tokens: AttemptTokens | null = null
  function made(): AttemptTokens {
    tokens ??= createAttemptTokens(keys())
    return tokens
  }
  return {
    issue: (lease) => made().issue(lease),
    read: (jobId, token) => made().read(jobId, token),
  }
}

/** The verbs about records other than jobs and endpoints. */
function recordVerbs(database: Database) {
  return {
    createGroup: (group) => createGroup(database, group),
    getGroup: (id) => getGroup(database, id),
    listGroups: (query) => listGroups(database, query),
    finalGroupsAmong: (ids) => finalGroupsAmong(database, ids),
    closeGroup: (id) => closeGroup(database, id),
    commandGroup: (id, command) => commandGroup(database, id, command),
    deleteGroup: (id) => deleteGroup(database, id),
    putFairnessKey: (...given) => putFairnessKey(database, ...given),
    fairnessKeysNamed: (endpoint, keys) => fairnessKeysNamed(database, endpoint, keys),
    fairnessKeyState: (key) => fairnessKeyState(database, key),
    deleteFairnessKey: (key, ifVersion) => deleteFairnessKey(database, key, ifVersion),
    putLimit: (settings, ifVersion) => putLimit(database, settings, ifVersion),
    limitsNamed: (names) => limitsNamed(database, names),
    listLimits: (after, limit) => listLimits(database, after, limit),
    limitUse: (name) => limitUse(database, name),
    deleteLimit: (name, ifVersion) => deleteLimit(database, name, ifVersion),
    putSchedule: (change, ifVersion) => putSchedule(database, change, ifVersion),
    getSchedule: (name) => getSchedule(database, name),
    listSchedules: (after, limit) => listSchedules(database, after, limit),
    deleteSchedule: (name, ifVersion) => deleteSchedule(database, name, ifVersion),
    dueSchedules: (limit) => dueSchedules(database, limit),
    advanceSchedules: (moves) => advanceSchedules(database, moves),
    addKey: (key) => addKey(database, key),
    listKeys: () => listKeys(database),
    removeKey: (id) => removeKey(database, id),
    reportWorker: (report) => reportWorker(database, report),
    removeWorker: (id) => removeWorker(database, id),
    listWorkers: () => listWorkers(database),
    addMinuteStats: (stats) => addMinuteStats(database, stats),
    minuteStatsSince: (instant, endpoint) => minuteStatsSince(database, instant, endpoint),
    statsOf: (names) => statsOf(database, names),
    fairnessKeysOf: (...query) => fairnessKeysOf(database, ...query),
    keysByWait: (...query) => keysByWait(database, ...query),
    placeInLine: (_endpoint, jobId) => placeInLine(database, jobId),
    deletedEndpoints: () => deletedEndpoints(database),
    upkeepLease: () => upkeepLease(database),
    takeUpkeep: (lease) => takeUpkeep(database, lease),
    releaseUpkeep: (holder) => releaseUpkeep(database, holder),
    writeApiMode: (mode) => writeApiMode(database, mode),
    readApiMode: () => readApiMode(database),
  } satisfies Partial<Store>
}
