// The MongoDB store: implements src/store/store.ts with the verbs of the other files. Every write
// has its whole guard (guards.ts), and a majority has stored it before the verb returns.
import type { MongoClient } from 'mongodb'
import type { IsMinimal, NewJob } from '../../job/job.ts'
import { createAttemptTokens } from '../attempt-token.ts'
import { createEndListeners } from '../ends.ts'
import { type Outbox, REJECTED_SUFFIX } from '../outbox.ts'
import { createReadiness, type Readiness } from '../readiness.ts'
import { createSecretBox, type SecretBox } from '../secret-box.ts'
import type { EnqueueResult, Store, StoreSettings } from '../store.ts'
import { SettingUnusable, StoreUnavailable } from '../store-errors.ts'
import { rememberUndecryptableSchedules } from '../undecryptable-schedules.ts'
import type { Migrated } from '../upgrade.ts'
import { type EligibleEndpoints, rememberEligibleEndpoints } from './admission.ts'
import { headOfOrderingKey } from './blocked-jobs.ts'
import { claim, createClaimer, due } from './claim.ts'
import { type MongoClock, startClock } from './clock.ts'
import { cancel, deleteJob, edit, retry } from './commands.ts'
import { type Connection, type MongoContext, refusalOf, startDeadline } from './connection.ts'
import type { EndpointDocument } from './endpoint-document.ts'
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
import { startError } from './errors.ts'
import { rememberPendingEffects, tryFinishEffects } from './finish-effects.ts'
import { createMemberCounter } from './group-members.ts'
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
import type { BodyDocument, JobDocument } from './job-document.ts'
import {
  dependentsOf,
  finalAmong,
  getJob,
  getJobWithAttempts,
  getPayload,
  listJobs,
} from './jobs.ts'
import { reportKeyHealth } from './key-rests.ts'
import { reencryptEndpoints, reencryptSchedules } from './key-rotation.ts'
import {
  deleteFairnessKey,
  fairnessKeyState,
  fairnessKeysNamed,
  putFairnessKey,
} from './key-settings.ts'
import {
  heartbeat,
  release,
  renew,
  trackUnacknowledgedClaims,
  type UnacknowledgedClaims,
} from './leases.ts'
import { Notifier, QUEUED_JOBS } from './notifier.ts'
import { acceptOutbox, openOutbox, outboxCollection } from './outbox.ts'
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
import { migrateDatabase, openDatabase, refusedWhileLost, watchDatabaseInPlace } from './schema.ts'
import { settle } from './settle.ts'
import { deleteLimit, limitsNamed, limitUse, listLimits, putLimit } from './shared-limits.ts'
import { deletedEndpoints, fairnessKeysOf, keysByWait, placeInLine, statsOf } from './stats.ts'
import { endOverdue, overdue, startSweepMemory, sweep } from './sweep.ts'

/**
 * Opens the store, and creates missing indexes.
 *
 * @throws StoreUnusable, with a sentence for the operator; StoreUnavailable if no server responds
 */
export async function openMongoStore(url: string, settings: StoreSettings): Promise<Store> {
  const box = secretBoxOf(settings)
  try {
    const upgrades = settings.mayCreate === false ? 'none' : 'online'
    return await storeOn(await openDatabase(url, upgrades), settings, box)
  } catch (error) {
    throw startError(url, error)
  }
}

/** Does the work of `posthorn migrate`. Throws as openMongoStore does. */
export async function migrateMongoStore(url: string): Promise<Migrated> {
  try {
    return await migrateDatabase(url)
  } catch (error) {
    throw startError(url, error)
  }
}

/** The store on a connection. It closes the connection when it is closed or cannot be opened. */
export async function storeOn(
  { client, db, names }: Connection,
  settings: StoreSettings,
  box = secretBoxOf(settings),
): Promise<Store> {
  let commandCount = 0
  client.on('commandStarted', () => {
    commandCount += 1
  })
  let clock: MongoClock | undefined
  try {
    clock = await startClock(client)
    const jobs = db.collection<JobDocument>(names.jobs)
    const { changeStream = true } = settings
    const notifier = new Notifier(changeStream ? jobs : null, QUEUED_JOBS)
    const context: MongoContext = {
      db,
      names,
      jobs,
      bodies: db.collection<BodyDocument>(names.bodies),
      endpoints: db.collection<EndpointDocument>(names.endpoints),
      clock,
      box,
      settings,
      undecryptable: rememberUndecryptableSchedules(settings.warn),
      pendingEffects: rememberPendingEffects(),
      memberCounter: createMemberCounter(() => context),
      ends: createEndListeners(),
      unacknowledgedCancels: new Map(),
      newlyKeyed: new Set(),
      notifyWork: () => notifier.notify(),
    }
    await reencryptEndpoints(context)
    await reencryptSchedules(context)
    const ownClock = clock
    const outbox = await outboxOf(context)
    const inPlace = watchDatabaseInPlace({ db, names }, settings)
    const readiness = createReadiness(() => inPlace.prove())
    noteWrites(client, readiness)
    const store = assemble(context, notifier, {
      outbox,
      onMissingEndpoint: () => inPlace.suspect(),
      commandCount: () => commandCount,
      async ready() {
        const lost = inPlace.lost()
        if (lost !== null) throw lost
        await readiness.check()
      },
      close: async () => {
        ownClock.stop()
        inPlace.stop()
        await outbox?.close()
        await notifier.close()
        await client.close()
      },
    })
    return refusedWhileLost(store, inPlace.lost)
  } catch (error) {
    clock?.stop()
    await client.close()
    throw error
  }
}

/** Whether a majority stored all of the write. */
function isStored(reply: unknown): boolean {
  const { writeErrors, writeConcernError } = reply as Record<string, unknown>
  return writeErrors === undefined && writeConcernError === undefined
}

const WRITES: ReadonlySet<string> = new Set(['insert', 'update', 'findAndModify', 'bulkWrite'])

/** Every write of this process shows whether the store accepts writes. */
function noteWrites(client: MongoClient, readiness: Readiness): void {
  client.on('commandSucceeded', ({ commandName, reply }) => {
    if (WRITES.has(commandName) && isStored(reply)) readiness.noteSuccess()
  })
  client.on('commandFailed', ({ commandName, failure }) => {
    const kind = WRITES.has(commandName) ? refusalOf(failure) : null
    if (kind === null) return
    const message = 'MongoDB accepted no write'
    readiness.noteFailure(new StoreUnavailable(message, { cause: failure, kind }))
  })
}

/** @throws SettingUnusable */
async function outboxOf(context: MongoContext) {
  const { outbox: name } = context.settings
  if (!name) return null
  const collection = name.collection + REJECTED_SUFFIX
  const waiting = outboxCollection(context.db, name)
  const rejected = outboxCollection(context.db, { ...name, collection })
  await acceptOutbox(context, { name, waiting, rejected })
  return openOutbox(context, name, { waiting, rejected })
}

function secretBoxOf(settings: StoreSettings): SecretBox {
  return createSecretBox(keysOf(settings))
}

function keysOf({ encryptionKeys }: StoreSettings): Buffer[] {
  if (encryptionKeys !== null) return encryptionKeys
  throw new SettingUnusable(
    'With MongoDB, ENCRYPTION_KEY must be set: 32 random bytes in base64, the same for every ' +
      'process (openssl rand -base64 32). It encrypts the secrets of endpoints.',
  )
}

interface ProcessParts {
  outbox: Outbox | null
  onMissingEndpoint(): void
  commandCount(): number
  ready(): Promise<void>
  close(): Promise<void>
}

function assemble(
  context: MongoContext,
  notifier: Notifier,
  { outbox, onMissingEndpoint, commandCount, ready, close }: ProcessParts,
): Store {
  const unacknowledged = trackUnacknowledgedClaims(context)
  const eligible = rememberEligibleEndpoints(context.endpoints)
  return {
    clock: context.clock,
    outbox,
    get commandCount() {
      return commandCount()
    },
    attemptTokens: createAttemptTokens(keysOf(context.settings)),
    ...jobVerbs(context, eligible, unacknowledged, onMissingEndpoint),
    ...endpointVerbs(context, eligible, onMissingEndpoint),
    ...recordVerbs(context),
    onEnd: (listener) => context.ends.add(listener),
    encryptionKeyIds: () => context.box.keyIds,
    onWork: (listener) => notifier.onWork(listener),
    get hintsAtAllWork() {
      return notifier.isWatching
    },
    ready,
    async close() {
      unacknowledged.stop()
      await close()
    },
  }
}

function jobVerbs(
  context: MongoContext,
  eligible: EligibleEndpoints,
  unacknowledged: UnacknowledgedClaims,
  onMissingEndpoint: () => void,
) {
  const claimer = createClaimer(context, eligible, unacknowledged)
  const memory = startSweepMemory(context, eligible.forget)
  return {
    async enqueue(jobs: NewJob[], isMinimal: IsMinimal = () => false) {
      const { results, finished, doomed } = await enqueue(context, jobs, isMinimal)
      if (finished.length > 0) await tryFinishEffects(context, finished, doomed)
      if (results.some(({ kind }) => kind === 'unknown_endpoint')) onMissingEndpoint()
      return results as EnqueueResult[]
    },
    due: (since) => due(context, since),
    claim: (shares, limit, holder) => claim(claimer, shares, limit, holder),
    settle: (settlements, options) => settle(context, settlements, options),
    renew: (leases, leaseMs) => renew(context, leases, leaseMs),
    heartbeat: (lease, beat) => heartbeat(context, lease, beat),
    release: (leases) => release(context, leases),
    sweep: (options) => sweep(context, memory, options),
    overdue: (limit) => overdue(context, limit),
    // The clock is that of the servers; a replica set whose members disagree does not work at all.
    correctInstants: async () => 0,
    endOverdue: (ends) => endOverdue(context, ends),
    cancel: (ids) => cancel(context, ids),
    retry: (ids, options) => retry(context, ids, options),
    edit: (id, change, ifVersion) => edit(context, id, change, ifVersion),
    deleteJob: (id, ifVersion) => deleteJob(context, id, ifVersion),
    getJob: (id) => getJob(context, id),
    getJobWithAttempts: (id) => getJobWithAttempts(context, id),
    getPayload: (id) => getPayload(context, id),
    getInputs: (id) => getInputs(context, id),
    listJobs: (query) => listJobs(context, query),
    dependentsOf: (ids, limit) => dependentsOf(context, ids, limit),
    finalAmong: (ids) => finalAmong(context, ids),
    headOfOrderingKey: (endpoint, orderingKey) =>
      headOfOrderingKey(context, { endpoint, orderingKey }, startDeadline()),
    countJobs: (names) => countJobs(context, names),
  } satisfies Partial<Store>
}

/** Claims of this process see each change at once, those of other processes within 1 s. */
function endpointVerbs(
  context: MongoContext,
  eligible: EligibleEndpoints,
  onMissingEndpoint: () => void,
) {
  async function changing<T>(names: string[], work: Promise<T>): Promise<T> {
    try {
      return await work
    } finally {
      names.forEach(eligible.forget)
    }
  }
  return {
    putEndpoint: (settings, secrets, ifVersion) =>
      changing([settings.name], putEndpoint(context, settings, secrets, ifVersion)),
    pauseEndpoint: (name, ifVersion) => changing([name], pauseEndpoint(context, name, ifVersion)),
    resumeEndpoint: (name, ifVersion) => changing([name], resumeEndpoint(context, name, ifVersion)),
    rotateSecret: (...given) => rotateSecret(context, ...given),
    reportHealth: (reports) =>
      changing(
        reports.map(({ endpoint }) => endpoint),
        reportHealth(context, reports),
      ),
    reportKeyHealth: (reports) =>
      changing(
        reports.map(({ endpoint }) => endpoint),
        reportKeyHealth(context, reports),
      ),
    async endpointsNamed(names) {
      const found = await endpointsNamed(context, names)
      if (found.length < names.length) onMissingEndpoint()
      return found
    },
    listEndpoints: (after, limit) => listEndpoints(context, after, limit),
    putFairnessKey: (key, ...given) =>
      changing([key.endpoint], putFairnessKey(context, key, ...given)),
    fairnessKeysNamed: (endpoint, keys) => fairnessKeysNamed(context, endpoint, keys),
    fairnessKeyState: (key) => fairnessKeyState(context, key),
    deleteFairnessKey: (key, ifVersion) => deleteFairnessKey(context, key, ifVersion),
    deleteEndpoint: (name, options) => changing([name], deleteEndpoint(context, name, options)),
  } satisfies Partial<Store>
}

/** Schedules, and the records of records.ts and stats.ts. */
function recordVerbs(context: MongoContext) {
  return {
    createGroup: (group) => createGroup(context, group),
    getGroup: (id) => getGroup(context, id),
    listGroups: (query) => listGroups(context, query),
    finalGroupsAmong: (ids) => finalGroupsAmong(context, ids),
    closeGroup: (id) => closeGroup(context, id),
    commandGroup: (id, command) => commandGroup(context, id, command),
    deleteGroup: (id) => deleteGroup(context, id),
    putLimit: (settings, ifVersion) => putLimit(context, settings, ifVersion),
    limitsNamed: (names) => limitsNamed(context, names),
    listLimits: (after, limit) => listLimits(context, after, limit),
    limitUse: (name) => limitUse(context, name),
    deleteLimit: (name, ifVersion) => deleteLimit(context, name, ifVersion),
    putSchedule: (change, ifVersion) => putSchedule(context, change, ifVersion),
    getSchedule: (name) => getSchedule(context, name),
    listSchedules: (after, limit) => listSchedules(context, after, limit),
    deleteSchedule: (name, ifVersion) => deleteSchedule(context, name, ifVersion),
    dueSchedules: (limit) => dueSchedules(context, limit),
    advanceSchedules: (moves) => advanceSchedules(context, moves),
    addKey: (key) => addKey(context, key),
    listKeys: () => listKeys(context),
    removeKey: (id) => removeKey(context, id),
    reportWorker: (report) => reportWorker(context, report),
    removeWorker: (id) => removeWorker(context, id),
    listWorkers: () => listWorkers(context),
    addMinuteStats: (stats, report) => addMinuteStats(context, stats, report),
    minuteStatsSince: (instant, endpoint) => minuteStatsSince(context, instant, endpoint),
    statsOf: (names) => statsOf(context, names),
    fairnessKeysOf: (...query) => fairnessKeysOf(context, ...query),
    keysByWait: (...query) => keysByWait(context, ...query),
    placeInLine: (...job) => placeInLine(context, ...job),
    deletedEndpoints: () => deletedEndpoints(context),
    upkeepLease: () => upkeepLease(context),
    takeUpkeep: (lease) => takeUpkeep(context, lease),
    releaseUpkeep: (holder) => releaseUpkeep(context, holder),
    writeApiMode: (mode) => writeApiMode(context, mode),
    readApiMode: () => readApiMode(context),
  } satisfies Partial<Store>
}
