// Translates between rows of endpoints and the domain's record. Secrets and header values are
// encrypted.
import type { Endpoint, EndpointSettings } from '../../endpoint/endpoint.ts'
import type { Ramp } from '../../endpoint/health.ts'
import { freeAt } from '../../endpoint/rate-bucket.ts'
import { keyIdOf } from '../secret-box.ts'
import { StoreUnusable } from '../store-errors.ts'
import { parsed } from './job-row.ts'
import type { KeyRing } from './key-file.ts'

export const ENDPOINT_COLUMNS = `name, deleting, paused, disabled_reason, resting_until,
  ramp_slots, ramp_ends_at, failure_count, bucket_full_at, concurrency, rate_count, rate_per_ms,
  per_key, limits,
  breaker_failures, breaker_cooldown_ms, timeout_ms, completion, completion_timeout_ms, created_at,
  updated_at, version, on_finish, url, description, headers, retry, statuses,
  secrets`

export interface EndpointRow {
  name: string
  deleting: number
  paused: number
  disabled_reason: 'gone' | null
  resting_until: number | null
  ramp_slots: number | null
  ramp_ends_at: number | null
  failure_count: number
  bucket_full_at: number | null
  concurrency: number | null
  rate_count: number | null
  rate_per_ms: number | null
  per_key: string | null
  limits: string | null
  breaker_failures: number | null
  breaker_cooldown_ms: number | null
  timeout_ms: number
  completion: EndpointSettings['completion']
  completion_timeout_ms: number
  created_at: number
  updated_at: number
  version: number
  on_finish: string | null
  url: string | null
  description: string
  headers: string | null
  retry: string
  statuses: string | null
  secrets: string
}

/** @param now by the store's clock: without the secrets whose overlap has ended */
export function toEndpoint(row: EndpointRow, keys: KeyRing, now: number): Endpoint {
  const { rate_count, rate_per_ms, breaker_failures, breaker_cooldown_ms } = row
  const rateLimit =
    rate_count === null || rate_per_ms === null ? null : { count: rate_count, perMs: rate_per_ms }
  return {
    name: row.name,
    url: row.url,
    description: row.description,
    ...opened(row, keys, now),
    timeoutMs: row.timeout_ms,
    retry: JSON.parse(row.retry),
    concurrency: row.concurrency,
    rateLimit,
    perKey: parsed(row.per_key, null),
    limits: parsed(row.limits, []),
    completion: row.completion,
    completionTimeoutMs: row.completion_timeout_ms,
    onFinish: row.on_finish === null ? null : JSON.parse(row.on_finish),
    circuitBreaker:
      breaker_failures === null || breaker_cooldown_ms === null
        ? null
        : { failures: breaker_failures, cooldownMs: breaker_cooldown_ms },
    statuses: parsed(row.statuses, {}),
    deleting: row.deleting === 1,
    paused: row.paused === 1,
    disabledReason: row.disabled_reason,
    restingUntil: row.resting_until,
    ramp: rampOf(row),
    failureCount: row.failure_count,
    rateFreeAt: rateLimit === null ? null : freeAt(rateLimit, row.bucket_full_at, now),
    keyId: keyIdOf(row.secrets),
    createdAt: row.created_at,
    updatedAt: row.updated_at,
    version: row.version,
  }
}

function opened(
  row: EndpointRow,
  keys: KeyRing,
  now: number,
): Pick<Endpoint, 'headers' | 'secrets' | 'undecryptable'> {
  try {
    const headers = row.headers === null ? {} : JSON.parse(keys.open(row.headers, row.name))
    const secrets = validSecrets(row, keys, now).map(({ secret }) => secret)
    return { headers, secrets, undecryptable: null }
  } catch (error) {
    // Undecryptable, or the key file is gone.
    if (!(error instanceof StoreUnusable)) throw error
    return { headers: {}, secrets: [], undecryptable: error.message }
  }
}

export function rampOf({
  ramp_slots: slots,
  ramp_ends_at: endsAt,
}: Pick<EndpointRow, 'ramp_slots' | 'ramp_ends_at'>): Ramp | null {
  return slots === null || endsAt === null ? null : { slots, endsAt }
}

/** `until` null: the current secret. Newest first. */
interface StoredSecret {
  secret: string
  until: number | null
}

export function validSecrets(
  row: Pick<EndpointRow, 'name' | 'secrets'>,
  keys: KeyRing,
  now: number,
): StoredSecret[] {
  const stored: StoredSecret[] = JSON.parse(keys.open(row.secrets, row.name))
  return stored.filter(({ until }) => until === null || until > now)
}

export function sealSecrets(secrets: StoredSecret[], name: string, keys: KeyRing): string {
  return keys.seal(JSON.stringify(secrets), name)
}
