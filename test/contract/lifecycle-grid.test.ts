// Every event from every state, and every guard broken one by one, on both stores. The table in
// src/job/lifecycle.ts says what must happen.
import { describe, expect, test } from 'vitest'
import { isFinal, JOB_STATES, type Job } from '../../src/job/job.ts'
import { type EventName, LIFECYCLE, type LifecycleEvent } from '../../src/job/lifecycle.ts'
import { ENGINES, useStore } from '../support/stores.ts'
import { bringTo, jobOf, sweepClean } from './fixtures.ts'
import {
  BROKEN_GUARDS,
  type BrokenGuard,
  CASES,
  enqueueAndClaim,
  ripen,
} from './lifecycle-cases.ts'

const EVENTS = Object.keys(LIFECYCLE) as EventName[]

describe.each(ENGINES)('on %s', (engine) => {
  const place = useStore(engine, { retentionMs: 0, retentionDeadMs: 0 })

  describe.each(EVENTS)('%s', (name) => {
    const event: LifecycleEvent = LIFECYCLE[name]

    test.each(JOB_STATES)('of a job that is %s does what the table says', async (state) => {
      const { store } = place
      await sweepClean(store)
      const { fields, leaseMs, endpointIsDeleted = false, fire } = CASES[name]
      const claimed = await enqueueAndClaim(store, fields?.(store) ?? {}, leaseMs)
      await bringTo(store, claimed, state)
      await ripen(store, claimed, { endpointIsDeleted, leaseMs })
      const before = await jobOf(store, claimed.jobId)
      expect(before.state).toBe(state)

      const tellings = await fire(store, claimed)

      expect(tellings.applied).toBe(event.from.includes(state))
      const after = await store.getJob(claimed.jobId)
      expectJust(tellings.applied ? name : tellings.instead, before, after)
    })

    const guards = Object.entries(BROKEN_GUARDS[name]) as [string, BrokenGuard][]
    if (guards.length > 0) {
      test.each(guards)('changes nothing when the guard %s does not hold', async (_, prepare) => {
        const { store } = place
        await sweepClean(store)
        const { id, tries } = await prepare(store)
        for (const attempt of tries) {
          const before = await jobOf(store, id)
          const { applied, instead } = await attempt()
          expect(applied).toBe(false)
          expectJust(instead, before, await store.getJob(id))
        }
      })
    }
  })
})

/** The record is what this event makes of it, or untouched when there was none. */
function expectJust(name: EventName | null, before: Job, after: Job | null): void {
  if (name === null) {
    expect(after).toEqual(before)
    return
  }
  const event: LifecycleEvent = LIFECYCLE[name]
  expect(event.from).toContain(before.state)
  if (event.to === null) {
    expect(after).toBeNull()
    return
  }
  expect(after?.state).toBe(event.to)
  expect(after?.version).toBe(name === 'renew' ? before.version : before.version + 1)
  expect(after?.fence).toBe(name === 'claim' ? before.fence + 1 : before.fence)
  const pushes = event.from.includes('running') && !['renew', 'release'].includes(name)
  const pushed = pushes && before.state === 'running' ? 1 : 0
  expect(after?.attempts.length).toBe(before.attempts.length + pushed)
  if (after !== null) expectInvariants(after)
}

function expectInvariants(job: Job): void {
  expect(job.lease !== null).toBe(job.state === 'running')
  expect(job.phase !== null).toBe(job.state === 'running')
  expect(job.finishedAt !== null).toBe(isFinal(job.state))
  expect(job.failure !== null).toBe(job.state === 'dead')
  if (job.state === 'queued') expect(job.attemptsLeft).toBeGreaterThan(0)
}
