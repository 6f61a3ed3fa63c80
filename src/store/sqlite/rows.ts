// Between rows and the domain's records. Only what a caller may see leaves this file.
import type { Endpoint } from '../../endpoint/endpoint.ts'
import type { FailureReason, Job, JobState, JobSummary } from '../../job/job.ts'
import { readAttempts } from './attempt-log.ts'
import type { KeyRing } from './key-file.ts'

export const SUMMARY_COLUMNS = `id, endpoint, state, priority, run_at, created_at, started_at,
  finished_at, expires_at, attempt_count, attempts_left, max_attempts, free_attempts, fence,
  worker_id, lease_wall, failure_reason, failure_message, payload_bytes,
  timeout_ms, retry, headers, tags, metadata, idempotency_key, version`

export const JOB_COLUMNS = `${SUMMARY_COLUMNS}, result, result_truncated, attempts,
  (select bytes from payloads where payloads.seq = jobs.seq) as payload`

export interface SummaryRow {
  id: string
  endpoint: string
  state: JobState
  priority: number
  run_at: number
  created_at: number
  started_at: number | null
  finished_at: number | null
  expires_at: number | null
  attempt_count: number
  attempts_left: number
  max_attempts: number
  free_attempts: number
  fence: number
  worker_id: string | null
  lease_wall: number | null
  failure_reason: FailureReason | null
  failure_message: string | null
  payload_bytes: number
  timeout_ms: number | null
  retry: string | null
  headers: string | null
  tags: string | null
  metadata: string | null
  idempotency_key: string | null
  version: number
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
    phase: row.state === 'running' ? 'sending' : null,
    priority: row.priority,
    runAt: row.run_at,
    createdAt: row.created_at,
    startedAt: row.started_at,
    finishedAt: row.finished_at,
    expiresAt: row.expires_at,
    attemptCount: row.attempt_count,
    attemptsLeft: row.attempts_left,
    maxAttempts: row.max_attempts,
    freeAttempts: row.free_attempts,
    fence: row.fence,
    lease:
      row.worker_id === null || row.lease_wall === null
        ? null
        : { workerId: row.worker_id, expiresAt: row.lease_wall },
    failure:
      row.failure_reason === null
        ? null
        : { reason: row.failure_reason, message: row.failure_message ?? '' },
    payloadBytes: row.payload_bytes,
    timeoutMs: row.timeout_ms,
    retry: row.retry === null ? null : JSON.parse(row.retry),
    headers: openHeaders(row.headers, row.endpoint, keys),
    tags: row.tags === null ? [] : JSON.parse(row.tags),
    metadata: row.metadata === null ? {} : JSON.parse(row.metadata),
    idempotencyKey: row.idempotency_key,
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

/** Sealed when there are any: header values often carry credentials. */
export function sealHeaders(
  headers: Record<string, string>,
  endpoint: string,
  keys: KeyRing,
): string | null {
  for (const _ in headers) return keys.seal(JSON.stringify(headers), endpoint)
  return null
}

export function openHeaders(
  sealed: string | null,
  endpoint: string,
  keys: KeyRing,
): Record<string, string> {
  return sealed === null ? {} : JSON.parse(keys.open(sealed, endpoint))
}

/** Null for the usual empty map, so that it costs no JSON work. */
export function mapText(map: Record<string, string>): string | null {
  for (const _ in map) return JSON.stringify(map)
  return null
}

export interface EndpointRow {
  name: string
  url: string
  description: string
  headers: string | null
  timeout_ms: number
  retry: string
  secrets: string
  deleting: number
  created_at: number
  updated_at: number
  version: number
}

export function toEndpoint(row: EndpointRow, keys: KeyRing): Endpoint {
  return {
    name: row.name,
    url: row.url,
    description: row.description,
    headers: openHeaders(row.headers, row.name, keys),
    timeoutMs: row.timeout_ms,
    retry: JSON.parse(row.retry),
    deleting: row.deleting === 1,
    secrets: JSON.parse(keys.open(row.secrets, row.name)),
    createdAt: row.created_at,
    updatedAt: row.updated_at,
    version: row.version,
  }
}
