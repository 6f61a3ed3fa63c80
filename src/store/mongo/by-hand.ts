// Cancel and retry: what people do to jobs. Each reads the jobs, then writes what may be written,
// in the given order, under guards that name what was read; one that moved meanwhile is read again
// before the next one is written.
import type { UpdateFilter } from 'mongodb'
import { decideRetry, isRetryable, type RetryOptions } from '../../job/dependencies.ts'
import type { JobState } from '../../job/job.ts'
import { LIFECYCLE } from '../../job/lifecycle.ts'
import type { CommandResult, RetryResult } from '../job-commands.ts'
import { StoreUnavailable } from '../store.ts'
import { afterFinish, doAftermath } from './aftermath.ts'
import { type AttemptDocument, attemptOf } from './attempt-documents.ts'
import { pushAttempt, randomId, toFinal } from './changes.ts'
import { type MongoContext, nowOf } from './context.ts'
import { isFinalState, type JobDocument, stateOf } from './documents.ts'
import { guardOf } from './guards.ts'
import { checkHeld, type HeldJob, markDependedOn, statesOf } from './held.ts'
import { endedAttempt, SEEN_LEASE } from './lost-attempts.ts'
import { type Deadline, isDuplicateKey, run, startDeadline } from './run-command.ts'
import { holdLaterOnes, type OrderedLane, promoteHeads } from './turns.ts'

/** A job that changes under our hands this often in 3 s is being worked on by a storm. */
const MAX_ROUNDS = 10

const SEEN = {
  ...SEEN_LEASE,
  state: 1,
  maxAttempts: 1,
  version: 1,
  dedupeKey: 1,
  orderingKey: 1,
  owes: 1,
  waitingFor: 1,
} as const
type Seen = Pick<JobDocument, '_id' | keyof typeof SEEN>

/** A result, or the change to write and what to answer once it is written. */
type Verdict =
  | RetryResult
  | Change
  /** Something had to be done first: look again. */
  | { kind: 'look_again' }

interface Change {
  kind: 'change'
  update: UpdateFilter<JobDocument>
  result: RetryResult
  /** That it ends; absent: none. */
  attempt?: AttemptDocument
}

/** One call at work. */
interface Command {
  context: MongoContext
  event: 'cancel' | 'retry'
  seen: Map<string, Seen>
  deadline: Deadline
  judge(job: Seen): Verdict | Promise<Verdict>
  /** Called after each change, before the next job is judged. */
  onWritten?(job: Seen, change: Change): void
}

export async function cancel(context: MongoContext, ids: string[]): Promise<CommandResult[]> {
  const deadline = startDeadline()
  const results = await byHand(ids, {
    ...{ context, event: 'cancel', deadline, seen: await look(context, ids, deadline) },
    judge(job) {
      if (isFinalState(job.state)) return { kind: 'refused', state: stateOf(job.state) }
      const now = nowOf(context)
      const result = { kind: 'applied' } as const
      const update = toFinal('cancelled', now, {})
      if (job.state !== 'running') return { kind: 'change', update, result }
      const writer = { event: 'cancel', writeId: randomId() } as const
      const attempt = endedAttempt(job, now, 'job_cancelled', writer)
      return { kind: 'change', update: { ...update, ...pushAttempt(attempt) }, result, attempt }
    },
    onWritten({ _id: jobId, endpoint }, { attempt }) {
      if (attempt === undefined) return
      context.ends.tell({ jobId, endpoint, attempt: attemptOf(attempt), diedOf: null })
    },
  })
  await afterFinish(
    context,
    ids.filter((_, i) => results[i]?.kind === 'applied'),
  )
  // Only a retry can break the unique index of dedupe keys or be refused for its dependencies.
  return results as CommandResult[]
}

export async function retry(
  context: MongoContext,
  ids: string[],
  options: RetryOptions = { waives: true },
): Promise<RetryResult[]> {
  const deadline = startDeadline()
  const seen = await look(context, ids, deadline)
  const accepting = await acceptingEndpoints(context, [...seen.values()], deadline)
  const states = await statesOfUnmet(context, [...seen.values()], deadline)
  const queued: HeldJob[] = []
  const results = await byHand(ids, {
    ...{ context, event: 'retry', deadline, seen },
    async judge(job) {
      const state = stateOf(job.state)
      if (job.owes && isRetryable(state)) {
        // What its finish leads to must not be lost by there being another one.
        await doAftermath(context, [job._id])
        return { kind: 'look_again' }
      }
      const endpointAccepts = accepting.has(job.endpoint)
      const decision = decideRetry(
        { state, endpointAccepts, unmet: job.waitingFor ?? [] },
        (id) => states.get(id) ?? null,
        options,
      )
      if (decision.kind !== 'retry') return decision
      const { waitingFor, waived } = decision
      return {
        kind: 'change',
        update: freshStart(job, waitingFor, nowOf(context)),
        result: waived.length === 0 ? { kind: 'applied' } : { kind: 'applied', waived },
      }
    },
    onWritten(job, { update: { $set } }) {
      // From here on the jobs behind it may wait for it.
      states.set(job._id, 'queued')
      queued.push({ ...job, waitingFor: $set?.waitingFor ?? [] })
    },
  })
  if (queued.length > 0) await letGo(context, queued)
  return results
}

async function acceptingEndpoints(
  context: MongoContext,
  seen: Seen[],
  deadline: Deadline,
): Promise<Set<string>> {
  const names = [...new Set(seen.map(({ endpoint }) => endpoint))]
  const found = await run(deadline, (limit) =>
    context.endpoints
      .find(
        { _id: { $in: names }, deleting: false },
        { projection: { _id: 1 }, batchSize: names.length + 1, ...limit },
      )
      .toArray(),
  )
  return new Set(found.map(({ _id }) => _id))
}

/** Marked before they are read: one that finishes afterwards leads to those that wait for it. */
async function statesOfUnmet(
  context: MongoContext,
  seen: Seen[],
  deadline: Deadline,
): Promise<Map<string, JobState>> {
  const unmet = [...new Set(seen.flatMap(({ waitingFor = [] }) => waitingFor))]
  await markDependedOn(context, unmet, deadline)
  return statesOf(context, unmet, deadline)
}

/** Promotes what waits for nothing, and takes the turn from later jobs where it waits. */
async function letGo(context: MongoContext, queued: HeldJob[]): Promise<void> {
  const deadline = startDeadline()
  const lanes = queued.flatMap(({ endpoint, orderingKey }): OrderedLane[] =>
    orderingKey === undefined ? [] : [{ endpoint, orderingKey }],
  )
  const waiting = queued.filter(({ waitingFor = [] }) => waitingFor.length > 0)
  const ordered = waiting.flatMap(({ orderingKey, ...job }) =>
    orderingKey === undefined ? [] : [{ ...job, orderingKey }],
  )
  await holdLaterOnes(context, ordered, deadline)
  await promoteHeads(context, lanes, deadline)
  // What they wait for may have succeeded since it was read; its death is the sweeper's to find.
  if (waiting.length > 0) await checkHeld(context, waiting, { fails: false }, deadline)
  context.hint()
}

function freshStart(seen: Seen, waitingFor: string[], now: Date): UpdateFilter<JobDocument> {
  const { dedupeKey, orderingKey, maxAttempts } = seen
  const waits = waitingFor.length > 0
  const isHeld = waits || orderingKey !== undefined
  return {
    $set: {
      state: isHeld ? 'held' : 'queued',
      ...(isHeld ? { checkedAt: new Date(0) } : {}),
      ...(waits ? { waitingFor } : {}),
      ...(dedupeKey === undefined ? {} : { dedupeHolder: dedupeKey }),
      runAt: now,
      firstRunAt: now,
      attemptsLeft: maxAttempts,
      freeAttempts: 0,
      failureReason: null,
      failureMessage: null,
      result: null,
      resultTruncated: false,
      progress: null,
      expiresAt: null,
      // Another job may have come to depend on it while it was final, and was not marked for it.
      hasDependents: true,
      owes: true,
    },
    $unset: { finishedAt: '', superseded: '', ...(waits ? {} : { waitingFor: '' }) },
    $inc: { version: 1 },
  }
}

async function byHand(ids: string[], command: Command): Promise<RetryResult[]> {
  const results: RetryResult[] = []
  const told = new Set<string>()
  for (const id of ids) {
    const result = await changeOne(id, command)
    // An id given twice: the second finds what the first has made of it.
    const isRepeat = told.has(id) && result.kind === 'applied'
    results.push(isRepeat ? { kind: 'refused', state: LIFECYCLE[command.event].to } : result)
    told.add(id)
  }
  return results
}

async function changeOne(id: string, command: Command): Promise<RetryResult> {
  const { context, seen, deadline, judge, onWritten } = command
  for (let round = 0; round < MAX_ROUNDS; round++) {
    const found = round === 0 ? seen : await look(context, [id], deadline)
    const job = found.get(id)
    const verdict = job === undefined ? ({ kind: 'not_found' } as const) : await judge(job)
    if (verdict.kind === 'look_again') continue
    if (verdict.kind !== 'change' || job === undefined) return verdict as RetryResult
    const written = await write(job, verdict.update, command)
    if (written.kind === 'look_again') continue
    if (written.kind !== 'applied') return written
    onWritten?.(job, verdict)
    return verdict.result
  }
  throw new StoreUnavailable('the job changed each time it was read')
}

async function look(
  context: MongoContext,
  ids: string[],
  deadline: Deadline,
): Promise<Map<string, Seen>> {
  const found = await run(deadline, (limit) =>
    context.jobs
      .find<Seen>({ _id: { $in: ids } }, { projection: SEEN, batchSize: ids.length + 1, ...limit })
      .toArray(),
  )
  return new Map(found.map((document) => [document._id, document]))
}

/** One by one, for only then each answer tells who of two callers at once was the one. */
async function write(
  seen: Seen,
  update: UpdateFilter<JobDocument>,
  { context, event, deadline }: Command,
): Promise<RetryResult | { kind: 'look_again' }> {
  const guard = guardOf(event, { now: nowOf(context) })
  // A retry takes up the mark of an aftermath: one that was put there meanwhile has to be done.
  const settled = event === 'retry' ? { owes: { $ne: true as const } } : {}
  try {
    const { matchedCount } = await run(deadline, (limit) =>
      context.jobs.updateOne(
        { $and: [{ _id: seen._id, version: seen.version, ...settled }, guard] },
        update,
        limit,
      ),
    )
    return { kind: matchedCount === 1 ? 'applied' : 'look_again' }
  } catch (error) {
    if (!isDuplicateKey(error)) throw error
    return keyHolder(context, seen, deadline)
  }
}

/** Who has its dedupe key by now; if nobody has any more, it is tried again. */
async function keyHolder(
  context: MongoContext,
  { endpoint, dedupeKey }: Seen,
  deadline: Deadline,
): Promise<RetryResult | { kind: 'look_again' }> {
  if (dedupeKey === undefined) return { kind: 'look_again' }
  const holder = await run(deadline, (limit) =>
    context.jobs.findOne(
      { endpoint, dedupeHolder: dedupeKey },
      { projection: { _id: 1 }, ...limit },
    ),
  )
  return holder === null ? { kind: 'look_again' } : { kind: 'dedupe_conflict', jobId: holder._id }
}
