// Cases of the events that a client's request causes in a stored job.
import { expect } from 'vitest'
import { jobOf, newJob } from '../fixtures.ts'
import {
  type Arrangement,
  appliedBy,
  appliedToJob,
  brokenBy,
  type CasesOf,
  caseOf,
  DEDUPE,
  type EventCase,
} from './event-case.ts'
import { neededForLong } from './needs-cases.ts'

type RequestEvent = 'replace' | 'displace' | 'supersede' | 'cancel' | 'retry' | 'edit' | 'delete'

/** A request with the job's dedupe key. Its effect depends on the state of the job. */
const replacing: EventCase['fire'] = async (store, { jobId, endpoint }) => {
  const request = newJob(store, endpoint, { dedupe: DEDUPE, priority: 8 })
  return appliedToJob(store, jobId, () => store.enqueue([request]))
}

const cancel: EventCase['fire'] = async (store, { jobId }) =>
  appliedBy('cancel', (await store.cancel([jobId]))[0]?.kind === 'applied')

const retry: EventCase['fire'] = async (store, { jobId }) =>
  appliedBy('retry', (await store.retry([jobId]))[0]?.kind === 'applied')

const edit: EventCase['fire'] = async (store, { jobId }) =>
  appliedBy('edit', (await store.edit(jobId, { priority: 8 }, null)).kind === 'applied')

const remove: EventCase['fire'] = async (store, { jobId }) =>
  appliedBy('delete', (await store.deleteJob(jobId)).kind === 'applied')

const WITH_KEY: Arrangement = { fields: () => ({ dedupe: DEDUPE }) }
const TAKEN_OVER: Arrangement = { ...WITH_KEY, isReplaced: true }

/**
 * These tests use two stores at once, because no method of a store takes the version that was read.
 */
const IN_RACES = { triedIn: 'test/contract/dedupe-races.test.ts' }

export const REQUEST_CASES: CasesOf<RequestEvent> = {
  replace: { ...caseOf(WITH_KEY, replacing), broken: { version_read: IN_RACES } },
  displace: {
    ...caseOf({ ...WITH_KEY, wasSent: true }, replacing),
    broken: { sent_before: brokenBy({ ...WITH_KEY, state: 'queued' }, replacing, 'replace') },
  },
  supersede: {
    ...caseOf(WITH_KEY, replacing),
    broken: { not_superseded: brokenBy({ ...TAKEN_OVER, state: 'running' }, replacing) },
  },
  cancel: { ...caseOf({}, cancel), broken: {} },
  retry: {
    ...caseOf({}, retry),
    broken: {
      endpoint_accepts: brokenBy({ state: 'dead', endpointIsDeleted: true }, retry),
      dedupe_unused: brokenBy({ ...TAKEN_OVER, state: 'dead' }, retry),
    },
  },
  edit: {
    ...caseOf({}, edit),
    broken: {
      version_read: brokenBy({ state: 'queued' }, async (store, { jobId }) => {
        const { version } = await jobOf(store, jobId)
        const result = await store.edit(jobId, { priority: 8 }, version - 1)
        expect(result).toEqual({ kind: 'stale', version })
        return { event: null }
      }),
    },
  },
  delete: {
    ...caseOf({}, remove),
    broken: {
      effects_done: { triedIn: 'test/contract/dependencies.test.ts' },
      not_needed: async (store) => {
        const needed = await neededForLong(store)
        return { id: needed.jobId, tries: [{ fire: () => remove(store, needed), instead: null }] }
      },
    },
  },
}
