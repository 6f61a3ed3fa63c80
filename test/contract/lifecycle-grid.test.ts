// Every event is tried in every state, and with every single guard broken, on both stores. The
// table in src/job/lifecycle.ts states what must happen.
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { isFinal, JOB_STATES, type Job } from '../../src/job/job.ts'
import { type EventName, LIFECYCLE, type LifecycleEvent } from '../../src/job/lifecycle.ts'
import { ENGINES } from '../support/engines.ts'
import { useStore } from '../support/stores.ts'
import { jobOf, sweepClean } from './fixtures.ts'
import { CASES } from './lifecycle-cases/all-cases.ts'
import type { Applied, BrokenGuard, NotAlone } from './lifecycle-cases/event-case.ts'

const EVENTS = Object.keys(LIFECYCLE) as EventName[]
const ROOT = join(import.meta.dirname, '../..')

describe.each(ENGINES)('on %s', (engine) => {
  const place = useStore(engine)

  describe.each(EVENTS)('%s', (name) => {
    const event: LifecycleEvent = LIFECYCLE[name]
    const { arrange, fire, broken } = CASES[name]

    test.each(JOB_STATES)('of a job that is %s does what the table says', async (state) => {
      const { store } = place
      await sweepClean(store)
      const claimed = await arrange(store, state)
      const before = await jobOf(store, claimed.jobId)
      expect(before.state).toBe(state)

      const applied = await fire(store, claimed)

      expect(applied.event === name).toBe(event.from.includes(state))
      expectJust(applied, before, await store.getJob(claimed.jobId))
    })

    const guards = Object.entries(broken) as [string, BrokenGuard | NotAlone][]
    if (guards.length > 0) {
      test.each(guards)('changes nothing when the guard %s does not hold', async (_, prepare) => {
        if ('triedIn' in prepare) {
          expect(existsSync(join(ROOT, prepare.triedIn))).toBe(true)
          return
        }
        const { store } = place
        await sweepClean(store)
        const { id, tries } = await prepare(store)
        for (const { fire: attempt, instead } of tries) {
          const before = await jobOf(store, id)
          const applied = await attempt()
          expect(applied.event).toBe(instead)
          expectJust(applied, before, await store.getJob(id))
        }
      })
    }
  })
})

/**
 * Checks that the record changed as this event requires, or did not change if no event was applied.
 */
function expectJust({ event: name, pushedCount }: Applied, before: Job, after: Job | null): void {
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
  const pushes = event.also.includes('adds the attempt') && before.state === 'running'
  expect(after?.attempts.length).toBe(before.attempts.length + (pushedCount ?? (pushes ? 1 : 0)))
  if (after !== null) expectInvariants(after)
}

function expectInvariants(job: Job): void {
  expect(job.lease !== null).toBe(job.state === 'running')
  expect(job.phase !== null).toBe(job.state === 'running')
  expect(job.finishedAt !== null).toBe(isFinal(job.state))
  expect(job.failure !== null).toBe(job.state === 'dead')
  if (job.state === 'queued') expect(job.attemptsLeft).toBeGreaterThan(0)
  if (job.isBlocked) expect(job.state).toBe('queued')
  if (job.waitingFor.length > 0) expect(job.isBlocked || isFinal(job.state)).toBe(true)
}
