// The wire, outbound: what each answer holds. Described in openapi.json, not checked on the way
// out.
import { z } from 'zod'
import { FAILURE_REASONS, JOB_STATES, OUTCOMES } from '../src/job/job.ts'

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

const jobSummaryFields = {
  id: z.string(),
  endpoint: z.string(),
  state: z.enum(JOB_STATES),
  phase: z.enum(['sending']).nullable(),
  priority: z.int(),
  runAt: answeredInstant,
  createdAt: answeredInstant,
  startedAt: answeredInstant,
  finishedAt: answeredInstant,
  expiresAt: answeredInstant,
  attemptCount: z.int(),
  maxAttempts: z.int(),
  fence: z.int(),
  lease: z.object({ workerId: z.string(), expiresAt: answeredInstant }).nullable(),
  progress: z.null(),
  failure: z.object({ reason: z.enum(FAILURE_REASONS), message: z.string() }).nullable(),
  payloadBytes: z.int(),
  timeout: z.string().nullable().meta({ description: 'null: the endpoint’s' }),
  retry: z.record(z.string(), z.unknown()).nullable().meta({ description: 'null: the endpoint’s' }),
  headers: z.record(z.string(), z.string()).meta({ description: 'values are masked' }),
  tags: z.array(z.string()),
  metadata: z.record(z.string(), z.string()),
  idempotencyKey: z.string().nullable(),
  dedupeKey: z.null(),
  orderingKey: z.null(),
  scheduleName: z.null(),
  dependsOn: z.array(z.string()),
  onFinish: z.null(),
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

export const jobListAnswer = z.object({
  items: z.array(jobSummaryAnswer),
  nextCursor: z.string().nullable(),
})

export const endpointAnswer = z.object({
  name: z.string(),
  url: z.string(),
  description: z.string(),
  headers: z.record(z.string(), z.string()).meta({ description: 'values are masked' }),
  timeout: z.string(),
  retry: z.record(z.string(), z.unknown()),
  state: z.enum(['active', 'deleting']),
  secretHint: z.string(),
  secret: z.string().optional().meta({ description: 'only in the answer that made it' }),
  counts: z.object({ queued: z.int(), running: z.int(), more: z.boolean().optional() }),
  createdAt: answeredInstant,
  updatedAt: answeredInstant,
  version: z.int(),
})

export const endpointListAnswer = z.object({
  items: z.array(endpointAnswer),
  nextCursor: z.string().nullable(),
})
