// GET /jobs/:id/explain: why a job is not running, and when that may change.
import type { FastifyInstance } from 'fastify'
import { z } from 'zod'
import { type Endpoint, endpointState, isTripped } from '../../src/endpoint/endpoint.ts'
import { slotsAfterRest } from '../../src/endpoint/health.ts'
import { keyRoom, limitsOfKey } from '../../src/endpoint/key-limits.ts'
import { keyRestsUntil, keySlotsAfterRest } from '../../src/endpoint/key-rest.ts'
import { sharedRoom, waitsAt } from '../../src/endpoint/shared-limits.ts'
import { formatDuration } from '../../src/job/duration.ts'
import { isFinal, JOB_STATES, type JobSummary } from '../../src/job/job.ts'
import { isGroupId } from '../../src/job/job-id.ts'
import type { PlaceInLine } from '../../src/store/stats.ts'
import { MAX_COUNT, type Store } from '../../src/store/store.ts'
import { canDeliver, isLive } from '../../src/store/worker-liveness.ts'
import { instantText, responseInstant } from '../../src/wire/fields.ts'
import { noQuery } from '../http/route-schema.ts'
import { jobParams, readJobWithAttempts } from './job-reply.ts'
import { PULLER } from './pull.ts'

export const EXPLAIN_REASONS = [
  'not_due',
  'endpoint_paused',
  'endpoint_disabled',
  'endpoint_resting',
  'key_paused',
  'key_resting',
  'key_concurrency_full',
  'key_rate_limited',
  'limit_full',
  'concurrency_full',
  'rate_limited',
  'behind_ordering_key',
  'waiting_for_dependencies',
  'no_live_worker',
  'next_in_line',
  'running',
  'final',
] as const
export type ExplainReason = (typeof EXPLAIN_REASONS)[number]

export const explainResponse = z.object({
  state: z.enum(JOB_STATES),
  version: z.int().meta({ description: 'the version of the job that this describes' }),
  reason: z.enum(EXPLAIN_REASONS),
  detail: z.string(),
  expectedAt: responseInstant.meta({
    description: 'when that can change, never in the past; null: unknown',
  }),
  turn: z
    .object({
      fairnessKey: z.string().nullable(),
      jobsBefore: z.int().meta({
        description:
          'due jobs of the key with the same priority that come before it; 10000 also means more',
      }),
      keys: z.int().meta({
        description:
          'keys that take turns at this priority, jobs without a key as one of them; 10000 also means more',
      }),
    })
    .optional()
    .meta({ description: 'with next_in_line, if fairness keys take turns' }),
})

interface Explanation {
  reason: ExplainReason
  detail: string
  /** null: unknown. */
  expectedAt: number | null
  turn?: { fairnessKey: string | null; jobsBefore: number; keys: number }
}

export function registerExplainRoute(app: FastifyInstance, { store }: { store: Store }): void {
  app.get<{ Params: { id: string } }>(
    '/jobs/:id/explain',
    {
      config: { scope: 'enqueue' },
      schema: {
        summary: 'Explain why the job is not running',
        params: jobParams,
        querystring: noQuery,
        response: { 200: explainResponse },
        errors: ['job_not_found'],
      },
    },
    async (request) => {
      const job = await readJobWithAttempts(store, request.params.id)
      const { expectedAt, ...explanation } = await explain(store, job)
      const { state, version } = job
      return { state, version, ...explanation, expectedAt: instantText(expectedAt) }
    },
  )
}

/** Finds the reason. Possible reasons are checked in the order in which they would have to end. */
async function explain(store: Store, job: JobSummary): Promise<Explanation> {
  const now = store.clock.now()
  if (isFinal(job.state)) return whyFinal(job)
  if (job.lease !== null) return whyRunning(store, job, job.lease, now)
  if (job.expiresAt !== null && job.expiresAt <= now) {
    const detail = `it expired at ${instantText(job.expiresAt)}: no attempt starts, and the next sweep makes it dead`
    return because('next_in_line', detail)
  }
  const [endpoint] = await store.endpointsNamed([job.endpoint])
  if (endpoint === undefined || endpoint.deleting) {
    return because('endpoint_disabled', `endpoint "${job.endpoint}" is gone or being deleted`)
  }
  const held = job.isBlocked ? await whyBlocked(store, job) : null
  if (held !== null) return held
  if (job.runAt > now) {
    const what = job.attemptCount === 0 ? 'it is due' : 'its next attempt is due'
    return because('not_due', `${what} at ${instantText(job.runAt)}`, job.runAt)
  }
  return (
    whyStopped(endpoint, now) ??
    (await whyKeyLimited(store, job, endpoint, now)) ??
    (await whySharedLimit(store, job, endpoint, now)) ??
    (await whyLimited(store, endpoint, now)) ??
    (await whyNoWorker(store, endpoint, now)) ??
    (await whyNotYet(store, job, endpoint))
  )
}

function because(
  reason: ExplainReason,
  detail: string,
  expectedAt: number | null = null,
): Explanation {
  return { reason, detail, expectedAt }
}

function whyFinal({ state, failure }: JobSummary): Explanation {
  return because('final', `the job is ${state}${failure === null ? '' : `: ${failure.message}`}`)
}

/**
 * Why a running job has not ended. The job as stored may be out of date: a worker that died since
 * then has not changed it. The lease and the list of workers show whether the worker is alive.
 */
async function whyRunning(
  store: Store,
  { phase, attemptCount }: JobSummary,
  { workerId, expiresAt }: NonNullable<JobSummary['lease']>,
  now: number,
): Promise<Explanation> {
  const attempt = `attempt ${attemptCount}`
  if (expiresAt <= now) {
    const workers = await store.listWorkers()
    const isSwept = workers.some((worker) => isLive(worker, now))
    const next = isSwept
      ? 'a worker reclaims it at its next sweep'
      : 'no worker is live, so an API reclaims it at its next sweep'
    return because(
      'running',
      `${attempt} is lost: its lease expired ${ago(expiresAt, now)}; ${next}`,
    )
  }
  if (phase === 'awaiting_completion') {
    return because(
      'running',
      'its handler accepted it and has not reported completion yet',
      expiresAt,
    )
  }
  if (workerId === PULLER) {
    return because('running', `${attempt} is in progress at the worker that claimed it`, expiresAt)
  }
  const worker = (await store.listWorkers()).find(({ id }) => id === workerId)
  // The lease is renewed while the attempt runs, so its end says nothing about the end of the
  // attempt.
  if (worker !== undefined && isLive(worker, now)) {
    return because('running', `${attempt} is in progress at worker ${workerId}`)
  }
  const seen = worker === undefined ? 'is gone' : `was last seen ${ago(worker.seenAt, now)}`
  const detail = `${attempt} is probably lost: worker ${workerId} ${seen}; its lease expires at ${instantText(expiresAt)}`
  return because('running', detail, expiresAt)
}

/** The age in whole seconds; from a minute on in whole minutes, and so on. */
function ago(instant: number, now: number): string {
  const passedMs = Math.max(0, now - instant)
  const unitMs = [86_400_000, 3_600_000, 60_000].find((unit) => passedMs >= unit) ?? 1_000
  return `${formatDuration(Math.floor(passedMs / unitMs) * unitMs)} ago`
}

async function whyBlocked(store: Store, job: JobSummary): Promise<Explanation | null> {
  if (job.waitingFor.length > 0) {
    const jobIds = job.waitingFor.filter((id) => !isGroupId(id))
    const final = new Set([
      ...(await store.finalAmong(jobIds)),
      ...(await store.finalGroupsAmong(job.waitingFor.filter(isGroupId))),
    ])
    const open = job.waitingFor.filter((id) => !final.has(id))
    const more = open.length > 1 ? ` and ${open.length - 1} more` : ''
    const detail =
      open.length > 0
        ? `it waits for ${open[0]}${more}`
        : `it waited for ${job.waitingFor[0]}, which is final; the next sweep unblocks it or makes it dead`
    return because('waiting_for_dependencies', detail)
  }
  const { endpoint, orderingKey } = job
  const head = orderingKey && (await store.headOfOrderingKey(endpoint, orderingKey))
  if (head !== null && head !== job.id) {
    const detail = `job ${head} is earlier, has the same ordering key, and is not final`
    return because('behind_ordering_key', detail)
  }
  if (job.needs.length === 0 || job.inputsBytes !== null) return null
  const detail =
    'the jobs that it needs are final; the next sweep makes its inputs, or makes it dead'
  return because('waiting_for_dependencies', detail)
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
      return because(
        'endpoint_paused',
        `endpoint "${name}" is paused; ${resume} resumes deliveries`,
      )
    case 'resting': {
      const why = isTripped(endpoint)
        ? `after ${endpoint.failureCount} failed attempts in a row`
        : 'because it asked for fewer requests'
      const detail = `endpoint "${name}" is resting until ${instantText(restingUntil)} ${why}`
      return because('endpoint_resting', detail, restingUntil)
    }
    default:
      return null
  }
}

async function whyKeyLimited(
  store: Store,
  { fairnessKey: key, cost }: JobSummary,
  { name, perKey }: Endpoint,
  now: number,
): Promise<Explanation | null> {
  if (key === null) return null
  const state = await store.fairnessKeyState({ endpoint: name, key })
  const { concurrency } = limitsOfKey(perKey, state.settings)
  const counts = { running: () => state.running, sendingSince: () => state.sending }
  const room = keyRoom(perKey, state, counts, now)
  if (room.canTake(cost)) return null
  if (state.settings?.paused === true) {
    const detail = `key "${key}" of endpoint "${name}" is paused`
    return because('key_paused', detail)
  }
  const restsUntil = keyRestsUntil(state.rest, now)
  if (restsUntil !== null) {
    const detail = `key "${key}" of endpoint "${name}" is resting until ${instantText(restsUntil)} because the endpoint asked for fewer requests of it`
    return because('key_resting', detail, restsUntil)
  }
  const back = keySlotsAfterRest(state.rest, now)
  if (back !== null && state.sending >= back.slots) {
    const detail = `key "${key}" of endpoint "${name}" is recovering: at most ${back.slots} attempts at a time until more of them succeed`
    return because('key_resting', detail)
  }
  if (concurrency !== null && state.running >= concurrency) {
    const detail = `${state.running} jobs of key "${key}" are running, and its limit is ${concurrency}; a job of a dead worker counts until its lease expires`
    return because('key_concurrency_full', detail)
  }
  const freeAt = room.freeAt(cost)
  const detail = `the rate limit of key "${key}" lets the next attempt start at ${instantText(freeAt)}`
  return because('key_rate_limited', detail, freeAt)
}

/** The first limit that has no room for the job, in the order in which the endpoint names them. */
async function whySharedLimit(
  store: Store,
  { cost }: JobSummary,
  { name, limits }: Endpoint,
  now: number,
): Promise<Explanation | null> {
  const stored = await store.limitsNamed(limits)
  for (const limitName of limits) {
    const limit = stored.find((one) => one.name === limitName)
    if (limit === undefined) continue
    const { endpoints, running } = await store.limitUse(limitName)
    const room = sharedRoom(limit, () => running, now)
    if (room.canTake(name, cost)) continue
    const { concurrency } = limit
    if (concurrency !== null && running >= concurrency) {
      const detail = `${running} jobs of the ${endpoints.length} endpoints that share limit "${limitName}" are running, and the limit is ${concurrency}; a job of a dead worker counts until its lease expires`
      return because('limit_full', detail)
    }
    const freeAt = room.refuse(name, cost)
    if (freeAt !== null) {
      const detail = `limit "${limitName}" lets the next attempt start at ${instantText(freeAt)}`
      return because('limit_full', detail, freeAt)
    }
    const [next] = waitsAt(limit, now)
    const detail = `the room of limit "${limitName}" is for endpoint "${next?.endpoint}", which was refused before`
    return because('limit_full', detail)
  }
  return null
}

async function whyLimited(
  store: Store,
  endpoint: Endpoint,
  now: number,
): Promise<Explanation | null> {
  const { name, concurrency, rateFreeAt } = endpoint
  const back = slotsAfterRest(endpoint, now)
  if (back !== null) {
    const detail = `endpoint "${name}" is recovering: at most ${back.slots} attempts at a time until more of them succeed`
    return because('endpoint_resting', detail)
  }
  const [counts] = concurrency === null ? [] : await store.countJobs([name])
  if (counts !== undefined && concurrency !== null && counts.running >= concurrency) {
    const detail = `${counts.running} jobs of endpoint "${name}" are running, and its limit is ${concurrency}; a job of a dead worker counts until its lease expires`
    return because('concurrency_full', detail)
  }
  if (rateFreeAt === null || rateFreeAt <= now) return null
  const detail = `the rate limit of endpoint "${name}" lets the next attempt start at ${instantText(rateFreeAt)}`
  return because('rate_limited', detail, rateFreeAt)
}

async function whyNoWorker(
  store: Store,
  endpoint: Endpoint,
  now: number,
): Promise<Explanation | null> {
  if (endpoint.url === null) return null
  const workers = await store.listWorkers()
  const live = workers.filter((worker) => isLive(worker, now))
  const [first, ...others] = live
  if (first === undefined) {
    return because(
      'no_live_worker',
      'no worker has reported within the last 5 s; start one: posthorn worker',
    )
  }
  const { name, keyId, undecryptable } = endpoint
  if (undecryptable !== null && store.encryptionKeyIds().includes(keyId)) {
    const detail = `no worker can read the secret of endpoint "${name}", which was changed in the store: PUT the endpoint with a new secret`
    return because('no_live_worker', detail)
  }
  if (!live.some((worker) => canDeliver(worker, now, [keyId]))) {
    const more = others.length === 0 ? '' : `, and ${others.length} more like it`
    const key = undecryptable === null ? 'of the API' : 'that encrypted it, which the API lacks too'
    const detail = `worker ${first.id} is live but cannot read the secret of the endpoint${more}: its ENCRYPTION_KEY does not contain the key ${key}`
    return because('no_live_worker', detail)
  }
  return null
}

async function whyNotYet(
  store: Store,
  { id, fairnessKey }: JobSummary,
  { name, url }: Endpoint,
): Promise<Explanation> {
  const detail =
    url === null
      ? `it waits for a claim at endpoint "${name}"`
      : 'it is due, and a worker claims it when a slot is free'
  const place = await store.placeInLine(name, id)
  if (place === null) return because('next_in_line', detail)
  const { jobsBefore, keyCount: keys } = place
  return {
    ...because('next_in_line', `${detail}; ${placeText(fairnessKey, place)}`),
    turn: { fairnessKey, jobsBefore, keys },
  }
}

function placeText(key: string | null, { jobsBefore, keyCount }: PlaceInLine): string {
  const ofKey = key === null ? 'without a key' : `of key "${key}"`
  const jobs = jobsBefore === 1 ? 'job' : 'jobs'
  const before = `${countText(jobsBefore)} ${jobs} ${ofKey} before this one`
  const isAlone = keyCount <= 1
  return `${before}; ${isAlone ? 'no other key takes turns' : `${countText(keyCount)} keys take turns`}`
}

/** A count stops at its limit. */
function countText(count: number): string {
  if (count === 0) return 'no'
  return count < MAX_COUNT ? String(count) : `${MAX_COUNT} or more`
}
