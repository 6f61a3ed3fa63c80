// The connection to MongoDB: a client whose acknowledged writes are kept (a replica set or a
// sharded cluster, majority writes), one way to run a command under a deadline, and MongoContext,
// which every verb gets. The driver's timeoutMS has no effect any more, so the deadline is kept
// here.
import {
  type Collection,
  type Db,
  type Document,
  MongoBulkWriteError,
  MongoClient,
  type MongoClientOptions,
  MongoError,
  MongoServerError,
} from 'mongodb'
import type { FinalState } from '../../job/retention.ts'
import { type CollectionNames, isSystemDatabase } from '../collection-names.ts'
import type { EndListeners } from '../ends.ts'
import type { SecretBox } from '../secret-box.ts'
import { STORE_DEADLINE_MS, type StoreClock, type StoreSettings } from '../store.ts'
import { StoreUnavailable, StoreUnusable, type UnavailableKind } from '../store-errors.ts'
import type { UndecryptableSchedules } from '../undecryptable-schedules.ts'
import type { EndpointDocument } from './endpoint-document.ts'
import type { AttemptDocument, BodyDocument, JobDocument } from './job-document.ts'

export interface MongoContext {
  db: Db
  names: CollectionNames
  jobs: Collection<JobDocument>
  bodies: Collection<BodyDocument>
  endpoints: Collection<EndpointDocument>
  clock: StoreClock
  box: SecretBox
  settings: StoreSettings
  undecryptable: UndecryptableSchedules
  pendingEffects: PendingEffects
  memberCounter: MemberCounter
  ends: EndListeners
  /**
   * Attempts that a cancel of this process ended, by job id, if the write was not acknowledged in
   * time. The repeated cancel reports them (commands.ts).
   */
  unacknowledgedCancels: Map<string, AttemptDocument>
  /**
   * Endpoints to which this process has given their first fairness key, until it claims there: the
   * claim must not use what it remembers of them.
   */
  newlyKeyed: Set<string>
  /** Wakes the listeners of this process: something may be due. */
  notifyWork(): void
}

/**
 * Counts members of groups, one transaction after another: while one is under way, the next one
 * collects (group-members.ts).
 */
export interface MemberCounter {
  count(members: FinalMember[]): Promise<CountResult>
}

/** A member that is final, and not counted as far as was read. */
export type FinalMember = Pick<JobDocument, '_id' | 'endpoint' | 'finishes'> & {
  state: FinalState
  group: string
}

/** `left`: others wrote to the groups or the members at the same time. The sweep counts them. */
export type CountResult = GroupEffects[] | 'left'

/** What follows from the counts of a group. */
export interface GroupEffects {
  groupId: string
  /** Notices of its first dead member are due. */
  isFirstDead: boolean
  /** It may be final now. */
  mayFinish: boolean
}

/**
 * Remembers which of the jobs that this process claimed have pending finish effects, so that the
 * settlement of the others need not read them (finish-effects.ts).
 */
export interface PendingEffects {
  noteClaimed(jobs: Pick<JobDocument, '_id' | 'effectsPending'>[]): void
  /** Notes that these jobs have got pending effects since they were claimed. */
  notePending(jobIds: string[]): void
  /** The jobs whose effects are pending or unknown. Forgets all of the given jobs. */
  takePending(jobIds: string[]): string[]
}

const DEFAULT_DATABASE = 'posthorn'
/** Longer than the deadline of any command: it closes connections that no longer respond. */
const SOCKET_DEADLINE_MS = 6_000

const DUPLICATE_KEY = 11_000
/** Of MongoDB 5.0 (github.com/mongodb/mongo, src/mongo/db/wire_version.h). */
const LEAST_WIRE_VERSION = 13

/**
 * Codes of a server that accepts no writes at all (github.com/mongodb/mongo, error_codes.yml). The
 * code of a server that is not the primary is not among them: the driver waits for another primary.
 */
const REFUSALS: ReadonlyMap<unknown, UnavailableKind> = new Map<unknown, UnavailableKind>([
  // Unauthorized.
  [13, 'read_only'],
  // OutOfDiskSpace.
  [14_031, 'full'],
])

/** EPIPE, ECONNRESET and similar, and a stream that is closed already. */
const NETWORK_CODE = /^(E(?!RR_)|ERR_STREAM_)/

/**
 * An option of reads that decide about a write, or find what an acknowledged write stored. On the
 * primary a local read includes every acknowledged write. A majority read can be older after an
 * election (SERVER-53813, docs/decisions/0028-reads-after-an-election.md).
 */
export const NEWEST = { readConcern: 'local' } as const

export interface Deadline {
  leftMs(): number
}

/** An option of every command, so that the server stops no later than the caller. */
interface CommandLimit {
  maxTimeMS: number
}

/** The driver refuses STORE_URL; startError (errors.ts) says why without quoting a password. */
export class UnreadableUrl extends Error {}

export interface Connection {
  client: MongoClient
  db: Db
  names: CollectionNames
}

type Connected = Pick<Connection, 'client' | 'db'>

/** @throws StoreUnusable, StoreUnavailable, UnreadableUrl, and errors of the driver (startError) */
export async function connect(url: string): Promise<Connected> {
  const connection = await open(url, { retryWrites: true })
  try {
    const hello = await connection.client.db('admin').command({ hello: 1 })
    if (hello.maxWireVersion < LEAST_WIRE_VERSION) {
      throw new StoreUnusable(
        'The server in STORE_URL is older than MongoDB 5.0, or only similar to MongoDB. Posthorn ' +
          'needs MongoDB 5.0 or later; Amazon DocumentDB, Cosmos DB and FerretDB are not supported.',
      )
    }
    const isAlone = isStandalone(hello)
    if (isAlone && !/[?&]directConnection=true(&|$)/i.test(url)) {
      throw new StoreUnusable(
        'The MongoDB server runs alone, not in a replica set: it cannot guarantee that a write ' +
          'is kept, or repeat one safely. Start it with --replSet and run rs.initiate() once. To ' +
          'try Posthorn without a replica set, add directConnection=true to STORE_URL.',
      )
    }
    if (!isAlone) return connection
  } catch (error) {
    await connection.client.close()
    throw error
  }
  // Retryable writes need a replica set: a standalone server refuses them.
  await connection.client.close()
  return open(url, { retryWrites: false })
}

export async function open(
  url: string,
  options: Pick<MongoClientOptions, 'retryWrites' | 'socketTimeoutMS' | 'wtimeoutMS'>,
): Promise<Connected> {
  let client: MongoClient
  let db: Db
  try {
    client = new MongoClient(url, {
      appName: 'posthorn',
      serverSelectionTimeoutMS: STORE_DEADLINE_MS,
      connectTimeoutMS: STORE_DEADLINE_MS,
      waitQueueTimeoutMS: STORE_DEADLINE_MS,
      socketTimeoutMS: SOCKET_DEADLINE_MS,
      // The URL takes precedence over options with the names `writeConcern` and `readConcern`, but
      // not over these: journal=false and readConcernLevel=local in a URL have no effect.
      readPreference: 'primary',
      readConcernLevel: 'majority',
      w: 'majority',
      journal: true,
      wtimeoutMS: STORE_DEADLINE_MS,
      retryReads: true,
      // Payloads are plain bytes instead of a Binary object around each.
      promoteBuffers: true,
      // The events are counted for commandCount of the store.
      monitorCommands: true,
      ...options,
    })
    db = client.db(databaseName(url))
  } catch (error) {
    throw new UnreadableUrl('the driver cannot read the URL', { cause: error })
  }
  if (isSystemDatabase(db.databaseName)) {
    throw new StoreUnusable(
      `STORE_URL names the database ${db.databaseName}, which MongoDB keeps for itself: name ` +
        'another one, for example posthorn. If the user was created in admin, authSource=admin ' +
        'in the query says so.',
    )
  }
  try {
    await client.connect()
  } catch (error) {
    await client.close()
    throw error
  }
  return { client, db }
}

/** The name in the path of the URL, which may list several hosts, so that URL cannot parse it. */
export function databaseName(url: string): string {
  const [, name = ''] = /^mongodb(?:\+srv)?:\/\/[^/?]*\/([^?]*)/.exec(url) ?? []
  return name === '' ? DEFAULT_DATABASE : decodeURIComponent(name)
}

export function nowOf(context: MongoContext): Date {
  return new Date(context.clock.now())
}

/** One deadline for all commands of a verb. */
export function startDeadline(durationMs = STORE_DEADLINE_MS): Deadline {
  const endsAt = performance.now() + durationMs
  return { leftMs: () => endsAt - performance.now() }
}

/**
 * Runs one command. Throws StoreUnavailable if it fails or the deadline comes first: a write may
 * have happened, or may still happen. Duplicate-key errors of the driver are passed on.
 */
export async function run<T>(
  deadline: Deadline,
  command: (limit: CommandLimit) => Promise<T>,
): Promise<T> {
  const leftMs = deadline.leftMs()
  if (leftMs <= 0) throw new StoreUnavailable('MongoDB did not respond in time')
  let timer: NodeJS.Timeout | undefined
  const overdue = new Promise<never>((_, reject) => {
    timer = setTimeout(
      () => reject(new StoreUnavailable('MongoDB did not respond in time')),
      leftMs,
    )
  })
  try {
    // The loser of the race may reject later; Promise.race already handles that rejection.
    return await Promise.race([command({ maxTimeMS: Math.ceil(leftMs) }), overdue])
  } catch (error) {
    throw asOurs(error)
  } finally {
    clearTimeout(timer)
  }
}

/** Whether a single write broke a unique index. */
export function isDuplicateKey(error: unknown): error is MongoServerError {
  return error instanceof MongoServerError && error.code === DUPLICATE_KEY
}

/** Whether duplicate keys are the only errors of a batch. */
export function isOnlyDuplicateKeys(error: unknown): error is MongoBulkWriteError {
  if (!(error instanceof MongoBulkWriteError)) return false
  if (error.result.getWriteConcernError() !== undefined) return false
  const writeErrors = [error.writeErrors].flat()
  return writeErrors.length > 0 && writeErrors.every(({ code }) => code === DUPLICATE_KEY)
}

/** Whether a batch broke a unique index, but the server did not say for which of its writes. */
export function isBareDuplicateKey(error: unknown): boolean {
  if (!(error instanceof MongoBulkWriteError) || !isDuplicateKey(error)) return false
  const isKept = error.result.getWriteConcernError() === undefined
  return isKept && [error.writeErrors].flat().length === 0
}

/** Why the server accepts no writes at all; null: it refused this command for another reason. */
export function refusalOf(error: unknown): UnavailableKind | null {
  if (!(error instanceof MongoServerError)) return null
  return REFUSALS.get(error.code) ?? null
}

function isStandalone(hello: Document): boolean {
  const isBehindRouter = hello.msg === 'isdbgrid' || hello.serviceId !== undefined
  return hello.setName === undefined && !isBehindRouter
}

function asOurs(error: unknown): unknown {
  if (error instanceof MongoBulkWriteError) {
    return isOnlyDuplicateKeys(error) ? error : unavailable(error)
  }
  if (isDuplicateKey(error)) return error
  return error instanceof MongoError || isNetworkError(error) ? unavailable(error) : error
}

/** The driver wraps network errors of its reads, but not those of its writes. */
function isNetworkError(error: unknown): error is Error {
  return error instanceof Error && 'code' in error && NETWORK_CODE.test(String(error.code))
}

function unavailable(cause: Error): StoreUnavailable {
  const kind = refusalOf(cause) ?? 'no_answer'
  return new StoreUnavailable('MongoDB did not execute a command', { cause, kind })
}
