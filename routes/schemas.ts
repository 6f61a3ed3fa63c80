// The wire, inbound: what a client may send, field by field. Shapes only, no behaviour.
import { z } from 'zod'
import {
  DEFAULT_TIMEOUT_MS,
  ENDPOINT_NAME_SHAPE,
  MAX_TIMEOUT_MS,
  MAX_URL_LENGTH,
  MIN_TIMEOUT_MS,
  secretKey,
} from '../src/endpoint/endpoint.ts'
import { extraHeaderProblem, MAX_EXTRA_HEADERS } from '../src/endpoint/extra-headers.ts'
import { formatDuration, parseDuration } from '../src/job/duration.ts'
import { JOB_STATES } from '../src/job/job.ts'
import { DEFAULT_BACKOFF } from '../src/job/retry-policy.ts'
import { RawJson } from './json-body.ts'

const DAY_MS = 86_400_000
/** How far ahead a job may be due. */
export const MAX_AHEAD_MS = 366 * DAY_MS
const MAX_DELAY_MS = 7 * DAY_MS
const MAX_BACKOFF_MS = 30 * DAY_MS
const MAX_TAGS = 10
const MAX_METADATA = 20
export const MAX_WAIT_MS = 60_000

/** Text that every store and every log can hold: no NUL, no lone surrogate. */
function text(min: number, max: number) {
  return z
    .string()
    .min(min)
    .max(max)
    .refine(
      (value) => value.isWellFormed() && !value.includes('\0'),
      'holds NUL or a lone surrogate',
    )
}

/** A duration text to milliseconds. */
function duration(minMs: number, maxMs: number) {
  const range = `a duration like 500ms, 15s or 1h30m, from ${formatDuration(minMs)} to ${formatDuration(maxMs)}`
  return z
    .string()
    .max(40)
    .transform((value, context) => {
      const valueMs = parseDuration(value)
      if (valueMs !== null && valueMs >= minMs && valueMs <= maxMs) return valueMs
      context.addIssue({ code: 'custom', message: `expected ${range}` })
      return z.NEVER
    })
    .meta({ description: range })
}

/** RFC 3339 text to epoch milliseconds. */
const instant = z.iso
  .datetime({ offset: true, error: 'expected an RFC 3339 instant like 2026-11-24T08:30:00.000Z' })
  .max(64)
  .transform((value) => Date.parse(value))

export const endpointName = z
  .string()
  .regex(ENDPOINT_NAME_SHAPE, 'expected 1–64 of a-z 0-9 - _ . with a letter or digit first')

const extraHeaders = z.record(text(1, 256), text(0, 4_096)).superRefine((headers, context) => {
  const names = Object.keys(headers)
  if (names.length > MAX_EXTRA_HEADERS) {
    context.addIssue({ code: 'custom', message: `more than ${MAX_EXTRA_HEADERS} headers` })
  }
  const seen = new Set<string>()
  for (const name of names) {
    const problem = seen.has(name.toLowerCase())
      ? 'the name stands twice'
      : extraHeaderProblem(name, headers[name] as string)
    seen.add(name.toLowerCase())
    if (problem !== null) context.addIssue({ code: 'custom', path: [name], message: problem })
  }
})

const jitter = z.number().min(0).max(1).default(DEFAULT_BACKOFF.jitter)

const backoff = z.discriminatedUnion('type', [
  z.strictObject({
    type: z.enum(['exponential', 'linear', 'fixed']),
    delay: duration(0, MAX_DELAY_MS).prefault(formatDuration(DEFAULT_BACKOFF.delayMs)),
    factor: z.number().min(1).max(10).default(DEFAULT_BACKOFF.factor),
    maxDelay: duration(0, MAX_BACKOFF_MS).prefault(formatDuration(DEFAULT_BACKOFF.maxDelayMs)),
    jitter,
  }),
  z.strictObject({
    type: z.literal('schedule'),
    delays: z.array(duration(0, MAX_BACKOFF_MS)).min(1).max(100),
    jitter,
  }),
])

const retryParts = z.strictObject({
  maxAttempts: z.int().min(1).max(100).optional(),
  backoff: backoff.optional(),
  maxAge: duration(0, 365 * DAY_MS)
    .nullable()
    .optional(),
})
export type RetryWire = z.output<typeof retryParts>

const timeout = duration(MIN_TIMEOUT_MS, MAX_TIMEOUT_MS)

export const endpointBody = z.strictObject({
  url: text(1, MAX_URL_LENGTH).meta({ description: 'http or https, no userinfo' }),
  description: text(0, 500).default(''),
  headers: extraHeaders.default({}),
  timeout: timeout.prefault(formatDuration(DEFAULT_TIMEOUT_MS)),
  retry: retryParts.default({}),
  secret: z
    .string()
    .max(128)
    .refine((value) => secretKey(value) !== null, 'expected whsec_ and base64 of 24–64 bytes')
    .optional(),
})
export type EndpointBody = z.output<typeof endpointBody>

export const jobBody = z
  .strictObject({
    endpoint: endpointName,
    payload: z
      .instanceof(RawJson, { error: 'a payload is needed: any JSON value' })
      .meta({ description: 'any JSON value, delivered byte for byte as it stands here' }),
    runAt: instant.optional(),
    delay: duration(0, MAX_AHEAD_MS).optional(),
    priority: z.int().min(0).max(9).default(5),
    timeout: timeout.optional(),
    retry: retryParts.optional(),
    expiresIn: duration(1, MAX_AHEAD_MS).optional(),
    tags: z.array(text(1, 64)).max(MAX_TAGS).default([]),
    metadata: z
      .record(text(1, 64), text(0, 512))
      .refine(
        (pairs) => Object.keys(pairs).length <= MAX_METADATA,
        `more than ${MAX_METADATA} pairs`,
      )
      .default({}),
    headers: extraHeaders.default({}),
  })
  .refine((job) => job.runAt === undefined || job.delay === undefined, {
    path: ['delay'],
    error: 'runAt and delay can not both be given',
  })
export type JobBody = z.output<typeof jobBody>

/** RFC draft-ietf-httpapi-idempotency-key-header: plain, or a quoted structured-field string. */
export const enqueueHeaders = z.object({
  'idempotency-key': z
    .string()
    .transform((value) =>
      /^".*"$/.test(value) ? value.slice(1, -1).replace(/\\(["\\])/g, '$1') : value,
    )
    .refine(
      (value) => /^[\x21-\x7e]{1,255}$/.test(value),
      'expected 1–255 visible ASCII characters',
    )
    .optional(),
})

export const ifMatchHeaders = z.object({
  'if-match': z
    .string()
    .regex(/^(\*|"\d{1,15}")$/, 'expected the ETag of an earlier answer, like "3"')
    .optional(),
})

export const jobParams = z.object({ id: z.string() })
export const endpointParams = z.object({ name: endpointName })

export const waitQuery = z.strictObject({ wait: duration(0, MAX_WAIT_MS).optional() })
export const nothing = z.strictObject({})
/** Of a route that needs no body: none, or an empty object. */
export const noBody = z.strictObject({}).nullish()

const pageFields = {
  limit: z
    .string()
    .regex(/^\d{1,3}$/, 'expected a whole number from 1 to 100')
    .transform(Number)
    .refine((value) => value >= 1 && value <= 100, 'expected a whole number from 1 to 100')
    .prefault('25'),
  cursor: z.string().max(256).optional(),
}

export const deleteEndpointQuery = z.strictObject({
  force: z
    .enum(['true', 'false'])
    .transform((value) => value === 'true')
    .optional(),
})

export const endpointsQuery = z.strictObject(pageFields)

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
  createdAfter: instant.optional(),
  createdBefore: instant.optional(),
})
export type JobsQuery = z.output<typeof jobsQuery>
