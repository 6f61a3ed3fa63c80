// enqueue with minimal results: the same jobs as without, but only their id, state and version.
import { describe, expect, test } from 'vitest'
import type { NewJob } from '../../src/job/job.ts'
import type { Store } from '../../src/store/store.ts'
import { ENGINES } from '../support/engines.ts'
import { useStore } from '../support/stores.ts'
import { addEndpoint, bringTo, claimOne, enqueueOne, jobOf, newJob } from './fixtures.ts'

const KEY = { key: 'order-7', requestHash: 'hash-1' }
const OTHER_KEY = { key: 'order-8', requestHash: 'hash-2' }

describe.each(ENGINES)('on %s', (engine) => {
  const place = useStore(engine)

  async function askMinimal(store: Store, endpoint: string, fields: Partial<NewJob> = {}) {
    const [result] = await store.enqueue([newJob(store, endpoint, fields)], () => true)
    if (result === undefined) throw new Error('no answer')
    return result
  }

  /** Expects the id, the state, the version and the group that the job has now, and nothing else. */
  async function expectMinimal(store: Store, endpoint: string, kind: string, fields = {}) {
    const result = await askMinimal(store, endpoint, fields)
    if (!('job' in result)) throw new Error(result.kind)
    const { id, state, version, group } = await jobOf(store, result.job.id)
    expect(result).toEqual({ kind, job: { id, state, version, group } })
    return id
  }

  test('a new job is stored as a whole', async () => {
    const { store } = place
    const endpoint = await addEndpoint(store)
    const fields = { tags: ['a'], metadata: { b: 'c' }, payload: Buffer.from('[1.0]') }
    const id = await expectMinimal(store, endpoint, 'inserted', fields)
    const job = await jobOf(store, id)
    expect(job).toMatchObject({ endpoint, tags: ['a'], metadata: { b: 'c' }, payloadBytes: 5 })
    expect(Buffer.from(job.payload).toString()).toBe('[1.0]')
  })

  test.each(['queued', 'running', 'succeeded', 'dead', 'cancelled'] as const)(
    'a key finds its job, also with a large payload, while that is %s',
    async (state) => {
      const { store } = place
      for (const payload of [Buffer.from('1'), Buffer.alloc(20_000, '1')]) {
        const endpoint = await addEndpoint(store)
        const { id } = await enqueueOne(store, endpoint, { payload, idempotency: KEY })
        if (state !== 'queued') {
          const claimed = await claimOne(store, endpoint)
          if (state !== 'running') await bringTo(store, claimed, state)
        }
        const fields = { payload, idempotency: KEY }
        expect(await expectMinimal(store, endpoint, 'existing', fields)).toBe(id)
        expect((await jobOf(store, id)).state).toBe(state)
      }
    },
  )

  test('a dedupe key keeps or replaces its job, and adds the idempotency key', async () => {
    const { store } = place
    const endpoint = await addEndpoint(store)
    const dedupe = { key: 'd', mode: 'keep' as const }
    const id = await expectMinimal(store, endpoint, 'inserted', { dedupe })
    expect(await expectMinimal(store, endpoint, 'existing', { dedupe })).toBe(id)
    const keyed = { dedupe, idempotency: KEY }
    expect(await expectMinimal(store, endpoint, 'existing', keyed)).toBe(id)
    expect(await expectMinimal(store, endpoint, 'existing', { idempotency: KEY })).toBe(id)
    const replace = { key: 'd', mode: 'replace' as const }
    const fields = { dedupe: replace, priority: 9, idempotency: OTHER_KEY }
    expect(await expectMinimal(store, endpoint, 'existing', fields)).toBe(id)
    expect(await jobOf(store, id)).toMatchObject({ priority: 9, version: 2 })
    const reject = { dedupe: { key: 'd', mode: 'reject' as const } }
    expect(await askMinimal(store, endpoint, reject)).toEqual({
      kind: 'dedupe_conflict',
      jobId: id,
    })
  })

  test('a blocked job is queued, and the head of an ordering key has been promoted', async () => {
    const { store } = place
    const endpoint = await addEndpoint(store)
    const ordered = { orderingKey: 'o', idempotency: KEY }
    const head = await expectMinimal(store, endpoint, 'inserted', ordered)
    const next = { orderingKey: 'o', idempotency: OTHER_KEY }
    const blocked = await expectMinimal(store, endpoint, 'inserted', next)
    expect((await jobOf(store, head)).isBlocked).toBe(false)
    expect((await jobOf(store, blocked)).isBlocked).toBe(true)
    expect(await expectMinimal(store, endpoint, 'existing', next)).toBe(blocked)
    const dependent = { dependsOn: [head] }
    await expectMinimal(store, endpoint, 'inserted', dependent)
  })

  test('what is refused is refused in the same way', async () => {
    const { store } = place
    const endpoint = await addEndpoint(store)
    const id = await expectMinimal(store, endpoint, 'inserted', { idempotency: KEY })
    const reused = { idempotency: { ...KEY, requestHash: 'another' } }
    expect(await askMinimal(store, endpoint, reused)).toEqual({ kind: 'key_reused', jobId: id })
    expect(await askMinimal(store, 'nobody')).toEqual({ kind: 'unknown_endpoint' })
  })

  test('whole and minimal results of one batch do not affect each other', async () => {
    const { store } = place
    const endpoint = await addEndpoint(store)
    const large = Buffer.alloc(20_000, '1')
    const known = await enqueueOne(store, endpoint, { idempotency: KEY, payload: large })
    const added = { dedupe: { key: 'd', mode: 'keep' as const } }
    const holder = await enqueueOne(store, endpoint, added)
    const fields: Partial<NewJob>[] = [{}, { idempotency: KEY, payload: large }, added]
    const jobs = [...fields, ...fields].map((one) => newJob(store, endpoint, one))
    const results = await store.enqueue(jobs, (index) => index >= fields.length)
    const ids = [jobs[0]?.id, known.id, holder.id, jobs[3]?.id, known.id, holder.id]
    for (const [i, result] of results.entries()) {
      const whole = await jobOf(store, ids[i] as string)
      const { id, state, version } = whole
      const isNew = i % fields.length === 0
      expect(result.kind).toBe(isNew ? 'inserted' : 'existing')
      if (i < fields.length) expect(result).toMatchObject({ job: { ...whole, payload: {} } })
      else expect(result).toMatchObject({ job: { id, state, version } })
    }
  })
})
