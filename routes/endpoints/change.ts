// How the routes of endpoints change an endpoint and send it, and the errors if they cannot do so.
// A PATCH replaces only the version that was read.
import type { FastifyReply } from 'fastify'
import {
  type Endpoint,
  type EndpointCounts,
  type EndpointSettings,
  isSameEndpoint,
  newSecret,
  type PutEndpointResult,
} from '../../src/endpoint/endpoint.ts'
import { type LimitRefusal, MAX_ENDPOINTS_OF_LIMIT } from '../../src/endpoint/shared-limits.ts'
import { AppError } from '../../src/errors.ts'
import { type IfVersion, isMet } from '../../src/store/precondition.ts'
import type { Store } from '../../src/store/store.ts'
import { decrypted } from '../../src/store/store-errors.ts'
import type { AddressPolicy } from '../../src/webhook/address-policy.ts'
import { changedSettings, type EndpointChange, endpointView } from '../../src/wire/endpoints.ts'
import { etagOf, stale } from '../http/conditional.ts'

/**
 * How often a change is tried: another client may change the endpoint at the same time. After that
 * the request is refused.
 */
const MAX_TRIES = 10

/**
 * Changes the endpoint that was read, and only that version.
 *
 * @param ifVersion null: any stored version
 * @throws AppError endpoint_not_found, endpoint_in_use, limit_not_found (422), too_many_endpoints,
 *   precondition_failed, invalid_request
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
    const settings = changedSettings(decrypted(stored), change)
    // The check applies only to a change of these fields: any other change keeps the state from
    // before.
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
      case 'unknown_limit':
      case 'too_many_endpoints':
        throw limitRefused(result)
      case 'stale':
        break
      default:
        throw new Error(`unknown result ${JSON.stringify(result satisfies never)}`)
    }
  }
  throw new AppError(
    'overloaded',
    `endpoint "${name}" is being changed by other requests; try again`,
    {
      headers: { 'retry-after': '1' },
    },
  )
}

/** Like putEndpoint of the store, but writes nothing if nothing would change. */
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

export function limitRefused({ kind, limit }: LimitRefusal): AppError {
  if (kind === 'unknown_limit') {
    const message = `there is no limit "${limit}": create it with PUT /limits/${limit}`
    return new AppError('limit_not_found', message, { status: 422 })
  }
  const message = `${MAX_ENDPOINTS_OF_LIMIT} endpoints name limit "${limit}" already`
  return new AppError('too_many_endpoints', message)
}

export function beingDeleted(name: string): AppError {
  return new AppError('endpoint_in_use', `endpoint "${name}" is being deleted; try again later`)
}

export function refuseForbiddenUrl(url: string | null, policy: AddressPolicy): void {
  if (url === null) return
  const verdict = policy.checkUrl(url)
  if (!verdict.allowed) throw fieldError('/url', verdict.reason)
}

/**
 * Refuses async completion if no PUBLIC_URL is set: the handler reports to a URL of this API, and
 * only PUBLIC_URL states its origin.
 */
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

/** @param secret shown only in the response to the request that created it */
export async function sendEndpoint(
  store: Store,
  reply: FastifyReply,
  endpoint: Endpoint,
  secret?: string,
) {
  const [counts] = await store.countJobs([endpoint.name])
  reply.header('etag', etagOf(endpoint.version))
  return { ...endpointView(endpoint, counts as EndpointCounts, store.clock.now()), secret }
}

export function endpointNotFound(name: string): AppError {
  return new AppError('endpoint_not_found', `there is no endpoint "${name}"`)
}
