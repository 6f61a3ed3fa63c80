// The finish effects: what follows when a job becomes final. Its notice is enqueued, its dependents
// are unblocked or made dead, and the next job of its ordering key gets the slot. They run in the
// transaction that makes the job final, up to a number of steps. `effects_pending` of the job stays
// 1 until all are done: every later write that makes jobs final, and every sweep, continues them.

import type { Acceptance } from '../../job/acceptance.ts'
import { type FinishEffects, NO_EFFECTS } from '../../job/finish-effects.ts'
import { type CountedGroup, dueNotices, notifiesFirstDead } from '../../job/groups.ts'
import type { FailureReason, NewJob } from '../../job/job.ts'
import {
  type DropReason,
  groupNoticeOf,
  hasTooManyHops,
  noticeOf,
  sendsNotice,
} from '../../job/notice.ts'
import type { FinalState } from '../../job/retention.ts'
import { NO_TURN } from '../../job/turns.ts'
import {
  advanceOrderingKey,
  BLOCKED_BY_ID,
  type BlockedCheck,
  type BlockedJob,
  resolveBlocked,
} from './blocked-jobs.ts'
import type { Database } from './connection.ts'
import {
  type Counted,
  countedGroupOf,
  countMembers,
  failuresOf,
  finishGroup,
  type GroupEffects,
  NOTE_DEAD_NOTIFIED,
  noteCounted,
} from './group-members.ts'
import { inputSteps } from './inputs.ts'
import { failureOf, insertJob, originOf, parsed } from './job-row.ts'
import { closeGaps, wakeParked } from './turns.ts'

/** Jobs read in one transaction: some milliseconds, in which other writers wait. */
export const MAX_STEPS = 200
/** The limit for one job that a client retries or deletes: its request may take longer. */
const MAX_STEPS_FOR_ONE = 10_000

const COLUMNS = `seq, id, endpoint, state, finishes, ordering_key, has_dependents, priority,
  fairness_key, turn, group_id, counted, notice_endpoint, notice_states`
export const NEXT_WITH_EFFECTS = `
select ${COLUMNS} from jobs where effects_pending = 1 order by seq limit 1`
export const EFFECTS_OF = `select ${COLUMNS} from jobs where effects_pending = 1 and seq = $seq`
/** The fields that the notice of a job reports. */
export const REPORTED_OF = `
select created_at, result, metadata, fairness_key, failure_reason, failure_message, failure_job_id,
  trace
from jobs where seq = $seq`

/** A disabled endpoint counts, too: its notices wait there. */
export const NOTICE_BUDGET =
  'select max_attempts from endpoints where name = $endpoint and deleting = 0'

export const DEPENDENTS_OF = `
select dependent from dependencies where dependency = $id order by dependent limit +$limit`
export const DROP_DEPENDENT =
  'delete from dependencies where dependency = $id and dependent = $dependent'

/** A member is counted with its last effect. */
export const CLEAR_EFFECTS_PENDING = `
update jobs set effects_pending = 0, counted = iif(group_id is null, null, state)
where seq = $seq and effects_pending = 1`

interface FinishedRow {
  seq: number
  id: string
  endpoint: string
  state: FinalState
  finishes: number
  ordering_key: string | null
  has_dependents: number
  priority: number
  fairness_key: string | null
  /** Not NO_TURN: the job was queued, and had a place in the order of its key. */
  turn: number
  group_id: string | null
  counted: FinalState | null
  notice_endpoint: string | null
  notice_states: string | null
}

/**
 * Called in a transaction that may have made jobs final. If no effects are pending it costs one
 * seek.
 *
 * @param counted members that the caller has marked as counted
 */
export function runFinishEffects(database: Database, counted: Counted = new Map()): FinishEffects {
  const counts = { ...NO_EFFECTS }
  for (let left = MAX_STEPS; left > 0; ) {
    const row = database.connection.statement(NEXT_WITH_EFFECTS).get() as FinishedRow | undefined
    if (row === undefined) break
    left = runEffects(database, row, left, { counts, counted })
  }
  if (counted.size > 0) runGroupEffects(database, countMembers(database, counted))
  return counts
}

/**
 * Runs the effects of one job, before it is deleted or queued again. Returns whether all are done.
 */
export function runFinishEffectsOf(database: Database, seq: number): boolean {
  const { connection } = database
  const row = connection.statement(EFFECTS_OF).get({ seq }) as FinishedRow | undefined
  if (row === undefined) return true
  const counted: Counted = new Map()
  runEffects(database, row, MAX_STEPS_FOR_ONE, { counts: { ...NO_EFFECTS }, counted })
  runGroupEffects(database, countMembers(database, counted))
  return connection.statement(EFFECTS_OF).get({ seq }) === undefined
}

/** Returns how many steps are left. At 0 some effects of this job may still be pending. */
function runEffects(
  database: Database,
  row: FinishedRow,
  steps: number,
  { counts, counted }: { counts: FinishEffects; counted: Counted },
): number {
  // The notice comes first: it reports how this finish ended, and the job may be queued again
  // afterwards.
  enqueueNotice(database, row)
  const { endpoint, priority, fairness_key: key } = row
  if (key !== null) {
    if (row.turn === NO_TURN) wakeParked(database, { endpoint, key })
    else closeGaps(database, { endpoint, priority, key })
  }
  let left = steps - 1
  if (row.has_dependents === 1) left = resolveDependents(database, row, left, counts)
  if (left <= 0 && row.has_dependents === 1) return 0
  if (row.ordering_key !== null) {
    count(counts, advanceOrderingKey(database, endpoint, row.ordering_key))
  }
  database.connection.statement(CLEAR_EFFECTS_PENDING).run({ seq: row.seq })
  if (row.group_id !== null && row.counted === null) {
    noteCounted(counted, row.group_id, row.state)
  }
  counts.effectsDone++
  return left
}

/** Can be repeated: the origin key allows one notice for each finish. */
function enqueueNotice(database: Database, row: FinishedRow): void {
  const { connection, clock } = database
  if (row.notice_endpoint === null) return
  const onFinish = { endpoint: row.notice_endpoint, states: parsed(row.notice_states, []) }
  if (!sendsNotice(onFinish, row.state)) return
  const { endpoint } = onFinish
  const reported = connection.statement(REPORTED_OF).get({ seq: row.seq }) as unknown as ReportedRow
  const notice = noticeOf(
    {
      id: row.id,
      createdAt: reported.created_at,
      endpoint: row.endpoint,
      state: row.state,
      result: reported.result,
      failure: failureOf(reported),
      metadata: parsed(reported.metadata, {}),
      fairnessKey: reported.fairness_key,
      hops: originOf(reported.trace).hops,
    },
    row.finishes,
    endpoint,
    clock.now(),
  )
  insertNotice(database, notice, { jobId: row.id })
}

/**
 * Enqueues the notices that are due, and finishes groups whose members are all final. Called in
 * the transaction that counted them, or closed the group.
 */
export function runGroupEffects(database: Database, all: GroupEffects[]): void {
  for (const { groupId, isFirstDead, mayFinish } of all) {
    if (isFirstDead) notifyFirstDead(database, groupId)
    if (!mayFinish || !finishGroup(database, groupId)) continue
    const group = countedGroupOf(database, groupId)
    if (group !== null) enqueueGroupNotices(database, group)
    resolveDependents(database, { id: groupId }, MAX_STEPS, { ...NO_EFFECTS })
  }
}

function notifyFirstDead(database: Database, id: string): void {
  const group = countedGroupOf(database, id)
  if (group === null || !notifiesFirstDead(group)) return
  enqueueGroupNotices(database, group)
  database.connection.statement(NOTE_DEAD_NOTIFIED).run({ id })
}

function enqueueGroupNotices(database: Database, group: CountedGroup): void {
  const due = dueNotices(group)
  if (due.length === 0) return
  const failures = failuresOf(database, group.id)
  const now = database.clock.now()
  for (const one of due) {
    insertNotice(database, groupNoticeOf(group, one, failures, now), { groupId: group.id })
  }
}

/** @param source what finished */
function insertNotice(database: Database, notice: NewJob, source: Record<string, string>): void {
  const { connection, settings, notifier } = database
  const { endpoint } = notice
  const drop = (reason: DropReason) =>
    settings.warn({ ...source, endpoint, reason }, 'notice.dropped')
  const accepting = connection.statement(NOTICE_BUDGET).get({ endpoint })
  if (accepting === undefined) {
    drop('endpoint_not_found')
    return
  }
  if (hasTooManyHops(notice)) {
    drop('too_many_hops')
    return
  }
  const maxAttempts = accepting.max_attempts as number
  const acceptance: Acceptance = {
    ...{ kind: 'accepted', maxAttempts, onFinish: null, waitingFor: [] },
    ...{ isDoomed: false, isBlocked: false },
  }
  if (insertJob(database, notice, acceptance) !== null) notifier.notifyWork()
}

interface ReportedRow {
  created_at: number
  result: string | null
  metadata: string | null
  fairness_key: string | null
  failure_reason: FailureReason | null
  failure_message: string | null
  failure_job_id: string | null
  trace: string | null
}

/** Each dependent is checked again, and stops waiting for this job in the same transaction. */
function resolveDependents(
  database: Database,
  { id }: Pick<FinishedRow, 'id'>,
  steps: number,
  counts: FinishEffects,
): number {
  const { connection } = database
  let left = steps
  const rows = connection.statement(DEPENDENTS_OF).all({ id, limit: Math.max(0, left) })
  for (const { dependent } of rows as { dependent: string }[]) {
    const blocked = connection.statement(BLOCKED_BY_ID).get({ id: dependent }) as
      | BlockedJob
      | undefined
    const became = blocked === undefined ? 'waits' : resolveBlocked(database, blocked)
    count(counts, became)
    connection.statement(DROP_DEPENDENT).run({ id, dependent })
    left -= 1 + (blocked?.needs ? inputSteps(database, blocked.seq) : 0)
    if (left <= 0) break
  }
  return left
}

function count(counts: FinishEffects, became: BlockedCheck['kind']): void {
  if (became === 'ready') counts.promoted++
  if (became === 'fails') counts.dependentsFailed++
}
