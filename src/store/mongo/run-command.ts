// One way to every MongoDB command: with a deadline, and with the driver's errors put into ours.
// The driver has made its own timeoutMS a word without effect, so the deadline is kept here.
import { MongoBulkWriteError, MongoError, MongoServerError } from 'mongodb'
import { MAX_ANSWER_MS, StoreUnavailable, type UnavailableKind } from '../store.ts'

const DUPLICATE_KEY = 11_000
/**
 * What a server says that takes no writes at all (github.com/mongodb/mongo, error_codes.yml). One
 * that is no primary is not among them: the driver waits for another.
 */
const REFUSALS: ReadonlyMap<unknown, UnavailableKind> = new Map<unknown, UnavailableKind>([
  // Unauthorized.
  [13, 'read_only'],
  // OutOfDiskSpace.
  [14_031, 'full'],
])
/** EPIPE, ECONNRESET and their like, and a stream that is closed already. */
const NETWORK_CODE = /^(E(?!RR_)|ERR_STREAM_)/

export interface Deadline {
  leftMs(): number
}

/** What every command is given, so that the server gives up no later than we do. */
export interface CommandLimit {
  maxTimeMS: number
}

/** Of all commands of one verb together. */
export function startDeadline(durationMs = MAX_ANSWER_MS): Deadline {
  const endsAt = performance.now() + durationMs
  return { leftMs: () => endsAt - performance.now() }
}

/**
 * Runs one command. Throws StoreUnavailable when it fails or the deadline comes first: a write may
 * have happened, or may still happen. Duplicate keys are thrown as the driver throws them.
 */
export async function run<T>(
  deadline: Deadline,
  command: (limit: CommandLimit) => Promise<T>,
): Promise<T> {
  const leftMs = deadline.leftMs()
  if (leftMs <= 0) throw new StoreUnavailable('MongoDB did not answer in time')
  let timer: NodeJS.Timeout | undefined
  const overdue = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new StoreUnavailable('MongoDB did not answer in time')), leftMs)
  })
  try {
    // The loser of the race may reject later; Promise.race has its handler on it already.
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

/** Whether nothing but duplicate keys went wrong with a batch. */
export function isOnlyDuplicateKeys(error: unknown): error is MongoBulkWriteError {
  if (!(error instanceof MongoBulkWriteError)) return false
  if (error.result.getWriteConcernError() !== undefined) return false
  const writeErrors = [error.writeErrors].flat()
  return writeErrors.length > 0 && writeErrors.every(({ code }) => code === DUPLICATE_KEY)
}

/** Whether a batch broke a unique index, and the server told no more than that. */
export function isBareDuplicateKey(error: unknown): boolean {
  if (!(error instanceof MongoBulkWriteError) || !isDuplicateKey(error)) return false
  const isKept = error.result.getWriteConcernError() === undefined
  return isKept && [error.writeErrors].flat().length === 0
}

/** Why the server takes no writes at all; null: this was refused for a reason of its own. */
export function refusalOf(error: unknown): UnavailableKind | null {
  if (!(error instanceof MongoServerError)) return null
  return REFUSALS.get(error.code) ?? null
}

function asOurs(error: unknown): unknown {
  if (error instanceof MongoBulkWriteError) {
    return isOnlyDuplicateKeys(error) ? error : unavailable(error)
  }
  if (isDuplicateKey(error)) return error
  return error instanceof MongoError || isNetworkError(error) ? unavailable(error) : error
}

/** The driver wraps what breaks while it reads, but not what breaks while it writes. */
function isNetworkError(error: unknown): error is Error {
  return error instanceof Error && 'code' in error && NETWORK_CODE.test(String(error.code))
}

function unavailable(cause: Error): StoreUnavailable {
  const kind = refusalOf(cause) ?? 'no_answer'
  return new StoreUnavailable('MongoDB did not execute a command', { cause, kind })
}
