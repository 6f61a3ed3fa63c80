// What a job's finish leads to: its notice, its dependents, the next of its ordering key. It is
// done in the transaction that finished the job, as far as that may take; the mark on the job stays
// until all is done, and every later write that ends jobs, and every sweep, goes on with it.

import type { Acceptance } from '../../job/acceptance.ts'
import { type FinishEffects, NO_EFFECTS } from '../../job/finish-effects.ts'
import type { FailureReason, JobState } from '../../job/job.ts'
import { type DropReason, hasTooManyHops, isToldOf, noticeOf } from '../../job/notice.ts'
import { HELD_BY_ID, type HeldRow, type Judgement, passTurn, resolveHeld } from './blocked-jobs.ts'
import type { Database } from './connection.ts'
import { insertJob, originOf, parsed } from './job-row.ts'

/** Jobs looked at in one transaction, which others wait for: some milliseconds. */
export const MAX_STEPS = 200
/** Of one job that somebody asks to retry or delete: what is waited for may take longer. */
const MAX_STEPS_OF_ONE = 10_000

const COLUMNS = `seq, id, endpoint, state, finishes, ordering_key, has_dependents,
  notice_endpoint, notice_states`
export const NEXT_AFTERMATH = `
select ${COLUMNS} from jobs where aftermath = 1 order by seq limit 1`
export const AFTERMATH_OF = `select ${COLUMNS} from jobs where aftermath = 1 and seq = ?`
export const TOLD_OF = `
select created_at, result, metadata, failure_reason, failure_message, trace from jobs
where seq = ?`

/** Of an endpoint that is disabled too: its notices wait there. */
export const NOTICE_BUDGET = 'select max_attempts from endpoints where name = ? and deleting = 0'

/** Parameters: the job's id, limit. */
export const DEPENDENTS_OF = `
select dependent from dependencies where dependency = ? order by dependent limit +?`
export const DROP_DEPENDENT = 'delete from dependencies where dependency = ? and dependent = ?'

export const CLEAR_AFTERMATH = 'update jobs set aftermath = 0 where seq = ? and aftermath = 1'

interface AftermathRow {
  seq: number
  id: string
  endpoint: string
  state: JobState
  finishes: number
  ordering_key: string | null
  has_dependents: number
  notice_endpoint: string | null
  notice_states: string | null
}

/** Called in a transaction that may have ended jobs. Where none is marked it costs one seek. */
export function runAftermath(database: Database): FinishEffects {
  const counts = { ...NO_EFFECTS }
  for (let left = MAX_STEPS; left > 0; ) {
    const row = database.connection.statement(NEXT_AFTERMATH).get() as AftermathRow | undefined
    if (row === undefined) break
    left = follow(database, row, left, counts)
  }
  return counts
}

/** That of one job, before it is deleted or queued again; answers whether nothing is left of it. */
export function runAftermathOf(database: Database, seq: number): boolean {
  const { connection } = database
  const row = connection.statement(AFTERMATH_OF).get(seq) as AftermathRow | undefined
  if (row === undefined) return true
  follow(database, row, MAX_STEPS_OF_ONE, { ...NO_EFFECTS })
  return connection.statement(AFTERMATH_OF).get(seq) === undefined
}

/** Answers how many steps are left; at 0 some of this job's aftermath may be, too. */
function follow(
  database: Database,
  row: AftermathRow,
  steps: number,
  counts: FinishEffects,
): number {
  // First, so that it is told of by the time that the job may be queued again.
  giveNotice(database, row)
  let left = steps - 1
  if (row.has_dependents === 1) left = tellDependents(database, row, left, counts)
  if (left <= 0 && row.has_dependents === 1) return 0
  if (row.ordering_key !== null) {
    count(counts, passTurn(database, row.endpoint, row.ordering_key))
  }
  database.connection.statement(CLEAR_AFTERMATH).run(row.seq)
  counts.aftermaths++
  return left
}

/** Its origin key makes it one notice a finish, however often this is called. */
function giveNotice(database: Database, row: AftermathRow): void {
  const { connection, clock, settings, watch } = database
  const drop = (reason: DropReason) =>
    settings.warn({ jobId: row.id, endpoint, reason }, 'notice.dropped')
  if (row.notice_endpoint === null) return
  const onFinish = { endpoint: row.notice_endpoint, states: parsed(row.notice_states, []) }
  if (!isToldOf(onFinish, row.state)) return
  const { endpoint } = onFinish
  const accepting = connection.statement(NOTICE_BUDGET).get(endpoint)
  if (accepting === undefined) {
    drop('endpoint_not_found')
    return
  }
  const told = connection.statement(TOLD_OF).get(row.seq) as unknown as ToldRow
  const { failure_reason, failure_message } = told
  const notice = noticeOf(
    {
      id: row.id,
      createdAt: told.created_at,
      endpoint: row.endpoint,
      state: row.state,
      result: told.result,
      failure:
        failure_reason === null ? null : { reason: failure_reason, message: failure_message ?? '' },
      metadata: parsed(told.metadata, {}),
      hops: originOf(told.trace).hops,
    },
    row.finishes,
    endpoint,
    clock.now(),
  )
  if (hasTooManyHops(notice)) {
    drop('too_many_hops')
    return
  }
  const maxAttempts = accepting.max_attempts as number
  const acceptance: Acceptance = {
    ...{ kind: 'accepted', maxAttempts, onFinish: null, waitingFor: [] },
    ...{ isDoomed: false, isHeld: false },
  }
  if (insertJob(database, notice, acceptance) !== null) watch.stir()
}

interface ToldRow {
  created_at: number
  result: string | null
  metadata: string | null
  failure_reason: FailureReason | null
  failure_message: string | null
  trace: string | null
}

/** Each forgets that it waited for this one, and what that leads to is written with it. */
function tellDependents(
  database: Database,
  { id }: AftermathRow,
  steps: number,
  counts: FinishEffects,
): number {
  const { connection } = database
  let left = steps
  const rows = connection.statement(DEPENDENTS_OF).all(id, Math.max(0, left))
  for (const { dependent } of rows) {
    const held = connection.statement(HELD_BY_ID).get(dependent as string) as HeldRow | undefined
    const became = held === undefined ? 'waits' : resolveHeld(database, held)
    count(counts, became)
    connection.statement(DROP_DEPENDENT).run(id, dependent as string)
    left--
  }
  return left
}

function count(counts: FinishEffects, became: Judgement['kind']): void {
  if (became === 'ready') counts.promoted++
  if (became === 'fails') counts.dependentsFailed++
}
