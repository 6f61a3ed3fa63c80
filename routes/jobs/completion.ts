// POST /jobs/:id/complete, fail and heartbeat: what a handler reports about its attempt,
// authorized by the token of the attempt.
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { z } from 'zod'
import { AppError } from '../../src/errors.ts'
import { bearerOf, unauthorized } from '../../src/http/access.ts'
import type { Attempt, JobWithAttempts, Outcome } from '../../src/job/job.ts'
import { isJobId } from '../../src/job/job-id.ts'
import {
  DEFAULT_RETRY,
  decide,
  effectivePolicy,
  MAX_RETRY_AFTER_MS,
} from '../../src/job/retry-policy.ts'
import type { CountEnd } from '../../src/stats/attempt-counts.ts'
import type { ApiMetrics, StaleReason } from '../../src/stats/metrics.ts'
import type { ProvenLease } from '../../src/store/attempt-token.ts'
import type { Settlement, SettleResult, Store } from '../../src/store/store.ts'
import { traceContextOf, traceReport } from '../../src/tracing.ts'
import { extension } from '../../src/wire/endpoints.ts'
import { RawJson } from '../../src/wire/envelope.ts'
import { duration, instantText, responseInstant, text } from '../../src/wire/fields.ts'
import { trustConnection } from '../http/connections.ts'
import type { RouteError } from '../http/route-schema.ts'
import { jobParams, readJobWithAttempts } from './job-reply.ts'

const MAX_RESULT_BYTES = 65_536
const NO_RESULT = 'null'

export const MAX_FAIL_MESSAGE = 2_000
export const MAX_PROGRESS_MESSAGE = 500

const tokenQuery = z.strictObject({ token: z.string().max(512).optional() })

const completeFields = z.strictObject({
  result: z
    .instanceof(RawJson)
    .meta({ description: 'any JSON value; stored byte for byte up to 64 KiB' })
    .optional(),
})
const completeBody = completeFields.nullish().transform((body) => body ?? {})
type CompleteBody = z.output<typeof completeFields>

const failFields = z.strictObject({
  message: text(0, MAX_FAIL_MESSAGE).default('the handler reported a failure'),
  retryable: z.boolean().default(true),
  retryAfter: duration(0, MAX_RETRY_AFTER_MS).optional().meta({
    description: 'makes the back-off longer, never shorter; unused if retryable is false',
  }),
})
const failBody = failFields.nullish().transform((body) => body ?? failFields.parse({}))
type FailBody = z.output<typeof failBody>

const heartbeatFields = z.strictObject({
  progress: z.number().min(0).max(100).nullable().optional(),
  message: text(0, MAX_PROGRESS_MESSAGE).nullable().optional(),
  extend: extension.optional().meta({
    description:
      'how long the lease lasts from now; before the 202 is stored, it takes effect with the 202',
  }),
})
const heartbeatBody = heartbeatFields.nullish().transform((body) => body ?? {})
type HeartbeatBody = z.output<typeof heartbeatFields>

export const appliedResponse = z.object({ applied: z.literal(true) })

export const heartbeatResponse = z.object({
  leaseExpiresAt: responseInstant,
  cancelRequested: z.boolean(),
})

const ERRORS_BY_TOKEN: readonly RouteError[] = [
  'unauthorized',
  'job_not_found',
  'job_state_conflict',
  'lease_lost',
]

interface CompletionOptions {
  store: Store
  metrics: Pick<ApiMetrics, 'onStale'>
  countEnd: CountEnd
  maxBodyBytes: number
}

interface CompletionRoutes extends CompletionOptions {
  unanswered: Unanswered
}

/**
 * Limit of remembered reports whose write failed without a response of the store. Such a report may
 * be stored.
 */
const MAX_UNANSWERED = 10_000

interface Unanswered {
  /** Runs the write, and remembers the report if the write fails. */
  noting(
    report: ProvenLease,
    write: () => Promise<SettleResult[]>,
  ): Promise<SettleResult | undefined>
  /** Returns whether the report was remembered, and forgets it. */
  take(report: ProvenLease): boolean
}

function createUnanswered(): Unanswered {
  const noted = new Set<string>()
  const keyOf = ({ jobId, fence, leaseId }: ProvenLease) => `${jobId} ${fence} ${leaseId}`
  return {
    async noting(report, write) {
      try {
        const [result] = await write()
        return result
      } catch (error) {
        if (noted.size < MAX_UNANSWERED) noted.add(keyOf(report))
        throw error
      }
    },
    take: (report) => noted.delete(keyOf(report)),
  }
}

interface ByToken {
  Params: { id: string }
  Querystring: { token?: string }
}

declare module 'fastify' {
  interface FastifyRequest {
    /** The lease that the token of the attempt proves; null: the route has no token. */
    lease: ProvenLease | null
  }
}

/** Twice the largest result that is stored. */
const BODY_LIMIT_BYTES = 2 * MAX_RESULT_BYTES

/**
 * These routes need no API key: the token authorizes reports about this attempt, and nothing else.
 */
function byToken({ store, maxBodyBytes }: CompletionRoutes) {
  return {
    config: { open: true },
    bodyLimit: Math.min(BODY_LIMIT_BYTES, maxBodyBytes),
    // The check comes before the body is read, so that a request without a token costs little.
    onRequest: (request: FastifyRequest, _reply: FastifyReply, done: () => void) => {
      request.lease = leaseOf(store, request)
      trustConnection(request.raw.socket)
      done()
    },
  }
}

export function registerCompletionRoutes(app: FastifyInstance, options: CompletionOptions): void {
  const parts = { ...options, unanswered: createUnanswered() }
  app.decorateRequest('lease', null)
  registerComplete(app, parts)
  registerFail(app, parts)
  registerHeartbeat(app, parts)
}

function registerComplete(app: FastifyInstance, parts: CompletionRoutes): void {
  app.post<ByToken & { Body: CompleteBody }>(
    '/jobs/:id/complete',
    {
      ...byToken(parts),
      schema: {
        summary: 'Report that the work of this attempt is done',
        params: jobParams,
        querystring: tokenQuery,
        body: completeBody,
        response: { 200: appliedResponse },
        errors: ERRORS_BY_TOKEN,
      },
    },
    async (request) => {
      const { job, lease } = await readHeldJob(parts.store, request)
      const attempt = attemptOf(parts.store, job, 'succeeded', 'the handler reported completion')
      const bytes = request.body.result?.bytes
      const resultTruncated = (bytes?.byteLength ?? 0) > MAX_RESULT_BYTES
      const result = resultTruncated ? null : (bytes?.toString() ?? NO_RESULT)
      const end = { ...lease, attempt, event: 'succeed', result, resultTruncated } as const
      return traced(request, 'complete', job, attempt, () => settle(parts, job, end))
    },
  )
}

function registerFail(app: FastifyInstance, parts: CompletionRoutes): void {
  const { store } = parts
  app.post<ByToken & { Body: FailBody }>(
    '/jobs/:id/fail',
    {
      ...byToken(parts),
      schema: {
        summary:
          'Report that the work of this attempt failed; it is retried unless retryable is false',
        params: jobParams,
        querystring: tokenQuery,
        body: failBody,
        response: { 200: appliedResponse },
        errors: ERRORS_BY_TOKEN,
      },
    },
    async (request) => {
      const said = request.body
      const { job, lease } = await readHeldJob(store, request)
      const [endpoint] = await store.endpointsNamed([job.endpoint])
      const decision = decide(
        job,
        effectivePolicy(endpoint?.retry ?? DEFAULT_RETRY, job.retry),
        {
          outcome: 'failed',
          message: said.message,
          retryAfterMs: said.retryAfter ?? null,
          isFinal: !said.retryable,
        },
        store.clock.now(),
        Math.random(),
      )
      if (decision.event !== 'reschedule' && decision.event !== 'bury') {
        throw new Error(`a failure cannot lead to ${decision.event}`)
      }
      const attempt = attemptOf(store, job, 'failed', said.message)
      const end = { ...lease, attempt, ...decision }
      return traced(request, 'fail', job, attempt, () => settle(parts, job, end))
    },
  )
}

function registerHeartbeat(app: FastifyInstance, parts: CompletionRoutes): void {
  const { store } = parts
  app.post<ByToken & { Body: HeartbeatBody }>(
    '/jobs/:id/heartbeat',
    {
      ...byToken(parts),
      schema: {
        summary: 'Extend the lease of this attempt and report progress',
        params: jobParams,
        querystring: tokenQuery,
        body: heartbeatBody,
        response: { 200: heartbeatResponse },
        errors: ERRORS_BY_TOKEN,
      },
    },
    async (request) => {
      const { progress, message, extend } = request.body
      const { job, lease } = await readHeldJob(store, request)
      const [endpoint] = await store.endpointsNamed([job.endpoint])
      const isSaid = progress !== undefined || message !== undefined
      const result = await store.heartbeat(lease, {
        progress: isSaid ? { value: progress ?? null, message: message ?? null } : null,
        extendMs: extend ?? null,
        completionTimeoutMs: endpoint?.completionTimeoutMs ?? 0,
      })
      switch (result.kind) {
        case 'applied':
          return { leaseExpiresAt: instantText(result.leaseExpiresAt), cancelRequested: false }
        case 'cancelled':
          return { leaseExpiresAt: null, cancelRequested: true }
        case 'evicted':
        case 'lease_lost':
          throw leaseLost(job)
        default:
          throw new Error(`unknown result ${JSON.stringify(result satisfies never)}`)
      }
    },
  )
}

/** The lease that the token of the request was created for; 401 for any other text. */
function leaseOf(store: Store, request: FastifyRequest): ProvenLease {
  // The parameters are not validated yet.
  const { id } = request.params as ByToken['Params']
  const { token: given } = request.query as { token?: unknown }
  const token = given ?? bearerOf(request.headers.authorization)
  const lease =
    isJobId(id) && typeof token === 'string' ? store.attemptTokens.read(id, token) : null
  if (lease !== null) return lease
  throw unauthorized('send the token of the attempt, as ?token= or as Authorization: Bearer')
}

/** The job of the request, and the lease that its token proves. The lease may have ended by now. */
async function readHeldJob(store: Store, request: FastifyRequest) {
  const proven = request.lease as ProvenLease
  const job = await readJobWithAttempts(store, proven.jobId)
  return { job, lease: { ...proven, endpoint: job.endpoint } }
}

/**
 * The record of the attempt. If the attempt is over already, the record is not stored: the guard of
 * the write does not match.
 */
function attemptOf(store: Store, job: JobWithAttempts, outcome: Outcome, message: string): Attempt {
  const finishedAt = store.clock.now()
  const startedAt = job.lease?.claimedAt ?? finishedAt
  return {
    number: job.attemptCount,
    startedAt,
    finishedAt,
    durationMs: Math.max(0, finishedAt - startedAt),
    outcome,
    statusCode: null,
    errorCode: null,
    message,
    responseBody: null,
    workerId: job.lease?.workerId ?? '',
  }
}

type ReportedEnd = Exclude<Settlement, { event: 'await' }>

function traced<T>(
  { headers }: FastifyRequest,
  verb: 'complete' | 'fail',
  job: JobWithAttempts,
  { number, outcome }: Attempt,
  work: () => Promise<T>,
): Promise<T> {
  return traceReport(traceContextOf(headers), verb, job.id, (span) => {
    span.setAttributes({
      'messaging.destination.name': job.endpoint,
      'posthorn.attempt': number,
      'posthorn.outcome': outcome,
    })
    return work()
  })
}

async function settle(parts: CompletionRoutes, job: JobWithAttempts, settlement: ReportedEnd) {
  const { store, countEnd, unanswered } = parts
  const result = await unanswered.noting(settlement, () =>
    store.settle([settlement], { durable: true }),
  )
  if (result === 'lease_lost') {
    const reason = staleReasonOf(job, settlement)
    if (reason !== null) parts.metrics.onStale(reason)
    throw leaseLost(job)
  }
  const { attempt, jobId } = settlement
  const { endpoint } = job
  if (result === 'applied') {
    const deathReason = settlement.event === 'bury' ? settlement.failure.reason : null
    countEnd({ jobId, endpoint, attempt, deathReason })
  } else if (unanswered.take(settlement)) {
    // The earlier write was stored, but its response was lost.
    const stored = job.attempts.find(({ number }) => number === attempt.number) ?? attempt
    countEnd({ jobId, endpoint, attempt: stored, deathReason: job.failure?.reason ?? null })
  }
  return { applied: true as const }
}

/**
 * Returns null if the attempt has already ended by a report, so that this report changes nothing.
 */
function staleReasonOf(job: JobWithAttempts, { fence }: ProvenLease): StaleReason | null {
  const last = job.fence === fence ? job.attempts.at(-1)?.outcome : undefined
  if (job.state === 'cancelled' || last === 'cancelled') return 'cancelled'
  return last === 'succeeded' || last === 'failed' ? null : 'lease_lost'
}

function leaseLost(job: JobWithAttempts): AppError {
  return new AppError(
    'lease_lost',
    `this attempt no longer holds the job, which is ${job.state} at attempt ${job.attemptCount}`,
  )
}
