// The settings of a fairness key in requests and responses.
import { z } from 'zod'
import {
  DEFAULT_WEIGHT,
  type KeyLimits,
  type KeyRecord,
  type KeySettings,
  limitsOfKey,
  MAX_WEIGHT,
} from '../endpoint/key-limits.ts'
import { keyRestsUntil } from '../endpoint/key-rest.ts'
import type { KeyStats } from '../store/stats.ts'
import { keyLimits, rateLimitFrom, rateLimitResponse, rateLimitView } from './endpoints.ts'
import { instantText, responseInstant } from './fields.ts'

/** Replaces all settings of the key. */
export const fairnessKeyBody = z.strictObject({
  weight: z
    .int()
    .min(1)
    .max(MAX_WEIGHT)
    .default(DEFAULT_WEIGHT)
    .meta({ description: 'its share among the keys that take turns' }),
  concurrency: keyLimits.concurrency
    .optional()
    .meta({ description: 'absent: as perKey of the endpoint says; null: no limit' }),
  rateLimit: keyLimits.rateLimit
    .optional()
    .meta({ description: 'absent: as perKey of the endpoint says; null: no limit' }),
  paused: z.boolean().default(false).meta({ description: 'true: no job of the key is started' }),
})
export type FairnessKeyBody = z.output<typeof fairnessKeyBody>

export function fairnessKeySettingsFrom({
  weight,
  concurrency,
  rateLimit,
  paused,
}: FairnessKeyBody): KeySettings {
  return {
    ...{ weight, paused },
    ...(concurrency === undefined ? {} : { concurrency }),
    ...(rateLimit === undefined ? {} : { rateLimit: rateLimit && rateLimitFrom(rateLimit) }),
  }
}

const keySettingsResponse = z.object({
  weight: z.int().meta({ description: 'its share among the keys that take turns' }),
  concurrency: z
    .int()
    .nullable()
    .optional()
    .meta({ description: 'absent: as perKey of the endpoint says; null: no limit' }),
  rateLimit: rateLimitResponse
    .optional()
    .meta({ description: 'absent: as perKey of the endpoint says; null: no limit' }),
  paused: z.boolean(),
})

const restingUntil = responseInstant.meta({
  description: 'when the rest ends that a throttled response began for this key alone',
})

export const fairnessKeyResponse = z.object({
  key: z.string().meta({ description: 'the fairness key' }),
  ...keySettingsResponse.shape,
  restingUntil,
  updatedAt: responseInstant.meta({ description: 'null: the key has no settings of its own' }),
  version: z.int().meta({ description: '0: the key has no settings of its own' }),
})

export const fairnessKeyListResponse = z.object({
  items: z.array(
    z.object({
      key: z.string().meta({ description: 'the fairness key' }),
      queued: z.int(),
      due: z.int(),
      running: z.int(),
      more: z.literal(true).optional().meta({ description: 'a count of 10000 means more' }),
      weight: z.int().meta({ description: 'its share among the keys that take turns' }),
      concurrency: z.int().nullable().meta({ description: 'its own limit, or that of perKey' }),
      rateLimit: rateLimitResponse.meta({ description: 'its own limit, or that of perKey' }),
      paused: z.boolean(),
      restingUntil,
    }),
  ),
  nextCursor: z.string().nullable(),
  partial: z.literal(true).optional().meta({
    description: 'with order=wait: there are more than 10000 keys, and only so many were compared',
  }),
})

/**
 * @param record null: the key has no settings of its own, and does not rest
 * @param perKey the limits of each key of the endpoint
 */
export function listedFairnessKeyView(
  { more, ...counts }: KeyStats,
  record: KeyRecord | null,
  perKey: KeyLimits | null,
  now: number,
) {
  const { settings = null, rest = null } = record ?? {}
  const { concurrency, rateLimit } = limitsOfKey(perKey, settings)
  const { weight = DEFAULT_WEIGHT, paused = false } = settings ?? {}
  return {
    ...counts,
    ...(more ? { more: true as const } : {}),
    ...{ weight, concurrency, rateLimit: rateLimitView(rateLimit), paused },
    restingUntil: instantText(keyRestsUntil(rest, now)),
  }
}

/** @param settings null: the key has no settings of its own */
function keySettingsView(settings: KeySettings | null) {
  const { weight = DEFAULT_WEIGHT, concurrency, rateLimit, paused = false } = settings ?? {}
  return {
    ...{ weight, paused },
    ...(concurrency === undefined ? {} : { concurrency }),
    ...(rateLimit === undefined ? {} : { rateLimit: rateLimitView(rateLimit) }),
  }
}

/** @param record null: the key has no settings of its own, and does not rest */
export function fairnessKeyView(key: string, record: KeyRecord | null, now: number) {
  const { settings = null, updatedAt = null, version = 0, rest = null } = record ?? {}
  const restingUntil = instantText(keyRestsUntil(rest, now))
  return {
    ...{ key, ...keySettingsView(settings), restingUntil },
    ...{ updatedAt: instantText(updatedAt), version },
  }
}
