// GET /jobs/:id/explain: why a job is not running, and when that may change.
import type { FastifyInstance } from 'fastify'
import { type Endpoint, endpointState, isTripped } from '../src/endpoint/endpoint.ts'
import { placesAfterRest } from '../src/endpoint/health.ts'
import { isFinal, type Job } from '../src/job/job.ts'
import { isLive } from '../src/store/records.ts'
import type { Store } from '../src/store/store.ts'
import { type ExplainReason, explainAnswer } from './answers.ts'
import { instantText } from './job-answer.ts'
import { readJob } from './job-lookup.ts'
import { jobParams } from './job-schemas.ts'
import { nothing } from './schemas.ts'

interface Explanation {
  reason: ExplainReason
  detail: string
  /** null: nobody knows. */
  expectedAt: number | null
}

export function registerExplainRoute(app: FastifyInstance, { store }: { store: Store }): void {
  app.get<{ Params: { id: string } }>(
    '/jobs/:id/explain',
    {
      config: { scope: 'enqueue' },
      schema: {
        summary: 'Why the job is not running',
        params: jobParams,
        querystring: nothing,
        response: { 200: explainAnswer },
      },
    },
    async (request) => {
      const job = await readJob(store, request.params.id)
      const { reason, detail, expectedAt } = await explain(store, job)
      return { state: job.state, reason, detail, expectedAt: instantText(expectedAt) }
    },
  )
}

/** The reasons in the order in which they would have to go away. */
async function explain(store: Store, job: Job): Promise<Explanation> {
  const now = store.clock.now()
  const own = ofItself(job)
  if (own !== null) return own
  const [endpoint] = await store.endpointsNamed([job.endpoint])
  if (endpoint === undefined || endpoint.deleting) {
    return because('endpoint_disabled', `endpoint "${job.endpoint}" is gone or being deleted`)
  }
  const held = job.isHeld ? await whyHeld(store, job) : null
  if (held !== null) return held
  if (job.runAt > now) {
    const what = job.attemptCount === 0 ? 'it is due' : 'its next attempt is due'
    return because('not_due', `${what} at ${instantText(job.runAt)}`, job.runAt)
  }
  return (
    whyStopped(endpoint, now) ??
    (await whyLimited(store, endpoint, now)) ??
    (await whyWaiting(store, endpoint, now))
  )
}

function because(
  reason: ExplainReason,
  detail: string,
  expectedAt: number | null = null,
): Explanation {
  return { reason, detail, expectedAt }
}

function ofItself(job: Job): Explanation | null {
  if (isFinal(job.state)) {
    const why = job.failure === null ? '' : `: ${job.failure.message}`
    return because('final', `the job is ${job.state}${why}`)
  }
  if (job.state === 'queued') return null
  const expiresAt = job.lease?.expiresAt ?? null
  return job.phase === 'awaiting_completion'
    ? because('running', 'its handler has accepted it and is to report completion', expiresAt)
    : because('running', `attempt ${job.attemptCount} is under way`, expiresAt)
}

async function whyHeld(store: Store, job: Job): Promise<Explanation | null> {
  const [first] = job.waitingFor
  if (first !== undefined) {
    const others = job.waitingFor.length - 1
    const more = others === 0 ? '' : ` and ${others} more`
    return because('waiting_for_dependencies', `it waits for ${first}${more}`)
  }
  if (job.orderingKey === null) return null
  const head = await store.headOfOrderingKey(job.endpoint, job.orderingKey)
  if (head === null || head === job.id) return null
  const detail = `job ${head} has the same ordering key, is earlier and not final`
  return because('behind_ordering_key', detail)
}

function whyStopped(endpoint: Endpoint, now: number): Explanation | null {
  const { name, restingUntil, disabledReason } = endpoint
  const resume = `POST /endpoints/${name}/resume`
  switch (endpointState(endpoint, now)) {
    case 'disabled':
      return because(
        'endpoint_disabled',
        `endpoint "${name}" is disabled (${disabledReason}); ${resume} enables it`,
      )
    case 'paused':
      return because('endpoint_paused', `endpoint "${name}" is paused; ${resume} goes on`)
    case 'resting': {
      const why = isTripped(endpoint)
        ? `after ${endpoint.failureCount} failed attempts in a row`
        : 'since it asked for fewer requests'
      const detail = `endpoint "${name}" rests until ${instantText(restingUntil)} ${why}`
      return because('endpoint_resting', detail, restingUntil)
    }
    default:
      return null
  }
}

async function whyLimited(
  store: Store,
  endpoint: Endpoint,
  now: number,
): Promise<Explanation | null> {
  const { name, concurrency, rateFreeAt } = endpoint
  const back = placesAfterRest(endpoint, now)
  if (back !== null) {
    const detail = `endpoint "${name}" rested, and takes ${back.places} at a time until more of them succeed`
    return because('endpoint_resting', detail)
  }
  const [counts] = concurrency === null ? [] : await store.countJobs([name])
  if (counts !== undefined && concurrency !== null && counts.running >= concurrency) {
    const detail = `${counts.running} attempts of endpoint "${name}" are in flight, and ${concurrency} may be`
    return because('concurrency_full', detail)
  }
  if (rateFreeAt === null || rateFreeAt <= now) return null
  const detail = `the rate limit of endpoint "${name}" lets the next attempt start at ${instantText(rateFreeAt)}`
  return because('rate_limited', detail, rateFreeAt)
}

async function whyWaiting(store: Store, endpoint: Endpoint, now: number): Promise<Explanation> {
  if (endpoint.url === null) {
    return because('next_in_line', `it waits for a claim at endpoint "${endpoint.name}"`, now)
  }
  const workers = await store.listWorkers()
  if (!workers.some((worker) => isLive(worker, now))) {
    return because('no_live_worker', 'no worker has been seen lately; start one: posthorn worker')
  }
  return because('next_in_line', 'it is due, and a worker takes it when a slot is free', now)
}
