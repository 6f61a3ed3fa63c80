// The rules of needs: which jobs a job waits for, what its inputs are, and what a retry finds.
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type { JobState } from '../../src/job/job.ts'
import {
  deliveredBody,
  dependenciesOf,
  goesOnWithout,
  MAX_INPUTS_BYTES,
  makeInputs,
  type Need,
  type NeededJob,
  needsAtRetry,
} from '../../src/job/needs.ts'

function need(jobId: string, fields: Partial<Need> = {}): Need {
  return { name: jobId, jobId, pointer: '', ifFailed: 'fail', ...fields }
}
const CONTINUE = { ifFailed: 'continue' } as const

const ended = (state: JobState, result: string | null = null, resultTruncated = false) => ({
  state,
  result,
  resultTruncated,
})
const JOBS: Record<string, NeededJob> = {
  done: ended('succeeded', '{"n":1.0,"list":[ 1 ]}'),
  none: ended('succeeded', null),
  cut: ended('succeeded', null, true),
  dead: ended('dead'),
  off: ended('cancelled'),
  works: ended('running'),
}
const neededJob = (id: string) => JOBS[id] ?? null

function made(needs: Need[], before: string | null = null): string {
  const result = makeInputs(needs, neededJob, before === null ? null : Buffer.from(before))
  return result.kind === 'made' ? Buffer.from(result.inputs).toString() : result.failure.reason
}

describe('the inputs of a job', () => {
  it('are in the order of the request, each as it was recorded', () => {
    const needs = [
      need('done', { name: 'part', pointer: '/list' }),
      need('none'),
      need('done', { name: 'a' }),
    ]
    expect(made(needs)).toBe('{"inputs":{"part":[ 1 ],"none":null,"a":{"n":1.0,"list":[ 1 ]}}}')
  })

  it.each([
    ['a truncated result', [need('cut')], '{"inputs":{"cut":null},"truncatedInputs":["cut"]}'],
    ['a pointer into it', [need('cut', { pointer: '/n' })], 'input_missing'],
    ['a pointer to nothing', [need('done', { pointer: '/m' })], 'input_missing'],
    ['a pointer into no result', [need('none', { pointer: '/m' })], 'input_missing'],
    ['one that is dead', [need('dead')], 'dependency_failed'],
    ['one that is gone', [need('gone')], 'dependency_failed'],
  ])('of %s: fail', (_, needs, expected) => {
    expect(made(needs)).toBe(expected)
  })

  it.each([
    ['a truncated result', need('cut', CONTINUE), 'truncatedInputs'],
    ['a pointer into it', need('cut', { ...CONTINUE, pointer: '/n' }), 'failedInputs'],
    ['a pointer to nothing', need('done', { ...CONTINUE, pointer: '/m' }), 'failedInputs'],
    ['one that is dead', need('dead', CONTINUE), 'failedInputs'],
    ['one that is cancelled', need('off', CONTINUE), 'failedInputs'],
    ['one that is gone', need('gone', CONTINUE), 'failedInputs'],
    ['one that was retried since', need('works', CONTINUE), 'failedInputs'],
  ])('of %s: continue', (_, one, list) => {
    expect(made([one])).toBe(`{"inputs":{"${one.name}":null},"${list}":["${one.name}"]}`)
  })

  it('keep what they had of a job that is gone, and nothing of one that is there', () => {
    const before =
      '{"inputs":{"gone":[1.0],"none":7,"a":null,"b":null},"truncatedInputs":["a"],"failedInputs":["b"]}'
    const needs = [
      need('gone'),
      need('none'),
      need('gone', { name: 'a' }),
      need('gone', { ...CONTINUE, name: 'b' }),
    ]
    expect(made(needs, before)).toBe(
      '{"inputs":{"gone":[1.0],"none":null,"a":null,"b":null},"truncatedInputs":["a"],"failedInputs":["b"]}',
    )
  })

  it('have at most 1 MiB, to the byte', () => {
    const of = (bytes: number) =>
      makeInputs([need('a')], () => ended('succeeded', `"${'x'.repeat(bytes - 8)}"`), null)
    expect(of(MAX_INPUTS_BYTES).kind).toBe('made')
    expect(of(MAX_INPUTS_BYTES + 1)).toMatchObject({ failure: { reason: 'inputs_too_large' } })
  })

  it('are JSON with the results as values, for any results', () => {
    fc.assert(
      fc.property(fc.array(fc.jsonValue(), { minLength: 1, maxLength: 5 }), (results) => {
        const needs = results.map((_, i) => need(String(i), { name: `n${i}` }))
        const jobOf = (id: string) => ended('succeeded', JSON.stringify(results[Number(id)]))
        const inputs = makeInputs(needs, jobOf, null)
        if (inputs.kind !== 'made') throw new Error(inputs.failure.message)
        const payload = Buffer.from('[1.0]')
        const body = Buffer.from(deliveredBody(payload, inputs.inputs)).toString()
        const values = results.map((value, i) => `"n${i}":${JSON.stringify(value)}`)
        expect(body).toBe(`{"payload":[1.0],"inputs":{${values.join(',')}}}`)
      }),
    )
  })
})

describe('the body of a delivery', () => {
  it('is the payload alone without inputs, and ends with the lists of names', () => {
    const payload = Buffer.from('{ "a":1.0 }')
    expect(deliveredBody(payload, null)).toBe(payload)
    const inputs = Buffer.from('{"inputs":{"b":null},"failedInputs":["b"]}')
    expect(Buffer.from(deliveredBody(payload, inputs)).toString()).toBe(
      '{"payload":{ "a":1.0 },"inputs":{"b":null},"failedInputs":["b"]}',
    )
  })
})

describe('a job with needs', () => {
  it('waits for each job once', () => {
    const needs = [need('b'), need('a'), need('b', { name: 'again', pointer: '/x' })]
    expect(dependenciesOf({ dependsOn: ['c', 'a'], needs })).toEqual(['c', 'a', 'b'])
  })

  it('goes on without a job only if all that it needs of it may fail', () => {
    const needs = [need('a', CONTINUE), need('b', CONTINUE), need('b', { name: 'again' })]
    expect(['a', 'b', 'c'].map((id) => goesOnWithout(needs, id))).toEqual([true, false, false])
  })
})

describe('a retry of a job with needs', () => {
  const stateOf = (id: string) => neededJob(id)?.state ?? null
  const ALL = ['done', 'dead', 'off', 'works', 'gone']

  it('waits for what is not final, and is prevented by what failed or is gone', () => {
    const needs = ALL.map((id) => need(id))
    expect(needsAtRetry(needs, false, stateOf)).toEqual({
      waitingFor: ['works'],
      failed: ['dead', 'off', 'gone'],
    })
    expect(needsAtRetry(needs, true, stateOf).failed).toEqual(['dead', 'off'])
  })

  it('goes on without what may fail', () => {
    const needs = ALL.map((id) => need(id, CONTINUE))
    expect(needsAtRetry(needs, false, stateOf)).toEqual({ waitingFor: ['works'], failed: [] })
  })
})
