// The promises of onFinish: each time a job becomes final, one notice is enqueued, whichever
// process wrote the end, and however often sweeps find the job.
import { describe, expect, test } from 'vitest'
import { newSecret } from '../../src/endpoint/endpoint.ts'
import { type Job, type JobState, MAX_HOPS, type NewJob } from '../../src/job/job.ts'
import { ENGINES } from '../support/engines.ts'
import { useStore } from '../support/stores.ts'
import { until } from '../support/until.ts'
import {
  addEndpoint,
  bringTo,
  burial,
  claimOne,
  endpointOf,
  enqueueOne,
  freshName,
  jobOf,
  laterAgain,
  newJob,
  passed,
  report,
  settingsOf,
  success,
  sweep,
} from './fixtures.ts'

const ALL_STATES: JobState[] = ['succeeded', 'dead', 'cancelled']

describe.each(ENGINES)('on %s', (engine) => {
  const place = useStore(engine)

  /** Makes a claimed job with an onFinish, and the endpoint of its notices. */
  async function claimWithNotice(
    fields: Partial<NewJob> = {},
    states = ALL_STATES,
    leaseMs?: number,
  ) {
    const { store } = place
    const notified = await addEndpoint(store)
    const endpoint = await addEndpoint(store)
    const onFinish = { endpoint: notified, states }
    const job = await enqueueOne(store, endpoint, { onFinish, ...fields })
    return { notified, job, claimed: await claimOne(store, endpoint, leaseMs) }
  }

  async function noticesAt(endpoint: string): Promise<Job[]> {
    const { items } = await place.store.listJobs({ endpoint, limit: 100 })
    return Promise.all(items.toReversed().map(({ id }) => jobOf(place.store, id)))
  }

  async function textsAt(endpoint: string): Promise<string[]> {
    return (await noticesAt(endpoint)).map(({ payload }) => Buffer.from(payload).toString())
  }

  test('the notice of a success has its result as it came, and the metadata', async () => {
    const { store } = place
    const { notified, claimed } = await claimWithNotice({
      ...{ metadata: { customer: '7' }, fairnessKey: 'tenant-7', cost: 3 },
    })
    const result = '{"id":12345678901234567890}'
    await store.settle([{ ...success(store, claimed), result }])
    const { jobId, endpoint } = claimed
    expect(await textsAt(notified)).toEqual([
      `{"jobId":"${jobId}","endpoint":"${endpoint}","state":"succeeded",` +
        `"metadata":{"customer":"7"},"result":${result}}`,
    ])
    expect(await noticesAt(notified)).toMatchObject([
      {
        ...{ state: 'queued', onFinish: null, isBlocked: false, idempotencyKey: null, tags: [] },
        ...{ fairnessKey: 'tenant-7', cost: 1 },
      },
    ])
    expect((await store.due(claimed.claimedAt - 1)).endpoints).toContain(notified)
  })

  test('the notice of a dead job has its failure, that of a cancelled one has none', async () => {
    const { store } = place
    const dead = await claimWithNotice()
    await store.settle([burial(store, dead.claimed)])
    const [death] = await textsAt(dead.notified)
    expect(JSON.parse(death as string)).toEqual({
      jobId: dead.job.id,
      endpoint: dead.job.endpoint,
      state: 'dead',
      metadata: {},
      failure: { reason: 'rejected', message: 'HTTP 422' },
    })
    const cancelled = await claimWithNotice()
    await store.cancel([cancelled.job.id])
    const [cancel] = await textsAt(cancelled.notified)
    expect(JSON.parse(cancel as string)).toMatchObject({ state: 'cancelled', failure: null })
  })

  test.each(ALL_STATES)('only the final states that it names have a notice: %s', async (state) => {
    const { store } = place
    const named = await claimWithNotice({}, [state])
    await bringTo(store, named.claimed, state)
    expect(await noticesAt(named.notified)).toHaveLength(1)
    const others = ALL_STATES.filter((other) => other !== state)
    const unnamed = await claimWithNotice({}, others)
    await bringTo(store, unnamed.claimed, state)
    await sweep(store)
    expect(await noticesAt(unnamed.notified)).toEqual([])
  })

  test('an attempt after which the job is not final has no notice', async () => {
    const { store } = place
    const { notified, claimed } = await claimWithNotice()
    await store.settle([laterAgain(store, claimed)])
    await sweep(store)
    expect(await noticesAt(notified)).toEqual([])
  })

  test('a job that becomes final twice has two notices', async () => {
    const { store } = place
    const { notified, job, claimed } = await claimWithNotice()
    await store.settle([burial(store, claimed)])
    await store.retry([job.id])
    await store.settle([success(store, await claimOne(store, job.endpoint))])
    await sweep(store)
    const states = (await textsAt(notified)).map((text) => JSON.parse(text).state)
    expect(states).toEqual(['dead', 'succeeded'])
  })

  test('a job with the id of one that was deleted has a notice, too', async () => {
    const { store } = place
    const { notified, job, claimed } = await claimWithNotice()
    await store.settle([burial(store, claimed)])
    expect(await store.deleteJob(job.id)).toEqual({ kind: 'applied' })
    const onFinish = { endpoint: notified, states: ALL_STATES }
    const { id, createdAt } = job
    await enqueueOne(store, job.endpoint, { id, createdAt: createdAt + 1, onFinish })
    await store.cancel([id])
    await sweep(store)
    const states = (await textsAt(notified)).map((text) => JSON.parse(text).state)
    expect(states).toEqual(['dead', 'cancelled'])
  })

  test('an end that is written again, and swept by three, has one notice', async () => {
    const stores = [place.store, await place.open(), await place.open()]
    for (let round = 0; round < 10; round++) {
      const { notified, claimed } = await claimWithNotice()
      await Promise.all(
        stores.map(async (store) => {
          await store.settle([success(store, claimed)])
          await sweep(store)
        }),
      )
      await until(async () => {
        await sweep(place.store)
        return (await noticesAt(notified)).length > 0
      })
      expect(await noticesAt(notified)).toHaveLength(1)
    }
  })

  test('ends that a sweeper writes have a notice, too', async () => {
    const { store } = place
    const expiresAt = store.clock.now() + 800
    const expiring = await claimWithNotice({ expiresAt })
    await store.settle([laterAgain(store, expiring.claimed)])
    const lost = await claimWithNotice({ maxAttempts: 1 }, ALL_STATES, 1)
    const homeless = await claimWithNotice()
    await store.deleteEndpoint(homeless.job.endpoint, { force: true, ifVersion: null })
    await passed(store, expiresAt)
    const reasons = ['expired', 'lease_lost', 'endpoint_gone']
    const endpoints = [expiring.notified, lost.notified, homeless.notified]
    await until(async () => {
      await sweep(store)
      const texts = (await Promise.all(endpoints.map(textsAt))).flat()
      return texts.length === 3
    })
    const texts = (await Promise.all(endpoints.map(textsAt))).flat()
    expect(texts.map((text) => JSON.parse(text).failure.reason)).toEqual(reasons)
  })

  test('a job takes what its endpoint says when it is enqueued, unless it says so itself', async () => {
    const { store } = place
    const [notified, other] = [await addEndpoint(store), await addEndpoint(store)]
    const onFinish = { endpoint: notified, states: ALL_STATES }
    const name = await addEndpoint(store, { onFinish })
    const taken = await enqueueOne(store, name)
    expect(taken.onFinish).toEqual(onFinish)
    const own = { endpoint: other, states: ['dead'] as JobState[] }
    expect((await enqueueOne(store, name, { onFinish: own })).onFinish).toEqual(own)
    const silent = await enqueueOne(store, name, { onFinish: null })
    expect(silent.onFinish).toBeNull()
    expect((await jobOf(store, silent.id)).onFinish).toBeNull()
    const settings = settingsOf({ name, onFinish: null })
    await store.putEndpoint(settings, { given: null, fresh: newSecret() }, null)
    expect((await enqueueOne(store, name)).onFinish).toBeNull()
    expect((await jobOf(store, taken.id)).onFinish).toEqual(onFinish)
  })

  test('a notice has none itself, though its endpoint has notices of others', async () => {
    const { store } = place
    const notified = freshName()
    await addEndpoint(store, {
      name: notified,
      onFinish: { endpoint: notified, states: ALL_STATES },
    })
    const endpoint = await addEndpoint(store)
    const onFinish = { endpoint: notified, states: ALL_STATES }
    await enqueueOne(store, endpoint, { onFinish })
    await store.settle([success(store, await claimOne(store, endpoint))])
    const [notice] = await noticesAt(notified)
    expect(notice?.onFinish).toBeNull()
    await store.settle([success(store, await claimOne(store, notified))])
    await sweep(store)
    expect(await noticesAt(notified)).toHaveLength(1)
  })

  test('an endpoint that is unknown or being deleted is refused at enqueue', async () => {
    const { store } = place
    const deleting = await addEndpoint(store)
    await enqueueOne(store, deleting)
    await store.deleteEndpoint(deleting, { force: true, ifVersion: null })
    const endpoint = await addEndpoint(store)
    for (const name of [freshName(), deleting]) {
      const onFinish = { endpoint: name, states: ALL_STATES }
      const [result] = await store.enqueue([newJob(store, endpoint, { onFinish })])
      expect(result).toEqual({ kind: 'unknown_notice_endpoint', endpoint: name })
    }
    expect((await store.countJobs([endpoint]))[0]).toMatchObject({ queued: 0 })
  })

  test('a notice whose endpoint is gone by then is dropped with a warning', async () => {
    const { store } = place
    const { notified, job, claimed } = await claimWithNotice()
    await store.deleteEndpoint(notified, { force: false, ifVersion: null })
    expect(await store.endpointsNamed([notified])).toEqual([])
    expect(await store.settle([success(store, claimed)])).toEqual(['applied'])
    const dropped = {
      fields: { jobId: job.id, endpoint: notified, reason: 'endpoint_not_found' },
      message: 'notice.dropped',
    }
    await until(async () => {
      await sweep(store)
      return place.warnings.some(({ fields }) => fields.jobId === job.id)
    })
    expect(place.warnings.filter(({ fields }) => fields.jobId === job.id)).toEqual([dropped])
    expect(await store.deleteJob(job.id)).toEqual({ kind: 'applied' })
  })

  test('a default that leads to a deleted endpoint drops the notices, not the jobs', async () => {
    const { store } = place
    const notified = await addEndpoint(store)
    const name = await addEndpoint(store, { onFinish: { endpoint: notified, states: ALL_STATES } })
    await store.deleteEndpoint(notified, { force: false, ifVersion: null })
    const { id } = await enqueueOne(store, name)
    await store.settle([success(store, await claimOne(store, name))])
    await until(async () => {
      await sweep(store)
      return place.warnings.some(({ fields }) => fields.jobId === id)
    })
    expect((await jobOf(store, id)).state).toBe('succeeded')
    expect(await noticesAt(notified)).toEqual([])
  })

  test('an earlier request that named a deleted endpoint is repeated, without its notice', async () => {
    const { store } = place
    const name = await addEndpoint(store)
    const notified = freshName()
    const onFinish = { endpoint: notified, states: ALL_STATES }
    const { id } = await enqueueOne(store, name, { onFinish, hasEarlierOnFinish: true })
    expect((await jobOf(store, id)).onFinish).toEqual(onFinish)
    await store.settle([success(store, await claimOne(store, name))])
    await until(async () => {
      await sweep(store)
      return place.warnings.some(({ fields }) => fields.jobId === id)
    })
    expect((await jobOf(store, id)).state).toBe('succeeded')
  })

  test.each([undefined, 'x'])(
    'a loop through notices ends at the most hops (trace: %s)',
    async (id) => {
      const { store } = place
      const [notified, endpoint] = [await addEndpoint(store), await addEndpoint(store)]
      const onFinish = { endpoint: notified, states: ALL_STATES }
      const trace = id === undefined ? null : { traceparent: id, tracestate: null }
      // The handler of each notice enqueues the next job, with the hops of its delivery.
      for (let hops = 0; hops < MAX_HOPS; hops += 2) {
        await enqueueOne(store, endpoint, { onFinish, hops, trace })
        await store.settle([success(store, await claimOne(store, endpoint))])
        const notice = await claimOne(store, notified)
        expect(notice.hops).toBe(hops + 1)
        await store.settle([success(store, notice)])
      }
      const last = await enqueueOne(store, endpoint, { onFinish, hops: MAX_HOPS, trace })
      await store.settle([success(store, await claimOne(store, endpoint))])
      await sweep(store)
      expect((await jobOf(store, last.id)).state).toBe('succeeded')
      expect(await noticesAt(notified)).toHaveLength(MAX_HOPS / 2)
      expect(place.warnings.filter(({ fields }) => fields.jobId === last.id)).toEqual([
        {
          fields: { jobId: last.id, endpoint: notified, reason: 'too_many_hops' },
          message: 'notice.dropped',
        },
      ])
      expect(await store.deleteJob(last.id)).toEqual({ kind: 'applied' })
    },
  )

  test('a notice to an endpoint that is being deleted is dropped too', async () => {
    const { store } = place
    const { notified, job, claimed } = await claimWithNotice()
    await enqueueOne(store, notified)
    await store.deleteEndpoint(notified, { force: true, ifVersion: null })
    await store.settle([success(store, claimed)])
    await until(async () => {
      await sweep(store)
      return place.warnings.some(({ fields }) => fields.jobId === job.id)
    })
    expect(await noticesAt(notified)).toHaveLength(1)
  })

  test('a disabled endpoint takes notices, which wait until it is resumed', async () => {
    const { store } = place
    const { notified, claimed } = await claimWithNotice()
    await report(store, notified, { goneAtVersion: 1 })
    expect((await endpointOf(store, notified)).disabledReason).toBe('gone')
    await store.settle([success(store, claimed)])
    expect(await noticesAt(notified)).toHaveLength(1)
    await store.resumeEndpoint(notified)
    expect((await claimOne(store, notified)).endpoint).toBe(notified)
  })

  test('a request of one origin that is known returns the job that it made', async () => {
    const { store } = place
    const endpoint = await addEndpoint(store)
    const originKey = 'tick:nightly:1800000000000'
    const first = await enqueueOne(store, endpoint, { originKey })
    const again = newJob(store, endpoint, { originKey })
    expect(
      await store.enqueue([again, { ...again, id: newJob(store, endpoint).id }]),
    ).toMatchObject([
      { kind: 'existing', job: { id: first.id } },
      { kind: 'existing', job: { id: first.id } },
    ])
    const elsewhere = await enqueueOne(store, await addEndpoint(store), { originKey })
    expect(elsewhere.id).not.toBe(first.id)
  })
})
