// What people change of a queued job, and how they remove a final one.
import type { UpdateFilter } from 'mongodb'
import { instantsAfterEdit, type JobChange, refusalOfEdit } from '../../job/edit.ts'
import type { DeleteJobResult, EditResult } from '../job-commands.ts'
import { StoreUnavailable } from '../store.ts'
import { doAftermath } from './aftermath.ts'
import { type MongoContext, nowOf } from './context.ts'
import { dateOrNull, isFinalState, type JobDocument, jobOf, stateOf } from './documents.ts'
import { guardOf } from './guards.ts'
import { run, startDeadline } from './run-command.ts'

/** A job that changes this often in 3 s is being worked on by a storm. */
const MAX_ROUNDS = 10

const SEEN = {
  state: 1,
  version: 1,
  attemptCount: 1,
  firstRunAt: 1,
  runAt: 1,
  expiresAt: 1,
} as const
type Seen = Pick<JobDocument, keyof typeof SEEN>

export async function edit(
  context: MongoContext,
  id: string,
  change: JobChange,
  ifVersion: number | null,
): Promise<EditResult> {
  const deadline = startDeadline()
  for (let round = 0; round < MAX_ROUNDS; round++) {
    const seen = await run(deadline, (limit) =>
      context.jobs.findOne<Seen>({ _id: id }, { projection: SEEN, ...limit }),
    )
    if (seen === null) return { kind: 'not_found' }
    const { version, attemptCount } = seen
    const state = stateOf(seen.state)
    const refusal = refusalOfEdit({ state, version, attemptCount }, change, ifVersion)
    if (refusal !== null) return refusal
    const written = await run(deadline, (limit) =>
      context.jobs.findOneAndUpdate(
        { _id: id, ...guardOf('edit', { now: nowOf(context), version }), attemptCount },
        updateOf(seen, change),
        { returnDocument: 'after', ...limit },
      ),
    )
    if (written === null) continue
    context.hint()
    return { kind: 'applied', job: jobOf(written, context.box) }
  }
  throw new StoreUnavailable('the job changed each time it was read')
}

function updateOf(seen: Seen, change: JobChange): UpdateFilter<JobDocument> {
  const { payload, priority, tags, metadata } = change
  const withoutTags = tags !== undefined && tags.length === 0
  return {
    $set: {
      ...instantFields(seen, change),
      ...(priority === undefined ? {} : { priority }),
      ...(tags === undefined || withoutTags ? {} : { tags }),
      ...(metadata === undefined ? {} : { metadata: JSON.stringify(metadata) }),
      ...(payload === undefined
        ? {}
        : { payload, payloadBytes: payload.byteLength, payloadChanged: true as const }),
    },
    ...(withoutTags ? { $unset: { tags: '' as const } } : {}),
    $inc: { version: 1 },
  }
}

function instantFields(seen: Seen, change: JobChange) {
  const before = {
    runAt: seen.runAt.getTime(),
    firstRunAt: seen.firstRunAt.getTime(),
    expiresAt: seen.expiresAt?.getTime() ?? null,
    attemptCount: seen.attemptCount,
  }
  const { runAt, firstRunAt, expiresAt } = instantsAfterEdit(before, change)
  return {
    runAt: new Date(runAt),
    firstRunAt: new Date(firstRunAt),
    expiresAt: dateOrNull(expiresAt),
  }
}

export async function deleteJob(
  context: MongoContext,
  id: string,
  ifVersion: number | null = null,
): Promise<DeleteJobResult> {
  const atVersion = ifVersion === null ? {} : { version: ifVersion }
  const deadline = startDeadline()
  for (let round = 0; round < MAX_ROUNDS; round++) {
    const { deletedCount } = await run(deadline, (limit) =>
      context.jobs.deleteOne(
        { _id: id, ...guardOf('delete', { now: nowOf(context) }), ...atVersion },
        limit,
      ),
    )
    if (deletedCount === 1) return { kind: 'applied' }
    const seen = await run(deadline, (limit) =>
      context.jobs.findOne({ _id: id }, { projection: { state: 1, version: 1 }, ...limit }),
    )
    if (seen === null) return { kind: 'not_found' }
    const { version } = seen
    if (ifVersion !== null && version !== ifVersion) return { kind: 'stale', version }
    if (!isFinalState(seen.state)) return { kind: 'refused', state: stateOf(seen.state) }
    // What its finish leads to comes first.
    await doAftermath(context, [id])
  }
  throw new StoreUnavailable('its finish effects could not be completed in time')
}
