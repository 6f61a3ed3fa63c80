// The promises of the store about endpoints: versions, secrets, deletion, counts.
import { describe, expect, test } from 'vitest'
import {
  type EndpointSettings,
  newSecret,
  type PutEndpointResult,
} from '../../src/endpoint/endpoint.ts'
import { DEFAULT_RETRY } from '../../src/job/retry-policy.ts'
import { ENGINES } from '../support/engines.ts'
import { useStore } from '../support/stores.ts'
import { until } from '../support/until.ts'
import {
  addEndpoint,
  claimFrom,
  claimOne,
  enqueueMany,
  enqueueOne,
  freshName,
  jobOf,
  leaseOf,
  newJob,
  settingsOf,
  success,
  sweep,
} from './fixtures.ts'

const NO_CONDITION = { force: false, ifVersion: null }
const FORCE = { force: true, ifVersion: null }

describe.each(ENGINES)('on %s', (engine) => {
  const place = useStore(engine)

  function described(changes: Partial<EndpointSettings> = {}): EndpointSettings {
    return settingsOf({
      description: 'makes “PDFs”',
      headers: { authorization: 'Bearer 1234' },
      retry: { ...DEFAULT_RETRY, backoff: { type: 'schedule', delaysMs: [1, 2], jitter: 0 } },
      ...changes,
    })
  }

  function put(
    settings: EndpointSettings,
    secrets: { given?: string; fresh?: string } = {},
    ifVersion: number | null = null,
  ): Promise<PutEndpointResult> {
    const { given = null, fresh = newSecret() } = secrets
    return place.store.putEndpoint(settings, { given, fresh }, ifVersion)
  }

  test('a new endpoint takes the fresh secret and is read back as it was returned', async () => {
    const settings = described()
    const fresh = newSecret()
    const result = await put(settings, { fresh })
    expect(result).toMatchObject({
      kind: 'created',
      endpoint: { ...settings, secrets: [fresh], deleting: false, version: 1 },
    })
    const stored = await place.store.endpointsNamed([settings.name, freshName()])
    expect(stored).toEqual(['endpoint' in result && result.endpoint])
  })

  test('a replaced endpoint keeps its secret unless a new one is given', async () => {
    const settings = described()
    const [first, second] = [newSecret(), newSecret()]
    const created = await put(settings, { given: first })
    expect(created).toMatchObject({ kind: 'created', endpoint: { secrets: [first] } })
    const kept = await put({ ...settings, timeoutMs: 900, headers: {} })
    expect(kept).toMatchObject({
      kind: 'replaced',
      endpoint: { secrets: [first], timeoutMs: 900, headers: {}, version: 2 },
    })
    expect(kept).toMatchObject({
      endpoint: { createdAt: 'endpoint' in created && created.endpoint.createdAt },
    })
    const changed = await put(settings, { given: second })
    expect(changed).toMatchObject({ kind: 'replaced', endpoint: { secrets: [second], version: 3 } })
    expect(await place.store.endpointsNamed([settings.name])).toMatchObject([{ secrets: [second] }])
  })

  test('with a version given, nothing is written unless it is the stored one', async () => {
    const settings = described()
    expect(await put(settings, {}, 1)).toEqual({ kind: 'stale', version: null })
    expect(await place.store.endpointsNamed([settings.name])).toEqual([])
    await put(settings)
    await put({ ...settings, description: 'second' })
    const stale = await put({ ...settings, description: 'third' }, {}, 1)
    expect(stale).toEqual({ kind: 'stale', version: 2 })
    expect(await place.store.endpointsNamed([settings.name])).toMatchObject([
      { description: 'second', version: 2 },
    ])
    expect(await put({ ...settings, description: 'third' }, {}, 2)).toMatchObject({
      kind: 'replaced',
      endpoint: { version: 3 },
    })
  })

  test('of ten changes of one version at once, one is made', async () => {
    const settings = described()
    await put(settings)
    const others = [place.store, await place.open()]
    const results = await Promise.all(
      Array.from({ length: 10 }, (_, i) =>
        (others[i % 2] as typeof place.store).putEndpoint(
          { ...settings, description: `${i}` },
          { given: null, fresh: newSecret() },
          1,
        ),
      ),
    )
    expect(results.filter(({ kind }) => kind === 'replaced')).toHaveLength(1)
    expect(results.filter(({ kind }) => kind === 'stale')).toHaveLength(9)
  })

  test('of ten that may only create it at once, one does', async () => {
    const settings = described()
    const others = [place.store, await place.open()]
    const results = await Promise.all(
      Array.from({ length: 10 }, (_, i) =>
        (others[i % 2] as typeof place.store).putEndpoint(
          { ...settings, description: `${i}` },
          { given: null, fresh: newSecret() },
          'none',
        ),
      ),
    )
    expect(results.filter(({ kind }) => kind === 'created')).toHaveLength(1)
    const stale = results.filter(({ kind }) => kind === 'stale')
    expect(stale).toEqual(Array(9).fill({ kind: 'stale', version: 1 }))
  })

  test('one endpoint put ten times at once is created once', async () => {
    const settings = described()
    const others = [place.store, await place.open()]
    const results = await Promise.all(
      Array.from({ length: 10 }, (_, i) =>
        (others[i % 2] as typeof place.store).putEndpoint(
          settings,
          { given: null, fresh: newSecret() },
          null,
        ),
      ),
    )
    expect(results.filter(({ kind }) => kind === 'created')).toHaveLength(1)
    expect(results.filter(({ kind }) => kind === 'replaced')).toHaveLength(9)
    const [stored] = await place.store.endpointsNamed([settings.name])
    expect(stored?.version).toBe(10)
    // All of the results have the secret of the request that created the endpoint.
    const secrets = results.map((result) => 'endpoint' in result && result.endpoint.secrets[0])
    expect(new Set(secrets)).toEqual(new Set(stored?.secrets))
  })

  test('endpoints are listed by name, page by page', async () => {
    const prefix = `${freshName()}-`
    const names = ['a', 'b', 'b.c', 'b_c', 'z'].map((end) => prefix + end)
    for (const name of names.toReversed()) await put(described({ name }))
    const first = await place.store.listEndpoints(prefix, 2)
    expect(first.items.map(({ name }) => name)).toEqual(names.slice(0, 2))
    expect(first.next).toBe(names[1])
    const rest = await place.store.listEndpoints(first.next, 3)
    expect(rest.items.map(({ name }) => name)).toEqual(names.slice(2))
    const all = await place.store.listEndpoints(null, 1_000)
    expect(all.next).toBeNull()
    expect(all.items.length).toBeGreaterThanOrEqual(names.length)
  })

  test('secrets and header values are stored encrypted only', async () => {
    const { store } = place
    const secret = newSecret()
    const settings = described({ headers: { authorization: 'Bearer planted-in-endpoint' } })
    await put(settings, { given: secret })
    await enqueueOne(store, settings.name, { headers: { 'x-token': 'planted-in-job' } })
    expect((await claimOne(store, settings.name)).headers).toEqual({ 'x-token': 'planted-in-job' })
    const text = await place.rawText()
    expect(text).toContain(settings.name)
    expect(text).not.toContain(secret.slice('whsec_'.length))
    expect(text).not.toContain('planted-in-endpoint')
    expect(text).not.toContain('planted-in-job')
  })

  test('jobs are counted by endpoint, in order of the names', async () => {
    const { store } = place
    const [busy, idle] = [await addEndpoint(store), await addEndpoint(store)]
    await enqueueMany(store, busy, 5)
    const [first] = await claimFrom(store, busy, 3)
    await store.settle([success(store, first as NonNullable<typeof first>)])
    expect(await store.countJobs([idle, busy, freshName()])).toEqual([
      { queued: 0, running: 0, more: false },
      { queued: 2, running: 2, more: false },
      { queued: 0, running: 0, more: false },
    ])
  })

  test('an endpoint in use is not deleted, and says by how many jobs', async () => {
    const { store } = place
    const name = await addEndpoint(store)
    await enqueueMany(store, name, 3)
    await claimFrom(store, name, 1)
    expect(await store.deleteEndpoint(name, NO_CONDITION)).toEqual({
      kind: 'in_use',
      counts: { queued: 2, running: 1, more: false },
      scheduleName: null,
    })
    expect(await store.endpointsNamed([name])).toMatchObject([{ deleting: false, version: 1 }])
  })

  test('an endpoint whose jobs are all final is deleted at once, and its jobs stay', async () => {
    const { store } = place
    const name = await addEndpoint(store)
    const { id } = await enqueueOne(store, name)
    await store.settle([success(store, await claimOne(store, name))])
    const stale = { force: false, ifVersion: 7 }
    expect(await store.deleteEndpoint(name, stale)).toEqual({ kind: 'stale', version: 1 })
    expect(await store.deleteEndpoint(name, { force: false, ifVersion: 1 })).toEqual({
      kind: 'deleted',
    })
    expect(await store.deleteEndpoint(name, NO_CONDITION)).toEqual({ kind: 'not_found' })
    expect(await store.endpointsNamed([name])).toEqual([])
    expect((await jobOf(store, id)).state).toBe('succeeded')
    const [late] = await store.enqueue([newJob(store, name)])
    expect(late?.kind).toBe('unknown_endpoint')
  })

  test('an endpoint deleted by force takes no job, its jobs are buried, then it is gone', async () => {
    const { store } = place
    const name = await addEndpoint(store)
    await enqueueMany(store, name, 5)
    const [running] = await claimFrom(store, name, 1)
    expect(await store.deleteEndpoint(name, FORCE)).toEqual({ kind: 'deleting' })
    expect(await store.endpointsNamed([name])).toMatchObject([{ deleting: true }])
    expect(await put(described({ name }))).toEqual({ kind: 'being_deleted' })
    const [refused] = await store.enqueue([newJob(store, name)])
    expect(refused?.kind).toBe('unknown_endpoint')
    expect(await claimFrom(store, name, 1)).toEqual([])

    const total = { abandoned: 0, evicted: 0 }
    await until(async () => {
      const counts = await store.sweep({ limit: 2, reclaim: true })
      expect(counts.abandoned).toBeLessThanOrEqual(2)
      total.abandoned += counts.abandoned
      total.evicted += counts.evicted
      return (await store.endpointsNamed([name])).length === 0
    })
    expect(total).toEqual({ abandoned: 4, evicted: 1 })
    const { items } = await store.listJobs({ endpoint: name, limit: 10 })
    expect(items).toHaveLength(5)
    for (const item of items) {
      expect(item).toMatchObject({ state: 'dead', failure: { reason: 'endpoint_gone' } })
    }
    const lost = running as NonNullable<typeof running>
    expect((await jobOf(store, lost.jobId)).attempts).toMatchObject([{ outcome: 'cancelled' }])
    expect(await store.settle([success(store, lost)])).toEqual(['lease_lost'])
    expect(await store.renew([leaseOf(lost)], 1_000)).toEqual(['lease_lost'])
    const beat = { progress: null, extendMs: null, completionTimeoutMs: 1_000 }
    expect(await store.heartbeat(leaseOf(lost), beat)).toEqual({ kind: 'evicted' })
    const former = { ...leaseOf(lost), fence: lost.fence - 1 }
    expect(await store.heartbeat(former, beat)).toEqual({ kind: 'lease_lost' })
  })

  test('the name of a deleted endpoint can be used again', async () => {
    const { store } = place
    const name = await addEndpoint(store)
    await enqueueOne(store, name)
    await store.deleteEndpoint(name, FORCE)
    await until(async () => {
      await sweep(store)
      return (await put(described({ name }))).kind === 'created'
    })
    expect((await store.enqueue([newJob(store, name)]))[0]?.kind).toBe('inserted')
  })

  test('enqueues racing a deletion leave no job behind that waits for ever', async () => {
    const { store } = place
    const other = await place.open()
    const name = await addEndpoint(store)
    const enqueued: string[] = []
    const [results] = await Promise.all([
      Promise.all(
        Array.from({ length: 20 }, async () => {
          const [result] = await other.enqueue([newJob(other, name)])
          if (result?.kind === 'inserted') enqueued.push(result.job.id)
          return result?.kind
        }),
      ),
      store.deleteEndpoint(name, FORCE),
    ])
    expect(results.every((kind) => kind === 'inserted' || kind === 'unknown_endpoint')).toBe(true)
    await until(async () => {
      await sweep(store)
      const gone = (await store.endpointsNamed([name])).length === 0
      return gone && (await store.finalAmong(enqueued)).length === enqueued.length
    })
  })

  test('what the API says of itself is read by others as it was last written', async () => {
    const other = await place.open()
    expect(await other.readApiMode()).toBeNull()
    const local = { localMode: true, publicUrl: 'http://127.0.0.1:8080' }
    await place.store.writeApiMode(local)
    expect(await other.readApiMode()).toEqual(local)
    const open = { localMode: false, publicUrl: null }
    await place.store.writeApiMode(open)
    expect(await other.readApiMode()).toEqual(open)
  })

  test('readiness proves a write once for all who ask, and not while other writes prove it', async () => {
    const askMany = () => Promise.all(Array.from({ length: 20 }, () => place.store.ready()))
    const commandsOf = async (work: () => Promise<unknown>) => {
      const before = place.store.commandCount
      await work()
      return place.store.commandCount - before
    }
    // This call proves that the store accepts writes. The proof holds for a second, so the next
    // calls send nothing.
    await place.store.ready()
    expect(await commandsOf(askMany)).toBeLessThanOrEqual(1)
    let proof = 0
    await until(async () => {
      proof = await commandsOf(askMany)
      return proof > 1 || (engine === 'sqlite' && proof > 0)
    })
    // SQLite needs one transaction. MongoDB reads the record and the indexes, and writes.
    expect(proof).toBeLessThanOrEqual(engine === 'sqlite' ? 1 : 10)
  })
})
