// The fields that jobs, endpoints and schedules share: their shapes in requests and responses, and
// the conversion in both directions.
import { z } from 'zod'
import {
  ENDPOINT_NAME_SHAPE,
  hintOf,
  MAX_TIMEOUT_MS,
  MIN_TIMEOUT_MS,
} from '../endpoint/endpoint.ts'
import { extraHeaderProblem, MAX_EXTRA_HEADERS } from '../endpoint/extra-headers.ts'
import { formatDuration, parseDuration } from '../job/duration.ts'
import { DEFAULT_COST, JOB_STATES, type JobState, MAX_AHEAD_MS, MAX_COST } from '../job/job.ts'
import { isGroupId } from '../job/job-id.ts'
import { type Backoff, DEFAULT_BACKOFF, type RetryOverride } from '../job/retry-policy.ts'
import { RawJson } from './envelope.ts'
import { fieldMessage } from './field-errors.ts'

// All schemas of the API import this module, so all of them have these messages.
z.config({ localeError: fieldMessage })

export const DAY_MS = 86_400_000
const MAX_DELAY_MS = 7 * DAY_MS
const MAX_BACKOFF_MS = 30 * DAY_MS
const DEFAULT_PRIORITY = 5
export const MAX_ATTEMPTS = 100
const MAX_TAGS = 10
const MAX_METADATA = 20
export const MAX_WAIT_MS = 60_000

/** Text that every store and every log can contain: no NUL, no lone surrogate. */
export function text(min: number, max: number) {
  return z
    .string()
    .min(min)
    .max(max)
    .refine(
      (value) => value.isWellFormed() && !value.includes('\0'),
      'contains NUL or a lone surrogate',
    )
    .meta({ pattern: '^[^\\u0000]*$' })
}

/** Shown in openapi.json. parseDuration does the check, and the description states the range. */
const DURATION_PATTERN = '^(\\d+d)?(\\d+h)?(\\d+m)?(\\d+s)?(\\d+ms)?$'

/** Converts the text of a duration to milliseconds. */
export function duration(minMs: number, maxMs: number) {
  const bounds = `${formatDuration(minMs)} to ${formatDuration(maxMs)}`
  const range = `a duration like 500ms, 15s or 1h30m, from ${bounds}`
  const error = `expected ${range}`
  return z
    .string({ error })
    .max(40, { error })
    .transform((value, context) => {
      const valueMs = parseDuration(value)
      if (valueMs !== null && valueMs >= minMs && valueMs <= maxMs) return valueMs
      context.addIssue({ code: 'custom', message: error })
      return z.NEVER
    })
    .meta({ description: range, 'x-range': bounds, minLength: 2, pattern: DURATION_PATTERN })
}

/** The years that RFC 3339 can express in UTC; an offset may lead outside of them. */
export function isWritable(instant: number): boolean {
  return instant >= FIRST_INSTANT && instant <= LAST_INSTANT
}
const FIRST_INSTANT = Date.parse('0000-01-01T00:00:00.000Z')
const LAST_INSTANT = Date.parse('9999-12-31T23:59:59.999Z')

/** Converts RFC 3339 text, with upper or lower case t and z, to epoch milliseconds. */
export const instant = z
  .string()
  .max(64)
  .toUpperCase()
  .datetime({ offset: true, error: 'expected an RFC 3339 instant like 2026-11-24T08:30:00.000Z' })
  .transform((value) => Date.parse(value))
  .refine(isWritable, 'expected an instant of the years 0000 to 9999, in UTC')

export const endpointName = z
  .string()
  .regex(ENDPOINT_NAME_SHAPE, 'expected 1–64 of a-z 0-9 - _ . with a letter or digit first')

/** Zod silently drops a field of this name, so a request that has one is refused. */
const NOT_TAKEN = '__proto__'

export function pairs<T extends z.ZodType>(record: T) {
  return z.preprocess((value, context) => {
    if (typeof value === 'object' && value !== null && Object.hasOwn(value, NOT_TAKEN)) {
      context.addIssue({ code: 'custom', path: [NOT_TAKEN], message: 'this name is not allowed' })
    }
    return value
  }, record)
}

export const extraHeaders = pairs(
  z
    .record(text(1, 256), text(0, 4_096))
    .superRefine((headers, context) => {
      const names = Object.keys(headers)
      if (names.length > MAX_EXTRA_HEADERS) {
        context.addIssue({ code: 'custom', message: `more than ${MAX_EXTRA_HEADERS} headers` })
      }
      const seen = new Set<string>()
      for (const name of names) {
        const problem = seen.has(name.toLowerCase())
          ? 'duplicate name'
          : extraHeaderProblem(name, headers[name] as string)
        seen.add(name.toLowerCase())
        if (problem !== null) context.addIssue({ code: 'custom', path: [name], message: problem })
      }
    })
    .meta({ maxProperties: MAX_EXTRA_HEADERS }),
)

const jitter = z.number().min(0).max(1).default(DEFAULT_BACKOFF.jitter)

const backoff = z.discriminatedUnion('type', [
  z.strictObject({
    type: z.enum(['exponential', 'linear', 'fixed']),
    delay: duration(0, MAX_DELAY_MS).prefault(formatDuration(DEFAULT_BACKOFF.delayMs)),
    factor: z
      .number()
      .min(1)
      .max(10)
      .default(DEFAULT_BACKOFF.factor)
      .meta({ description: 'with exponential only: the factor from one delay to the next' }),
    maxDelay: duration(0, MAX_BACKOFF_MS).prefault(formatDuration(DEFAULT_BACKOFF.maxDelayMs)),
    jitter,
  }),
  z.strictObject({
    type: z.literal('schedule'),
    delays: z.array(duration(0, MAX_BACKOFF_MS)).min(1).max(100),
    jitter,
  }),
])

export const retryParts = z.strictObject({
  maxAttempts: z.int().min(1).max(MAX_ATTEMPTS).optional(),
  backoff: backoff.optional(),
  maxAge: duration(0, 365 * DAY_MS)
    .nullable()
    .optional(),
})
type RetryWire = z.output<typeof retryParts>

export function retryOverrideFrom(wire: RetryWire): RetryOverride {
  const { maxAttempts, backoff, maxAge } = wire
  return {
    ...(maxAttempts === undefined ? {} : { maxAttempts }),
    ...(backoff === undefined ? {} : { backoff: backoffFrom(backoff) }),
    ...(maxAge === undefined ? {} : { maxAgeMs: maxAge }),
  }
}

function backoffFrom(wire: NonNullable<RetryWire['backoff']>) {
  if (wire.type === 'schedule') {
    return { type: wire.type, delaysMs: wire.delays, jitter: wire.jitter }
  }
  const { type, delay, factor, maxDelay, jitter } = wire
  return { type, delayMs: delay, factor, maxDelayMs: maxDelay, jitter }
}

export const timeout = duration(MIN_TIMEOUT_MS, MAX_TIMEOUT_MS)

/** The payload of a job or a schedule: a JSON value as the bytes that were received. */
export const payload = z
  // z.instanceof is not used: it would end the check of the whole object, and the response must
  // list all problems.
  .custom<RawJson>((value) => value instanceof RawJson, {
    error: 'a payload is needed: any JSON value',
    abort: false,
  })
  .meta({ description: 'any JSON value, delivered byte for byte' })

const FINAL_STATES = ['succeeded', 'dead', 'cancelled'] as const

/** An endpoint name alone stands for all final states. */
export const onFinish = z.union(
  [
    endpointName.transform((endpoint) => ({ endpoint, states: [...FINAL_STATES] as JobState[] })),
    z.strictObject({
      endpoint: endpointName,
      states: z
        .array(z.enum(FINAL_STATES))
        .min(1)
        .max(FINAL_STATES.length)
        .default([...FINAL_STATES])
        // In one order, so that two requests for the same states are equal.
        .transform((given) => FINAL_STATES.filter((one) => given.includes(one)) as JobState[]),
    }),
  ],
  { error: 'expected the name of an endpoint, or an object with endpoint and states' },
)

const orderingKey = text(1, 256)
/** It can be a segment of a path, and clients of HTTP remove `.` and `..` from a path. */
export const fairnessKey = text(1, 256)
  .refine((key) => key !== '.' && key !== '..', 'expected another key than . and ..')
  .meta({ pattern: '^(?!\\.\\.?$)[^\\u0000]*$' })
const cost = z.int().min(DEFAULT_COST).max(MAX_COST)
export const priority = z.int().min(0).max(9)
export const expiresIn = duration(1, MAX_AHEAD_MS)
export const tags = z.array(text(1, 64)).max(MAX_TAGS)
export const metadata = pairs(
  z
    .record(text(1, 64), text(0, 512))
    .refine((all) => Object.keys(all).length <= MAX_METADATA, `more than ${MAX_METADATA} pairs`)
    .meta({ maxProperties: MAX_METADATA }),
)

/**
 * The fields of a job that a client can set in every request that creates jobs: a job, a batch, a
 * schedule.
 */
export const templateFields = {
  priority: priority.default(DEFAULT_PRIORITY),
  timeout: timeout.optional(),
  retry: retryParts.optional(),
  expiresIn: expiresIn.nullable().optional(),
  orderingKey: orderingKey.nullable().optional(),
  fairnessKey: fairnessKey.nullable().optional(),
  cost: cost.default(DEFAULT_COST),
  tags: tags.default([]),
  metadata: metadata.default({}),
  headers: extraHeaders.default({}).meta({
    description:
      'sent with those of the endpoint; if both set a name, the value of the endpoint is sent',
  }),
  onFinish: onFinish.nullable().optional(),
}
const template = z.object(templateFields)
export type TemplateBody = z.output<typeof template>

/** An instant in a response. */
export const responseInstant = z.iso.datetime().nullable()

export const onFinishResponse = z
  .object({ endpoint: z.string(), states: z.array(z.enum(JOB_STATES)) })
  .nullable()

// The instants of a new job are the same, and to format one costs as much as a small header.
let lastInstant = Number.NaN
let lastText = ''

export function instantText(instant: number | null): string | null {
  if (instant === null) return null
  if (instant !== lastInstant) {
    lastText = new Date(instant).toISOString()
    lastInstant = instant
  }
  return lastText
}

/** Header values are shown by their last characters, and short ones not at all. */
export function maskedHeaders(headers: Record<string, string>): Record<string, string> {
  return Object.fromEntries(
    Object.entries(headers).map(([name, value]) => [
      name,
      `***${value.length >= 8 ? hintOf(value) : ''}`,
    ]),
  )
}

export function retryResponse(retry: RetryOverride): Record<string, unknown> {
  const { maxAttempts, backoff, maxAgeMs } = retry
  return {
    ...(maxAttempts === undefined ? {} : { maxAttempts }),
    ...(backoff === undefined ? {} : { backoff: backoffResponse(backoff) }),
    ...(maxAgeMs === undefined
      ? {}
      : { maxAge: maxAgeMs === null ? null : formatDuration(maxAgeMs) }),
  }
}

function backoffResponse(backoff: Backoff): Record<string, unknown> {
  const { type, jitter } = backoff
  if (backoff.type === 'schedule')
    return { type, delays: backoff.delaysMs.map(formatDuration), jitter }
  return {
    type,
    delay: formatDuration(backoff.delayMs),
    factor: backoff.factor,
    maxDelay: formatDuration(backoff.maxDelayMs),
    jitter,
  }
}

/**
 * The header of draft-ietf-httpapi-idempotency-key-header: plain, or a quoted structured-field
 * string.
 */
export const idempotencyKey = z
  .string()
  .refine((value) => /^[\x21-\x7e]{1,255}$/.test(value), 'expected 1–255 visible ASCII characters')

/** In the header, quotes around the key are no part of it. */
export const idempotencyKeyHeader = z
  .string()
  .transform((value) =>
    /^".*"$/.test(value) ? value.slice(1, -1).replace(/\\(["\\])/g, '$1') : value,
  )
  .pipe(idempotencyKey)
  .optional()

export const groupId = z.string().refine(isGroupId, 'expected the id of a group')
/** The field `group` of a job. */
export const groupToJoin = groupId
  .nullable()
  .optional()
  .meta({ description: 'the group that the job joins' })

/** For JSON.stringify: equal objects get equal texts. */
export function sortKeys(_key: string, value: unknown): unknown {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return value
  return Object.fromEntries(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1)))
}
