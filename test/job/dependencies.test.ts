// The effect of a retry on dependencies, and the order in which one command retries many jobs.
import { describe, expect, test } from 'vitest'
import {
  checkDependencies,
  decideRetry,
  type RetryOptions,
  retryOrder,
} from '../../src/job/dependencies.ts'
import type { JobState } from '../../src/job/job.ts'
import type { Need } from '../../src/job/needs.ts'

const STATES: Record<string, JobState> = {
  ...{ waits: 'queued', works: 'running', done: 'succeeded', dead: 'dead', off: 'cancelled' },
}
const stateOf = (id: string) => STATES[id] ?? null

describe('a job that waits', () => {
  test('still waits for what has not succeeded, and fails with the oldest that never will', () => {
    const check = (...ids: string[]) => checkDependencies(ids, stateOf)
    expect(check('done')).toEqual({ unmet: [], failed: null })
    expect(check('done', 'waits', 'works')).toEqual({ unmet: ['waits', 'works'], failed: null })
    for (const lost of ['dead', 'off', 'gone']) {
      expect(check('done', 'waits', lost)).toEqual({ unmet: ['waits', lost], failed: lost })
    }
    // Ids sort by age. A job that failed by itself is older than the jobs that failed because of
    // it.
    expect(check('off', 'waits', 'dead', 'gone')).toMatchObject({ failed: 'dead' })
  })

  test('goes on without what has failed, if its needs say so', () => {
    const needs = ['dead', 'gone'].map((id) => need(id, 'continue'))
    expect(checkDependencies(['dead', 'waits', 'gone'], stateOf, needs)).toEqual({
      unmet: ['waits'],
      failed: null,
    })
    expect(checkDependencies(['dead', 'off'], stateOf, needs)).toMatchObject({ failed: 'off' })
  })
})

function need(jobId: string, ifFailed: Need['ifFailed'] = 'fail'): Need {
  return { name: jobId, jobId, pointer: '', ifFailed }
}

const NEEDLESS = { needs: [], hasInputs: false }
const RETRYABLE = { state: 'dead', endpointAccepts: true, ...NEEDLESS } as const

function retry(unmet: string[], options: RetryOptions) {
  return decideRetry({ ...RETRYABLE, unmet }, stateOf, options)
}

describe('a retry', () => {
  test('is for jobs that are dead or cancelled, at an endpoint that accepts jobs', () => {
    const of = (state: JobState, endpointAccepts = true) =>
      decideRetry({ ...NEEDLESS, state, endpointAccepts, unmet: ['gone'] }, stateOf, {
        waives: false,
      }).kind
    for (const state of ['queued', 'running', 'succeeded'] as const) {
      expect(of(state, false)).toBe('refused')
    }
    expect(of('cancelled', false)).toBe('unknown_endpoint')
    expect(of('cancelled')).toBe('dependency_failed')
  })

  const open = ['waits', 'works', 'done']
  const lost = ['dead', 'off', 'gone']

  test('waits for what is not final, and no more for what has succeeded', () => {
    const expected = { kind: 'retry', waitingFor: ['waits', 'works'], waived: [] }
    for (const waives of [true, false]) {
      expect(retry(open, { waives })).toEqual(expected)
      expect(retry([], { waives })).toEqual({ ...expected, waitingFor: [] })
    }
  })

  test('by id waives what is dead, cancelled or gone; in bulk it leaves the job', () => {
    const all = [...open, ...lost]
    expect(retry(all, { waives: true })).toEqual({
      kind: 'retry',
      waitingFor: ['waits', 'works'],
      waived: lost,
    })
    expect(retry(all, { waives: false })).toEqual({
      kind: 'dependency_failed',
      jobIds: lost,
    })
  })

  test('never waives what the job needs, and waits for it whatever it had been', () => {
    const needs = [need('works'), need('done'), need('off', 'continue')]
    const of = (more: Need[], unmet: string[] = []) =>
      decideRetry({ ...RETRYABLE, unmet, needs: [...needs, ...more] }, stateOf, { waives: true })
    expect(of([], ['gone', 'works'])).toEqual({
      kind: 'retry',
      waitingFor: ['works'],
      waived: ['gone'],
    })
    expect(of([need('dead')], ['gone', 'dead'])).toEqual({
      kind: 'dependency_failed',
      jobIds: ['dead'],
    })
  })
})

describe('many are retried', () => {
  test('oldest first, in whatever order they were found', () => {
    const found = ['c', 'a', 'd', 'b'].map((id) => ({ id, dependsOn: ['elsewhere'] }))
    expect(retryOrder(found)).toEqual(['a', 'b', 'c', 'd'])
  })

  test('each after those it depends on, also where clocks gave it the smaller id', () => {
    const found = [
      { id: 'a', dependsOn: ['d', 'c'] },
      { id: 'b', dependsOn: [] },
      { id: 'c', dependsOn: ['d'] },
      { id: 'd', dependsOn: [] },
    ]
    const ids = retryOrder(found)
    expect(ids.toSorted()).toEqual(['a', 'b', 'c', 'd'])
    for (const { id, dependsOn } of found) {
      for (const other of dependsOn) expect(ids.indexOf(other)).toBeLessThan(ids.indexOf(id))
    }
  })

  test('a chain of 10,000 is as good as any', () => {
    const ids = Array.from({ length: 10_000 }, (_, i) => `${10_000 + i}`)
    const chain = ids.map((id, i) => ({ id, dependsOn: ids.slice(i + 1, i + 2) }))
    expect(retryOrder(chain)).toEqual(ids.toReversed())
  })
})
