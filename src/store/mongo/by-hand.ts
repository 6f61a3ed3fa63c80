// Cancel and retry: what people do to jobs. Each reads the jobs, then writes what may be written,
// under guards that name what was read; those that moved meanwhile are read again.
import type { UpdateFilter } from 'mongodb'
import { LIFECYCLE } from '../../job/lifecycle.ts'
import type { CommandResult } from '../job-commands.ts'
import { StoreUnavailable } from '../store.ts'
import { afterFinish, doAftermath } from './aftermath.ts'
import { pushAttempt, randomId, toFinal } from './changes.ts'
import { type MongoContext, nowOf } from './context.ts'
import { isFinalState, type JobDocument, NEVER, stateOf } from './documents.ts'
import { guardOf } from './guards.ts'
import { lostAttempt, SEEN_LEASE } from './lost-attempts.ts'
import { type Deadline, isDuplicateKey, run, startDeadline } from './run-command.ts'
import { type OrderedLane, promoteHeads } from './turns.ts'

/** A job that changes under our hands this often in 3 s is being worked on by a storm. */
const MAX_ROUNDS = 10

const SEEN = {
  ...SEEN_LEASE,
  state: 1,
  endpoint: 1,
  maxAttempts: 1,
  version: 1,
  dedupeKey: 1,
  orderingKey: 1,
  owes: 1,
} as const
type Seen = Pick<JobDocument, '_id' | keyof typeof SEEN>

/** A result, or the change to write. */
type Verdict =
  | CommandResult
  | { kind: 'change'; update: UpdateFilter<JobDocument> }
  /** Something had to be done first: look again. */
  | { kind: 'look_again' }

export async function cancel(context: MongoContext, ids: string[]): Promise<CommandResult[]> {
  const results = await byHand(context, ids, 'cancel', async (seen) => {
    if (isFinalState(seen.state)) return { kind: 'refused', state: stateOf(seen.state) }
    const now = nowOf(context)
    const change = toFinal('cancelled', now, context.settings, {})
    if (seen.state !== 'running') return { kind: 'change', update: change }
    const attempt = lostAttempt(seen, now, 'cancelled', { event: 'cancel', writeId: randomId() })
    return { kind: 'change', update: { ...change, ...pushAttempt(attempt) } }
  })
  await afterFinish(
    context,
    ids.filter((_, i) => results[i]?.kind === 'applied'),
  )
  return results
}

export async function retry(context: MongoContext, ids: string[]): Promise<CommandResult[]> {
  const lanes: OrderedLane[] = []
  const results = await byHand(context, ids, 'retry', async (seen, deadline) => {
    if (seen.state !== 'dead' && seen.state !== 'cancelled') {
      return { kind: 'refused', state: stateOf(seen.state) }
    }
    if (seen.owes) {
      // What its finish leads to must not be lost by there being another one.
      await doAftermath(context, [seen._id])
      return { kind: 'look_again' }
    }
    const accepts = await run(deadline, (limit) =>
      context.endpoints.countDocuments({ _id: seen.endpoint, deleting: false }, { ...limit }),
    )
    if (accepts === 0) return { kind: 'unknown_endpoint' }
    const { endpoint, orderingKey } = seen
    if (orderingKey !== undefined) lanes.push({ endpoint, orderingKey })
    return { kind: 'change', update: freshStart(seen, nowOf(context)) }
  })
  if (results.some(({ kind }) => kind === 'applied')) {
    await promoteHeads(context, lanes, startDeadline())
    context.hint()
  }
  return results
}

function freshStart(seen: Seen, now: Date): UpdateFilter<JobDocument> {
  const { dedupeKey, orderingKey, maxAttempts } = seen
  return {
    $set: {
      state: orderingKey === undefined ? 'queued' : 'held',
      ...(orderingKey === undefined ? {} : { checkedAt: new Date(0) }),
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
      purgeAt: NEVER,
    },
    $unset: { finishedAt: '', superseded: '', waitingFor: '' },
    $inc: { version: 1 },
  }
}

async function byHand(
  context: MongoContext,
  ids: string[],
  event: 'cancel' | 'retry',
  judge: (seen: Seen, deadline: Deadline) => Promise<Verdict>,
): Promise<CommandResult[]> {
  const deadline = startDeadline()
  const results = new Map<string, CommandResult>()
  let open = [...new Set(ids)]
  for (let round = 0; open.length > 0; round++) {
    if (round === MAX_ROUNDS)
      throw new StoreUnavailable('the jobs changed as often as they were read')
    const seen = await look(context, open, deadline)
    const moved: string[] = []
    for (const id of open) {
      const document = seen.get(id)
      const verdict = document ? await judge(document, deadline) : ({ kind: 'not_found' } as const)
      const result =
        verdict.kind === 'change' && document
          ? await write(context, document, event, verdict.update, deadline)
          : verdict
      if (result.kind === 'look_again' || result.kind === 'change') moved.push(id)
      else results.set(id, result)
    }
    open = moved
  }
  const told = new Set<string>()
  return ids.map((id) => {
    const result = results.get(id) ?? { kind: 'not_found' }
    // An id given twice: the second finds what the first has made of it.
    const again = told.has(id) && result.kind === 'applied'
    told.add(id)
    return again ? { kind: 'refused', state: LIFECYCLE[event].to } : result
  })
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
  context: MongoContext,
  seen: Seen,
  event: 'cancel' | 'retry',
  update: UpdateFilter<JobDocument>,
  deadline: Deadline,
): Promise<CommandResult | { kind: 'look_again' }> {
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
): Promise<CommandResult | { kind: 'look_again' }> {
  if (dedupeKey === undefined) return { kind: 'look_again' }
  const holder = await run(deadline, (limit) =>
    context.jobs.findOne(
      { endpoint, dedupeHolder: dedupeKey },
      { projection: { _id: 1 }, ...limit },
    ),
  )
  return holder === null ? { kind: 'look_again' } : { kind: 'dedupe_conflict', jobId: holder._id }
}
