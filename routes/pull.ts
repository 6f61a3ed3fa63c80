// POST /endpoints/:name/claim: jobs for workers that have no URL to be called at.
import type { FastifyInstance } from 'fastify'
import { createBatchSize } from '../src/batch-size.ts'
import { AppError } from '../src/errors.ts'
import type { ClaimedJob, Job } from '../src/job/job.ts'
import type { Holder, Store } from '../src/store/store.ts'
import type { KeyRecheck } from './access.ts'
import { claimAnswer } from './answers.ts'
import { endpointNotFound } from './endpoint-answer.ts'
import { type ClaimBody, claimBody, MAX_CLAIM } from './endpoint-schemas.ts'
import { instantText, jobJson } from './job-answer.ts'
import { JSON_TYPE } from './job-reply.ts'
import type { PullWaits } from './pull-waits.ts'
import { endpointParams, nothing } from './schemas.ts'

/** What a pulled job shows as its worker: who asked is not known to us. */
/** In place of a worker's id. */
export const PULLER = 'pull'

interface PullRoutes {
  store: Store
  pulls: PullWaits
  recheckKey: KeyRecheck
}

export function registerPullRoute(
  app: FastifyInstance,
  { store, pulls, recheckKey }: PullRoutes,
): void {
  const size = createBatchSize(MAX_CLAIM)
  app.post<{ Params: { name: string }; Body: ClaimBody }>(
    '/endpoints/:name/claim',
    {
      config: { scope: 'work' },
      schema: {
        summary: 'Take due jobs of a pulled endpoint; waits for some if none is due',
        params: endpointParams,
        querystring: nothing,
        body: claimBody,
        response: { 200: claimAnswer },
      },
    },
    async (request, reply) => {
      const { name } = request.params
      const { limit, wait, lease } = request.body
      await refuseOtherKinds(store, name)
      const holder: Holder = { workerId: PULLER, leaseMs: lease, pulls: true }
      const take = async () => {
        const most = Math.min(limit, size.limit)
        const lanes = [{ endpoint: name, limit: most }]
        const claim = () => store.claim(lanes, most, holder)
        return (await size.run(most, claim, ({ jobs }) => jobs.length)).jobs
      }
      const taken = await pulls.untilTaken(name, take, wait, request.raw.socket)
      if (request.raw.socket.destroyed) {
        // Whoever asked is gone: the jobs are not to wait for their leases to run out.
        await store.release(taken)
        return reply
      }
      try {
        if (wait > 0) await recheckKey(request)
      } catch (error) {
        await store.release(taken)
        throw error
      }
      const items = await Promise.all(taken.map((claimed) => pulledJson(store, claimed)))
      reply.type(JSON_TYPE)
      return `{"jobs":[${items.filter((item) => item !== null).join(',')}]}`
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

/** null: it was cancelled the moment it was claimed. */
async function pulledJson(store: Store, claimed: ClaimedJob): Promise<string | null> {
  const job = await store.getJob(claimed.jobId)
  if (job === null || !isHeldBy(job, claimed)) return null
  return jobJson(job, {
    token: store.attemptTokens.mint(claimed),
    leaseExpiresAt: instantText(job.lease?.expiresAt ?? null),
  })
}

function isHeldBy(job: Job, { fence }: ClaimedJob): boolean {
  return job.state === 'running' && job.fence === fence
}
