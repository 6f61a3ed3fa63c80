// cancel, retry, edit and deleteJob: the commands that clients send about single jobs. Each is
// durable because an HTTP response reports it.

import { decideRetry, type RetryOptions } from '../../job/dependencies.ts'
import { instantsAfterEdit, type JobChange, refusalOfEdit } from '../../job/edit.ts'
import { isFinal, type Job, type JobState } from '../../job/job.ts'
import type { Need } from '../../job/needs.ts'
import type { FinalState } from '../../job/retention.ts'
import type { CommandResult, DeleteJobResult, EditResult, RetryResult } from '../store.ts'
import {
  advanceOrderingKey,
  BLOCKED_BY_SEQ,
  type BlockedJob,
  blockLaterOne,
  resolveBlocked,
  waitForFinishOf,
} from './blocked-jobs.ts'
import { type Database, reportEnd } from './connection.ts'
import { DEDUPE_HOLDER, REPLACE_PAYLOAD } from './enqueue-conflicts.ts'
import { runFinishEffects, runFinishEffectsOf } from './finish-effects.ts'
import { takeOut } from './group-members.ts'
import { guardOf, inStates } from './guards.ts'
import { keepNeeded, NEEDED_BY } from './inputs.ts'
import {
  attemptLine,
  DROP_LEASE,
  endedAttempt,
  finishAs,
  finishQueuedAs,
  HOLDS_KEYS,
  listText,
  mapText,
  parsed,
  WITH_ATTEMPT,
} from './job-row.ts'
import { jobOfId, stateOfDependency } from './jobs.ts'
import { leaveLine, placeUnplaced } from './turns.ts'

export const STATE_OF = `
select seq, state, endpoint, dedupe_key, ordering_key, fence, lease_id, worker_id, claimed_at,
  attempt_count, effects_pending, needs, waiting_for, version, group_id, counted,
  exists (select 1 from inputs where inputs.seq = jobs.seq) as has_inputs
from jobs where id = $id`

export const CANCEL_QUEUED = `
update jobs set ${finishQueuedAs('cancelled')}
where seq = $seq and ${guardOf('cancel')} and ${inStates(['queued'])}`
export const CANCEL_RUNNING = `
update jobs set attempts = ${WITH_ATTEMPT}, ${finishAs('cancelled')}, ${DROP_LEASE}
where seq = $seq and ${guardOf('cancel')} and ${inStates(['running'])}`

export const RETRY = `
update jobs set state = 'queued', waiting_for = $waitingFor,
  blocked = case when coalesce(ordering_key, $waitingFor, needs) is not null then 1
    when fairness_key is null then 0 else 2 end,
  claimable = iif(coalesce(ordering_key, $waitingFor, needs, fairness_key) is null, 1, null),
  recheck = (coalesce(ordering_key, $waitingFor, needs) is null and fairness_key is not null),
  inputs_bytes = iif(needs is null, inputs_bytes, null),
  attempts_left = max_attempts, free_attempts = 0, run_at = $now, due_at = $now,
  first_run_at = $now,
  holds_keys = ${HOLDS_KEYS}, unsuccessful = null, counted = null, superseded = 0,
  effects_pending = 0,
  finished_at = null, failure_reason = null, failure_message = null, failure_job_id = null,
  result = null, result_truncated = 0, progress = null,
  expires_at = null, version = version + 1
where seq = $seq and ${guardOf('retry')}`

export const SEQ_OF = 'select seq from jobs where id = $id'

export const EDIT = `
update jobs set run_at = $runAt, due_at = $runAt, first_run_at = $firstRunAt,
  expires_at = $expiresAt, expiring_at = $expiresAt, priority = $priority, tags = $tags,
  metadata = $metadata, payload_bytes = $payloadBytes, version = version + 1
where id = $id and ${guardOf('edit')}`

export const DELETE = `delete from jobs where seq = $seq and ${guardOf('delete')}`

interface FoundRow {
  seq: number
  state: JobState
  endpoint: string
  dedupe_key: string | null
  ordering_key: string | null
  fence: number
  lease_id: string
  worker_id: string
  claimed_at: number
  attempt_count: number
  effects_pending: number
  needs: string | null
  waiting_for: string | null
  version: number
  has_inputs: number
  group_id: string | null
  counted: FinalState | null
}

export async function cancel(database: Database, ids: string[]): Promise<CommandResult[]> {
  if (ids.length === 0) return []
  return database.connection.write('full', () => {
    const perJob = ids.map((id) => cancelOne(database, id))
    runFinishEffects(database)
    return perJob
  })
}

function cancelOne(database: Database, id: string): CommandResult {
  const { connection, clock } = database
  const row = find(database, id)
  if (row === null) return { kind: 'not_found' }
  const now = clock.now()
  const isWritten =
    row.state === 'running'
      ? cancelRunning(database, id, row, now)
      : connection.statement(CANCEL_QUEUED).run({ seq: row.seq, finishedAt: now }).changes === 1
  return isWritten ? { kind: 'applied' } : { kind: 'refused', state: row.state }
}

function cancelRunning(database: Database, id: string, row: FoundRow, now: number): boolean {
  const attempt = endedAttempt(row, 'job_cancelled', now)
  const line = attemptLine(attempt, { fence: row.fence, leaseId: row.lease_id }, 'cancel')
  const { changes } = database.connection
    .statement(CANCEL_RUNNING)
    .run({ seq: row.seq, line, finishedAt: now })
  if (changes === 0) return false
  reportEnd(database, { jobId: id, endpoint: row.endpoint, attempt, deathReason: null })
  return true
}

export async function retry(
  database: Database,
  ids: string[],
  options: RetryOptions = { waives: true },
): Promise<RetryResult[]> {
  if (ids.length === 0) return []
  const results = await database.connection.write('full', () => {
    const perJob = ids.map((id) => retryOne(database, id, options))
    // A dependent that died with the job may have dependents, too.
    runFinishEffects(database)
    return perJob
  })
  if (results.some(({ kind }) => kind === 'applied')) database.notifier.notifyWork()
  return results
}

function retryOne(database: Database, id: string, options: RetryOptions): RetryResult {
  const row = find(database, id)
  if (row === null) return { kind: 'not_found' }
  // All finish effects of the job run before it is queued again: a retry revives no dependent.
  if (row.effects_pending === 1 && !runFinishEffectsOf(database, row.seq)) {
    return { kind: 'refused', state: row.state }
  }
  const { connection, clock } = database
  const { endpoint } = row
  const endpointAccepts = connection.statement(ENDPOINT_ACCEPTS).get({ endpoint }) !== undefined
  const needs = parsed<Need[]>(row.needs, [])
  const unmet = parsed<string[]>(row.waiting_for, [])
  const decision = decideRetry(
    { state: row.state, endpointAccepts, unmet, needs, hasInputs: row.has_inputs === 1 },
    (other) => stateOfDependency(database, other),
    options,
  )
  if (decision.kind !== 'retry') return decision
  const { waitingFor, waived } = decision
  const { changes } = connection
    .statement(RETRY)
    .run({ seq: row.seq, waitingFor: listText(waitingFor), now: clock.now() })
  if (changes === 0) return dedupeConflict(database, row)
  // As the row is now: the effects that were pending have counted it.
  if (row.group_id !== null)
    takeOut(database, row.group_id, row.counted ?? (row.state as FinalState))
  placeUnplaced(database)
  waitForFinishOf(database, waitingFor, id)
  keepNeeded(database, id, needs)
  if (row.ordering_key === null && needs.length > 0 && waitingFor.length === 0) {
    const blocked = connection.statement(BLOCKED_BY_SEQ).get({ seq: row.seq })
    resolveBlocked(database, blocked as unknown as BlockedJob, { isNew: true })
  }
  if (row.ordering_key !== null) {
    blockLaterOne(database, row.seq, row.endpoint, row.ordering_key)
    advanceOrderingKey(database, row.endpoint, row.ordering_key)
  }
  return waived.length === 0 ? { kind: 'applied' } : { kind: 'applied', waived }
}

/** Everything else that the guard proves was read in the same transaction. */
function dedupeConflict({ connection }: Database, row: FoundRow): RetryResult {
  const { endpoint, dedupe_key: dedupeKey } = row
  const owner = connection.statement(DEDUPE_HOLDER).get({ endpoint, dedupeKey })
  if (owner === undefined) throw new Error('a retry was refused, and no job has its dedupe key')
  return { kind: 'dedupe_conflict', jobId: owner.id as string }
}

export const ENDPOINT_ACCEPTS = 'select 1 from endpoints where name = $endpoint and deleting = 0'

export async function edit(
  database: Database,
  id: string,
  change: JobChange,
  ifVersion: number | null,
): Promise<EditResult> {
  const result = await database.connection.write('full', () =>
    editOne(database, id, change, ifVersion),
  )
  if (result.kind === 'applied') database.notifier.notifyWork()
  return result
}

/**
 * Changes a job. The row that it reads cannot change before the transaction ends, so it never has
 * to start again.
 */
function editOne(
  database: Database,
  id: string,
  change: JobChange,
  ifVersion: number | null,
): EditResult {
  const { connection } = database
  const job = jobOfId(database, id)
  if (job === null) return { kind: 'not_found' }
  const { seq } = connection.statement(SEQ_OF).get({ id }) as { seq: number }
  const wasSent = database.fences.wasSent({ ...job, seq })
  const refusal = refusalOfEdit({ ...job, wasSent }, change, ifVersion)
  if (refusal !== null) return refusal
  const { payload } = change
  const isMoved = change.priority !== undefined || change.runAt !== undefined
  if (isMoved) leaveLine(database, seq)
  const { runAt, firstRunAt, expiresAt } = instantsAfterEdit({ ...job, wasSent }, change)
  connection.statement(EDIT).run({
    ...{ id, version: job.version, runAt, firstRunAt, expiresAt },
    priority: change.priority ?? job.priority,
    tags: listText(change.tags ?? job.tags),
    metadata: mapText(change.metadata ?? job.metadata),
    payloadBytes: payload?.byteLength ?? job.payloadBytes,
  })
  if (isMoved) placeUnplaced(database)
  if (payload !== undefined) {
    connection.statement(REPLACE_PAYLOAD).run({ seq, payload })
  }
  return { kind: 'applied', job: jobOfId(database, id) as Job }
}

export function deleteJob(
  database: Database,
  id: string,
  ifVersion: number | null = null,
): Promise<DeleteJobResult> {
  return database.connection.write('full', () => {
    const row = find(database, id)
    if (row === null) return { kind: 'not_found' }
    if (ifVersion !== null && row.version !== ifVersion) {
      return { kind: 'stale', version: row.version }
    }
    if (isFinal(row.state)) runFinishEffectsOf(database, row.seq)
    const { changes } = database.connection.statement(DELETE).run({ seq: row.seq })
    runFinishEffects(database)
    if (changes === 1) return { kind: 'applied' }
    const needing = database.connection.statement(NEEDED_BY).get({ id })
    return needing === undefined || !isFinal(row.state)
      ? { kind: 'refused', state: row.state }
      : { kind: 'needed', jobId: needing.dependent as string }
  })
}

function find({ connection }: Database, id: string): FoundRow | null {
  return (connection.statement(STATE_OF).get({ id }) as FoundRow | undefined) ?? null
}
