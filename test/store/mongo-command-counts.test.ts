// Limits of the cost of the MongoDB store: the number of commands for a batch, whatever its size.
import { randomBytes } from 'node:crypto'
import { BSON, type CommandStartedEvent } from 'mongodb'
import { describe, expect, it, onTestFinished } from 'vitest'
import type { Job } from '../../src/job/job.ts'
import { openDatabase } from '../../src/store/mongo/schema.ts'
import { storeOn } from '../../src/store/mongo/store.ts'
import {
  addEndpoint,
  enqueueMany,
  holderOf,
  leaseOf,
  newJob,
  success,
} from '../contract/fixtures.ts'
import { useStore } from '../support/stores.ts'

const BATCH = 100
const WRITES = ['insert', 'update', 'delete', 'findAndModify']

const place = useStore('mongo')

async function commandsOf<T>(work: () => Promise<T>): Promise<{ result: T; count: number }> {
  const before = place.store.commandCount
  const result = await work()
  return { result, count: place.store.commandCount - before }
}

it('an enqueue of 100 jobs costs at most 2 commands', async () => {
  const { store } = place
  const endpoint = await addEndpoint(store)
  const jobs = Array.from({ length: BATCH }, () => newJob(store, endpoint))

  const { result, count } = await commandsOf(() => store.enqueue(jobs))

  expect(result.filter(({ kind }) => kind === 'inserted')).toHaveLength(BATCH)
  expect(count).toBeGreaterThan(0)
  expect(count).toBeLessThanOrEqual(2)
})

it('a repeated enqueue of 100 keys costs one command more', async () => {
  const { store } = place
  const endpoint = await addEndpoint(store)
  const batch = () =>
    Array.from({ length: BATCH }, (_, i) =>
      newJob(store, endpoint, { idempotency: { key: `key-${i}`, requestHash: 'same' } }),
    )
  await store.enqueue(batch())

  const { result, count } = await commandsOf(() => store.enqueue(batch()))

  expect(result.filter(({ kind }) => kind === 'existing')).toHaveLength(BATCH)
  expect(count).toBeLessThanOrEqual(3)
})

it('a claim of 100 jobs costs at most 4 commands, and their settlement 1', async () => {
  const { store } = place
  const endpoint = await addEndpoint(store)
  await enqueueMany(store, endpoint, BATCH)
  const shares = [{ endpoint, limit: BATCH }]
  const holder = holderOf({ leaseMs: 30_000 })

  const claim = await commandsOf(() => store.claim(shares, BATCH, holder))
  expect(claim.result.jobs).toHaveLength(BATCH)
  expect(claim.count).toBeLessThanOrEqual(4)

  const leases = claim.result.jobs.map(leaseOf)
  const renewal = await commandsOf(() => store.renew(leases, 30_000))
  expect(new Set(renewal.result)).toEqual(new Set(['applied']))
  expect(renewal.count).toBe(1)

  const settlements = claim.result.jobs.map((claimed) => success(store, claimed))
  const settlement = await commandsOf(() => store.settle(settlements))
  expect(new Set(settlement.result)).toEqual(new Set(['applied']))
  expect(settlement.count).toBe(1)
})

it('a claim of 100 jobs within a limit costs 6 commands', async () => {
  const { store } = place
  const rateLimit = { count: 10 * BATCH, perMs: 60_000 }
  const endpoint = await addEndpoint(store, { concurrency: 10 * BATCH, rateLimit })
  await enqueueMany(store, endpoint, BATCH + 1)
  const shares = [{ endpoint, limit: BATCH }]
  const holder = holderOf({ leaseMs: 30_000 })
  // The first claim reads the settings of the endpoint. The store caches them for a moment.
  await store.claim([{ endpoint, limit: 1 }], 1, holder)

  const { result, count } = await commandsOf(() => store.claim(shares, BATCH, holder))

  expect(result.jobs).toHaveLength(BATCH)
  expect(count).toBe(6)
})

it('a claim from 40 endpoints with limits costs few commands more than from one', async () => {
  const { store } = place
  const names = await Promise.all(
    Array.from({ length: 40 }, () => addEndpoint(store, { concurrency: 1 })),
  )
  await store.enqueue(names.map((endpoint) => newJob(store, endpoint)))
  const shares = names.map((endpoint) => ({ endpoint, limit: 10 }))

  const { result, count } = await commandsOf(() => store.claim(shares, BATCH, holderOf()))

  expect(new Set(result.jobs.map(({ endpoint }) => endpoint))).toEqual(new Set(names))
  expect(count).toBeLessThanOrEqual(24)
})

it('a claim from 100 endpoints with a job each costs no more than 8 commands', async () => {
  const { store } = place
  const names = await Promise.all(Array.from({ length: BATCH }, () => addEndpoint(store)))
  await store.enqueue(names.map((endpoint) => newJob(store, endpoint)))
  const shares = names.map((endpoint) => ({ endpoint, limit: 10 }))
  const holder = holderOf({ leaseMs: 30_000 })

  const { result, count } = await commandsOf(() => store.claim(shares, BATCH, holder))

  expect(result.jobs.map(({ endpoint }) => endpoint)).toEqual(names)
  expect(count).toBeLessThanOrEqual(8)
})

it('a job with a large payload costs 1 command if neither payload nor result is read', async () => {
  const { store } = place
  const endpoint = await addEndpoint(store)
  const payload = Buffer.from(`"${'x'.repeat(100_000)}"`)
  const [id = ''] = await enqueueMany(store, endpoint, 1, { payload })
  const whole = await commandsOf(() => store.getJob(id))
  const { result, count } = await commandsOf(() => store.getJobWithAttempts(id))
  const { payload: read, result: _, resultTruncated: __, ...others } = whole.result as Job
  expect(read.byteLength).toBe(payload.byteLength)
  expect(result).toEqual(others)
  expect([whole.count, count]).toEqual([2, 1])
})

it('an idle look for work costs 1 command, whatever is stored', async () => {
  const { count } = await commandsOf(() => place.store.due(place.store.clock.now() - 5_000))
  expect(count).toBe(1)
})

describe('from the enqueue to the stored end, in batches of 100', () => {
  it.each([
    ['4 KiB', 4_096, 0.12],
    ['100 KiB', 102_400, 0.14],
  ])('jobs of %s are sent once, in few commands', async (_, size, mostCommands) => {
    const { store, sentBytes } = await openCounting()
    const endpoint = await addEndpoint(store)
    const payload = randomBytes(size)
    const before = { commands: store.commandCount, bytes: sentBytes() }

    await store.due(store.clock.now() - 1_000)
    await store.enqueue(Array.from({ length: BATCH }, () => newJob(store, endpoint, { payload })))
    const { jobs } = await store.claim([{ endpoint, limit: BATCH }], BATCH, holderOf())
    await store.renew(jobs.map(leaseOf), 30_000)
    await store.settle(jobs.map((claimed) => success(store, claimed)))
    await store.due(store.clock.now() - 1_000)

    const commands = (store.commandCount - before.commands) / BATCH
    const bytes = (sentBytes() - before.bytes) / BATCH
    expect(jobs).toHaveLength(BATCH)
    expect(commands).toBeLessThanOrEqual(mostCommands)
    // If the payload were sent a second time, there would be more bytes than this.
    expect(bytes).toBeGreaterThan(size)
    expect(bytes).toBeLessThan(size + 3_000)
  })
})

/** Opens a store, and counts the bytes of all writes that it sends. */
async function openCounting() {
  const connection = await openDatabase(place.url)
  let bytes = 0
  connection.client.on('commandStarted', ({ commandName, command }: CommandStartedEvent) => {
    if (WRITES.includes(commandName)) bytes += BSON.calculateObjectSize(command)
  })
  const store = await storeOn(connection, {
    ...{ retentionMs: 0, retentionDeadMs: 0, encryptionKeys: [place.encryptionKey] },
    warn: () => {},
  })
  onTestFinished(() => store.close())
  return { store, sentBytes: () => bytes }
}
