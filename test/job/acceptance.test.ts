import { describe, expect, it } from 'vitest'
import {
  type AcceptingEndpoint,
  decideAcceptance,
  isDisabledFor,
} from '../../src/job/acceptance.ts'
import type { JobState, NewJob } from '../../src/job/job.ts'

const ENDPOINT: AcceptingEndpoint = { disabledReason: null, maxAttempts: 10, onFinish: null }
const NOTIFIED = { endpoint: 'notified', states: ['dead' as const] }

function decide(
  fields: Partial<NewJob>,
  endpoint: Partial<AcceptingEndpoint> = {},
  states: Record<string, JobState> = {},
) {
  const job = {
    maxAttempts: null,
    onFinish: 'inherited',
    dependsOn: [],
    needs: [],
    orderingKey: null,
    fairnessKey: null,
    cost: 1,
    ...fields,
  }
  return decideAcceptance(
    { originKey: null, ...job } as unknown as NewJob,
    { ...ENDPOINT, ...endpoint },
    (name) => name === 'notified',
    (id) => states[id] ?? null,
    null,
  )
}

describe('what a job takes over when it is enqueued', () => {
  it('its own attempts and onFinish, else those of its endpoint', () => {
    expect(decide({}, { onFinish: NOTIFIED })).toMatchObject({
      maxAttempts: 10,
      onFinish: NOTIFIED,
    })
    const own = { endpoint: 'notified', states: [] }
    expect(decide({ maxAttempts: 3, onFinish: own }, { onFinish: NOTIFIED })).toMatchObject({
      maxAttempts: 3,
      onFinish: own,
    })
  })

  it('no onFinish if it says null, also where its endpoint has one', () => {
    expect(decide({ onFinish: null }, { onFinish: NOTIFIED })).toMatchObject({ onFinish: null })
  })

  it('only notices are taken by a disabled endpoint', () => {
    const notice = { originKey: 'finish:job:1:1' }
    expect(isDisabledFor({ originKey: null }, { ...ENDPOINT, disabledReason: 'gone' })).toBe(true)
    expect(isDisabledFor(notice, { ...ENDPOINT, disabledReason: 'gone' })).toBe(false)
  })

  it('an onFinish that the request names must lead somewhere, the default need not', () => {
    const nowhere = { endpoint: 'nowhere', states: ['dead' as const] }
    expect(decide({ onFinish: nowhere })).toEqual({
      kind: 'unknown_notice_endpoint',
      endpoint: 'nowhere',
    })
    const accepted = { kind: 'accepted', onFinish: nowhere }
    expect(decide({}, { onFinish: nowhere })).toMatchObject(accepted)
    expect(decide({ onFinish: nowhere, hasEarlierOnFinish: true })).toMatchObject(accepted)
  })

  it('it waits for dependencies that have not succeeded, and for its turn', () => {
    const states = { a: 'succeeded', b: 'queued', c: 'dead' } as const
    expect(decide({ dependsOn: ['a'] }, {}, states)).toMatchObject({
      waitingFor: [],
      isBlocked: false,
    })
    expect(decide({ dependsOn: ['a', 'b'] }, {}, states)).toMatchObject({
      ...{ waitingFor: ['b'], isBlocked: true, isDoomed: false },
    })
    expect(decide({ dependsOn: ['c'] }, {}, states)).toMatchObject({
      isBlocked: true,
      isDoomed: true,
    })
    expect(decide({ orderingKey: 'k' })).toMatchObject({ isBlocked: true, waitingFor: [] })
    expect(decide({ dependsOn: ['d'] }, {}, states)).toEqual({
      kind: 'unknown_dependency',
      jobId: 'd',
    })
  })

  it('what a job needs is waited for, too, unless it has failed and may', () => {
    const states = { done: 'succeeded', works: 'running', off: 'cancelled' } as const
    const need = (jobId: string, ifFailed: 'fail' | 'continue') => {
      return { name: jobId, jobId, pointer: '', ifFailed }
    }
    const needs = [need('done', 'fail'), need('works', 'continue'), need('off', 'continue')]
    expect(decide({ needs }, {}, states)).toMatchObject({
      waitingFor: ['works'],
      isDoomed: false,
      isBlocked: true,
    })
    // Its inputs are not made yet.
    expect(decide({ needs: [need('done', 'fail')] }, {}, states)).toMatchObject({
      waitingFor: [],
      isBlocked: true,
    })
    expect(decide({ needs: [need('off', 'fail')] }, {}, states)).toMatchObject({ isDoomed: true })
    expect(decide({ needs: [need('gone', 'continue')] }, {}, states)).toEqual({
      kind: 'unknown_dependency',
      jobId: 'gone',
    })
  })
})
