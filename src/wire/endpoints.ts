// Endpoints in requests and responses: their shapes, how a PUT or a PATCH becomes settings to
// store, and the JSON of an endpoint. Of a secret only the end is shown.
import { z } from 'zod'
import {
  type CircuitBreaker,
  DEFAULT_CIRCUIT_BREAKER,
  DEFAULT_COMPLETION_TIMEOUT_MS,
  DEFAULT_TIMEOUT_MS,
  type Endpoint,
  type EndpointCounts,
  type EndpointSettings,
  endpointState,
  hintOf,
  MAX_STATUSES,
  MAX_URL_LENGTH,
  type RateLimit,
  STATUS_CHOICES,
  secretKey,
} from '../endpoint/endpoint.ts'
import { httpUrlProblem } from '../endpoint/http-url.ts'
import type { KeyLimits } from '../endpoint/key-limits.ts'
import { MAX_LIMITS_OF_ENDPOINT } from '../endpoint/shared-limits.ts'
import { formatDuration } from '../job/duration.ts'
import { DEFAULT_RETRY, effectivePolicy } from '../job/retry-policy.ts'
import { isPlainText } from '../plain-text.ts'
import { decrypted } from '../store/store-errors.ts'
import {
  DAY_MS,
  duration,
  endpointName,
  extraHeaders,
  instantText,
  maskedHeaders,
  onFinish,
  onFinishResponse,
  pairs,
  responseInstant,
  retryOverrideFrom,
  retryParts,
  retryResponse,
  text,
  timeout,
} from './fields.ts'

export const MAX_CONCURRENCY = 10_000
export const MAX_RATE_COUNT = 1_000_000
const MAX_BREAKER_FAILURES = 1_000
const MIN_EXTENSION_MS = 1_000
const MAX_EXTENSION_MS = 7 * DAY_MS

export const secret = z
  .string()
  .max(128)
  .refine((value) => secretKey(value) !== null, 'expected whsec_ and base64 of 24–64 bytes')

/** The time limit for a completion, from the 202 or the last heartbeat. */
export const extension = duration(MIN_EXTENSION_MS, MAX_EXTENSION_MS)

const breakerFields = {
  failures: z.int().min(1).max(MAX_BREAKER_FAILURES),
  cooldown: duration(0, MAX_EXTENSION_MS),
}

/** Checks the form of a URL. Whether its address is allowed is decided elsewhere. */
function urlProblem(url: string): string | null {
  // URL parsers silently drop white space: the URL in use would differ from the one that is shown.
  if (/\s/.test(url)) return 'contains white space'
  if (!isPlainText(url)) return 'contains a control character or an invisible one'
  // URL parsers also accept a host without // before it, and a backslash instead of a slash.
  if (/^https?:(?!\/\/[^/\\])/i.test(url)) return 'expected // and a host after the scheme'
  if (/^[^?]*\\/.test(url)) return 'contains a backslash'
  if (url.includes('#')) return 'contains a fragment (#…), which is never sent'
  return httpUrlProblem(url)
}

export const concurrency = z.int().min(1).max(MAX_CONCURRENCY).nullable()
export const rateLimit = z.strictObject({
  count: z.int().min(1).max(MAX_RATE_COUNT),
  per: duration(1, MAX_EXTENSION_MS),
})

const PER_KEY_NOTE = {
  description:
    'limits that hold for each fairness key by itself, beside those of the endpoint, and not for jobs without a key',
}
export const keyLimits = {
  concurrency: concurrency.meta({
    description: 'attempts in flight of one fairness key; null: no limit',
  }),
  rateLimit: rateLimit.nullable().meta({
    description: 'attempts of one fairness key in a time; null: no limit',
  }),
}

const LIMITS_NOTE = {
  description: 'the names of limits that it shares with other endpoints, beside its own limits',
}

/**
 * The fields without their defaults. In a PUT an absent field gets its default, in a PATCH it is
 * unchanged.
 */
const fields = {
  url: text(1, MAX_URL_LENGTH)
    .superRefine(
      (url, context) => {
        const message = urlProblem(url)
        if (message !== null) context.addIssue({ code: 'custom', message })
      },
      { when: ({ issues }) => issues.length === 0 },
    )
    .nullable()
    .meta({
      description:
        'http or https, without user and fragment; null: its jobs are pulled, and headers, timeout, completion, secret, circuitBreaker and statuses are unused',
    }),
  description: text(0, 500),
  concurrency,
  rateLimit: rateLimit.nullable(),
  limits: z
    .array(endpointName)
    .max(MAX_LIMITS_OF_ENDPOINT)
    .refine((names) => new Set(names).size === names.length, 'expected each limit once')
    .meta({ uniqueItems: true }),
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
  description:
    'the meaning of a response by its status, 300 to 599; final: the job is dead at once',
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
  perKey: z
    .strictObject({
      concurrency: keyLimits.concurrency.default(null),
      rateLimit: keyLimits.rateLimit.default(null),
    })
    .nullable()
    .default(null)
    .meta(PER_KEY_NOTE),
  limits: fields.limits.default([]).meta(LIMITS_NOTE),
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

/**
 * A field that is absent is unchanged. null resets a field, unless null is a value of the field in
 * a PUT.
 */
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
  perKey: z
    .strictObject(keyLimits)
    .partial()
    .nullish()
    .meta({ description: 'the given parts are replaced; null: no limits' }),
  limits: fields.limits.nullish().meta(LIMITS_NOTE),
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

/** The stored settings after the change. */
export function changedSettings(stored: Endpoint, change: EndpointChange): EndpointSettings {
  const reset = settingsFrom(stored.name, endpointBody.parse({ url: null }))
  const { url, retry, rateLimit, perKey, circuitBreaker } = change
  return {
    name: stored.name,
    url: url === undefined ? stored.url : url,
    description: changed(change.description, stored.description, reset.description),
    headers: changed(change.headers, stored.headers, reset.headers),
    timeoutMs: changed(change.timeout, stored.timeoutMs, reset.timeoutMs),
    retry: changed(
      retry && effectivePolicy(stored.retry, retryOverrideFrom(retry)),
      stored.retry,
      reset.retry,
    ),
    concurrency: changed(change.concurrency, stored.concurrency, null),
    rateLimit: changed(rateLimit && rateLimitFrom(rateLimit), stored.rateLimit, null),
    perKey: perKey === undefined ? stored.perKey : keyLimitsFrom(perKey, stored.perKey),
    limits: changed(change.limits, stored.limits, reset.limits),
    completion: changed(change.completion, stored.completion, reset.completion),
    completionTimeoutMs: changed(
      change.completionTimeout,
      stored.completionTimeoutMs,
      reset.completionTimeoutMs,
    ),
    onFinish: changed(change.onFinish, stored.onFinish, null),
    circuitBreaker: changed(
      circuitBreaker && breakerOf(circuitBreaker, stored.circuitBreaker),
      stored.circuitBreaker,
      null,
    ),
    statuses: changed(change.statuses, stored.statuses, reset.statuses),
  }
}

/** @param given undefined: unchanged; null: reset */
function changed<T>(given: T | null | undefined, stored: T, reset: T): T {
  if (given === undefined) return stored
  return given === null ? reset : given
}

function breakerOf(
  { failures, cooldown }: NonNullable<EndpointChange['circuitBreaker']>,
  stored: CircuitBreaker | null,
): CircuitBreaker {
  const before = stored ?? DEFAULT_CIRCUIT_BREAKER
  return { failures: failures ?? before.failures, cooldownMs: cooldown ?? before.cooldownMs }
}

export function rateLimitFrom({ count, per }: z.output<typeof rateLimit>): RateLimit {
  return { count, perMs: per }
}

/** @returns null: there is no limit */
function keyLimitsFrom(
  given: NonNullable<EndpointChange['perKey']> | null,
  stored: KeyLimits | null,
): KeyLimits | null {
  if (given === null) return null
  const { concurrency = stored?.concurrency ?? null, rateLimit: rate } = given
  const rateLimit = rate === undefined ? (stored?.rateLimit ?? null) : rate && rateLimitFrom(rate)
  return concurrency === null && rateLimit === null ? null : { concurrency, rateLimit }
}

/** The settings that a validated request asks for. */
export function settingsFrom(name: string, body: EndpointBody): EndpointSettings {
  const { rateLimit, perKey, circuitBreaker } = body
  return {
    name,
    url: body.url,
    description: body.description,
    headers: body.headers,
    timeoutMs: body.timeout,
    retry: effectivePolicy(DEFAULT_RETRY, retryOverrideFrom(body.retry)),
    concurrency: body.concurrency,
    rateLimit: rateLimit && rateLimitFrom(rateLimit),
    perKey: keyLimitsFrom(perKey, null),
    limits: body.limits,
    completion: body.completion,
    completionTimeoutMs: body.completionTimeout,
    onFinish: body.onFinish,
    circuitBreaker: circuitBreaker && {
      failures: circuitBreaker.failures,
      cooldownMs: circuitBreaker.cooldown,
    },
    statuses: body.statuses,
  }
}

export const rateLimitResponse = z.object({ count: z.int(), per: z.string() }).nullable()

export const endpointResponse = z.object({
  name: z.string(),
  url: z.string().nullable(),
  description: z.string(),
  headers: z.record(z.string(), z.string()).meta({ description: 'values are masked' }),
  timeout: z.string(),
  retry: z.record(z.string(), z.unknown()),
  concurrency: z.int().nullable(),
  rateLimit: rateLimitResponse,
  perKey: z
    .object({ concurrency: z.int().nullable(), rateLimit: rateLimitResponse })
    .nullable()
    .meta(PER_KEY_NOTE),
  limits: z.array(z.string()).meta(LIMITS_NOTE),
  completion: z.enum(['sync', 'async']),
  completionTimeout: z.string(),
  onFinish: onFinishResponse,
  circuitBreaker: z.object({ failures: z.int(), cooldown: z.string() }).nullable(),
  statuses: z.record(z.string(), z.enum(STATUS_CHOICES)),
  state: z.enum(['active', 'paused', 'disabled', 'resting', 'deleting']),
  disabledReason: z.string().nullable(),
  restingUntil: responseInstant.meta({ description: 'when the circuit closes or throttling ends' }),
  secretHint: z.string(),
  secret: z
    .string()
    .optional()
    .meta({ description: 'only in the response to the request that generated or set it' }),
  counts: z.object({ queued: z.int(), running: z.int(), more: z.boolean().optional() }),
  createdAt: responseInstant,
  updatedAt: responseInstant,
  version: z.int(),
})

export const listedEndpointResponse = endpointResponse.omit({ secret: true }).extend({
  headers: endpointResponse.shape.headers
    .nullable()
    .meta({ description: 'values are masked; null: no key of this API decrypts them' }),
  secretHint: z.string().nullable().meta({
    description: 'the last four characters of the secret; null: no key of this API decrypts it',
  }),
})

export const endpointListResponse = z.object({
  items: z.array(listedEndpointResponse),
  nextCursor: z.string().nullable(),
})

/**
 * @param now by the store's clock
 * @throws Undecryptable if its secrets and headers are not decrypted
 */
export function endpointView(endpoint: Endpoint, counts: EndpointCounts, now: number) {
  return shown(decrypted(endpoint), counts, now)
}

/** Like endpointView, but null for what is not decrypted: one endpoint must not hide the others. */
export function listedEndpointView(endpoint: Endpoint, counts: EndpointCounts, now: number) {
  const view = shown(endpoint, counts, now)
  return endpoint.undecryptable === null ? view : { ...view, headers: null, secretHint: null }
}

function shown(endpoint: Endpoint, { queued, running, more }: EndpointCounts, now: number) {
  const { rateLimit, perKey, circuitBreaker, restingUntil } = endpoint
  const state = endpointState(endpoint, now)
  return {
    name: endpoint.name,
    url: endpoint.url,
    description: endpoint.description,
    headers: maskedHeaders(endpoint.headers),
    timeout: formatDuration(endpoint.timeoutMs),
    retry: retryResponse(endpoint.retry),
    concurrency: endpoint.concurrency,
    rateLimit: rateLimitView(rateLimit),
    perKey: perKey && {
      concurrency: perKey.concurrency,
      rateLimit: rateLimitView(perKey.rateLimit),
    },
    limits: endpoint.limits,
    completion: endpoint.completion,
    completionTimeout: formatDuration(endpoint.completionTimeoutMs),
    onFinish: endpoint.onFinish,
    circuitBreaker: circuitBreaker && {
      failures: circuitBreaker.failures,
      cooldown: formatDuration(circuitBreaker.cooldownMs),
    },
    statuses: endpoint.statuses,
    state,
    disabledReason: endpoint.disabledReason,
    restingUntil: state === 'resting' ? instantText(restingUntil) : null,
    secretHint: hintOf(endpoint.secrets[0] ?? ''),
    counts: more ? { queued, running, more } : { queued, running },
    createdAt: instantText(endpoint.createdAt),
    updatedAt: instantText(endpoint.updatedAt),
    version: endpoint.version,
  }
}

export function rateLimitView(rateLimit: RateLimit | null) {
  return rateLimit && { count: rateLimit.count, per: formatDuration(rateLimit.perMs) }
}
