// Cases of jobs that need results of others: a wait that ends without inputs, and the jobs that are
// kept because others need their results.
import type { ClaimedJob, JobState } from '../../../src/job/job.ts'
import type { Need } from '../../../src/job/needs.ts'
import type { Store } from '../../../src/store/store.ts'
import {
  addEndpoint,
  attemptOf,
  bringTo,
  claimOne,
  enqueueAndClaim,
  enqueueOne,
  jobOf,
  success,
} from '../fixtures.ts'
import { appliedToJob, type BrokenGuard, type CasesOf, HOUR_MS } from './event-case.ts'
import { sweeping } from './sweeper-cases.ts'

/** The result of `success` has no such field. */
const ABSENT = '/absent'

export function needOf(jobId: string, fields: Partial<Need> = {}): Need {
  return { name: 'input', jobId, pointer: '', ifFailed: 'fail', ...fields }
}

export const NEEDS_CASES: CasesOf<'fail_inputs'> = {
  fail_inputs: {
    arrange: arrangeNeeding,
    fire: (store, { jobId }) =>
      appliedToJob(store, jobId, async () => {
        const { needs } = await jobOf(store, jobId)
        await succeed(store, needs[0]?.jobId ?? '')
        await store.sweep({ limit: 100, reclaim: true })
      }),
    broken: {
      // Its inputs were made, so it is not blocked any more.
      blocked: async (store) => {
        const { first, second } = await twoNeeding(store, '/ok')
        await succeed(store, first)
        const tried = { jobId: second } as ClaimedJob
        return { id: second, tries: [{ fire: () => sweeping(store, tried), instead: null }] }
      },
      dependencies_met: async (store) => {
        const { second } = await twoNeeding(store, ABSENT)
        const tried = { jobId: second } as ClaimedJob
        return { id: second, tries: [{ fire: () => sweeping(store, tried), instead: null }] }
      },
    },
  },
}

/** Of promote: all that the job waits for has succeeded, but its inputs cannot be made. */
export const withoutInputs: BrokenGuard = async (store) => {
  const { first, second } = await twoNeeding(store, ABSENT)
  const fire = () =>
    appliedToJob(store, second, async () => {
      await succeed(store, first)
      await store.sweep({ limit: 100, reclaim: true })
    })
  return { id: second, tries: [{ fire, instead: 'fail_inputs' }] }
}

/**
 * A job that succeeded longer ago than any retention, and whose result a job needs that still waits
 * for another one.
 */
export async function neededForLong(store: Store): Promise<ClaimedJob> {
  const needed = await enqueueAndClaim(store)
  const other = await enqueueAndClaim(store)
  const needs = [needOf(needed.jobId), needOf(other.jobId, { name: 'other' })]
  await enqueueOne(store, await addEndpoint(store), { needs })
  const attempt = attemptOf(store, needed, { finishedAt: needed.claimedAt - 365 * 24 * HOUR_MS })
  await store.settle([{ ...success(store, needed), attempt }])
  return needed
}

async function twoNeeding(store: Store, pointer: string) {
  const { id: first } = await enqueueOne(store, await addEndpoint(store))
  const endpoint = await addEndpoint(store)
  const { id: second } = await enqueueOne(store, endpoint, { needs: [needOf(first, { pointer })] })
  return { endpoint, first, second }
}

/** Does nothing if the job has ended already. */
async function succeed(store: Store, id: string): Promise<void> {
  const { endpoint, state } = await jobOf(store, id)
  if (state === 'queued') await store.settle([success(store, await claimOne(store, endpoint))])
}

/** A job that waits, or one that got its inputs before it got its state. */
async function arrangeNeeding(store: Store, state: JobState): Promise<ClaimedJob> {
  if (state === 'queued') {
    const { endpoint, second } = await twoNeeding(store, ABSENT)
    return { jobId: second, endpoint } as ClaimedJob
  }
  const { endpoint, first } = await twoNeeding(store, '/ok')
  await succeed(store, first)
  const claimed = await claimOne(store, endpoint)
  await bringTo(store, claimed, state)
  return claimed
}
