// Cases of the events that make a job claimable, and of its claim.
import type { ClaimedJob, JobState, NewJob } from '../../../src/job/job.ts'
import { newJobId } from '../../../src/job/job-id.ts'
import type { Store } from '../../../src/store/store.ts'
import {
  addEndpoint,
  bringTo,
  burial,
  claimOne,
  endpointOf,
  enqueueAndClaim,
  enqueueOne,
  holderOf,
  laterAgain,
  newJob,
  passed,
  report,
  success,
} from '../fixtures.ts'
import {
  appliedBy,
  appliedToJob,
  brokenBy,
  type CasesOf,
  caseOf,
  DEDUPE,
  deleteByForce,
  type EventCase,
  HOUR_MS,
  IDEMPOTENCY,
  twoOfOneKey,
} from './event-case.ts'
import { withoutInputs } from './needs-cases.ts'
import { sweeping } from './sweeper-cases.ts'

const enqueue: EventCase['fire'] = (store, { endpoint }) =>
  enqueueAgain(store, endpoint, { idempotency: IDEMPOTENCY })

const claim: EventCase['fire'] = async (store, { jobId, endpoint }) => {
  const holder = holderOf({ workerId: 'worker-2' })
  const { jobs } = await store.claim([{ endpoint, limit: 5 }], 5, holder)
  return appliedBy(
    'claim',
    jobs.some((job) => job.jobId === jobId),
  )
}

export const CLAIM_CASES: CasesOf<'enqueue' | 'promote' | 'fail_dependent' | 'claim'> = {
  enqueue: {
    ...caseOf({ fields: () => ({ idempotency: IDEMPOTENCY }) }, enqueue),
    broken: {
      key_unused: brokenBy(
        { state: 'running', fields: () => ({ idempotency: IDEMPOTENCY }) },
        enqueue,
      ),
      dedupe_unused: brokenBy(
        { state: 'running', fields: () => ({ dedupe: DEDUPE }) },
        (store, { endpoint }) =>
          enqueueAgain(store, endpoint, { dedupe: { ...DEDUPE, mode: 'reject' } }),
      ),
      endpoint_accepts: brokenBy({ state: 'running', endpointIsDeleted: true }, enqueue),
    },
  },
  promote: {
    arrange: arrangeBehindRetried,
    fire: async (store, { jobId, endpoint }) => {
      const head = await store.headOfOrderingKey(endpoint, KEY.orderingKey)
      return appliedToJob(store, jobId, async () => {
        await store.cancel([head ?? newJobId(0)])
        await store.sweep({ limit: 100, reclaim: true })
      })
    },
    broken: {
      blocked: brokenBy({ state: 'queued', fields: () => KEY }, sweeping),
      dependencies_met: async (store) => {
        const endpoint = await addEndpoint(store)
        const first = await enqueueOne(store, endpoint)
        return sweepOf(store, (await enqueueOne(store, endpoint, { dependsOn: [first.id] })).id)
      },
      inputs_made: withoutInputs,
      slot_free: async (store) => {
        const { head, behind } = await twoOfOneKey(store)
        await store.settle([burial(store, head)])
        await claimOne(store, head.endpoint)
        const last = await enqueueOne(store, head.endpoint, KEY)
        // The earlier job is queued again, and the job that has the slot is running.
        await store.retry([head.jobId])
        const tries = await Promise.all(
          [head.jobId, behind, last.id].map((id) => sweepOf(store, id)),
        )
        return { id: head.jobId, tries: tries.flatMap((one) => one.tries) }
      },
    },
  },
  fail_dependent: {
    arrange: arrangeDependent,
    fire: (store, { jobId }) =>
      appliedToJob(store, jobId, async () => {
        const job = await store.getJob(jobId)
        await store.cancel(job?.dependsOn ?? [])
        await store.sweep({ limit: 100, reclaim: true })
      }),
    broken: {
      // The job was retried by hand, which waives its dependencies.
      blocked: async (store) => {
        const { first, second } = await twoDependent(store)
        await store.cancel([first])
        await store.sweep({ limit: 100, reclaim: true })
        await store.retry([second])
        return sweepOf(store, second)
      },
      dependency_failed: async (store) => {
        const { endpoint, second } = await twoDependent(store)
        const settlement = success(store, await claimOne(store, endpoint))
        const fire = () => appliedToJob(store, second, () => settleAndSweep(store, settlement))
        return { id: second, tries: [{ fire, instead: 'promote' }] }
      },
    },
  },
  claim: {
    ...caseOf({}, claim),
    broken: {
      due: async (store) => {
        const claimed = await enqueueAndClaim(store)
        await store.settle([laterAgain(store, claimed, store.clock.now() + HOUR_MS)])
        return claimOf(store, claimed.jobId, claimed.endpoint)
      },
      unexpired: async (store) => {
        const endpoint = await addEndpoint(store)
        const { id } = await enqueueOne(store, endpoint, { expiresAt: store.clock.now() - 1 })
        return claimOf(store, id, endpoint)
      },
      claimable: async (store) => {
        const { head, behind } = await twoOfOneKey(store)
        // A job that can be claimed, so that the claim reads the jobs of the endpoint.
        await enqueueOne(store, head.endpoint)
        return claimOf(store, behind, head.endpoint)
      },
      endpoint_eligible: byNoEligibleEndpoint,
    },
  },
}

const KEY = { orderingKey: 'customer-7' }

/** A job of an ordering key after an earlier job of the key was retried by hand. */
async function arrangeBehindRetried(store: Store, state: JobState): Promise<ClaimedJob> {
  const { head, behind } = await twoOfOneKey(store)
  await store.settle([burial(store, head)])
  const claimed = await claimOne(store, head.endpoint)
  if (claimed.jobId !== behind) throw new Error('the turn did not pass on')
  await bringTo(store, claimed, state)
  await store.retry([head.jobId])
  return claimed
}

async function twoDependent(store: Store) {
  const endpoint = await addEndpoint(store)
  const { id: first } = await enqueueOne(store, endpoint)
  const { id: second } = await enqueueOne(store, endpoint, { dependsOn: [first] })
  return { endpoint, first, second }
}

/** A job that waits for another one, or whose dependency was waived before it got its state. */
async function arrangeDependent(store: Store, state: JobState): Promise<ClaimedJob> {
  const { endpoint, first, second } = await twoDependent(store)
  if (state === 'queued') {
    const claimed = await claimOne(store, endpoint)
    return { ...claimed, jobId: second }
  }
  await store.cancel([first])
  await store.sweep({ limit: 100, reclaim: true })
  await store.retry([second])
  const claimed = await claimOne(store, endpoint)
  await bringTo(store, claimed, state)
  await store.retry([first])
  return claimed
}

async function enqueueAgain(store: Store, endpoint: string, fields: Partial<NewJob>) {
  const [result] = await store.enqueue([newJob(store, endpoint, fields)])
  return appliedBy('enqueue', result?.kind === 'inserted')
}

async function settleAndSweep(store: Store, settlement: ReturnType<typeof success>) {
  await store.settle([settlement])
  await store.sweep({ limit: 100, reclaim: true })
}

async function sweepOf(store: Store, id: string) {
  const job = await store.getJob(id)
  if (job === null) throw new Error(`${id} is gone`)
  const tried = { jobId: id, endpoint: job.endpoint } as ClaimedJob
  return { id, tries: [{ fire: () => sweeping(store, tried), instead: null }] }
}

function claimOf(store: Store, jobId: string, endpoint: string) {
  const tried = { jobId, endpoint } as ClaimedJob
  return { id: jobId, tries: [{ fire: () => claim(store, tried), instead: null }] }
}

/** Tries the event in each state in which an endpoint returns no job. */
async function byNoEligibleEndpoint(store: Store) {
  const endpoint = await addEndpoint(store, {
    concurrency: 1,
    rateLimit: { count: 3, perMs: 30 * 24 * HOUR_MS },
    circuitBreaker: { failures: 1, cooldownMs: 1 },
  })
  await enqueueOne(store, endpoint)
  let running = await claimOne(store, endpoint)
  const { id } = await enqueueOne(store, endpoint)

  /** Ends the running attempt and lets another job take its slot. */
  async function claimUrgentOne() {
    await store.settle([success(store, running)])
    await enqueueOne(store, endpoint, { priority: 9 })
    running = await claimOne(store, endpoint)
  }
  const changes = {
    'its concurrency is used up': async () => {},
    'it is paused': async () => {
      await store.settle([success(store, running)])
      await store.pauseEndpoint(endpoint)
    },
    'it rests': async () => {
      await store.resumeEndpoint(endpoint)
      await report(store, endpoint, { throttle: { until: null } })
    },
    'it is disabled': async () => {
      await store.resumeEndpoint(endpoint)
      const { version } = await endpointOf(store, endpoint)
      await report(store, endpoint, { goneAtVersion: version })
    },
    'its probe is under way': async () => {
      await store.resumeEndpoint(endpoint)
      await report(store, endpoint, { failures: 1 })
      await passed(store, store.clock.now() + 1)
      await claimUrgentOne()
    },
    'its rate is used up': async () => {
      await store.resumeEndpoint(endpoint)
      await claimUrgentOne()
      await store.settle([success(store, running)])
    },
    'it is being deleted': () => deleteByForce(store, endpoint),
  }
  const tried = { jobId: id, endpoint } as ClaimedJob
  const tries = Object.values(changes).map((change) => ({
    instead: null,
    fire: async () => {
      await change()
      return claim(store, tried)
    },
  }))
  return { id, tries }
}
