// Translates between rows of jobs and the domain's records: the insert of a new job, the columns
// that every final state sets, the log of attempts, and the records that callers see.

import type { SQLInputValue } from 'node:sqlite'
import type { Acceptance } from '../../job/acceptance.ts'
import { attemptEndedByStore, type StoreEnd } from '../../job/attempt.ts'
import {
  type Attempt,
  DEFAULT_COST,
  type Failure,
  type FailureReason,
  type Job,
  type JobState,
  type JobSummary,
  type JobWithAttempts,
  type Lease,
  MAX_ATTEMPTS_KEPT,
  type NewJob,
} from '../../job/job.ts'
import type { EventName } from '../../job/lifecycle.ts'
import type { Need } from '../../job/needs.ts'
import { type FinalState, hasKey } from '../../job/retention.ts'
import { NO_TURN, PARKED } from '../../job/turns.ts'
import { type Database, inOrder, type OrderedSql } from './connection.ts'
import type { KeyRing } from './key-file.ts'
import { giveTurns, type KeyInLane, type Lines, openLines, placeNew } from './turns.ts'

export const SUMMARY_COLUMNS = `id, endpoint, state, blocked, priority, run_at, first_run_at,
  promoted_at, created_at, started_at, finished_at, expires_at, attempt_count, attempts_left,
  max_attempts, free_attempts, fence, version, worker_id, claimed_at, lease_wall, awaiting_until,
  timeout_ms, payload_bytes, inputs_bytes, idempotency_key, dedupe_key, ordering_key, fairness_key,
  cost, schedule_name, group_id, notice_endpoint, notice_states, retry, headers, tags, metadata,
  depends_on, needs, waiting_for, progress, failure_reason, failure_message, failure_job_id`

export const JOB_COLUMNS = `${SUMMARY_COLUMNS}, result, result_truncated, attempts,
  (select bytes from payloads where payloads.seq = jobs.seq) as payload`

export interface SummaryRow {
  id: string
  endpoint: string
  state: JobState
  blocked: number
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
  awaiting_until: number | null
  timeout_ms: number | null
  payload_bytes: number
  inputs_bytes: number | null
  idempotency_key: string | null
  dedupe_key: string | null
  ordering_key: string | null
  fairness_key: string | null
  cost: number
  schedule_name: string | null
  group_id: string | null
  notice_endpoint: string | null
  notice_states: string | null
  retry: string | null
  headers: string | null
  tags: string | null
  metadata: string | null
  depends_on: string | null
  needs: string | null
  waiting_for: string | null
  progress: string | null
  failure_reason: FailureReason | null
  failure_message: string | null
  failure_job_id: string | null
}

export interface RowWithAttempts extends SummaryRow {
  attempts: string | null
}

export interface JobRow extends RowWithAttempts {
  result: string | null
  result_truncated: number
  payload: Uint8Array
}

const PLAIN_COLUMNS = `id, endpoint, priority, run_at, due_at, first_run_at, created_at,
  attempts_left, max_attempts, timeout_ms, payload_bytes, idempotency_key, has_key, request_hash,
  retry, headers, tags, metadata`
const KEYED_COLUMNS = 'fairness_key, cost, blocked, claimable, turn, admits_next, holds_keys'
const OTHER_COLUMNS = `expires_at, expiring_at, recheck, dedupe_key, ordering_key, origin_key,
  schedule_name, notice_endpoint, notice_states, depends_on, needs, waiting_for, trace, group_id`

/** The inserts for most jobs: each column that is not named saves the binding of a null. */
export const INSERT_PLAIN = insertSql<PlainValues>(PLAIN_COLUMNS)
/** For a member of a group that has nothing else. */
export const INSERT_MEMBER = insertSql<[...PlainValues, group: string]>(
  `${PLAIN_COLUMNS}, group_id`,
)
export const INSERT_KEYED = insertSql<[...PlainValues, ...KeyedValues]>(
  `${PLAIN_COLUMNS}, ${KEYED_COLUMNS}`,
)
export const INSERT_JOB = insertSql<[...PlainValues, ...KeyedValues, ...OtherValues]>(
  `${PLAIN_COLUMNS}, ${KEYED_COLUMNS}, ${OTHER_COLUMNS}`,
)

/** The values are in the order of the columns. A used key or a known id shows as no change. */
function insertSql<Values extends SQLInputValue[]>(columns: string): OrderedSql<Values> {
  const names = columns.split(',').map((column) => column.trim())
  const sql = `insert into jobs (${columns}) values (${names.map((name) => `$${name}`).join(', ')})
    on conflict do nothing`
  return inOrder<Values>(names as { [Index in keyof Values]: string }, sql)
}

export const INSERT_PAYLOAD = inOrder<[seq: number | bigint, bytes: Uint8Array]>(
  ['seq', 'bytes'],
  'insert into payloads (seq, bytes) values ($seq, $bytes)',
)

/** Returns the seq of the job; null: its id or a unique key is known already. */
export function insertJob(
  database: Database,
  job: NewJob,
  acceptance: Acceptance,
  lines = openLines(database),
): number | bigint | null {
  const { connection } = database
  const { changes, lastInsertRowid } = insertRow(database, job, acceptance, lines)
  if (changes === 0) {
    // The place of a job that is not stored is taken back.
    if (isPlaced(job, acceptance)) giveTurns(database, lineOf(job))
    return null
  }
  connection.ordered(INSERT_PAYLOAD).run(lastInsertRowid, job.payload)
  return lastInsertRowid
}

function insertRow(database: Database, job: NewJob, acceptance: Acceptance, lines: Lines) {
  const { connection } = database
  const plain = plainValues(database, job, acceptance.maxAttempts)
  const isLikeMost = hasOnlyCommonFields(job, acceptance)
  if (isLikeMost && job.fairnessKey === null && job.cost === DEFAULT_COST) {
    return job.group === null
      ? connection.ordered(INSERT_PLAIN).run(...plain)
      : connection.ordered(INSERT_MEMBER).run(...plain, job.group)
  }
  const keyed = keyedValues(plain, database, job, acceptance, lines)
  return isLikeMost && job.group === null
    ? connection.ordered(INSERT_KEYED).run(...keyed)
    : connection.ordered(INSERT_JOB).run(...keyed, ...otherValues(job, acceptance))
}

/** Without regard to its group, its fairness key and its cost. */
function hasOnlyCommonFields(job: NewJob, { onFinish }: Acceptance): boolean {
  return (
    onFinish === null &&
    job.expiresAt === null &&
    job.dedupe === null &&
    job.originKey === null &&
    job.scheduleName === null &&
    job.trace === null &&
    job.hops === 0 &&
    job.orderingKey === null &&
    job.dependsOn.length === 0 &&
    job.needs.length === 0
  )
}

type Text = string | null

type PlainValues = [
  ...[id: string, endpoint: string, priority: number, runAt: number, dueAt: number],
  ...[firstRunAt: number, createdAt: number],
  ...[attemptsLeft: number, maxAttempts: number, timeoutMs: number | null, payloadBytes: number],
  ...[idempotencyKey: Text, hasKey: 1 | null, requestHash: Text],
  ...[retry: Text, headers: Text, tags: Text, metadata: Text],
]

type KeyedValues = [
  ...[fairnessKey: Text, cost: number, blocked: 0 | 1 | 2, claimable: 1 | null],
  ...[turn: number, admitsNext: 0 | 1, holdsKeys: 1 | null],
]

type OtherValues = [
  ...[expiresAt: number | null, expiringAt: number | null, recheck: 0 | 1],
  ...[dedupeKey: Text, orderingKey: Text, originKey: Text],
  ...[scheduleName: Text, noticeEndpoint: Text, noticeStates: Text],
  ...[dependsOn: Text, needs: Text, waitingFor: Text, trace: Text, group: Text],
]

function plainValues({ keys }: Database, job: NewJob, maxAttempts: number): PlainValues {
  const { idempotency } = job
  return [
    job.id,
    job.endpoint,
    job.priority,
    job.runAt,
    job.runAt,
    job.runAt,
    job.createdAt,
    maxAttempts,
    maxAttempts,
    job.timeoutMs,
    job.payload.byteLength,
    idempotency?.key ?? null,
    hasKey(job) ? 1 : null,
    idempotency?.requestHash ?? null,
    job.retry === null ? null : JSON.stringify(job.retry),
    sealHeaders(job.headers, job.endpoint, keys),
    listText(job.tags),
    mapText(job.metadata),
  ]
}

function isPlaced({ fairnessKey }: NewJob, { isBlocked }: Acceptance): boolean {
  return fairnessKey !== null && !isBlocked
}

function lineOf({ endpoint, priority, fairnessKey }: NewJob): KeyInLane {
  return { endpoint, priority, key: fairnessKey as string }
}

function keyedValues(
  plain: PlainValues,
  database: Database,
  job: NewJob,
  acceptance: Acceptance,
  lines: Lines,
): [...PlainValues, ...KeyedValues] {
  const { isBlocked } = acceptance
  const waiting = { cost: job.cost, dueAt: job.runAt }
  const { blocked, turn, admitsNext } = isPlaced(job, acceptance)
    ? placeNew(database, lines, lineOf(job), waiting)
    : { blocked: isBlocked ? (1 as const) : (0 as const), turn: NO_TURN, admitsNext: 0 as const }
  return [
    ...plain,
    job.fairnessKey,
    job.cost,
    blocked,
    blocked === 0 ? 1 : null,
    turn,
    admitsNext,
    job.dedupe === null && job.orderingKey === null && job.fairnessKey === null ? null : 1,
  ]
}

function otherValues(job: NewJob, { onFinish, waitingFor, isDoomed }: Acceptance): OtherValues {
  return [
    job.expiresAt,
    job.expiresAt,
    // The next sweep checks it.
    isDoomed ? 1 : 0,
    job.dedupe?.key ?? null,
    job.orderingKey,
    job.originKey,
    job.scheduleName,
    onFinish?.endpoint ?? null,
    onFinish === null ? null : JSON.stringify(onFinish.states),
    listText(job.dependsOn),
    listText(job.needs),
    listText(waitingFor),
    originText(job),
    job.group,
  ]
}

const DROP_PLAIN_LEASE = `lease_id = null, worker_id = null, claimed_at = null, lease_boot = null,
  lease_mono = null, lease_ms = null, lease_wall = null, pulled_ms = null, extended_to = null,
  version = version + 1`

export const DROP_LEASE = `${DROP_PLAIN_LEASE}, awaiting_until = null, running_in = null`

/**
 * With its index marks. A job with a fairness key waits for a turn, like a new one: placeUnplaced
 * (turns.ts) gives it one in the same transaction.
 */
export const QUEUE_AGAIN = `state = 'queued', expiring_at = expires_at,
  claimable = iif(fairness_key is null, 1, null), blocked = iif(fairness_key is null, 0, 2),
  recheck = fairness_key is not null`

/** The value of holds_keys for a job that is not final. */
export const HOLDS_KEYS =
  'iif(coalesce(dedupe_key, ordering_key, fairness_key) is not null, 1, null)'

/** The key of the job waits for an attempt to end. */
const IS_KEY_PARKED = `(fairness_key is not null and exists (
        select 1 from jobs as parked
        where parked.turn = ${PARKED} and parked.effects_pending = 0
          and parked.endpoint = jobs.endpoint and parked.fairness_key = jobs.fairness_key))`

const FINISH = 'finished_at = $finishedAt, finishes = finishes + 1'

/**
 * `effects_pending` is found in the same transaction (finish-effects.ts); the job is not purged
 * before it is 0.
 */
export function finishAs(
  state: FinalState,
  effectsPending = `(group_id is not null or ordering_key is not null or has_dependents = 1
      or turn <> ${NO_TURN}
      or ${IS_KEY_PARKED}
      or coalesce(instr(notice_states, '"${state}"'), 0) > 0)`,
): string {
  return `state = '${state}', unsuccessful = ${state === 'succeeded' ? 'null' : `'${state}'`},
    ${FINISH}, holds_keys = null, ordering_slot = null, effects_pending = ${effectsPending}`
}

/** The same for a job that was queued, and may have been blocked. */
export function finishQueuedAs(state: 'dead' | 'cancelled', effectsPending?: string): string {
  return `${finishAs(state, effectsPending)}, claimable = null, expiring_at = null, blocked = 0,
    recheck = 0, version = version + 1`
}

const HAS_FEW_EFFECTS = `holds_keys is null and has_dependents = 0 and notice_states is null
  and awaiting_until is null`
/** A running job without index marks, whose success has no finish effects. */
export const IS_PLAIN = `${HAS_FEW_EFFECTS} and group_id is null`
/** The same of a member, whose group only counts it. */
export const IS_PLAIN_MEMBER = `${HAS_FEW_EFFECTS} and group_id is not null`

/** What finishAs('succeeded') and DROP_LEASE change in a plain job. */
export const SUCCEED_PLAIN = `state = 'succeeded', ${FINISH}, ${DROP_PLAIN_LEASE}`
/** The writer adds it to the counts of its group in the same transaction. */
export const SUCCEED_MEMBER = `${SUCCEED_PLAIN}, running_in = null, counted = 'succeeded'`

/** The parameters are the fields of a Failure that has no job. */
export const FAILURE = 'failure_reason = $reason, failure_message = $message'
/** The same of one that may have. */
export const FAILURE_OF_JOB = `${FAILURE}, failure_job_id = $jobId`

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
    failure: failureOf(row),
    payloadBytes: row.payload_bytes,
    timeoutMs: row.timeout_ms,
    retry: parsed(row.retry, null),
    headers: openJobHeaders(row.headers, row.endpoint, keys),
    tags: parsed(row.tags, []),
    metadata: parsed(row.metadata, {}),
    idempotencyKey: row.idempotency_key,
    dedupeKey: row.dedupe_key,
    orderingKey: row.ordering_key,
    fairnessKey: row.fairness_key,
    cost: row.cost,
    scheduleName: row.schedule_name,
    group: row.group_id,
    dependsOn: parsed(row.depends_on, []),
    needs: parsed(row.needs, []),
    inputsBytes: row.inputs_bytes,
    waitingFor: parsed(row.waiting_for, []),
    isBlocked: row.blocked === 1,
    onFinish:
      row.notice_endpoint === null
        ? null
        : { endpoint: row.notice_endpoint, states: parsed(row.notice_states, []) },
    version: row.version,
  }
}

type FailureColumns = 'failure_reason' | 'failure_message' | 'failure_job_id'

export function failureOf(row: Pick<SummaryRow, FailureColumns>): Failure | null {
  const { failure_reason: reason, failure_message: message, failure_job_id: jobId } = row
  if (reason === null) return null
  return { reason, message: message ?? '', ...(jobId === null ? {} : { jobId }) }
}

export function withAttempts(row: RowWithAttempts, keys: KeyRing): JobWithAttempts {
  return { ...toSummary(row, keys), attempts: readAttempts(row.attempts) }
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

function phaseOf({ state, awaiting_until }: SummaryRow): JobSummary['phase'] {
  if (state !== 'running') return null
  return awaiting_until === null ? 'sending' : 'awaiting_completion'
}

function leaseOf({ worker_id, lease_wall, claimed_at }: SummaryRow): JobSummary['lease'] {
  if (worker_id === null || lease_wall === null || claimed_at === null) return null
  return { workerId: worker_id, expiresAt: lease_wall, claimedAt: claimed_at }
}

interface AttemptLine extends Attempt {
  fence: number
  leaseId: string
  event: EventName
}

/**
 * The new value of `attempts`. Every counted attempt wrote a line, so from the 21st on the oldest
 * line goes.
 */
export const WITH_ATTEMPT = `coalesce(
  substr(attempts, iif(attempt_count > ${MAX_ATTEMPTS_KEPT}, instr(attempts, char(10)) + 1, 1))
  || char(10), '') || $line`

/**
 * The order of the fields in a line: a list without names is half as long, and every row has one.
 */
const FIELDS = [
  ...(['number', 'startedAt', 'finishedAt', 'durationMs', 'outcome', 'statusCode'] as const),
  ...(['errorCode', 'message', 'responseBody', 'workerId', 'fence', 'leaseId', 'event'] as const),
] satisfies (keyof AttemptLine)[]

export function attemptLine(
  attempt: Attempt,
  lease: Pick<Lease, 'fence' | 'leaseId'>,
  event: EventName,
): string {
  const { fence, leaseId } = lease
  const line: AttemptLine = { ...attempt, fence, leaseId, event }
  return JSON.stringify(FIELDS.map((field) => line[field]))
}

export function readAttemptLines(lines: string | null): AttemptLine[] {
  return lines === null ? [] : lines.split('\n').map(readLine)
}

function readLine(line: string): AttemptLine {
  const read: AttemptLine[keyof AttemptLine][] = JSON.parse(line)
  return Object.fromEntries(FIELDS.map((field, i) => [field, read[i]])) as unknown as AttemptLine
}

function readAttempts(lines: string | null): Attempt[] {
  return readAttemptLines(lines).map(({ fence, leaseId, event, ...attempt }) => attempt)
}

/** The attempt of this row, as the store ends it. */
export function endedAttempt(
  row: { attempt_count: number; claimed_at: number; worker_id: string },
  end: StoreEnd,
  now: number,
): Attempt {
  const { attempt_count: number, claimed_at: startedAt, worker_id: workerId } = row
  return attemptEndedByStore({ number, startedAt, workerId }, end, now)
}

export function parsed<T>(text: string | null, absent: T): T {
  return text === null ? absent : JSON.parse(text)
}

/** Encrypted if there are any: header values often contain credentials. */
export function sealHeaders(
  headers: Record<string, string>,
  endpoint: string,
  keys: KeyRing,
): string | null {
  for (const _ in headers) return keys.seal(JSON.stringify(headers), endpoint)
  return null
}

/** null: no key decrypts them any more. */
export function openJobHeaders(
  sealed: string | null,
  endpoint: string,
  keys: KeyRing,
): Record<string, string> | null {
  if (sealed === null) return {}
  return parsed(keys.openIfPossible(sealed, endpoint), null)
}

/** null for the usual empty map, so that it costs no JSON work. */
export function mapText(map: Record<string, string>): string | null {
  for (const _ in map) return JSON.stringify(map)
  return null
}

/** The same for lists. */
export function listText(list: readonly (string | Need)[]): string | null {
  return list.length === 0 ? null : JSON.stringify(list)
}

type Origin = Pick<NewJob, 'trace' | 'hops'>

/** The column `trace`: the trace context, with the hops if there are any. */
function originText({ trace, hops }: Origin): string | null {
  if (trace === null && hops === 0) return null
  return JSON.stringify(hops === 0 ? trace : { ...trace, hops })
}

export function originOf(text: string | null): Origin {
  if (text === null) return { trace: null, hops: 0 }
  const { hops = 0, ...trace } = JSON.parse(text)
  return { trace: 'traceparent' in trace ? trace : null, hops }
}
