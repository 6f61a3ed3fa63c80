// The wire, inbound: what a client may send about jobs.

import { z } from 'zod'
import { FAILURE_REASONS, JOB_STATES, MAX_AHEAD_MS } from '../job/job.ts'
import { isJobId } from '../job/job-id.ts'
import { MAX_RETRY_AFTER_MS } from '../job/retry-policy.ts'
import { extension } from './endpoints.ts'
import { RawJson } from './envelope.ts'
import {
  duration,
  endpointName,
  expiresIn,
  instant,
  MAX_WAIT_MS,
  metadata,
  pageFields,
  payload,
  priority,
  tags,
  templateFields,
  text,
} from './fields.ts'

const MAX_DEPENDENCIES = 50
const MAX_BULK = 10_000
const DEFAULT_BULK = 1_000
export const MAX_BATCH_JOBS = 1_000
export const MAX_FAIL_MESSAGE = 2_000
export const MAX_PROGRESS_MESSAGE = 500

/** RFC draft-ietf-httpapi-idempotency-key-header: plain, or a quoted structured-field string. */
const idempotencyKey = z
  .string()
  .refine((value) => /^[\x21-\x7e]{1,255}$/.test(value), 'expected 1–255 visible ASCII characters')

type DueTimes = { runAt?: number | undefined; delay?: number | undefined }

export const dueTimes = {
  runAt: instant.optional(),
  delay: duration(0, MAX_AHEAD_MS).optional(),
}

export function isDueOnce({ runAt, delay }: DueTimes): boolean {
  return runAt === undefined || delay === undefined
}
export const DUE_ONCE = { path: ['delay'], error: 'runAt and delay cannot both be given' }

/** `#0` in a batch: the job that an earlier item of it has become. */
const BATCH_REFERENCE = /^#\d{1,3}$/

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
    dependsOn: z
      .array(z.string().refine(isJobId, 'expected the id of a job'))
      .max(MAX_DEPENDENCIES)
      .default([]),
  })
  .refine(isDueOnce, DUE_ONCE)
export type JobBody = z.output<typeof jobBody>

export const batchJobBody = z
  .strictObject({
    ...jobFields,
    dependsOn: z
      .array(
        z
          .string()
          .refine(
            (value) => isJobId(value) || BATCH_REFERENCE.test(value),
            'expected the id of a job, or #0 for the first item of this batch',
          ),
      )
      .max(MAX_DEPENDENCIES)
      .default([]),
    idempotencyKey: idempotencyKey.optional(),
  })
  .refine(isDueOnce, DUE_ONCE)
export type BatchJobBody = z.output<typeof batchJobBody>

/** Items are checked one by one, so that a bad one harms no other; here they are only described. */
export const batchBody = z.strictObject({
  jobs: z.array(z.unknown()).min(1).max(MAX_BATCH_JOBS).meta({
    description:
      'each as in POST /jobs, and idempotencyKey; "#0" in dependsOn is the first item. Validated one by one',
  }),
})
export type BatchBody = z.output<typeof batchBody>

export const enqueueHeaders = z.object({
  'idempotency-key': z
    .string()
    .transform((value) =>
      /^".*"$/.test(value) ? value.slice(1, -1).replace(/\\(["\\])/g, '$1') : value,
    )
    .pipe(idempotencyKey)
    .optional(),
})

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
  .refine((change) => Object.keys(change).length > 0, 'nothing to change was given')
export type EditBody = z.output<typeof editBody>

const bulkFilter = z
  .strictObject({
    endpoint: endpointName.optional(),
    state: z.enum(JOB_STATES).optional(),
    tag: text(1, 64).optional(),
    createdAfter: instant.optional(),
    createdBefore: instant.optional(),
    failureReason: z.enum(FAILURE_REASONS).optional(),
  })
  .refine((filter) => Object.keys(filter).length > 0, 'an empty filter is refused')

export const bulkBody = z.strictObject({
  filter: bulkFilter,
  limit: z.int().min(1).max(MAX_BULK).default(DEFAULT_BULK),
  dryRun: z.boolean().default(false),
})
export type BulkBody = z.output<typeof bulkBody>

const completeFields = z.strictObject({
  result: z
    .instanceof(RawJson)
    .meta({ description: 'any JSON value; stored byte for byte up to 64 KiB' })
    .optional(),
})
export const completeBody = completeFields.nullish().transform((body) => body ?? {})
export type CompleteBody = z.output<typeof completeFields>

const failFields = z.strictObject({
  message: text(0, MAX_FAIL_MESSAGE).default('the handler said that it failed'),
  retryable: z.boolean().default(true),
  retryAfter: duration(0, MAX_RETRY_AFTER_MS).optional().meta({
    description: 'makes the back-off longer, never shorter; unused if retryable is false',
  }),
})
export const failBody = failFields.nullish().transform((body) => body ?? failFields.parse({}))
export type FailBody = z.output<typeof failBody>

const heartbeatFields = z.strictObject({
  progress: z.number().min(0).max(100).nullable().optional(),
  message: text(0, MAX_PROGRESS_MESSAGE).nullable().optional(),
  extend: extension.optional().meta({
    description:
      'how long the lease lasts from now, after a 202 or for a pulled job; unused before the 202',
  }),
})
export const heartbeatBody = heartbeatFields.nullish().transform((body) => body ?? {})
export type HeartbeatBody = z.output<typeof heartbeatFields>

export const jobParams = z.object({ id: z.string() })
export const tokenQuery = z.strictObject({ token: z.string().max(512).optional() })
export const waitQuery = z.strictObject({ wait: duration(0, MAX_WAIT_MS).optional() })
export const ifNoneMatchHeaders = z.object({ 'if-none-match': z.string().max(1_024).optional() })

export const jobsQuery = z.strictObject({
  ...pageFields,
  endpoint: endpointName.optional(),
  state: z
    .preprocess(
      (value) => (typeof value === 'string' ? [value] : value),
      z.array(z.enum(JOB_STATES)).max(JOB_STATES.length),
    )
    .optional(),
  tag: text(1, 64).optional(),
  dedupeKey: text(1, 256).optional(),
  createdAfter: instant.optional(),
  createdBefore: instant.optional(),
})
export type JobsQuery = z.output<typeof jobsQuery>
