// Cancel and retry: what people do to jobs. Each reads the jobs, then writes what may be written,
// under guards that name what was read; those that moved meanwhile are read again.
import type { UpdateFilter } from 'mongodb'
import { isFinal } from '../../job/job.ts'
import { LIFECYCLE } from '../../job/lifecycle.ts'
import { type CommandResult, MIN_KEY_LIFE_MS, StoreUnavailable } from '../store.ts'
import { pushAttempt, randomId, toFinal } from './changes.ts'
import { type MongoContext, nowOf } from './context.ts'
import type { JobDocument } from './documents.ts'
import { guardOf } from './guards.ts'
import { lostAttempt, SEEN_LEASE, type SeenLease } from './lost-attempts.ts'
import { type Deadline, run, startDeadline } from './run-command.ts'

/** A job that changes under our hands this often in 3 s is being worked on by a storm. */
const MAX_ROUNDS = 10

type Seen = SeenLease &
  Pick<JobDocument, 'state' | 'endpoint' | 'createdAt' | 'maxAttempts' | 'version'>
const SEEN = {
  ...SEEN_LEASE,
  state: 1,
  endpoint: 1,
  createdAt: 1,
  maxAttempts: 1,
  version: 1,
} as const

/** A result, or the change to write. */
type Verdict = CommandResult | { kind: 'change'; update: UpdateFilter<JobDocument> }

export function cancel(context: MongoContext, ids: string[]): Promise<CommandResult[]> {
  return byHand(context, ids, 'cancel', async (seen) => {
    if (isFinal(seen.state)) return { kind: 'refused', state: seen.state }
    const now = nowOf(context)
    const change = toFinal('cancelled', now, context.settings, {})
    if (seen.state === 'queued') return { kind: 'change', update: change }
    const attempt = lostAttempt(seen, now, 'cancelled', { event: 'cancel', writeId: randomId() })
    return { kind: 'change', update: { ...change, ...pushAttempt(attempt) } }
  })
}

export async function retry(context: MongoContext, ids: string[]): Promise<CommandResult[]> {
  const results = await byHand(context, ids, 'retry', async (seen, deadline) => {
    if (seen.state !== 'dead' && seen.state !== 'cancelled') {
      return { kind: 'refused', state: seen.state }
    }
    const accepts = await run(deadline, (limit) =>
      context.endpoints.countDocuments({ _id: seen.endpoint, deleting: false }, { ...limit }),
    )
    if (accepts === 0) return { kind: 'unknown_endpoint' }
    return { kind: 'change', update: freshStart(seen, nowOf(context)) }
  })
  if (results.some(({ kind }) => kind === 'applied')) context.hint()
  return results
}

function freshStart(seen: Seen, now: Date): UpdateFilter<JobDocument> {
  return {
    $set: {
      state: 'queued',
      runAt: now,
      firstRunAt: now,
      attemptsLeft: seen.maxAttempts,
      freeAttempts: 0,
      failureReason: null,
      failureMessage: null,
      result: null,
      resultTruncated: false,
      expiresAt: null,
      purgeAt: new Date(seen.createdAt.getTime() + MIN_KEY_LIFE_MS),
    },
    $unset: { finishedAt: '' },
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
      if (verdict.kind !== 'change') results.set(id, verdict)
      else if (document && (await write(context, document, event, verdict.update, deadline))) {
        results.set(id, { kind: 'applied' })
      } else moved.push(id)
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
): Promise<boolean> {
  const guard = guardOf(event, { now: nowOf(context) })
  const { matchedCount } = await run(deadline, (limit) =>
    context.jobs.updateOne(
      { $and: [{ _id: seen._id, version: seen.version }, guard] },
      update,
      limit,
    ),
  )
  return matchedCount === 1
}
