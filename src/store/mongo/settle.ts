// Settle: stores how attempts ended, as one batch of guarded updates, for holders and for the sweep
// of jobs that awaited completion too long. A batch returns only how many updates matched: if not
// all did, the outcome of each is read back, and superseded jobs are cancelled.
import type { Document, UpdateFilter } from 'mongodb'
import type { Lease, Outcome } from '../../job/job.ts'
import type { EventName } from '../../job/lifecycle.ts'
import { eventIfSuperseded, isRepeat } from '../../job/settlement.ts'
import type { Settlement, SettleOptions, SettleResult } from '../store.ts'
import { StoreUnavailable } from '../store-errors.ts'
import { deleteBodies, storeBodies } from './bodies.ts'
import {
  type Deadline,
  type MongoContext,
  NEWEST,
  nowOf,
  run,
  startDeadline,
} from './connection.ts'
import { tryFinishEffects } from './finish-effects.ts'
import { guardOf } from './guards.ts'
import {
  type AttemptDocument,
  atEndpoints,
  attemptDocument,
  type BodyDocument,
  BY_ID,
  failureFields,
  isFinalState,
  type JobDocument,
  newBody,
  pushAttempt,
  randomId,
  toFinal,
  toQueued,
} from './job-document.ts'

export interface SettlementWrite extends Lease {
  event: EventName
  /** null: the attempt continues, awaiting completion. */
  outcome: Outcome | null
  update: UpdateFilter<JobDocument> | Document[]
  /** The result that the update names. */
  body?: BodyDocument | null
  /** The expiry that was read, if the guard compares it. */
  leaseExpiresAt?: Date
  /** Written in its place if the job was superseded. */
  instead: { event: EventName; update: UpdateFilter<JobDocument> } | null
}

export async function settle(
  context: MongoContext,
  settlements: Settlement[],
  { isRepeat = false }: SettleOptions = {},
): Promise<SettleResult[]> {
  if (settlements.length === 0) return []
  const now = nowOf(context)
  const writeId = randomId()
  const writes = settlements.map((settlement) => writeOf(settlement, writeId, now))
  const { results, finished } = await writeSettlements(context, writes, { writeId, now, isRepeat })
  if (settlements.some(({ event }) => event === 'reschedule' || event === 'postpone')) {
    context.notifyWork()
  }
  await tryFinishEffects(context, context.pendingEffects.takePending(finished))
  return results
}

/** Ends a superseded job that the event would queue again; null: the event ends it anyway. */
export function withdrawal(attempt: AttemptDocument): SettlementWrite['instead'] {
  const event = eventIfSuperseded(attempt.event)
  if (event === null) return null
  const change = toFinal('cancelled', attempt.finishedAt, {})
  return { event, update: { ...change, ...pushAttempt({ ...attempt, event }) } }
}

export async function writeSettlements(
  context: MongoContext,
  writes: SettlementWrite[],
  { writeId, now, isRepeat }: WriteOptions,
): Promise<Written> {
  const deadline = startDeadline()
  const finishing = writes.filter(({ event }) => FINISHING.has(event)).map(({ jobId }) => jobId)
  const open = isRepeat ? await unwritten(context, writes, deadline) : writes
  await storeBodies(
    context,
    open.flatMap(({ body }) => body ?? []),
    deadline,
  )
  const matchedCount = open.length === 0 ? 0 : await writeBatch(context, open, now, deadline)
  if (matchedCount === writes.length) {
    return { results: writes.map(() => 'applied'), finished: finishing, withdrawn: [] }
  }
  let seen = await readBack(context, writes, NEWEST, deadline)
  const superseded = writes.flatMap((write): SettlementWrite[] => {
    const job = seen.get(write.jobId)
    if (write.instead === null || job?.superseded !== true || !holds(job, write)) return []
    return [{ ...write, ...write.instead }]
  })
  if (superseded.length > 0) {
    await writeBatch(context, superseded, now, deadline)
    seen = await readBack(context, writes, NEWEST, deadline)
  }
  const results = writes.map((write) => resultOf(write, seen.get(write.jobId), writeId))
  const unused = writes.flatMap(({ body }, i) => (results[i] === 'applied' ? [] : (body ?? [])))
  await deleteBodies(context, unused, deadline)
  const repeated = writes.filter((_, i) => results[i] === 'already_applied')
  await confirm(context, repeated, writeId, deadline)
  const withdrawn = superseded.map(({ jobId }) => jobId)
  const finished = [...finishing, ...withdrawn].filter((id) => {
    const job = seen.get(id)
    return job !== undefined && isFinalState(job.state)
  })
  return { results, finished: [...new Set(finished)], withdrawn }
}

function writeOf(settlement: Settlement, writeId: string, now: Date): SettlementWrite {
  const { jobId, endpoint, fence, leaseId, event } = settlement
  const lease = { jobId, endpoint, fence, leaseId }
  if (settlement.event === 'await') {
    const update = toAwaiting(new Date(settlement.leaseExpiresAt), writeId)
    return { ...lease, event, outcome: null, update, instead: null }
  }
  const attempt = attemptDocument(settlement.attempt, { ...settlement, writeId })
  const body = resultBody(settlement, now)
  return {
    ...lease,
    event,
    outcome: settlement.attempt.outcome,
    update: { ...stateChangeOf(settlement, body), ...pushAttempt(attempt) },
    body,
    instead: withdrawal(attempt),
  }
}

function resultBody(settlement: Settlement, now: Date): BodyDocument | null {
  if (settlement.event !== 'succeed' || settlement.result === null) return null
  const { jobId: _id, endpoint, result } = settlement
  return newBody({ _id, endpoint }, Buffer.from(result), now.getTime())
}

/**
 * The update to awaiting completion. It includes the extension that a heartbeat requested before
 * the response was stored.
 */
function toAwaiting(until: Date, writeId: string): Document[] {
  const fields = {
    ...{ phase: 'awaiting_completion', writeId, extendedTo: null },
    leaseExpiresAt: { $max: ['$leaseExpiresAt', '$extendedTo', until] },
    version: { $add: ['$version', 1] },
  }
  return [{ $set: fields }]
}

function stateChangeOf(
  settlement: Exclude<Settlement, { event: 'await' }>,
  body: BodyDocument | null,
): UpdateFilter<JobDocument> {
  const finishedAt = new Date(settlement.attempt.finishedAt)
  switch (settlement.event) {
    case 'succeed': {
      const { result, resultTruncated } = settlement
      const where = body === null ? { result } : { result: null, resultId: body._id }
      return toFinal('succeeded', finishedAt, { ...where, resultTruncated })
    }
    case 'reschedule':
      return toQueued(new Date(settlement.runAt))
    case 'postpone':
      return toQueued(new Date(settlement.runAt), { attemptsLeft: 1, freeAttempts: 1 })
    case 'bury':
      return toFinal('dead', finishedAt, failureFields(settlement.failure))
    default:
      throw new Error(`unknown event ${(settlement satisfies never as Settlement).event}`)
  }
}

interface Written {
  results: SettleResult[]
  /** Ids of the jobs that may be final by this write. */
  finished: string[]
  /** The superseded jobs among them that were cancelled. */
  withdrawn: string[]
}

interface WriteOptions {
  /** Part of all these updates, and of no others. */
  writeId: string
  now: Date
  /** An earlier write had no response: what it stored is read, and not written again. */
  isRepeat: boolean
}

const FINISHING: ReadonlySet<EventName> = new Set(['succeed', 'bury', 'bury_timed_out'])

/** The writes whose lease still holds the job, so that no earlier write can have ended it. */
async function unwritten(
  context: MongoContext,
  writes: SettlementWrite[],
  deadline: Deadline,
): Promise<SettlementWrite[]> {
  const seen = await readBack(context, writes, NEWEST, deadline)
  return writes.filter((write) => {
    const job = seen.get(write.jobId)
    return job !== undefined && holds(job, write)
  })
}

/**
 * The results of other writes, which may be without a majority, and rolled back.
 *
 * @throws StoreUnavailable if a majority read does not show one of them
 */
async function confirm(
  context: MongoContext,
  repeated: SettlementWrite[],
  writeId: string,
  deadline: Deadline,
): Promise<void> {
  if (repeated.length === 0) return
  const seen = await readBack(context, repeated, {}, deadline)
  const isConfirmed = (write: SettlementWrite) =>
    resultOf(write, seen.get(write.jobId), writeId) === 'already_applied'
  if (repeated.every(isConfirmed)) return
  throw new StoreUnavailable('a majority has not confirmed the result of an earlier write')
}

async function writeBatch(
  context: MongoContext,
  writes: SettlementWrite[],
  now: Date,
  deadline: Deadline,
): Promise<number> {
  const updates = writes.map(({ jobId, endpoint, leaseExpiresAt, event, update, ...held }) => {
    const { fence, leaseId } = held
    const lease = { fence, leaseId, ...(leaseExpiresAt === undefined ? {} : { leaseExpiresAt }) }
    const filter = { _id: jobId, endpoint, ...guardOf(event, { now, lease }) }
    return { updateOne: { filter, update, ...BY_ID } }
  })
  const { matchedCount } = await run(deadline, (limit) =>
    context.jobs.bulkWrite(updates, { ordered: false, ...limit }),
  )
  return matchedCount
}

/** For each attempt, only the fields that identify its write. */
const SEEN = {
  state: 1,
  phase: 1,
  fence: 1,
  leaseId: 1,
  writeId: 1,
  superseded: 1,
  'attempts.fence': 1,
  'attempts.leaseId': 1,
  'attempts.event': 1,
  'attempts.outcome': 1,
  'attempts.writeId': 1,
} as const

type Writer = Pick<
  JobDocument['attempts'][number],
  'fence' | 'leaseId' | 'event' | 'outcome' | 'writeId'
>

type Seen = Pick<
  JobDocument,
  '_id' | 'state' | 'phase' | 'fence' | 'leaseId' | 'writeId' | 'superseded'
> & { attempts: Writer[] }

async function readBack(
  context: MongoContext,
  writes: SettlementWrite[],
  concern: Partial<typeof NEWEST>,
  deadline: Deadline,
): Promise<Map<string, Seen>> {
  const found = await run(deadline, (limit) =>
    context.jobs
      .find<Seen>(atEndpoints(writes.map(({ jobId: _id, endpoint }) => ({ _id, endpoint }))), {
        projection: SEEN,
        batchSize: writes.length + 1,
        ...concern,
        ...BY_ID,
        ...limit,
      })
      .toArray(),
  )
  return new Map(found.map((document) => [document._id, document]))
}

function holds({ state, fence, leaseId }: Seen, lease: Lease): boolean {
  return state === 'running' && fence === lease.fence && leaseId === lease.leaseId
}

function resultOf(write: SettlementWrite, job: Seen | undefined, writeId: string): SettleResult {
  if (job === undefined) return 'lease_lost'
  if (write.outcome === null) {
    if (!holds(job, write) || job.phase !== 'awaiting_completion') return 'lease_lost'
    return job.writeId === writeId ? 'applied' : 'already_applied'
  }
  const own = job.attempts.find(
    ({ fence, leaseId }) => fence === write.fence && leaseId === write.leaseId,
  )
  if (own === undefined) return 'lease_lost'
  if (own.writeId === writeId) return 'applied'
  const { fence, leaseId, event, outcome } = write
  return isRepeat({ fence, leaseId, event, outcome }, own) ? 'already_applied' : 'lease_lost'
}
