// From a checked request to the settings of an endpoint: of a PUT as a whole, of a PATCH laid over
// those that are stored and written over the version that was read.
import {
  type CircuitBreaker,
  DEFAULT_CIRCUIT_BREAKER,
  type Endpoint,
  type EndpointSettings,
  isSameEndpoint,
  newSecret,
} from '../src/endpoint/endpoint.ts'
import { AppError } from '../src/errors.ts'
import { DEFAULT_RETRY, effectivePolicy } from '../src/job/retry-policy.ts'
import type { PutEndpointResult } from '../src/store/endpoint-results.ts'
import { type IfVersion, isMet } from '../src/store/precondition.ts'
import type { Store } from '../src/store/store.ts'
import type { AddressPolicy } from '../src/webhook/address-policy.ts'
import { type EndpointBody, type EndpointChange, endpointBody } from '../src/wire/endpoints.ts'
import { endpointNotFound } from './endpoint-answer.ts'
import { retryOverrideFrom } from './enqueue-request.ts'
import { stale } from './http/conditional.ts'

/** Against others who change the same endpoint; a client that loses so often tries again. */
const MAX_TRIES = 10

/**
 * Writes the change over the endpoint that was read, and over no other version.
 *
 * @param ifVersion null: whichever version is stored
 * @throws AppError endpoint_not_found, endpoint_in_use, precondition_failed, invalid_request
 */
export async function changeEndpoint(
  store: Store,
  name: string,
  change: EndpointChange,
  { ifVersion, publicUrl }: { ifVersion: number | null; publicUrl: string | null },
): Promise<Endpoint> {
  for (let tries = 0; tries < MAX_TRIES; tries++) {
    const [stored] = await store.endpointsNamed([name])
    if (stored === undefined) throw endpointNotFound(name)
    if (stored.deleting) throw beingDeleted(name)
    if (ifVersion !== null && stored.version !== ifVersion) throw stale('endpoint', stored.version)
    const settings = changedSettings(stored, change)
    // A change of something else is not refused for what the endpoint was before.
    if (change.url !== undefined || change.completion !== undefined) {
      refuseUnreachableCompletion(settings, publicUrl)
    }
    const secrets = { given: change.secret ?? null, fresh: newSecret() }
    if (isSameEndpoint(stored, settings, secrets.given)) return stored
    const result = await store.putEndpoint(settings, secrets, stored.version)
    switch (result.kind) {
      case 'created':
      case 'replaced':
        return result.endpoint
      case 'being_deleted':
        throw beingDeleted(name)
      case 'stale':
        break
      default:
        throw new Error(`unknown result ${JSON.stringify(result satisfies never)}`)
    }
  }
  throw new AppError('overloaded', `endpoint "${name}" is being changed by many; try again`, {
    headers: { 'retry-after': '1' },
  })
}

/** As the store's putEndpoint; where nothing would change, nothing is written. */
export async function putEndpoint(
  store: Store,
  settings: EndpointSettings,
  given: string | null,
  ifVersion: IfVersion,
): Promise<PutEndpointResult> {
  const [stored] = await store.endpointsNamed([settings.name])
  const isKept =
    stored?.deleting === false &&
    isMet(ifVersion, stored.version) &&
    isSameEndpoint(stored, settings, given)
  if (isKept) return { kind: 'replaced', endpoint: stored }
  return store.putEndpoint(settings, { given, fresh: newSecret() }, ifVersion)
}

export function beingDeleted(name: string): AppError {
  return new AppError('endpoint_in_use', `endpoint "${name}" is being deleted; try again later`)
}

/** The stored settings with those of the change in their place. */
function changedSettings(stored: Endpoint, change: EndpointChange): EndpointSettings {
  const reset = settingsFrom(stored.name, endpointBody.parse({ url: null }))
  const { url, retry, rateLimit, circuitBreaker } = change
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
    rateLimit: changed(
      rateLimit && { count: rateLimit.count, perMs: rateLimit.per },
      stored.rateLimit,
      null,
    ),
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

/** @param given undefined: not named, so that it stays; null: reset */
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

/** What a checked request asks for. */
export function settingsFrom(name: string, body: EndpointBody): EndpointSettings {
  const { rateLimit, circuitBreaker } = body
  return {
    name,
    url: body.url,
    description: body.description,
    headers: body.headers,
    timeoutMs: body.timeout,
    retry: effectivePolicy(DEFAULT_RETRY, retryOverrideFrom(body.retry)),
    concurrency: body.concurrency,
    rateLimit: rateLimit && { count: rateLimit.count, perMs: rateLimit.per },
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

export function refuseForbiddenUrl(url: string | null, policy: AddressPolicy): void {
  if (url === null) return
  const verdict = policy.judgeUrl(url)
  if (!verdict.allowed) throw fieldError('/url', verdict.reason)
}

/** An async handler reports to a URL of this API. Only PUBLIC_URL names its origin. */
export function refuseUnreachableCompletion(
  { url, completion }: Pick<EndpointSettings, 'url' | 'completion'>,
  publicUrl: string | null,
): void {
  if (url === null || completion === 'sync' || publicUrl !== null) return
  throw fieldError('/completion', 'async needs PUBLIC_URL, the base of the URLs handlers report to')
}

function fieldError(path: string, message: string): AppError {
  return new AppError('invalid_request', `${path}: ${message}`, { errors: [{ path, message }] })
}
