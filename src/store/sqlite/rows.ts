// Between rows of jobs and the domain's records. Only what a caller may see leaves this file.
import type { FailureReason, Job, JobState, JobSummary, NewJob } from '../../job/job.ts'
import { readAttempts } from './attempt-log.ts'
import type { KeyRing } from './key-file.ts'

export const SUMMARY_COLUMNS = `id, endpoint, state, held, priority, run_at, first_run_at,
  promoted_at, created_at, started_at, finished_at, expires_at, attempt_count, attempts_left,
  max_attempts, free_attempts, fence, version, worker_id, claimed_at, lease_wall, awaiting,
  timeout_ms, payload_bytes, idempotency_key, dedupe_key, ordering_key, schedule_name,
  notice_endpoint, notice_states, retry, headers, tags, metadata, depends_on, waiting_for,
  progress, failure_reason, failure_message`

export const JOB_COLUMNS = `${SUMMARY_COLUMNS}, result, result_truncated, attempts,
  (select bytes from payloads where payloads.seq = jobs.seq) as payload`

export interface SummaryRow {
  id: string
  endpoint: string
  state: JobState
  held: number
  priority: number
  run_at: number
  first_run_at: number
  promoted_at: number | null
  created_at: number
  started_at: number | null
  finished_at: number | null
  expires_at: number | null
  attempt_count: number
  attempts_left: number
  max_attempts: number
  free_attempts: number
  fence: number
  version: number
  worker_id: string | null
  claimed_at: number | null
  lease_wall: number | null
  awaiting: number
  timeout_ms: number | null
  payload_bytes: number
  idempotency_key: string | null
  dedupe_key: string | null
  ordering_key: string | null
  schedule_name: string | null
  notice_endpoint: string | null
  notice_states: string | null
  retry: string | null
  headers: string | null
  tags: string | null
  metadata: string | null
  depends_on: string | null
  waiting_for: string | null
  progress: string | null
  failure_reason: FailureReason | null
  failure_message: string | null
}

export interface JobRow extends SummaryRow {
  result: string | null
  result_truncated: number
  attempts: string | null
  payload: Uint8Array
}

export function toSummary(row: SummaryRow, keys: KeyRing): JobSummary {
  return {
    id: row.id,
    endpoint: row.endpoint,
    state: row.state,
    phase: phaseOf(row),
    priority: row.priority,
    runAt: row.run_at,
    firstRunAt: row.first_run_at,
    promotedAt: row.promoted_at,
    createdAt: row.created_at,
    startedAt: row.started_at,
    finishedAt: row.finished_at,
    expiresAt: row.expires_at,
    attemptCount: row.attempt_count,
    attemptsLeft: row.attempts_left,
    maxAttempts: row.max_attempts,
    freeAttempts: row.free_attempts,
    fence: row.fence,
    lease: leaseOf(row),
    progress: parsed(row.progress, null),
    failure:
      row.failure_reason === null
        ? null
        : { reason: row.failure_reason, message: row.failure_message ?? '' },
    payloadBytes: row.payload_bytes,
    timeoutMs: row.timeout_ms,
    retry: parsed(row.retry, null),
    headers: openJobHeaders(row.headers, row.endpoint, keys),
    tags: parsed(row.tags, []),
    metadata: parsed(row.metadata, {}),
    idempotencyKey: row.idempotency_key,
    dedupeKey: row.dedupe_key,
    orderingKey: row.ordering_key,
    scheduleName: row.schedule_name,
    dependsOn: parsed(row.depends_on, []),
    waitingFor: parsed(row.waiting_for, []),
    isHeld: row.held === 1,
    onFinish:
      row.notice_endpoint === null
        ? null
        : { endpoint: row.notice_endpoint, states: parsed(row.notice_states, []) },
    version: row.version,
  }
}

export function toJob(row: JobRow, keys: KeyRing): Job {
  return {
    ...toSummary(row, keys),
    result: row.result,
    resultTruncated: row.result_truncated === 1,
    attempts: readAttempts(row.attempts),
    payload: row.payload,
  }
}

function phaseOf({ state, awaiting }: SummaryRow): JobSummary['phase'] {
  if (state !== 'running') return null
  return awaiting === 1 ? 'awaiting_completion' : 'sending'
}

function leaseOf({ worker_id, lease_wall, claimed_at }: SummaryRow): JobSummary['lease'] {
  if (worker_id === null || lease_wall === null || claimed_at === null) return null
  return { workerId: worker_id, expiresAt: lease_wall, claimedAt: claimed_at }
}

export function parsed<T>(text: string | null, absent: T): T {
  return text === null ? absent : JSON.parse(text)
}

/** Sealed when there are any: header values often carry credentials. */
export function sealHeaders(
  headers: Record<string, string>,
  endpoint: string,
  keys: KeyRing,
): string | null {
  for (const _ in headers) return keys.seal(JSON.stringify(headers), endpoint)
  return null
}

/** An endpoint's: its keys were proved at the start. */
export function openHeaders(
  sealed: string | null,
  endpoint: string,
  keys: KeyRing,
): Record<string, string> {
  return sealed === null ? {} : JSON.parse(keys.open(sealed, endpoint))
}

/** A job's: null when the key they were sealed with is gone. */
export function openJobHeaders(
  sealed: string | null,
  endpoint: string,
  keys: KeyRing,
): Record<string, string> | null {
  if (sealed === null) return {}
  return parsed(keys.openIfPossible(sealed, endpoint), null)
}

/** Null for the usual empty map, so that it costs no JSON work. */
export function mapText(map: Record<string, string>): string | null {
  for (const _ in map) return JSON.stringify(map)
  return null
}

/** The same for lists. */
export function listText(list: string[]): string | null {
  return list.length === 0 ? null : JSON.stringify(list)
}

type Origin = Pick<NewJob, 'trace' | 'hops'>

/** The column `trace`: the trace context, and the hops beside it when there are any. */
export function originText({ trace, hops }: Origin): string | null {
  if (trace === null && hops === 0) return null
  return JSON.stringify(hops === 0 ? trace : { ...trace, hops })
}

export function originOf(text: string | null): Origin {
  if (text === null) return { trace: null, hops: 0 }
  const { hops = 0, ...trace } = JSON.parse(text)
  return { trace: 'traceparent' in trace ? trace : null, hops }
}
