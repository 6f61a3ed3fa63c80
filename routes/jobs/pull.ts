// POST /endpoints/:name/claim: jobs for workers without a URL.
import type { FastifyInstance } from 'fastify'
import { z } from 'zod'
import { createBatchSize } from '../../src/batch-size.ts'
import { AppError } from '../../src/errors.ts'
import { formatDuration } from '../../src/job/duration.ts'
import { type ClaimedJob, dueAt, type Job } from '../../src/job/job.ts'
import type { ApiMetrics } from '../../src/stats/metrics.ts'
import type { Holder, Store } from '../../src/store/store.ts'
import { duration, instantText, MAX_WAIT_MS, responseInstant } from '../../src/wire/fields.ts'
import { jobJson, jobResponse } from '../../src/wire/jobs.ts'
import { inputsFields } from '../../src/wire/needs.ts'
import { endpointNotFound } from '../endpoints/change.ts'
import type { KeyRecheck } from '../http/access.ts'
import { JSON_TYPE, nameParams, noQuery } from '../http/route-schema.ts'
import type { PullWaits } from './waits.ts'

/** The name of the worker in a pulled job: the program that claimed it is unknown. */
export const PULLER = 'pull'

/** Beyond this size no further job is added to a response. */
const MAX_RESPONSE_BYTES = 16 * 1_048_576
const READ_AT_ONCE = 10

const MAX_CLAIM = 100
const MAX_CLAIM_LEASE_MS = 3_600_000
const DEFAULT_CLAIM_LEASE_MS = 30_000

const claimFields = z.strictObject({
  limit: z.int().min(1).max(MAX_CLAIM).default(1),
  wait: duration(0, MAX_WAIT_MS).prefault('0s'),
  lease: duration(1_000, MAX_CLAIM_LEASE_MS).prefault(formatDuration(DEFAULT_CLAIM_LEASE_MS)),
})
const claimBody = claimFields.nullish().transform((body) => body ?? claimFields.parse({}))
type ClaimBody = z.output<typeof claimFields>

export const claimResponse = z.object({
  jobs: z.array(
    z.object({
      ...jobResponse.shape,
      ...inputsFields,
      token: z.string(),
      leaseExpiresAt: responseInstant,
      traceparent: z.string().nullable().meta({
        description: 'the trace context of the request that enqueued the job (W3C); null: none',
      }),
      tracestate: z.string().nullable(),
      hops: z.int().meta({
        description:
          'how many deliveries led to this claim, itself included; send it as the header posthorn-hops of jobs that the worker enqueues',
      }),
    }),
  ),
})

interface PullRoutes {
  store: Store
  pulls: PullWaits
  recheckKey: KeyRecheck
  metrics: Pick<ApiMetrics, 'onStarted'>
}

export function registerPullRoute(
  app: FastifyInstance,
  { store, pulls, recheckKey, metrics }: PullRoutes,
): void {
  const size = createBatchSize(MAX_CLAIM)
  app.post<{ Params: { name: string }; Body: ClaimBody }>(
    '/endpoints/:name/claim',
    {
      config: { scope: 'work' },
      schema: {
        summary: 'Claim due jobs of a pulled endpoint; wait for some if none is due',
        params: nameParams,
        querystring: noQuery,
        body: claimBody,
        response: { 200: claimResponse },
        errors: ['endpoint_not_found', 'job_state_conflict'],
      },
    },
    async (request, reply) => {
      const { name } = request.params
      const { limit, wait, lease } = request.body
      await refuseOtherKinds(store, name)
      const holder: Holder = { workerId: PULLER, leaseMs: lease, pulls: true }
      const claimSome = async () => {
        const most = Math.min(limit, size.limit)
        const shares = [{ endpoint: name, limit: most }]
        const claim = () => store.claim(shares, most, holder)
        return (await size.run(most, claim, ({ jobs }) => jobs.length)).jobs
      }
      const claimed = await pulls.untilClaimed(name, claimSome, wait, request.raw.socket)
      if (request.raw.socket.destroyed) {
        // The client has disconnected. The jobs are released, so that they do not wait until their
        // leases expire.
        await store.release(claimed)
        return reply
      }
      try {
        if (wait > 0) await recheckKey(request)
      } catch (error) {
        await store.release(claimed)
        throw error
      }
      reply.type(JSON_TYPE)
      const { items, started } = await pulledItems(store, claimed)
      for (const job of started) metrics.onStarted(job.claimedAt - dueAt(job))
      return `{"jobs":[${items.join(',')}]}`
    },
  )
}

async function refuseOtherKinds(store: Store, name: string): Promise<void> {
  const [endpoint] = await store.endpointsNamed([name])
  if (endpoint === undefined) throw endpointNotFound(name)
  if (endpoint.url === null) return
  const detail = `endpoint "${name}" has a URL: its jobs are sent there, not pulled`
  throw new AppError('job_state_conflict', detail)
}

/**
 * Returns as many jobs as fit into a response and releases the others. A hundred jobs of 8 MiB each
 * would exceed the longest string.
 */
async function pulledItems(
  store: Store,
  claimed: ClaimedJob[],
): Promise<{ items: string[]; started: ClaimedJob[] }> {
  const items: string[] = []
  const started: ClaimedJob[] = []
  let bytes = 0
  for (let i = 0; i < claimed.length; i += READ_AT_ONCE) {
    if (bytes > MAX_RESPONSE_BYTES) {
      await store.release(claimed.slice(i))
      break
    }
    const some = claimed.slice(i, i + READ_AT_ONCE)
    const texts = await Promise.all(some.map((one) => pulledJson(store, one)))
    for (const [at, item] of texts.entries()) {
      if (item === null) continue
      items.push(item)
      started.push(some[at] as ClaimedJob)
      bytes += item.length
    }
  }
  return { items, started }
}

/** Returns null if the job was cancelled right after the claim. */
async function pulledJson(store: Store, claimed: ClaimedJob): Promise<string | null> {
  const job = await store.getJob(claimed.jobId)
  if (job === null || !isHeldBy(job, claimed)) return null
  const more = {
    token: store.attemptTokens.issue(claimed),
    leaseExpiresAt: instantText(job.lease?.expiresAt ?? null),
    traceparent: claimed.trace?.traceparent ?? null,
    tracestate: claimed.trace?.tracestate ?? null,
    // A claim counts as a delivery, so the value is that of the header of a delivery.
    hops: claimed.hops + 1,
  }
  return jobJson(job, more, claimed.inputs)
}

function isHeldBy(job: Job, { fence }: ClaimedJob): boolean {
  return job.state === 'running' && job.fence === fence
}
