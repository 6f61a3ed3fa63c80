// The wire, outbound: what each answer holds. Described in openapi.json, not checked on the way
// out.
import { z } from 'zod'
import { STATUS_CHOICES } from '../src/endpoint/endpoint.ts'
import { FAILURE_REASONS, JOB_STATES, OUTCOMES } from '../src/job/job.ts'
import { KEY_SCOPES } from '../src/store/records.ts'

const answeredInstant = z.iso.datetime().nullable()
const answeredJson = z.unknown()

export const problemAnswer = z.object({
  type: z.string(),
  title: z.string(),
  status: z.int(),
  code: z.string(),
  detail: z.string(),
  requestId: z.string(),
  errors: z.array(z.object({ path: z.string(), message: z.string() })).optional(),
})

const attemptAnswer = z.object({
  number: z.int(),
  startedAt: answeredInstant,
  finishedAt: answeredInstant,
  durationMs: z.int(),
  outcome: z.enum(OUTCOMES),
  statusCode: z.int().nullable(),
  errorCode: z.string().nullable(),
  message: z.string().nullable(),
  responseBody: z.string().nullable(),
  workerId: z.string(),
})

const onFinishAnswer = z
  .object({ endpoint: z.string(), states: z.array(z.enum(JOB_STATES)) })
  .nullable()

const jobSummaryFields = {
  id: z.string(),
  endpoint: z.string(),
  state: z.enum(JOB_STATES),
  phase: z.enum(['sending', 'awaiting_completion']).nullable(),
  priority: z.int(),
  runAt: answeredInstant,
  dueAt: answeredInstant.meta({
    description:
      'from when a worker may claim it: runAt, or the later end of its wait for other jobs; null: it waits for other jobs, or is not queued',
  }),
  createdAt: answeredInstant,
  startedAt: answeredInstant,
  finishedAt: answeredInstant,
  expiresAt: answeredInstant,
  attemptCount: z.int(),
  maxAttempts: z.int(),
  fence: z.int(),
  lease: z.object({ workerId: z.string(), expiresAt: answeredInstant }).nullable(),
  progress: z
    .object({ value: z.number().nullable(), message: z.string().nullable(), at: answeredInstant })
    .nullable(),
  failure: z.object({ reason: z.enum(FAILURE_REASONS), message: z.string() }).nullable(),
  payloadBytes: z.int(),
  timeout: z.string().nullable().meta({ description: 'null: the endpoint’s' }),
  retry: z.record(z.string(), z.unknown()).nullable().meta({ description: 'null: the endpoint’s' }),
  headers: z.record(z.string(), z.string()).meta({ description: 'values are masked' }),
  tags: z.array(z.string()),
  metadata: z.record(z.string(), z.string()),
  idempotencyKey: z.string().nullable(),
  dedupeKey: z.string().nullable(),
  orderingKey: z.string().nullable(),
  scheduleName: z.string().nullable(),
  dependsOn: z.array(z.string()),
  onFinish: onFinishAnswer,
  version: z.int(),
}

export const jobSummaryAnswer = z.object(jobSummaryFields)

export const jobAnswer = z.object({
  ...jobSummaryFields,
  deduplicated: z.boolean().optional(),
  attempts: z.array(attemptAnswer),
  resultTruncated: z.boolean(),
  result: answeredJson,
  payload: answeredJson,
})

export const retriedJobAnswer = z.object({
  ...jobAnswer.shape,
  dependenciesWaived: z.array(z.string()).meta({
    description:
      'ids of the dependencies that are dead, cancelled or deleted: the job runs without them. It waits again for those that are queued or running',
  }),
})

export const jobListAnswer = z.object({
  items: z.array(jobSummaryAnswer),
  nextCursor: z.string().nullable(),
})

export const endpointAnswer = z.object({
  name: z.string(),
  url: z.string().nullable(),
  description: z.string(),
  headers: z.record(z.string(), z.string()).meta({ description: 'values are masked' }),
  timeout: z.string(),
  retry: z.record(z.string(), z.unknown()),
  concurrency: z.int().nullable(),
  rateLimit: z.object({ count: z.int(), per: z.string() }).nullable(),
  completion: z.enum(['sync', 'async']),
  completionTimeout: z.string(),
  onFinish: onFinishAnswer,
  circuitBreaker: z.object({ failures: z.int(), cooldown: z.string() }).nullable(),
  statuses: z.record(z.string(), z.enum(STATUS_CHOICES)),
  state: z.enum(['active', 'paused', 'disabled', 'resting', 'deleting']),
  disabledReason: z.string().nullable(),
  restingUntil: answeredInstant.meta({ description: 'when the circuit closes or throttling ends' }),
  secretHint: z.string(),
  secret: z.string().optional().meta({ description: 'only in the response that created it' }),
  counts: z.object({ queued: z.int(), running: z.int(), more: z.boolean().optional() }),
  createdAt: answeredInstant,
  updatedAt: answeredInstant,
  version: z.int(),
})

export const testAnswer = z.object({
  outcome: z.enum(OUTCOMES),
  statusCode: z.int().nullable(),
  errorCode: z.string().nullable(),
  message: z.string().nullable(),
  durationMs: z.int(),
  responseBody: z.string().nullable().meta({ description: 'the first 4 KiB' }),
})

export const endpointListAnswer = z.object({
  items: z.array(endpointAnswer),
  nextCursor: z.string().nullable(),
})

export const batchAnswer = z.object({
  items: z.array(
    z.union([
      z.object({ status: z.int(), id: z.string(), deduplicated: z.literal(true).optional() }),
      z.object({
        status: z.int(),
        error: z.object({
          code: z.string(),
          detail: z.string(),
          errors: problemAnswer.shape.errors,
        }),
      }),
    ]),
  ),
})

export const bulkAnswer = z.object({
  matched: z.int(),
  affected: z.int(),
  more: z.literal(true).optional().meta({
    description:
      'repeat the request: more jobs match than the limit, or than the store changed in time; retry takes the oldest, cancel the newest',
  }),
  dependencyFailed: z.int().optional().meta({
    description:
      'of a retry: jobs left unchanged, because a job that they depend on stays dead, cancelled or deleted; retry such a job by its id to run it without that one',
  }),
})

export const EXPLAIN_REASONS = [
  'not_due',
  'endpoint_paused',
  'endpoint_disabled',
  'endpoint_resting',
  'concurrency_full',
  'rate_limited',
  'behind_ordering_key',
  'waiting_for_dependencies',
  'no_live_worker',
  'next_in_line',
  'running',
  'final',
] as const
export type ExplainReason = (typeof EXPLAIN_REASONS)[number]

export const explainAnswer = z.object({
  state: z.enum(JOB_STATES),
  version: z.int().meta({ description: 'the version of the job that this describes' }),
  reason: z.enum(EXPLAIN_REASONS),
  detail: z.string(),
  expectedAt: answeredInstant.meta({
    description: 'when that can change, never in the past; null: unknown',
  }),
})

export const appliedAnswer = z.object({ applied: z.literal(true) })

export const heartbeatAnswer = z.object({
  leaseExpiresAt: answeredInstant,
  cancelRequested: z.boolean(),
})

export const claimAnswer = z.object({
  jobs: z.array(
    z.object({
      ...jobAnswer.shape,
      token: z.string(),
      leaseExpiresAt: answeredInstant,
      traceparent: z.string().nullable().meta({
        description: 'the trace context of the request that enqueued the job (W3C); null: none',
      }),
      tracestate: z.string().nullable(),
    }),
  ),
})

export const keyAnswer = z.object({
  id: z.string(),
  name: z.string(),
  scope: z.enum(KEY_SCOPES),
  createdAt: answeredInstant,
})
export const newKeyAnswer = z.object({
  ...keyAnswer.shape,
  key: z.string().meta({ description: 'shown only here' }),
})
export const keyListAnswer = z.object({ items: z.array(keyAnswer) })

export const workerListAnswer = z.object({
  items: z.array(
    z.object({
      id: z.string(),
      version: z.string(),
      startedAt: answeredInstant,
      seenAt: answeredInstant,
      isLive: z.boolean(),
      concurrency: z.int(),
      inFlight: z.int().meta({ description: 'attempts in flight at the last heartbeat' }),
      hasEncryptionKey: z.boolean().meta({
        description:
          'false: its ENCRYPTION_KEY does not hold the key that the API encrypts secrets with, so that it delivers nothing',
      }),
    }),
  ),
})
