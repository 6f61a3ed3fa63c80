// An endpoint as the API shows it: its state, its counts, and of its secret only the end.
import type { FastifyReply } from 'fastify'
import { type Endpoint, endpointState, hintOf } from '../src/endpoint/endpoint.ts'
import { AppError } from '../src/errors.ts'
import { formatDuration } from '../src/job/duration.ts'
import type { EndpointCounts } from '../src/store/endpoint-results.ts'
import type { Store } from '../src/store/store.ts'
import { instantText, maskedHeaders, retryAnswer } from '../src/wire/job-answers.ts'
import { etagOf } from './http/conditional.ts'

/** @param secret shown only in the answer that made it */
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

/** @param now by the store's clock */
export function endpointView(endpoint: Endpoint, counts: EndpointCounts, now: number) {
  const { queued, running, more } = counts
  const { rateLimit, circuitBreaker, restingUntil } = endpoint
  const state = endpointState(endpoint, now)
  return {
    name: endpoint.name,
    url: endpoint.url,
    description: endpoint.description,
    headers: maskedHeaders(endpoint.headers),
    timeout: formatDuration(endpoint.timeoutMs),
    retry: retryAnswer(endpoint.retry),
    concurrency: endpoint.concurrency,
    rateLimit: rateLimit && { count: rateLimit.count, per: formatDuration(rateLimit.perMs) },
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

export function endpointNotFound(name: string): AppError {
  return new AppError('endpoint_not_found', `there is no endpoint "${name}"`)
}
