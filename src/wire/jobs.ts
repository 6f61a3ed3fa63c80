// Jobs in requests and responses: their shapes, how a request becomes a job to store, the JSON of a
// job, and the error for an enqueue that stored nothing. Payload and result are sent as their
// stored JSON text, never serialized again.
import { createHash } from 'node:crypto'
import { z } from 'zod'
import { AppError } from '../errors.ts'
import { newlyQueued } from '../job/acceptance.ts'
import { formatDuration } from '../job/duration.ts'
import type { JobChange } from '../job/edit.ts'
import {
  type Attempt,
  DEFAULT_COST,
  dueAt,
  FAILURE_REASONS,
  HOPS_HEADER,
  JOB_STATES,
  type Job,
  type JobSummary,
  MAX_AHEAD_MS,
  MAX_HOPS,
  type MinimalJob,
  type NewJob,
  OUTCOMES,
  type TraceContext,
} from '../job/job.ts'
import { isGroupId, newJobId } from '../job/job-id.ts'
import type { EnqueueResult } from '../store/store.ts'
import { parseEnvelope, RawJson, REQUEST_LIMITS } from './envelope.ts'
import { invalidRequest, unknownEndpoint } from './field-errors.ts'
import {
  duration,
  endpointName,
  expiresIn,
  groupToJoin,
  idempotencyKey,
  instant,
  instantText,
  maskedHeaders,
  metadata,
  onFinishResponse,
  payload,
  priority,
  responseInstant,
  retryOverrideFrom,
  retryResponse,
  sortKeys,
  type TemplateBody,
  tags,
  templateFields,
  text,
} from './fields.ts'
import { groupRefusal } from './groups.ts'
import {
  dependentsFields,
  dependsOn,
  dependsOnOfBatch,
  needs,
  needsJson,
  needsOfBatch,
  needsResponse,
  refuseDependencies,
  unknownDependency,
} from './needs.ts'

type DueTimes = { runAt?: number | undefined; delay?: number | undefined }

const dueTimes = {
  runAt: instant.optional(),
  delay: duration(0, MAX_AHEAD_MS).optional(),
}

function isDueOnce({ runAt, delay }: DueTimes): boolean {
  return runAt === undefined || delay === undefined
}
const DUE_ONCE = { path: ['delay'], error: 'runAt and delay cannot both be given' }

const jobFields = {
  endpoint: endpointName,
  payload,
  ...dueTimes,
  ...templateFields,
  dedupe: z
    .strictObject({ key: text(1, 256), mode: z.enum(['keep', 'replace', 'reject']) })
    .nullable()
    .optional(),
}

export const jobBody = z
  .strictObject({
    ...jobFields,
    group: groupToJoin,
    dependsOn,
    needs,
  })
  .refine(isDueOnce, DUE_ONCE)
  .superRefine(refuseDependencies)
export type JobBody = z.output<typeof jobBody>

/** What the schema makes of a body without optional fields; frozen, because many jobs share it. */
const BARE_BODY = Object.freeze(
  jobBody.parse({ endpoint: 'x', payload: new RawJson(Buffer.from('0')) }),
)
for (const value of [BARE_BODY.tags, BARE_BODY.metadata, BARE_BODY.headers]) Object.freeze(value)

/**
 * The same as jobBody.parse for a body with an endpoint and a payload and nothing else, without a
 * look at the other fields. null: the body has other fields, or is wrong.
 */
export function bareJobBody(envelope: unknown): JobBody | null {
  if (typeof envelope !== 'object' || envelope === null) return null
  const { endpoint: name, payload: raw } = envelope as Record<string, unknown>
  if (name === undefined || raw === undefined || Object.keys(envelope).length > 2) return null
  if (!endpointName.safeParse(name).success || !payload.safeParse(raw).success) return null
  return { ...BARE_BODY, endpoint: name as string, payload: raw as RawJson }
}

export const batchJobBody = z
  .strictObject({
    ...jobFields,
    group: groupToJoin,
    dependsOn: dependsOnOfBatch,
    needs: needsOfBatch,
    idempotencyKey: idempotencyKey.optional(),
  })
  .refine(isDueOnce, DUE_ONCE)
  .superRefine(refuseDependencies)
export type BatchJobBody = z.output<typeof batchJobBody>

/**
 * An outbox document has no dedupe key and no dependsOn: their meaning would depend on when the
 * document is moved.
 */
const outboxBody = z
  .strictObject({
    endpoint: endpointName,
    payload,
    ...dueTimes,
    ...templateFields,
    group: groupToJoin,
    needs,
  })
  .refine(isDueOnce, DUE_ONCE)
  .superRefine(refuseDependencies)

/** The body of a copy, which may be absent. */
export const copyBody = z.strictObject({ group: groupToJoin }).nullish()
export type CopyBody = z.output<typeof copyBody>

export const editBody = z
  .strictObject({
    ...dueTimes,
    priority: priority.optional(),
    tags: tags.optional(),
    metadata: metadata.optional(),
    expiresIn: expiresIn.nullable().optional(),
    payload: payload.optional(),
  })
  .refine(isDueOnce, DUE_ONCE)
  .refine((change) => Object.keys(change).length > 0, 'expected at least one field to change')
export type EditBody = z.output<typeof editBody>

/** What a request contains besides its body. */
export interface RequestOrigin {
  trace: TraceContext | null
  /** How many deliveries led to the request. */
  hops: number
}

/**
 * @param now epoch milliseconds by the store's clock
 * @throws AppError invalid_request for a runAt too far ahead
 */
export function newJobFrom(
  body: JobBody,
  idempotencyKey: string | undefined,
  { trace, hops }: RequestOrigin,
  now: number,
): NewJob {
  const runAt = dueTimeOf(body, now)
  return {
    ...templateFrom(body, runAt),
    id: newJobId(now),
    endpoint: body.endpoint,
    payload: body.payload.bytes,
    createdAt: now,
    runAt,
    idempotency:
      idempotencyKey === undefined ? null : { key: idempotencyKey, requestHash: requestHash(body) },
    dedupe: body.dedupe ?? null,
    group: body.group ?? null,
    dependsOn: [...new Set(body.dependsOn)],
    needs: body.needs ?? [],
    scheduleName: null,
    originKey: null,
    trace,
    hops,
  }
}

/**
 * The job for a document of an outbox, validated like the body of POST /jobs.
 *
 * @param now epoch milliseconds by the store's clock
 * @throws AppError as for POST /jobs
 */
export function jobFromOutbox(body: Buffer, maxBodyBytes: number, now: number): NewJob {
  if (body.length > maxBodyBytes) {
    const found = `${body.length} bytes as JSON`
    throw new AppError('payload_too_large', `the job is ${found}, the limit is ${maxBodyBytes}`)
  }
  const checked = outboxBody.safeParse(parseEnvelope(body, REQUEST_LIMITS))
  if (!checked.success) throw invalidRequest(checked.error, '')
  return newJobFrom({ ...checked.data, dependsOn: [] }, undefined, { trace: null, hops: 0 }, now)
}

/** The due time of a job with one of these fields. A past instant means now. */
function dueTimeOf({ runAt, delay }: Pick<JobBody, 'runAt' | 'delay'>, now: number): number {
  const dueAt = Math.max(now, runAt ?? now + (delay ?? 0))
  if (dueAt <= now + MAX_AHEAD_MS) return dueAt
  const message = 'expected an instant at most a year ahead'
  throw new AppError('invalid_request', `/runAt: ${message}`, {
    errors: [{ path: '/runAt', message }],
  })
}

/** The fields of a job that a client can set in every request that creates jobs. */
export function templateFrom(body: TemplateBody, runAt: number) {
  return {
    priority: body.priority,
    maxAttempts: body.retry?.maxAttempts ?? null,
    timeoutMs: body.timeout ?? null,
    retry: body.retry === undefined ? null : retryOverrideFrom(body.retry),
    expiresAt: body.expiresIn ? runAt + body.expiresIn : null,
    orderingKey: body.orderingKey ?? null,
    fairnessKey: body.fairnessKey ?? null,
    cost: body.cost,
    tags: body.tags,
    metadata: body.metadata,
    headers: body.headers,
    onFinish: body.onFinish === undefined ? 'inherited' : body.onFinish,
  } satisfies Partial<NewJob>
}

/**
 * A hash that is equal for repeats of a request and different for other requests. It covers the
 * checked envelope with sorted keys, then the bytes of the payload. A `delay` is hashed as it was
 * written, not as an instant. fairnessKey, cost and group are hashed only if not the defaults:
 * the hashes of earlier requests, which did not have them, stay.
 */
function requestHash(body: JobBody): string {
  const { payload, fairnessKey, cost, group: joined, ...rest } = body
  const envelope = {
    ...rest,
    fairnessKey: fairnessKey ?? undefined,
    cost: cost === DEFAULT_COST ? undefined : cost,
    group: joined ?? undefined,
  }
  return createHash('sha256')
    .update(JSON.stringify(envelope, sortKeys))
    .update('\n')
    .update(payload.bytes)
    .digest('base64')
}

/** @param now epoch milliseconds by the store's clock */
export function jobChangeFrom(body: EditBody, now: number): JobChange {
  const { runAt, delay, expiresIn, payload, ...rest } = body
  return {
    ...rest,
    ...(runAt === undefined && delay === undefined ? {} : { runAt: dueTimeOf(body, now) }),
    ...(expiresIn === undefined ? {} : { expiresInMs: expiresIn }),
    ...(payload === undefined ? {} : { payload: payload.bytes }),
  }
}

/**
 * How many deliveries led to a request; 0: none. An endpoint may be this same API, and a job that
 * enqueues another one would then loop forever (the idea is from CDN-Loop, RFC 8586).
 *
 * @throws AppError invalid_request beyond MAX_HOPS
 */
export function hopsOf(headers: Record<string, unknown>): number {
  const text = headers[HOPS_HEADER]
  if (text === undefined) return 0
  const hops = typeof text === 'string' && /^\d{1,9}$/.test(text) ? Number(text) : null
  if (hops !== null && hops <= MAX_HOPS) return hops
  const message =
    hops === null
      ? 'expected the value of a delivery, a whole number'
      : `${hops} deliveries led to this request, and the limit is ${MAX_HOPS}: a handler may enqueue into its own endpoint`
  throw new AppError('invalid_request', `${HOPS_HEADER}: ${message}`, {
    errors: [{ path: `header/${HOPS_HEADER}`, message }],
  })
}

const attemptResponse = z.object({
  number: z.int(),
  startedAt: responseInstant,
  finishedAt: responseInstant,
  durationMs: z.int(),
  outcome: z.enum(OUTCOMES),
  statusCode: z.int().nullable(),
  errorCode: z.string().nullable(),
  message: z.string().nullable(),
  responseBody: z.string().nullable(),
  workerId: z.string(),
})

const jobSummaryFields = {
  id: z.string(),
  endpoint: z.string(),
  state: z.enum(JOB_STATES),
  phase: z.enum(['sending', 'awaiting_completion']).nullable(),
  priority: z.int(),
  runAt: responseInstant,
  dueAt: responseInstant.meta({
    description:
      'from when a worker may claim it: the later of runAt and the end of its wait for other jobs; null: it waits for other jobs, or is not queued',
  }),
  createdAt: responseInstant,
  startedAt: responseInstant,
  finishedAt: responseInstant,
  expiresAt: responseInstant,
  attemptCount: z.int(),
  maxAttempts: z.int(),
  fence: z.int(),
  lease: z.object({ workerId: z.string(), expiresAt: responseInstant }).nullable(),
  progress: z
    .object({ value: z.number().nullable(), message: z.string().nullable(), at: responseInstant })
    .nullable(),
  failure: z
    .object({
      reason: z.enum(FAILURE_REASONS),
      message: z.string(),
      jobId: z.string().optional(),
    })
    .nullable(),
  payloadBytes: z.int(),
  timeout: z.string().nullable().meta({ description: 'null: the endpoint’s' }),
  retry: z.record(z.string(), z.unknown()).nullable().meta({ description: 'null: the endpoint’s' }),
  headers: z
    .record(z.string(), z.string())
    .nullable()
    .meta({ description: 'values are masked; null: no key of this API decrypts them' }),
  tags: z.array(z.string()),
  metadata: z.record(z.string(), z.string()),
  idempotencyKey: z.string().nullable(),
  dedupeKey: z.string().nullable(),
  orderingKey: z.string().nullable(),
  fairnessKey: z.string().nullable(),
  cost: z.int(),
  scheduleName: z.string().nullable(),
  group: z.string().nullable().meta({ description: 'it stays after the group was deleted' }),
  dependsOn: z.array(z.string()),
  needs: needsResponse,
  onFinish: onFinishResponse,
  version: z.int(),
}

export const jobSummaryResponse = z.object(jobSummaryFields)

export const jobResponse = z.object({
  ...jobSummaryFields,
  deduplicated: z.boolean().optional(),
  attempts: z.array(attemptResponse),
  resultTruncated: z.boolean(),
  result: z.unknown(),
  payload: z.unknown(),
})

/** The response to an enqueue with `Prefer: return=minimal`. */
export const minimalJobResponse = z.strictObject({
  id: z.string(),
  state: z.enum(JOB_STATES),
  deduplicated: z.boolean().optional(),
})

export const retriedJobResponse = z.object({
  ...jobResponse.shape,
  ...dependentsFields,
  dependenciesWaived: z.array(z.string()).meta({
    description:
      'ids of the dependencies that are dead, cancelled or deleted: the job runs without them. It waits again for those that are queued or running',
  }),
})

export const jobListResponse = z.object({
  items: z.array(jobSummaryResponse),
  nextCursor: z.string().nullable(),
})

/**
 * The JSON text of a job.
 *
 * @param more fields of one response only
 * @param inputs as makeInputs made them, if the response has them
 */
export function jobJson(job: Job, more: object = {}, inputs: Uint8Array | null = null): string {
  const head = JSON.stringify({
    ...summary(job),
    ...more,
    attempts: job.attempts.map(attempt),
    resultTruncated: job.resultTruncated,
  })
  const tail = inputs === null ? '}' : `,${textOf(inputs, 'utf8').slice(1)}`
  return `${head.slice(0, -1)},"result":${job.result ?? 'null'},"payload":${textOf(job.payload, 'utf8')}${tail}`
}

/** A part of the JSON text of a bare job that differs between jobs. */
type BarePart = 'id' | 'endpoint' | 'instant' | 'maxAttempts' | 'payloadBytes' | 'payload'

/** Values that are no part of any other text of a job. */
const BARE_SAMPLE = {
  id: '<id>',
  endpoint: '<endpoint>',
  maxAttempts: 111_111_111_111,
  payloadBytes: 222_222_222_222,
  payload: '"<payload>"',
} as const
const BARE_PARTS: Record<string, BarePart> = {
  [BARE_SAMPLE.id]: 'id',
  [BARE_SAMPLE.endpoint]: 'endpoint',
  [new Date(0).toISOString()]: 'instant',
  [BARE_SAMPLE.maxAttempts]: 'maxAttempts',
  [BARE_SAMPLE.payloadBytes]: 'payloadBytes',
  [BARE_SAMPLE.payload]: 'payload',
}

/** The text that jobJson makes of a new bare job, cut where jobs differ: text, part, text, part … */
const BARE_TEMPLATE = bareTemplate()
const BARE_TEMPLATE_PARTS = BARE_TEMPLATE.map((_, i) => BARE_PARTS[BARE_TEMPLATE[i + 1] ?? ''])

function bareTemplate(): string[] {
  const body = { ...BARE_BODY, payload: new RawJson(Buffer.from(BARE_SAMPLE.payload)) }
  const sample = newJobFrom(body, undefined, { trace: null, hops: 0 }, 0)
  const { id, endpoint, maxAttempts, payloadBytes } = BARE_SAMPLE
  const accepted = { maxAttempts, onFinish: null, waitingFor: [], isBlocked: false }
  const text = jobJson({ ...newlyQueued({ ...sample, id, endpoint }, accepted), payloadBytes })
  return text.split(new RegExp(`(${Object.keys(BARE_PARTS).join('|')})`))
}

/**
 * The same as jobJson for the new job of a bareJobBody, in a tenth of the time.
 *
 * @param encoding `latin1` if the payload is ASCII
 */
export function bareJobJson(job: Job, encoding: 'utf8' | 'latin1'): string {
  if (job.onFinish !== null || job.idempotencyKey !== null) return jobJson(job)
  let text = ''
  for (let i = 0; i < BARE_TEMPLATE.length; i += 2) {
    text += BARE_TEMPLATE[i]
    const part = BARE_TEMPLATE_PARTS[i]
    if (part !== undefined) text += partOf(job, part, encoding)
  }
  return text
}

function partOf(job: Job, part: BarePart, encoding: 'utf8' | 'latin1'): string | number | null {
  switch (part) {
    case 'instant':
      return instantText(job.createdAt)
    case 'payload':
      return textOf(job.payload, encoding)
    default:
      return job[part]
  }
}

/** The JSON text of a minimal response. */
export function minimalJobJson({ id, state }: MinimalJob, more: object = {}): string {
  return JSON.stringify({ id, state, ...more })
}

/** The JSON text of a page of jobs. */
export function jobListJson(jobs: JobSummary[], nextCursor: string | null): string {
  return JSON.stringify({ items: jobs.map(summary), nextCursor })
}

function summary(job: JobSummary) {
  return {
    id: job.id,
    endpoint: job.endpoint,
    state: job.state,
    phase: job.phase,
    priority: job.priority,
    runAt: instantText(job.runAt),
    dueAt: job.state === 'queued' && !job.isBlocked ? instantText(dueAt(job)) : null,
    createdAt: instantText(job.createdAt),
    startedAt: instantText(job.startedAt),
    finishedAt: instantText(job.finishedAt),
    expiresAt: instantText(job.expiresAt),
    attemptCount: job.attemptCount,
    maxAttempts: job.maxAttempts,
    fence: job.fence,
    lease: job.lease && {
      workerId: job.lease.workerId,
      expiresAt: instantText(job.lease.expiresAt),
    },
    progress: job.progress && { ...job.progress, at: instantText(job.progress.at) },
    failure: job.failure,
    payloadBytes: job.payloadBytes,
    timeout: job.timeoutMs === null ? null : formatDuration(job.timeoutMs),
    retry: job.retry && retryResponse(job.retry),
    headers: job.headers && maskedHeaders(job.headers),
    tags: job.tags,
    metadata: job.metadata,
    idempotencyKey: job.idempotencyKey,
    dedupeKey: job.dedupeKey,
    orderingKey: job.orderingKey,
    fairnessKey: job.fairnessKey,
    cost: job.cost,
    scheduleName: job.scheduleName,
    group: job.group,
    dependsOn: job.dependsOn,
    needs: needsJson(job.needs),
    onFinish: job.onFinish,
    version: job.version,
  }
}

function attempt(one: Attempt) {
  return { ...one, startedAt: instantText(one.startedAt), finishedAt: instantText(one.finishedAt) }
}

function textOf(bytes: Uint8Array, encoding: 'utf8' | 'latin1'): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString(encoding)
}

type Stored<J extends MinimalJob> = Extract<EnqueueResult<J>, { kind: 'inserted' | 'existing' }>

/** The job that was stored or found; throws AppError in all other cases. */
export function storedOrThrow<J extends MinimalJob>(
  result: EnqueueResult<J>,
  job: NewJob,
): Stored<J> {
  switch (result.kind) {
    case 'inserted':
    case 'existing':
      return result
    case 'key_reused':
      throw new AppError(
        'idempotency_key_reused',
        `this Idempotency-Key was used for job ${result.jobId} with another request`,
      )
    case 'dedupe_conflict':
      throw new AppError(
        'dedupe_conflict',
        `job ${result.jobId} of this endpoint has the dedupe key and is not final`,
      )
    case 'id_taken':
      throw new AppError(
        'invalid_request',
        `_id: job ${result.jobId} was not made from this document; give each document a unique _id that is not the id of another job`,
      )
    case 'unknown_endpoint':
      throw unknownEndpoint(job.endpoint)
    case 'endpoint_disabled':
      throw new AppError(
        'endpoint_disabled',
        `endpoint "${job.endpoint}" is disabled; POST /endpoints/${job.endpoint}/resume enables it`,
      )
    case 'unknown_notice_endpoint':
      throw unknownEndpoint(result.endpoint, '/onFinish')
    case 'unknown_dependency':
      throw unknownDependency(
        `no ${isGroupId(result.jobId) ? 'group' : 'job'} has the id ${result.jobId}`,
        job,
        result.jobId,
      )
    case 'group_open': {
      const detail = `/dependsOn: group ${result.groupId} is open; close it first`
      throw new AppError('group_open', detail)
    }
    case 'unknown_group':
    case 'group_closed':
    case 'group_full':
      throw groupRefusal(result)
    default:
      throw new Error(`unknown result ${JSON.stringify(result satisfies never)}`)
  }
}

/** Why the job was not stored; null: it was stored, now or before. */
export function enqueueRefusal(result: EnqueueResult, job: NewJob): AppError | null {
  try {
    storedOrThrow(result, job)
    return null
  } catch (error) {
    if (error instanceof AppError) return error
    throw error
  }
}
