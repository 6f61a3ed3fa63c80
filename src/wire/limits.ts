// Limits that endpoints share, in requests and responses.
import { z } from 'zod'
import {
  type LimitUse,
  type SharedLimit,
  type SharedLimitSettings,
  tokensLeft,
  waitsAt,
} from '../endpoint/shared-limits.ts'
import {
  concurrency,
  rateLimit,
  rateLimitFrom,
  rateLimitResponse,
  rateLimitView,
} from './endpoints.ts'
import { instantText, responseInstant } from './fields.ts'

const CONCURRENCY_NOTE = {
  description: 'attempts in flight of all endpoints that name the limit; null: no limit',
}
const RATE_NOTE = {
  description: 'attempts of all endpoints that name the limit in a time; null: no limit',
}

/** Replaces both settings. */
export const limitBody = z.strictObject({
  concurrency: concurrency.default(null).meta(CONCURRENCY_NOTE),
  rateLimit: rateLimit.nullable().default(null).meta(RATE_NOTE),
})
export type LimitBody = z.output<typeof limitBody>

export function limitSettingsFrom(name: string, body: LimitBody): SharedLimitSettings {
  const { concurrency: slots, rateLimit: rate } = body
  return { name, concurrency: slots, rateLimit: rate && rateLimitFrom(rate) }
}

export const listedLimitResponse = z.object({
  name: z.string(),
  concurrency: z.int().nullable().meta(CONCURRENCY_NOTE),
  rateLimit: rateLimitResponse.meta(RATE_NOTE),
  tokens: z.int().nullable().meta({
    description: 'attempts of cost 1 that the rate limit lets start now; null: no rate limit',
  }),
  waiting: z.array(z.string()).meta({
    description: 'the endpoints that have due jobs and wait for their turn, the next one first',
  }),
  createdAt: responseInstant,
  updatedAt: responseInstant,
  version: z.int(),
})

export const limitResponse = z.object({
  ...listedLimitResponse.shape,
  endpoints: z.array(z.string()).meta({ description: 'the endpoints that name it, by name' }),
  running: z.int().meta({ description: 'their running jobs; 10000 also means more' }),
})

export const limitListResponse = z.object({
  items: z.array(listedLimitResponse),
  nextCursor: z.string().nullable(),
})

/** @param now by the store's clock */
export function listedLimitView(limit: SharedLimit, now: number) {
  return {
    name: limit.name,
    concurrency: limit.concurrency,
    rateLimit: rateLimitView(limit.rateLimit),
    tokens: tokensLeft(limit, now),
    waiting: waitsAt(limit, now).map(({ endpoint }) => endpoint),
    createdAt: instantText(limit.createdAt),
    updatedAt: instantText(limit.updatedAt),
    version: limit.version,
  }
}

export function limitView(limit: SharedLimit, { endpoints, running }: LimitUse, now: number) {
  return { ...listedLimitView(limit, now), endpoints, running }
}
