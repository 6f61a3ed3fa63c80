// Blocked jobs: queued jobs that wait for dependencies or for the slot of their ordering key. A
// check only reads. What follows from it is written under the guard of its event.

import { dependencyFailed } from '../../job/attempt.ts'
import { checkDependencies } from '../../job/dependencies.ts'
import type { Failure } from '../../job/job.ts'
import type { Need } from '../../job/needs.ts'
import { type Database, reportEnd } from './connection.ts'
import { guardOf, IN_ORDER } from './guards.ts'
import { makeInputsOf, storeInputs } from './inputs.ts'
import { FAILURE_OF_JOB, finishQueuedAs, listText, parsed, QUEUE_AGAIN } from './job-row.ts'
import { stateOfDependency } from './jobs.ts'
import { leaveLine, placeUnplaced } from './turns.ts'

export const BLOCKED_COLUMNS = 'seq, id, endpoint, ordering_key, needs, inputs_bytes, waiting_for'

export const BLOCKED_BY_SEQ = `select ${BLOCKED_COLUMNS} from jobs where seq = $seq and blocked = 1`
export const BLOCKED_BY_ID = `select ${BLOCKED_COLUMNS} from jobs where id = $id and blocked = 1`

/** The earliest job of an ordering key that is not final. */
export const HEAD_OF_KEY = `
select ${BLOCKED_COLUMNS}, blocked from jobs
where ${IN_ORDER} and endpoint = $endpoint and ordering_key = $orderingKey order by seq limit 1`
export const ORDERING_SLOT_OF = `
select seq, state from jobs
where ordering_slot is not null and endpoint = $endpoint and ordering_slot = $orderingKey`

export const ADD_DEPENDENCY = `
insert into dependencies (dependency, dependent) values ($id, $dependent) on conflict do nothing`
export const MARK_DEPENDED_ON = `
update jobs set has_dependents = 1 where id = $id and has_dependents = 0`

export const PROMOTE = `
update jobs set ${QUEUE_AGAIN}, ordering_slot = ordering_key,
  due_at = max(run_at, $now), promoted_at = $now, version = version + 1
where seq = $seq and ${guardOf('promote')}`
/** A later job of the key, when an earlier one is queued again. */
export const BLOCK_AGAIN = `
update jobs set blocked = 1, claimable = null, recheck = 0, ordering_slot = null,
  version = version + 1
where seq = $seq and state = 'queued' and ordering_slot is not null`
export const FAIL_BLOCKED = {
  fail_dependent: failBlocked('fail_dependent'),
  fail_inputs: failBlocked('fail_inputs'),
} as const
/** The next sweep makes it dead. */
export const RECHECK = 'update jobs set recheck = 1 where seq = $seq and blocked = 1'
export const WAIT_FOR = `
update jobs set waiting_for = $waitingFor, recheck = 0 where seq = $seq and blocked = 1`

export interface BlockedJob {
  seq: number
  id: string
  endpoint: string
  ordering_key: string | null
  needs: string | null
  inputs_bytes: number | null
  waiting_for: string | null
}

export type BlockedCheck =
  | { kind: 'waits' }
  /**
   * Some dependencies have succeeded. Or all of them have, but another job has the ordering slot.
   */
  | { kind: 'waits_for_less'; unmet: string[] }
  | { kind: 'fails'; event: keyof typeof FAIL_BLOCKED; failure: Failure; unmet: string[] }
  /** `inputs` null: it needs none, or had them before it lost its ordering slot. */
  | { kind: 'ready'; inputs: Uint8Array | null }

function failBlocked(event: 'fail_dependent' | 'fail_inputs'): string {
  return `update jobs set ${finishQueuedAs('dead')}, ${FAILURE_OF_JOB}, waiting_for = $waitingFor
    where seq = $seq and ${guardOf(event)}`
}

/**
 * Marks the dependencies in the transaction that read their states. They finish later, and their
 * finish sees the mark.
 */
export function waitForFinishOf({ connection }: Database, ids: string[], dependent: string): void {
  for (const id of ids) {
    connection.statement(ADD_DEPENDENCY).run({ id, dependent })
    connection.statement(MARK_DEPENDED_ON).run({ id })
  }
}

export function checkBlocked(database: Database, row: BlockedJob): BlockedCheck {
  const waitingFor = parsed<string[]>(row.waiting_for, [])
  const needs = parsed<Need[]>(row.needs, [])
  const { unmet, failed } = checkDependencies(
    waitingFor,
    (id) => stateOfDependency(database, id),
    needs,
  )
  if (failed !== null) {
    return { kind: 'fails', event: 'fail_dependent', failure: dependencyFailed(failed), unmet }
  }
  const mayGoOn = unmet.length === 0
  if (mayGoOn && (row.ordering_key === null || isOrderingSlotFree(database, row))) {
    if (needs.length === 0 || row.inputs_bytes !== null) return { kind: 'ready', inputs: null }
    const made = makeInputsOf(database, row.seq, needs)
    return made.kind === 'made'
      ? { kind: 'ready', inputs: made.inputs }
      : { kind: 'fails', event: 'fail_inputs', failure: made.failure, unmet }
  }
  return unmet.length < waitingFor.length ? { kind: 'waits_for_less', unmet } : { kind: 'waits' }
}

function isOrderingSlotFree(
  { connection }: Database,
  { seq, endpoint, ordering_key: orderingKey }: BlockedJob,
): boolean {
  const head = connection.statement(HEAD_OF_KEY).get({ endpoint, orderingKey })
  if (head?.seq !== seq) return false
  return connection.statement(ORDERING_SLOT_OF).get({ endpoint, orderingKey })?.state !== 'running'
}

/**
 * Checks and writes. The caller is in a transaction and runs the finish effects.
 *
 * @param isNew the job was just queued: if it fails, the next sweep makes it dead, so that the
 * response shows a queued job
 */
export function resolveBlocked(
  database: Database,
  row: BlockedJob,
  { isNew = false } = {},
): BlockedCheck['kind'] {
  const check = checkBlocked(database, row)
  switch (check.kind) {
    case 'waits':
      return check.kind
    case 'waits_for_less':
      waitFor(database, row, check.unmet)
      return check.kind
    case 'fails':
      if (isNew) {
        database.connection.statement(RECHECK).run({ seq: row.seq })
        return 'waits'
      }
      if (check.event === 'fail_inputs') waitFor(database, row, [])
      return failBlockedJob(database, row, check) ? check.kind : 'waits'
    case 'ready':
      waitFor(database, row, [])
      if (check.inputs !== null) storeInputs(database, row.seq, check.inputs)
      return promote(database, row) ? check.kind : 'waits'
    default:
      throw new Error(`unknown check ${(check satisfies never as BlockedCheck).kind}`)
  }
}

/** Gives the ordering slot to the next job of the key; returns what that job's check found. */
export function advanceOrderingKey(
  database: Database,
  endpoint: string,
  orderingKey: string,
): BlockedCheck['kind'] {
  const head = database.connection.statement(HEAD_OF_KEY).get({ endpoint, orderingKey })
  if (head === undefined || head.blocked === 0) return 'waits'
  return resolveBlocked(database, head as unknown as BlockedJob)
}

/** An earlier job of the key is queued again: a later one that is not running loses the slot. */
export function blockLaterOne(
  database: Database,
  seq: number,
  endpoint: string,
  orderingKey: string,
): void {
  const { connection } = database
  const holder = connection.statement(ORDERING_SLOT_OF).get({ endpoint, orderingKey })
  if (holder === undefined || (holder.seq as number) <= seq) return
  leaveLine(database, holder.seq as number)
  connection.statement(BLOCK_AGAIN).run({ seq: holder.seq as number })
}

function promote(database: Database, { seq, endpoint, ordering_key }: BlockedJob): boolean {
  const { connection, clock, notifier } = database
  if (ordering_key !== null) blockLaterOne(database, seq, endpoint, ordering_key)
  const { changes } = connection.statement(PROMOTE).run({ seq, now: clock.now() })
  if (changes === 0) return false
  placeUnplaced(database)
  notifier.notifyWork()
  return true
}

function waitFor({ connection }: Database, row: BlockedJob, unmet: string[]): void {
  const waitingFor = listText(unmet)
  if (waitingFor === row.waiting_for) return
  connection.statement(WAIT_FOR).run({ seq: row.seq, waitingFor })
}

function failBlockedJob(
  database: Database,
  row: BlockedJob,
  { event, failure, unmet }: Extract<BlockedCheck, { kind: 'fails' }>,
): boolean {
  const { connection, clock } = database
  const { reason, message, jobId: failedId = null } = failure
  const { changes } = connection.statement(FAIL_BLOCKED[event]).run({
    ...{ seq: row.seq, finishedAt: clock.now(), waitingFor: listText(unmet) },
    ...{ reason, message, jobId: failedId },
  })
  if (changes === 0) return false
  const { id: jobId, endpoint } = row
  reportEnd(database, { jobId, endpoint, attempt: null, deathReason: failure.reason })
  return true
}

export function headOfOrderingKey(
  { connection }: Database,
  endpoint: string,
  orderingKey: string,
): Promise<string | null> {
  return connection.read(() => {
    const row = connection.statement(HEAD_OF_KEY).get({ endpoint, orderingKey })
    return row === undefined ? null : (row.id as string)
  })
}
