// The promises of dependencies: a job starts when all its dependencies have succeeded, dies when
// one of them does not, and is never forgotten, whatever happens at the same time.
import { describe, expect, test } from 'vitest'
import type { ClaimedJob, Job } from '../../src/job/job.ts'
import { newJobId } from '../../src/job/job-id.ts'
import type { Store } from '../../src/store/store.ts'
import { ENGINES } from '../support/engines.ts'
import { useStore } from '../support/stores.ts'
import { until } from '../support/until.ts'
import {
  addEndpoint,
  bringTo,
  claimFrom,
  claimOne,
  enqueueMany,
  enqueueOne,
  jobOf,
  laterAgain,
  newJob,
  passed,
  success,
  sweep,
  sweepClean,
} from './fixtures.ts'

const HOUR_MS = 3_600_000
/** The option of a bulk retry. */
const BY_FILTER = { waives: false }

describe.each(ENGINES)('on %s', (engine) => {
  const place = useStore(engine)

  /** A job of an endpoint of its own, so that it can be claimed alone. */
  async function alone(dependsOn: string[] = []): Promise<Job> {
    const endpoint = await addEndpoint(place.store)
    return enqueueOne(place.store, endpoint, { dependsOn })
  }

  async function finish(job: Job, state: 'succeeded' | 'dead' | 'cancelled'): Promise<void> {
    await bringTo(place.store, await claimOne(place.store, job.endpoint), state)
  }

  async function stateOf({ id }: Job): Promise<string> {
    const { state, isBlocked, failure } = await jobOf(place.store, id)
    return isBlocked ? 'held' : (failure?.reason ?? state)
  }

  test('a job waits until all it depends on have succeeded', async () => {
    const { store } = place
    const [first, second] = [await alone(), await alone()]
    const last = await enqueueOne(store, await addEndpoint(store), {
      dependsOn: [first.id, second.id],
      runAt: store.clock.now() - HOUR_MS,
    })
    expect(last).toMatchObject({ isBlocked: true, state: 'queued' })
    expect(last.waitingFor.toSorted()).toEqual([first.id, second.id].toSorted())
    expect((await store.due(null)).endpoints).not.toContain(last.endpoint)
    await finish(first, 'succeeded')
    expect(await jobOf(store, last.id)).toMatchObject({ isBlocked: true, waitingFor: [second.id] })
    expect(await claimFrom(store, last.endpoint, 1)).toEqual([])
    const since = store.clock.now() - 1
    await finish(second, 'succeeded')
    expect(await jobOf(store, last.id)).toMatchObject({
      isBlocked: false,
      waitingFor: [],
      dependsOn: [first.id, second.id],
    })
    // The job counts as due from now on, although its runAt is long past.
    expect((await store.due(since)).endpoints).toContain(last.endpoint)
    expect((await store.due(null)).endpoints).toContain(last.endpoint)
    expect((await claimOne(store, last.endpoint)).jobId).toBe(last.id)
  })

  test('a chain and a diamond run from their beginning to their end', async () => {
    const top = await alone()
    const [left, right] = [await alone([top.id]), await alone([top.id])]
    const bottom = await alone([left.id, right.id])
    const states = () => Promise.all([top, left, right, bottom].map(stateOf))
    expect(await states()).toEqual(['queued', 'held', 'held', 'held'])
    await finish(top, 'succeeded')
    expect(await states()).toEqual(['succeeded', 'queued', 'queued', 'held'])
    await finish(left, 'succeeded')
    expect(await stateOf(bottom)).toBe('held')
    await finish(right, 'succeeded')
    expect(await stateOf(bottom)).toBe('queued')
  })

  test.each(['dead', 'cancelled'] as const)(
    'with one that is %s all die that depend on it, and those on them',
    async (state) => {
      const top = await alone()
      const other = await alone()
      const left = await alone([top.id, other.id])
      const right = await alone([top.id])
      const bottom = await alone([left.id, right.id])
      await finish(top, state)
      await until(async () => {
        await sweep(place.store)
        return (await stateOf(bottom)) !== 'held'
      })
      const states = await Promise.all([left, right, bottom, other].map(stateOf))
      expect(states).toEqual([...Array(3).fill('dependency_failed'), 'queued'])
      expect((await jobOf(place.store, left.id)).attempts).toEqual([])
    },
  )

  test('a retry of the one that died does not revive the others, their own retry does', async () => {
    const { store } = place
    const first = await alone()
    const second = await alone([first.id])
    await finish(first, 'dead')
    await sweep(store)
    await store.retry([first.id])
    await finish(first, 'succeeded')
    await sweep(store)
    expect(await stateOf(second)).toBe('dependency_failed')
    await store.retry([second.id])
    expect(await jobOf(store, second.id)).toMatchObject({
      state: 'queued',
      isBlocked: false,
      waitingFor: [],
      dependsOn: [first.id],
    })
    expect(await claimFrom(store, second.endpoint, 1)).toHaveLength(1)
  })

  /** A chain of three jobs. The first one is dead, and the others died of it. */
  async function deadChain(): Promise<[Job, Job, Job]> {
    const first = await alone()
    const second = await alone([first.id])
    const third = await alone([second.id])
    await finish(first, 'dead')
    await sweepClean(place.store)
    return [first, second, third]
  }

  test('the dependents of a job are those that wait for it, or died because of it', async () => {
    const { store } = place
    const [first, second, third] = await deadChain()
    const open = await alone()
    const [waits, alsoWaits] = [await alone([open.id]), await alone([open.id, first.id])]
    await sweepClean(store)
    const dependentsOf = async (...jobs: Job[]) => {
      const ids = jobs.map(({ id }) => id)
      return (await store.dependentsOf(ids, 10)).map(({ id, state }) => [id, state]).toSorted()
    }
    expect(await dependentsOf(third)).toEqual([])
    expect(await dependentsOf(second)).toEqual([[third.id, 'dead']])
    const ofFirst = [second, alsoWaits].map(({ id }) => [id, 'dead']).toSorted()
    expect(await dependentsOf(first)).toEqual(ofFirst)
    expect(await dependentsOf(open)).toEqual([[waits.id, 'queued']])
    expect(await store.dependentsOf([first.id, second.id, open.id], 2)).toHaveLength(2)
    await store.retry([first.id, second.id], BY_FILTER)
    expect(await dependentsOf(first)).toEqual(
      [
        [second.id, 'queued'],
        [alsoWaits.id, 'dead'],
      ].toSorted(),
    )
  })

  test('those retried together wait for one another again, and die together again', async () => {
    const { store } = place
    const chain = await deadChain()
    const ids = chain.map(({ id }) => id)
    const states = () => Promise.all(chain.map(stateOf))
    const applied = ids.map(() => ({ kind: 'applied' }))
    expect(await store.retry(ids, BY_FILTER)).toEqual(applied)
    expect(await states()).toEqual(['queued', 'held', 'held'])
    expect((await jobOf(store, chain[1].id)).waitingFor).toEqual([chain[0].id])
    await finish(chain[0], 'dead')
    expect(await states()).toEqual(['rejected', 'dependency_failed', 'dependency_failed'])
    expect(await store.retry(ids, BY_FILTER)).toEqual(applied)
    for (const job of chain) await finish(job, 'succeeded')
    expect(await states()).toEqual(Array(3).fill('succeeded'))
  })

  test('a bulk retry leaves those whose dependency stays dead or is gone', async () => {
    const { store } = place
    const [first, second, third] = await deadChain()
    const ids = [second.id, third.id]
    const left = [
      { kind: 'dependency_failed', jobIds: [first.id] },
      { kind: 'dependency_failed', jobIds: [second.id] },
    ]
    expect(await store.retry(ids, BY_FILTER)).toEqual(left)
    await store.deleteJob(first.id)
    expect(await store.retry(ids, BY_FILTER)).toEqual(left)
    const states = await Promise.all([second, third].map(stateOf))
    expect(states).toEqual(['dependency_failed', 'dependency_failed'])
  })

  test('a retry by id waives those that stay dead, and waits for those that do not', async () => {
    const { store } = place
    const [first, second, third] = await deadChain()
    const open = await alone()
    const both = await alone([first.id, open.id])
    await sweepClean(store)
    expect(await store.retry([second.id])).toEqual([{ kind: 'applied', waived: [first.id] }])
    expect(await store.retry([third.id])).toEqual([{ kind: 'applied' }])
    expect(await store.retry([both.id])).toEqual([{ kind: 'applied', waived: [first.id] }])
    expect(await Promise.all([second, third, both].map(stateOf))).toEqual([
      'queued',
      'held',
      'held',
    ])
    await finish(open, 'succeeded')
    await finish(second, 'succeeded')
    await finish(third, 'succeeded')
    expect(await stateOf(both)).toBe('queued')
    // A waived dependency stays waived: after a failure of its own, the job can be retried in bulk.
    await finish(both, 'dead')
    expect(await store.retry([both.id], BY_FILTER)).toEqual([{ kind: 'applied' }])
  })

  test('a dependency that was met is not asked for again, though it is gone', async () => {
    const { store } = place
    const first = await alone()
    const second = await alone([first.id])
    await finish(first, 'succeeded')
    await finish(second, 'dead')
    expect(await store.deleteJob(first.id)).toEqual({ kind: 'applied' })
    expect(await store.retry([second.id], BY_FILTER)).toEqual([{ kind: 'applied' }])
    expect(await stateOf(second)).toBe('queued')
  })

  test('one that waits again takes its old place before later jobs of its key', async () => {
    const { store } = place
    const ordered = { orderingKey: 'k' }
    const first = await alone()
    const endpoint = await addEndpoint(store)
    const early = await enqueueOne(store, endpoint, { ...ordered, dependsOn: [first.id] })
    const late = await enqueueOne(store, endpoint, ordered)
    await finish(first, 'dead')
    await sweepClean(store)
    expect(await stateOf(late)).toBe('queued')
    await store.retry([first.id, early.id], BY_FILTER)
    expect(await Promise.all([early, late].map(stateOf))).toEqual(['held', 'held'])
    await finish(first, 'succeeded')
    expect((await claimOne(store, endpoint)).jobId).toBe(early.id)
  })

  test('a retry while the one it waits for ends leaves no job behind for ever', async () => {
    const { store } = place
    const other = await place.open()
    for (let round = 0; round < 10; round++) {
      const state = round % 2 === 0 ? 'succeeded' : 'dead'
      const [first, second] = await deadChain()
      await store.retry([first.id])
      const claimed = await claimOne(store, first.endpoint)
      await Promise.all([bringTo(store, claimed, state), other.retry([second.id], BY_FILTER)])
      await sweepClean(store)
      expect(await stateOf(second)).toBe(state === 'succeeded' ? 'queued' : 'dependency_failed')
    }
  })

  test('one that has succeeded already is met, one that is dead already is the end', async () => {
    const { store } = place
    const [good, bad] = [await alone(), await alone()]
    await finish(good, 'succeeded')
    await finish(bad, 'dead')
    const ready = await alone([good.id])
    expect(ready).toMatchObject({ isBlocked: false, waitingFor: [], dependsOn: [good.id] })
    const late = await alone([good.id, bad.id])
    expect((await jobOf(store, late.id)).state).toBe('queued')
    expect(await claimFrom(store, late.endpoint, 1)).toEqual([])
    await sweep(store)
    expect(await stateOf(late)).toBe('dependency_failed')
  })

  test('one that is not stored is refused, and nothing of the request is stored', async () => {
    const { store } = place
    const endpoint = await addEndpoint(store)
    const [known, gone, unknown] = [await alone(), await alone(), newJobId(store.clock.now())]
    await finish(gone, 'succeeded')
    expect(await store.deleteJob(gone.id)).toEqual({ kind: 'applied' })
    for (const missing of [unknown, gone.id]) {
      const job = newJob(store, endpoint, { dependsOn: [known.id, missing] })
      const [result, other] = await store.enqueue([job, newJob(store, endpoint)])
      expect(result).toEqual({ kind: 'unknown_dependency', jobId: missing })
      expect(other?.kind).toBe('inserted')
      expect(await store.getJob(job.id)).toBeNull()
    }
  })

  test('in a batch a job may depend on an earlier one, not on a later one', async () => {
    const { store } = place
    const endpoint = await addEndpoint(store)
    const first = newJob(store, endpoint)
    const second = newJob(store, endpoint, { dependsOn: [first.id] })
    const third = newJob(store, endpoint, { dependsOn: [second.id] })
    const never = newJob(store, endpoint).id
    const jobs = [first, second, third, newJob(store, endpoint, { dependsOn: [never] })]
    const results = await store.enqueue(jobs)
    expect(results.map(({ kind }) => kind)).toEqual([
      'inserted',
      'inserted',
      'inserted',
      'unknown_dependency',
    ])
    for (const job of jobs.slice(0, 3)) {
      const claimed = await claimFrom(store, endpoint, 5)
      expect(claimed.map(({ jobId }) => jobId)).toEqual([job.id])
      await store.settle(claimed.map((one) => success(store, one)))
    }
    const self = newJob(store, endpoint)
    const [ownEnd] = await store.enqueue([{ ...self, dependsOn: [self.id] }])
    expect(ownEnd).toEqual({ kind: 'unknown_dependency', jobId: self.id })
    const [later, earlier] = [newJob(store, endpoint), newJob(store, endpoint)]
    const turned = await store.enqueue([{ ...earlier, dependsOn: [later.id] }, later])
    expect(turned.map(({ kind }) => kind)).toEqual(['unknown_dependency', 'inserted'])
  })

  test.each(['an earlier', 'a later'])(
    'a job dies with the one it depends on, which %s job of its batch displaces',
    async (displacer) => {
      const { store } = place
      const endpoint = await addEndpoint(store)
      const dedupe = { key: 'report-7', mode: 'replace' } as const
      const first = await enqueueOne(store, endpoint, { dedupe })
      await store.settle([laterAgain(store, await claimOne(store, endpoint))])
      const dependent = newJob(store, await addEndpoint(store), { dependsOn: [first.id] })
      const next = newJob(store, endpoint, { dedupe })
      const batch = displacer === 'a later' ? [dependent, next] : [next, dependent]
      const results = await store.enqueue(batch)
      expect(results.map(({ kind }) => kind)).toEqual(['inserted', 'inserted'])
      expect((await jobOf(store, first.id)).state).toBe('cancelled')
      const { state, failure } = await jobOf(store, dependent.id)
      expect([state, failure?.reason]).toEqual(['dead', 'dependency_failed'])
      expect((await jobOf(store, next.id)).state).toBe('queued')
    },
  )

  test('once met it stays met, though it is deleted or retried afterwards', async () => {
    const { store } = place
    const [met, open] = [await alone(), await alone()]
    const last = await alone([met.id, open.id])
    await finish(met, 'succeeded')
    expect(await store.deleteJob(met.id)).toEqual({ kind: 'applied' })
    await sweep(store)
    expect(await stateOf(last)).toBe('held')
    await finish(open, 'succeeded')
    expect(await stateOf(last)).toBe('queued')
  })

  test('a job that waits can be cancelled, and can expire', async () => {
    const { store } = place
    const first = await alone()
    const cancelled = await alone([first.id])
    expect(await store.cancel([cancelled.id])).toEqual([{ kind: 'applied' }])
    const endpoint = await addEndpoint(store)
    const expiresAt = store.clock.now() + 300
    const brief = await enqueueOne(store, endpoint, { dependsOn: [first.id], expiresAt })
    await passed(store, expiresAt)
    await sweep(store)
    expect(await stateOf(brief)).toBe('expired')
    await finish(first, 'succeeded')
    expect(await stateOf(cancelled)).toBe('cancelled')
  })

  test('one that expires, is lost or loses its endpoint takes its dependents along', async () => {
    const { store } = place
    const expiresAt = store.clock.now() + 300
    const brief = await enqueueOne(store, await addEndpoint(store), { expiresAt })
    const lost = await enqueueOne(store, await addEndpoint(store), { maxAttempts: 1 })
    const homeless = await alone()
    await claimOne(store, lost.endpoint, 1)
    const dependents: Job[] = []
    for (const job of [brief, lost, homeless]) dependents.push(await alone([job.id]))
    await store.deleteEndpoint(homeless.endpoint, { force: true, ifVersion: null })
    await passed(store, expiresAt)
    await until(async () => {
      await sweep(store)
      const states = await Promise.all(dependents.map(stateOf))
      return states.every((state) => state === 'dependency_failed')
    })
  })

  test('an enqueue while the one it depends on ends leaves no job behind for ever', async () => {
    const { store } = place
    const other = await place.open()
    for (let round = 0; round < 20; round++) {
      const state = round % 2 === 0 ? 'succeeded' : 'dead'
      const first = await alone()
      const endpoint = await addEndpoint(store)
      const claimed = await claimOne(store, first.endpoint)
      const [, last] = await Promise.all([
        bringTo(store, claimed, state),
        enqueueOne(other, endpoint, { dependsOn: [first.id] }),
      ])
      await until(async () => {
        await sweep(store)
        return (await stateOf(last)) !== 'held'
      })
      expect(await stateOf(last)).toBe(state === 'succeeded' ? 'queued' : 'dependency_failed')
    }
  })

  test('two ends of what one job waits for, at once, let it go', async () => {
    const { store } = place
    const other = await place.open()
    for (let round = 0; round < 20; round++) {
      const [first, second] = [await alone(), await alone()]
      const last = await alone([first.id, second.id])
      const [one, two] = [
        await claimOne(store, first.endpoint),
        await claimOne(store, second.endpoint),
      ]
      await Promise.all([settleBy(store, one), settleBy(other, two)])
      await until(async () => {
        await sweep(store)
        return (await stateOf(last)) === 'queued'
      })
      expect((await jobOf(store, last.id)).waitingFor).toEqual([])
    }
  })
})

describe.each(ENGINES)('many that wait for one job on %s', (engine) => {
  const place = useStore(engine)

  // More jobs than a store handles in one step. Until all are handled, the mark keeps the job.
  test.each(['succeeded', 'cancelled'] as const)(
    'all learn that it has %s, though it is deleted at once',
    { timeout: 60_000 },
    async (state) => {
      const { store } = place
      const [first, endpoint] = [await addEndpoint(store), await addEndpoint(store)]
      const { id } = await enqueueOne(store, first)
      const ids: string[] = []
      for (let batch = 0; batch < 3; batch++) {
        ids.push(...(await enqueueMany(store, endpoint, 150, { dependsOn: [id] })))
      }
      await bringTo(store, await claimOne(store, first), state)
      await store.deleteJob(id)
      await until(async () => {
        await sweep(store)
        const { items } = await store.listJobs({ endpoint, states: ['queued'], limit: 500 })
        return items.every(({ isBlocked }) => !isBlocked)
      }, 50_000)
      expect((await store.finalAmong(ids)).length).toBe(state === 'succeeded' ? 0 : 450)
    },
  )
})

async function settleBy(store: Store, claimed: ClaimedJob): Promise<void> {
  expect(await store.settle([success(store, claimed)])).toEqual(['applied'])
}
