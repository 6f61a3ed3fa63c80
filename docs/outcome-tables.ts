// The tables of docs/outcomes.md and docs/retries.md. The lists, the effects and the delays come
// from the code; only the advice is written here.

import { formatDuration } from '../src/job/duration.ts'
import type { FailureReason, Outcome } from '../src/job/job.ts'
import { FAILURE_REASONS, OUTCOMES } from '../src/job/job.ts'
import { backoffMs, DEFAULT_RETRY, decide } from '../src/job/retry-policy.ts'
import { table } from './markdown-table.ts'

interface OutcomeAdvice {
  cause: string
  advice: string
  /** Where the store ends the attempt, and not the retry policy. */
  effect?: string
}

const OUTCOME_ADVICE: Record<Outcome, OutcomeAdvice> = {
  succeeded: {
    cause: 'The endpoint responded with 2xx, or the handler called complete.',
    advice: 'Nothing.',
  },
  accepted: {
    cause: 'An endpoint with `"completion": "async"` responded with 202.',
    advice: 'The handler [reports the end](async-work.md) before `completionTimeout`.',
  },
  http_error: {
    cause: 'Any other status, redirects included, or one that `statuses` makes `retry`.',
    advice: 'Read `statusCode` and `responseBody` of the attempt and fix the handler.',
  },
  rejected: {
    cause:
      '400, 410, 413, 414, 415 or 422; a status that `statuses` makes `final`; or `posthorn-no-retry: true` with a status of 300 or more.',
    advice:
      'Fix the payload or the handler, then retry the job. If the status is temporary, set it to `retry` in [`statuses`](limits.md#statuses).',
  },
  throttled: {
    cause:
      '429; 503 with `Retry-After`; or a status that `statuses` makes `throttle`. The endpoint is throttled too, or only [the fairness key of the job](fairness.md#a-customer-whose-own-quota-is-used-up).',
    advice: 'If it happens often, lower `rateLimit` or `concurrency` of the endpoint.',
  },
  connect_error: {
    cause: 'The connection was refused, reset or closed before a response, or there is no route.',
    advice: 'Check that the handler runs and that workers can reach its host and port.',
  },
  dns_error: {
    cause: 'The host name does not resolve.',
    advice: 'Check the host name in `url` and the resolver of the worker’s machine.',
  },
  tls_error: {
    cause: 'The certificate is expired, for another name or from an unknown issuer; or TLS failed.',
    advice:
      'Read `message` of the attempt and fix the certificate. `EXTRA_CA_CERTS` adds a private issuer.',
  },
  timeout: {
    cause: 'No response within `timeout`, or no report within `completionTimeout`.',
    advice:
      'Make the handler faster, raise the limit, or use [async completion](async-work.md) and heartbeats.',
  },
  blocked: {
    cause: 'The [address policy](THREATS.md) refused the address of the endpoint.',
    advice:
      'Change `url`, or allow the address in `ALLOWED_TARGETS` and restart; then retry the job.',
  },
  protocol_error: {
    cause: 'The response is not valid HTTP/1.1, or its headers are longer than 16 KiB.',
    advice: 'Check the port, and any proxy in front of the handler.',
  },
  lost: {
    cause:
      'The lease expired: the worker died, was frozen or lost the store. Of a pulled job: no report and no heartbeat within the lease.',
    effect: 'retried at once; dead (`lease_lost`) if it was the last attempt',
    advice:
      'Check the workers and the store. The handler may have done the work: see `webhook-id`.',
  },
  interrupted: {
    cause:
      'The worker stopped before the response, its machine lacked ports, files or memory, or it has no key for the headers of the job.',
    advice:
      'A longer `SHUTDOWN_GRACE` lets attempts finish. Otherwise read `message` and the log of the worker.',
  },
  cancelled: {
    cause: 'The job was cancelled, or its endpoint was deleted with `force`, during the attempt.',
    effect: 'cancelled, or dead (`endpoint_gone`); a later response is discarded',
    advice: 'Nothing.',
  },
  failed: {
    cause: 'The handler called fail.',
    advice: 'Read `message` of the attempt: the handler wrote it.',
  },
}

const RETRY_IT = '`POST /jobs/:id/retry`'

const FAILURE_ADVICE: Record<FailureReason, { cause: string; advice: string }> = {
  attempts_exhausted: {
    cause: 'The last of `maxAttempts` attempts failed.',
    advice: `Fix the cause. ${RETRY_IT} then grants \`maxAttempts\` new ones.`,
  },
  rejected: {
    cause: 'An attempt ended as `rejected` or `blocked`.',
    advice: 'See these outcomes.',
  },
  max_age: {
    cause: 'The next attempt would be due later than `retry.maxAge` after the job was first due.',
    advice: `${RETRY_IT}; \`maxAge\` starts again.`,
  },
  expired: {
    cause: 'The job, or its next attempt, would have started after `expiresIn`.',
    advice: `If the work is still wanted, ${RETRY_IT}; the job then has no expiry.`,
  },
  lease_lost: {
    cause: 'The last attempt ended as `lost`.',
    advice: `Check the workers, then ${RETRY_IT}.`,
  },
  endpoint_gone: {
    cause: 'The endpoint was deleted with `force`.',
    advice: `Register it again, then ${RETRY_IT}.`,
  },
  dependency_failed: {
    cause:
      'A job in `dependsOn` or `needs` is dead, cancelled or deleted; `failure.jobId` names it.',
    advice:
      'Retry [the whole chain, or this job alone](limits.md#retrying-in-order). A job is not retried without [a result that it needs](flows.md#failures-and-retries).',
  },
  input_missing: {
    cause:
      'The result of a job in `needs` has nothing at the pointer, or was too long to be stored.',
    advice: 'Correct `needs` in a new job, or let that handler return what is needed.',
  },
  inputs_too_large: {
    cause: 'The inputs of the job are larger than 1 MiB together.',
    advice: 'Need parts of the results, by pointers.',
  },
  failed_by_handler: {
    cause: 'The handler called fail with `"retryable": false`.',
    advice: `Read \`message\`, fix the cause, then ${RETRY_IT}.`,
  },
}

export function outcomesTable(): string {
  const rows = OUTCOMES.map((outcome) => {
    const { cause, advice, effect } = OUTCOME_ADVICE[outcome]
    return [`\`${outcome}\``, cause, effect ?? effectOf(outcome), advice]
  })
  return table(['outcome', 'cause', 'effect on the job', 'what to do'], rows)
}

export function failuresTable(): string {
  const rows = FAILURE_REASONS.map((reason) => {
    const { cause, advice } = FAILURE_ADVICE[reason]
    return [`\`${reason}\``, cause, advice]
  })
  return table(['`failure.reason`', 'cause', 'what to do'], rows)
}

/** Neither early nor late: what jitter makes of a delay on average. */
const MIDDLE = 0.5

export function defaultDelaysTable(): string {
  const { maxAttempts, backoff } = DEFAULT_RETRY
  let totalMs = 0
  const rows = Array.from({ length: maxAttempts - 1 }, (_, i) => {
    const waitMs = backoffMs(backoff, i + 1, MIDDLE)
    totalMs += waitMs
    return [String(i + 2), formatDuration(waitMs), formatDuration(totalMs)]
  })
  return table(['attempt', 'waits', 'since the first attempt'], rows)
}

const FRESH_BUDGET = {
  maxAttempts: DEFAULT_RETRY.maxAttempts,
  attemptsLeft: DEFAULT_RETRY.maxAttempts - 1,
  freeAttempts: 0,
  firstRunAt: 0,
  promotedAt: null,
  expiresAt: null,
}

/** What the retry policy decides, in words. */
function effectOf(outcome: Outcome): string {
  const ending = { outcome, retryAfterMs: null, message: '' }
  const usual = effectOfEnding(ending)
  if (outcome !== 'failed') return usual
  return `${usual}; ${effectOfEnding({ ...ending, isFinal: true })} if \`retryable\` is false`
}

function effectOfEnding(ending: Parameters<typeof decide>[2]): string {
  const decision = decide(FRESH_BUDGET, DEFAULT_RETRY, ending, 0, MIDDLE)
  switch (decision.event) {
    case 'succeed':
      return 'succeeded'
    case 'await':
      return 'keeps running'
    case 'reschedule':
      return 'retried'
    case 'postpone':
      return 'retried, no attempt used'
    case 'bury':
      return `dead (\`${decision.failure.reason}\`)`
    default:
      throw new Error(`unknown decision ${JSON.stringify(decision satisfies never)}`)
  }
}
