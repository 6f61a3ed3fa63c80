// The promises of needs: a job gets the results of the jobs that it needs, exactly as they were
// recorded; the same bytes in every attempt; and it never runs without them.
import { describe, expect, test } from 'vitest'
import type { ClaimedJob, Job, JobState, NewJob } from '../../src/job/job.ts'
import type { Need } from '../../src/job/needs.ts'
import { ENGINES } from '../support/engines.ts'
import { useStore } from '../support/stores.ts'
import {
  addEndpoint,
  attemptOf,
  burial,
  claimFrom,
  claimOne,
  enqueueOne,
  jobOf,
  laterAgain,
  newJob,
  success,
  sweep,
  sweepClean,
} from './fixtures.ts'
import { neededForLong, needOf } from './lifecycle-cases/needs-cases.ts'

const RESULT = '{"z":1.0,"irn":18446744073709551615,"10":[1e2,-0],"a":"\\u0041"}'
/** More than a job of MongoDB holds itself, and not more than a result may be. */
const LARGE = `"${'x'.repeat(60_000)}"`
const BY_FILTER = { waives: false }

describe.each(ENGINES)('on %s', (engine) => {
  const place = useStore(engine)

  /** A job of an endpoint of its own, so that it can be claimed alone. */
  async function alone(needs: Need[] = [], fields: Partial<NewJob> = {}): Promise<Job> {
    return enqueueOne(place.store, await addEndpoint(place.store), { ...fields, needs })
  }

  async function succeed({ endpoint }: Job, result: string | null = RESULT): Promise<void> {
    const { store } = place
    const claimed = await claimOne(store, endpoint)
    const resultTruncated = result === null
    await store.settle([{ ...success(store, claimed), result, resultTruncated }])
  }

  async function die(job: Job): Promise<void> {
    const { store } = place
    await store.settle([burial(store, await claimOne(store, job.endpoint))])
    await sweepClean(store)
  }

  async function stateOf({ id }: Job): Promise<string> {
    const { state, isBlocked, failure } = await jobOf(place.store, id)
    return isBlocked ? 'held' : (failure?.reason ?? state)
  }

  async function inputsOf({ id }: Job): Promise<string | null> {
    const inputs = await place.store.getInputs(id)
    return inputs === null ? null : Buffer.from(inputs).toString()
  }

  const textOf = ({ inputs }: ClaimedJob) => inputs && Buffer.from(inputs).toString()

  test('a job waits for what it needs, and is claimed with it, byte for byte', async () => {
    const { store } = place
    const [first, second] = [await alone(), await alone()]
    const last = await alone([
      needOf(second.id, { name: 'b', pointer: '/irn' }),
      needOf(first.id, { name: 'a' }),
      needOf(second.id, { name: 'c', pointer: '/10/1' }),
    ])
    expect(last).toMatchObject({ isBlocked: true, state: 'queued', inputsBytes: null })
    expect(last.waitingFor.toSorted()).toEqual([first.id, second.id].toSorted())
    await succeed(first, 'null')
    expect([await stateOf(last), await inputsOf(last)]).toEqual(['held', null])
    expect(await claimFrom(store, last.endpoint, 1)).toEqual([])
    await succeed(second)
    const expected = '{"inputs":{"b":18446744073709551615,"a":null,"c":-0}}'
    expect(await inputsOf(last)).toBe(expected)
    expect(await jobOf(store, last.id)).toMatchObject({
      ...{ isBlocked: false, waitingFor: [], inputsBytes: expected.length },
      payloadBytes: last.payloadBytes,
    })
    const claimed = await claimOne(store, last.endpoint)
    expect(textOf(claimed)).toBe(expected)
    expect(Buffer.from(claimed.payload).toString()).toBe('{"n":1}')
    await store.settle([laterAgain(store, claimed)])
    expect(textOf(await claimOne(store, last.endpoint))).toBe(expected)
  })

  test('one that needs what has succeeded already has its inputs at once', async () => {
    const first = await alone()
    await succeed(first)
    const last = await alone([needOf(first.id)])
    expect(last).toMatchObject({ isBlocked: false, inputsBytes: RESULT.length + 21 })
    expect(await inputsOf(last)).toBe(`{"inputs":{"input":${RESULT}}}`)
    const [minimal] = await place.store.enqueue(
      [newJob(place.store, last.endpoint, { needs: [needOf(first.id)] })],
      () => true,
    )
    expect(minimal?.kind).toBe('inserted')
    expect(await claimFrom(place.store, last.endpoint, 2)).toHaveLength(2)
  })

  test('large inputs arrive whole, and a purged job leaves none behind', async () => {
    const { store } = place
    const parents: Job[] = []
    for (let i = 0; i < 3; i++) parents.push(await alone())
    const needs = parents.map(({ id }, i) => needOf(id, { name: `n${i}` }))
    const last = await alone(needs, { payload: Buffer.from(LARGE) })
    for (const parent of parents) await succeed(parent, LARGE)
    const claimed = await claimOne(store, last.endpoint)
    expect(textOf(claimed)).toBe(`{"inputs":{"n0":${LARGE},"n1":${LARGE},"n2":${LARGE}}}`)
    expect(Buffer.from(claimed.payload).toString()).toBe(LARGE)
    await store.settle([success(store, claimed)])
    expect(await store.deleteJob(last.id)).toEqual({ kind: 'applied' })
    expect(await inputsOf(last)).toBeNull()
  })

  test('a chain and a diamond hand results on from their beginning to their end', async () => {
    const top = await alone()
    const [left, right] = [await alone([needOf(top.id)]), await alone([needOf(top.id)])]
    const bottom = await alone([
      needOf(left.id, { name: 'left' }),
      needOf(right.id, { name: 'right' }),
    ])
    await succeed(top, '1')
    expect(await inputsOf(left)).toBe('{"inputs":{"input":1}}')
    await succeed(left, '2.0')
    expect(await stateOf(bottom)).toBe('held')
    await succeed(right, '3')
    expect(await inputsOf(bottom)).toBe('{"inputs":{"left":2.0,"right":3}}')
  })

  test.each(['dead', 'cancelled'] as const)('of one that is %s, each policy', async (state) => {
    const { store } = place
    const [first, other] = [await alone(), await alone()]
    const fails = await alone([needOf(first.id), needOf(other.id, { name: 'other' })])
    const goesOn = await alone([
      needOf(first.id, { ifFailed: 'continue', pointer: '/irn' }),
      needOf(other.id, { name: 'other' }),
    ])
    if (state === 'dead') await die(first)
    else await store.cancel([first.id])
    await sweepClean(store)
    expect(await jobOf(store, fails.id)).toMatchObject({
      state: 'dead',
      failure: { reason: 'dependency_failed', jobId: first.id },
    })
    expect(await stateOf(goesOn)).toBe('held')
    await succeed(other)
    const expected = `{"inputs":{"input":null,"other":${RESULT}},"failedInputs":["input"]}`
    expect(await inputsOf(goesOn)).toBe(expected)
    expect(textOf(await claimOne(store, goesOn.endpoint))).toBe(expected)
    const late = await alone([needOf(first.id, { ifFailed: 'continue' })])
    expect(await inputsOf(late)).toBe('{"inputs":{"input":null},"failedInputs":["input"]}')
  })

  test('a truncated result is null and named, and a pointer into it is missing', async () => {
    const { store } = place
    const first = await alone()
    const whole = await alone([needOf(first.id)])
    const part = await alone([needOf(first.id, { pointer: '/irn' })])
    const goesOn = await alone([needOf(first.id, { pointer: '/irn', ifFailed: 'continue' })])
    await succeed(first, null)
    await sweepClean(store)
    expect(await inputsOf(whole)).toBe('{"inputs":{"input":null},"truncatedInputs":["input"]}')
    expect(await inputsOf(goesOn)).toBe('{"inputs":{"input":null},"failedInputs":["input"]}')
    expect(await jobOf(store, part.id)).toMatchObject({
      state: 'dead',
      failure: { reason: 'input_missing', jobId: first.id },
      attempts: [],
    })
  })

  test('a pointer to nothing makes it dead, at enqueue with the next sweep', async () => {
    const { store } = place
    const first = await alone()
    const waits = await alone([needOf(first.id, { pointer: '/absent' })])
    const behind = await alone([needOf(waits.id)])
    await succeed(first)
    await sweepClean(store)
    expect(await Promise.all([waits, behind].map(stateOf))).toEqual([
      'input_missing',
      'dependency_failed',
    ])
    const late = await alone([needOf(first.id, { pointer: '/absent' })])
    expect(late.state).toBe('queued')
    expect(await claimFrom(store, late.endpoint, 1)).toEqual([])
    await sweepClean(store)
    expect(await stateOf(late)).toBe('input_missing')
  })

  test('inputs beyond 1 MiB make it dead', async () => {
    const { store } = place
    const parents: Job[] = []
    for (let i = 0; i < 18; i++) parents.push(await alone())
    for (const parent of parents) await succeed(parent, LARGE)
    const needs = parents.map(({ id }, i) => needOf(id, { name: `n${i}` }))
    const some = await alone(needs.slice(1))
    expect(some.inputsBytes).toBeGreaterThan(17 * 60_000)
    const all = await alone(needs)
    await sweepClean(store)
    expect(await jobOf(store, all.id)).toMatchObject({
      state: 'dead',
      failure: { reason: 'inputs_too_large' },
    })
  })

  test('with an ordering key it has its inputs when it gets the slot', async () => {
    const { store } = place
    const first = await alone()
    const endpoint = await addEndpoint(store)
    const ordered = { orderingKey: 'k' }
    const head = await enqueueOne(store, endpoint, ordered)
    const early = await enqueueOne(store, endpoint, { ...ordered, needs: [needOf(first.id)] })
    const late = await enqueueOne(store, endpoint, ordered)
    await succeed(first)
    expect([await stateOf(early), await inputsOf(early)]).toEqual(['held', null])
    expect(await store.deleteJob(first.id)).toEqual({ kind: 'needed', jobId: early.id })
    await succeed(head)
    const claimed = await claimOne(store, endpoint)
    expect([claimed.jobId, textOf(claimed)]).toEqual([early.id, `{"inputs":{"input":${RESULT}}}`])
    await store.settle([success(store, claimed)])
    expect((await claimOne(store, endpoint)).jobId).toBe(late.id)
  })

  test('one that loses its slot to an earlier job keeps the inputs that it has', async () => {
    const { store } = place
    const first = await alone()
    const endpoint = await addEndpoint(store)
    const ordered = { orderingKey: 'k' }
    const head = await enqueueOne(store, endpoint, ordered)
    const needs = [needOf(first.id, { ifFailed: 'continue' })]
    const late = await enqueueOne(store, endpoint, { ...ordered, needs })
    await store.cancel([first.id])
    await store.cancel([head.id])
    const expected = '{"inputs":{"input":null},"failedInputs":["input"]}'
    expect(await inputsOf(late)).toBe(expected)
    await store.retry([head.id, first.id])
    expect(await stateOf(late)).toBe('held')
    await succeed(first)
    await succeed(head)
    expect(textOf(await claimOne(store, endpoint))).toBe(expected)
  })

  test('with an ordering key and without inputs it makes way for the next one', async () => {
    const { store } = place
    const first = await alone()
    const endpoint = await addEndpoint(store)
    const ordered = { orderingKey: 'k' }
    const needs = [needOf(first.id, { pointer: '/absent' })]
    const early = await enqueueOne(store, endpoint, { ...ordered, needs })
    const late = await enqueueOne(store, endpoint, ordered)
    await succeed(first)
    await sweepClean(store)
    expect(await stateOf(early)).toBe('input_missing')
    expect((await claimOne(store, endpoint)).jobId).toBe(late.id)
  })

  test('a job that is needed is neither purged nor deleted before the other has it', async () => {
    const { store } = place
    const needed = await neededForLong(store)
    await sweepClean(store)
    expect(await stateOf({ id: needed.jobId } as Job)).toBe('succeeded')
    const [waiting] = (await store.listJobs({ states: ['queued'], limit: 1 })).items
    if (waiting === undefined) throw new Error('no job waits')
    expect(await store.deleteJob(needed.jobId)).toEqual({ kind: 'needed', jobId: waiting.id })
    const other = waiting.needs[1]?.jobId ?? ''
    await store.cancel([other])
    await sweepClean(store)
    expect(await stateOf(waiting as Job)).toBe('dependency_failed')
    // A sweep may have purged it meanwhile.
    expect((await store.deleteJob(needed.jobId)).kind).not.toBe('needed')
  })

  test('it may go once the other has its inputs, or waits no longer', async () => {
    const { store } = place
    const [first, second, open] = [await alone(), await alone(), await alone()]
    const gets = await alone([needOf(first.id)])
    const gone = await alone([needOf(second.id), needOf(open.id, { name: 'open' })])
    await succeed(first)
    await succeed(second)
    expect(await store.deleteJob(first.id)).toEqual({ kind: 'applied' })
    expect(await inputsOf(gets)).toBe(`{"inputs":{"input":${RESULT}}}`)
    expect(await store.deleteJob(second.id)).toEqual({ kind: 'needed', jobId: gone.id })
    await store.cancel([gone.id])
    expect(await store.deleteJob(second.id)).toEqual({ kind: 'applied' })
  })

  test('one that is not stored is refused', async () => {
    const { store } = place
    const first = await alone()
    await succeed(first)
    await store.deleteJob(first.id)
    const job = newJob(store, first.endpoint, { needs: [needOf(first.id)] })
    const [result] = await store.enqueue([job])
    expect(result).toEqual({ kind: 'unknown_dependency', jobId: first.id })
  })

  test('in a batch a job may need an earlier one', async () => {
    const { store } = place
    const endpoint = await addEndpoint(store)
    const first = newJob(store, endpoint, { idempotency: { key: 'k', requestHash: 'h' } })
    const second = newJob(store, endpoint, { needs: [needOf(first.id)] })
    const results = await store.enqueue([first, second])
    expect(results.map(({ kind }) => kind)).toEqual(['inserted', 'inserted'])
    const claimed = await claimOne(store, endpoint)
    await store.settle([success(store, claimed)])
    expect(textOf(await claimOne(store, endpoint))).toBe('{"inputs":{"input":{"ok":1}}}')
  })

  test('a copy with inputs has them, and needs nothing', async () => {
    const { store } = place
    const inputs = Buffer.from(`{"inputs":{"a":${LARGE}}}`)
    const copy = await alone([], { inputs })
    expect(copy).toMatchObject({ isBlocked: false, needs: [], inputsBytes: inputs.length })
    const claimed = await claimOne(store, copy.endpoint)
    expect(textOf(claimed)).toBe(inputs.toString())
    await store.settle([burial(store, claimed)])
    await store.retry([copy.id])
    expect(textOf(await claimOne(store, copy.endpoint))).toBe(inputs.toString())
  })

  test('another payload leaves the inputs as they are', async () => {
    const { store } = place
    const first = await alone()
    const dedupe = { key: 'report-7', mode: 'replace' } as const
    const last = await alone([needOf(first.id)], { dedupe, payload: Buffer.from(LARGE) })
    await succeed(first, LARGE)
    await store.enqueue([newJob(store, last.endpoint, { dedupe, payload: Buffer.from('2') })])
    expect(await jobOf(store, last.id)).toMatchObject({ payloadBytes: 1 })
    await store.edit(last.id, { payload: Buffer.from(LARGE) }, null)
    expect(await jobOf(store, last.id)).toMatchObject({ payloadBytes: LARGE.length })
    const claimed = await claimOne(store, last.endpoint)
    expect(Buffer.from(claimed.payload).toString()).toBe(LARGE)
    expect(textOf(claimed)).toBe(`{"inputs":{"input":${LARGE}}}`)
  })

  describe('a retry', () => {
    const failed = (...jobIds: string[]) => [{ kind: 'dependency_failed', jobIds }]

    test('never waives what the job needs, by id or in bulk', async () => {
      const { store } = place
      const first = await alone()
      const second = await alone([needOf(first.id)])
      await die(first)
      for (const options of [undefined, BY_FILTER]) {
        expect(await store.retry([second.id], options)).toEqual(failed(first.id))
      }
      expect(await store.retry([first.id, second.id], BY_FILTER)).toEqual([
        { kind: 'applied' },
        { kind: 'applied' },
      ])
      expect(await stateOf(second)).toBe('held')
      await succeed(first)
      expect(await inputsOf(second)).toBe(`{"inputs":{"input":${RESULT}}}`)
    })

    test('is refused when what it needs is gone and it never had the input', async () => {
      const { store } = place
      const first = await alone()
      const second = await alone([needOf(first.id)])
      await die(first)
      await store.deleteJob(first.id)
      expect(await store.retry([second.id])).toEqual(failed(first.id))
    })

    test('makes the inputs again; one that is gone keeps its input', async () => {
      const { store } = place
      const [gone, again] = [await alone(), await alone()]
      const last = await alone([
        needOf(gone.id, { name: 'gone', pointer: '/irn' }),
        needOf(again.id, { name: 'again', ifFailed: 'continue' }),
      ])
      await succeed(gone)
      await die(again)
      const before =
        '{"inputs":{"gone":18446744073709551615,"again":null},"failedInputs":["again"]}'
      expect(await inputsOf(last)).toBe(before)
      await die(last)
      await store.deleteJob(gone.id)
      await store.retry([again.id])
      expect(await store.retry([last.id])).toEqual([{ kind: 'applied' }])
      expect([await stateOf(last), await inputsOf(last)]).toEqual(['held', null])
      await succeed(again, LARGE)
      const after = `{"inputs":{"gone":18446744073709551615,"again":${LARGE}}}`
      expect(await inputsOf(last)).toBe(after)
      await die(last)
      await store.deleteJob(again.id)
      expect(await store.retry([last.id])).toEqual([{ kind: 'applied' }])
      expect(textOf(await claimOne(store, last.endpoint))).toBe(after)
      expect(await jobOf(store, last.id)).toMatchObject({ payloadBytes: last.payloadBytes })
    })

    test('clears the job that was named in the failure', async () => {
      const { store } = place
      const first = await alone()
      const second = await alone([needOf(first.id)])
      await die(first)
      await store.retry([first.id])
      await store.retry([second.id])
      await succeed(first)
      await die(second)
      expect((await jobOf(store, second.id)).failure).toEqual({
        reason: 'rejected',
        message: 'HTTP 422',
      })
    })
  })

  test.each(['succeeded', 'dead'] as const)(
    'an enqueue while what it needs becomes %s leaves no job behind, nor without inputs',
    async (state: JobState) => {
      const { store } = place
      const other = await place.open()
      for (let round = 0; round < 10; round++) {
        const first = await alone()
        const endpoint = await addEndpoint(store)
        const claimed = await claimOne(store, first.endpoint)
        const end = state === 'dead' ? burial(store, claimed) : success(store, claimed)
        const [, last] = await Promise.all([
          store.settle([end]),
          enqueueOne(other, endpoint, { needs: [needOf(first.id)] }),
        ])
        await sweepClean(store)
        const expected = state === 'dead' ? 'dependency_failed' : 'queued'
        expect(await stateOf(last)).toBe(expected)
        if (state === 'succeeded') {
          const [job] = await claimFrom(store, endpoint, 1)
          expect(job && textOf(job)).toBe('{"inputs":{"input":{"ok":1}}}')
        }
      }
    },
  )

  test('a deletion while another begins to need it takes place before, or not', async () => {
    const { store } = place
    const other = await place.open()
    for (let round = 0; round < 10; round++) {
      const [first, open] = [await alone(), await alone()]
      await succeed(first)
      const endpoint = await addEndpoint(store)
      const job = newJob(store, endpoint, {
        needs: [needOf(first.id), needOf(open.id, { name: 'open' })],
      })
      const [deleted, [stored]] = await Promise.all([
        store.deleteJob(first.id),
        other.enqueue([job]),
      ])
      await succeed(open)
      await sweepClean(store)
      if (deleted.kind === 'needed') {
        expect(await stateOf(job as unknown as Job)).toBe('queued')
      } else if (stored?.kind === 'inserted') {
        // The enqueue had read the job before it was deleted.
        expect(await stateOf(stored.job)).toBe('dependency_failed')
      }
    }
  })
})

describe.each(ENGINES)('many that need one job on %s', (engine) => {
  const place = useStore(engine)

  test('all get its result, though no step writes all of them', { timeout: 60_000 }, async () => {
    const { store } = place
    const [first, endpoint] = [await addEndpoint(store), await addEndpoint(store)]
    const { id } = await enqueueOne(store, first)
    const jobs = Array.from({ length: 450 }, () => newJob(store, endpoint, { needs: [needOf(id)] }))
    for (let at = 0; at < jobs.length; at += 150) await store.enqueue(jobs.slice(at, at + 150))
    const claimed = await claimOne(store, first)
    const attempt = attemptOf(store, claimed, { outcome: 'succeeded' })
    await store.settle([{ ...success(store, claimed), attempt, result: LARGE }])
    await sweepClean(store)
    expect(await store.deleteJob(id)).toEqual({ kind: 'applied' })
    const inputs = await Promise.all(jobs.map((job) => store.getInputs(job.id)))
    const expected = `{"inputs":{"input":${LARGE}}}`
    expect(inputs.every((one) => one !== null && Buffer.from(one).toString() === expected)).toBe(
      true,
    )
    await sweep(store)
  })
})
