// The wire, inbound: what a client may send about endpoints.
import { z } from 'zod'
import {
  DEFAULT_CIRCUIT_BREAKER,
  DEFAULT_COMPLETION_TIMEOUT_MS,
  DEFAULT_TIMEOUT_MS,
  MAX_STATUSES,
  MAX_URL_LENGTH,
  STATUS_CHOICES,
  secretKey,
} from '../endpoint/endpoint.ts'
import { formatDuration } from '../job/duration.ts'
import { isPlainText } from '../plain-text.ts'
import {
  DAY_MS,
  duration,
  extraHeaders,
  MAX_WAIT_MS,
  onFinish,
  pageFields,
  pairs,
  retryParts,
  text,
  timeout,
} from './fields.ts'

const MAX_CONCURRENCY = 10_000
const MAX_RATE_COUNT = 1_000_000
const MAX_BREAKER_FAILURES = 1_000
const MIN_EXTENSION_MS = 1_000
const MAX_EXTENSION_MS = 7 * DAY_MS
export const MAX_CLAIM = 100
const MAX_CLAIM_LEASE_MS = 3_600_000
const DEFAULT_CLAIM_LEASE_MS = 30_000
const MAX_OVERLAP_MS = 30 * DAY_MS
const DEFAULT_OVERLAP_MS = DAY_MS

const secret = z
  .string()
  .max(128)
  .refine((value) => secretKey(value) !== null, 'expected whsec_ and base64 of 24–64 bytes')

/** How long after a 202 or a heartbeat a completion may come. */
export const extension = duration(MIN_EXTENSION_MS, MAX_EXTENSION_MS)

const breakerFields = {
  failures: z.int().min(1).max(MAX_BREAKER_FAILURES),
  cooldown: duration(0, MAX_EXTENSION_MS),
}

/** What a field may hold, whether it has a default (PUT) or stays when it is left out (PATCH). */
const fields = {
  url: text(1, MAX_URL_LENGTH)
    // URL parsers drop these silently: another URL than the one that is shown.
    .refine((url) => !/\s/.test(url), 'holds white space')
    .refine(isPlainText, 'holds a control character or an invisible one')
    // They take a host without // before it too, and a backslash for a slash.
    .refine(
      (url) => !/^https?:(?!\/\/[^/\\])/i.test(url),
      'expected // and a host behind the scheme',
    )
    .refine((url) => !/^[^?]*\\/.test(url), 'holds a backslash')
    .refine((url) => !url.includes('#'), 'holds a fragment (#…), which is never sent')
    .nullable()
    .meta({
      description:
        'http or https, without user and fragment; null: its jobs are pulled, and headers, timeout, completion, secret, circuitBreaker and statuses are unused',
    }),
  description: text(0, 500),
  concurrency: z.int().min(1).max(MAX_CONCURRENCY).nullable(),
  rateLimit: z
    .strictObject({
      count: z.int().min(1).max(MAX_RATE_COUNT),
      per: duration(1, MAX_EXTENSION_MS),
    })
    .nullable(),
  completion: z.enum(['sync', 'async']),
  statuses: pairs(
    z
      .record(
        z.string().regex(/^[345]\d\d$/, 'expected a status from 300 to 599'),
        z.enum(STATUS_CHOICES),
      )
      .refine(
        (all) => Object.keys(all).length <= MAX_STATUSES,
        `more than ${MAX_STATUSES} statuses`,
      )
      .meta({ maxProperties: MAX_STATUSES }),
  ),
}
const STATUSES_NOTE = {
  description: 'by status, 300 to 599: the meaning of a response with it; final: dead at once',
}
const COMPLETION_TIMEOUT_NOTE = {
  description:
    'with async completion: how long after the 202, or the last heartbeat, the report may come',
}

export const endpointBody = z.strictObject({
  url: fields.url,
  description: fields.description.default(''),
  headers: extraHeaders.default({}),
  timeout: timeout.prefault(formatDuration(DEFAULT_TIMEOUT_MS)),
  retry: retryParts.default({}),
  concurrency: fields.concurrency.default(null),
  rateLimit: fields.rateLimit.default(null),
  completion: fields.completion.default('sync'),
  completionTimeout: extension
    .prefault(formatDuration(DEFAULT_COMPLETION_TIMEOUT_MS))
    .meta(COMPLETION_TIMEOUT_NOTE),
  secret: secret.optional(),
  onFinish: onFinish.nullable().default(null),
  circuitBreaker: z
    .strictObject({
      failures: breakerFields.failures.default(DEFAULT_CIRCUIT_BREAKER.failures),
      cooldown: breakerFields.cooldown.prefault(formatDuration(DEFAULT_CIRCUIT_BREAKER.cooldownMs)),
    })
    .nullable()
    .prefault({})
    .meta({
      description: `opens after failed attempts in a row; null: none; default: ${DEFAULT_CIRCUIT_BREAKER.failures} failures, cooldown ${formatDuration(DEFAULT_CIRCUIT_BREAKER.cooldownMs)}`,
    }),
  statuses: fields.statuses.default({}).meta(STATUSES_NOTE),
})
export type EndpointBody = z.output<typeof endpointBody>

/** What is left out stays. null: the default, or the value that null is in a PUT. */
export const endpointChange = z.strictObject({
  url: fields.url.optional(),
  description: fields.description.nullish(),
  headers: extraHeaders.nullish(),
  timeout: timeout.nullish(),
  retry: retryParts.nullish().meta({
    description: 'the given parts are replaced, backoff as a whole; null: the default',
  }),
  concurrency: fields.concurrency.optional(),
  rateLimit: fields.rateLimit.optional(),
  completion: fields.completion.nullish(),
  completionTimeout: extension.nullish().meta(COMPLETION_TIMEOUT_NOTE),
  secret: secret.optional().meta({ description: 'absent: unchanged; null is refused' }),
  onFinish: onFinish.nullish(),
  circuitBreaker: z.strictObject(breakerFields).partial().nullish().meta({
    description: 'the given parts are replaced; null: none, as in a PUT',
  }),
  statuses: fields.statuses.nullish().meta(STATUSES_NOTE),
})
export type EndpointChange = z.output<typeof endpointChange>

const rotateFields = z.strictObject({
  secret: secret.optional(),
  overlap: duration(0, MAX_OVERLAP_MS).prefault(formatDuration(DEFAULT_OVERLAP_MS)),
})
export const rotateBody = rotateFields.nullish().transform((body) => body ?? rotateFields.parse({}))
export type RotateBody = z.output<typeof rotateFields>

const claimFields = z.strictObject({
  limit: z.int().min(1).max(MAX_CLAIM).default(1),
  wait: duration(0, MAX_WAIT_MS).prefault('0s'),
  lease: duration(1_000, MAX_CLAIM_LEASE_MS).prefault(formatDuration(DEFAULT_CLAIM_LEASE_MS)),
})
export const claimBody = claimFields.nullish().transform((body) => body ?? claimFields.parse({}))
export type ClaimBody = z.output<typeof claimFields>

export const deleteEndpointQuery = z.strictObject({
  force: z
    .enum(['true', 'false'])
    .transform((value) => value === 'true')
    .optional(),
})

export const endpointsQuery = z.strictObject(pageFields)
