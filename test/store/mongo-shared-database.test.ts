// A database that Posthorn shares with an application: Posthorn does not touch what it does not
// own.
import { randomBytes } from 'node:crypto'
import { type Db, MongoClient } from 'mongodb'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, inject, it } from 'vitest'
import { COLLECTIONS } from '../../src/store/collection-names.ts'
import { openMongoStore } from '../../src/store/mongo/store.ts'
import type { Store, StoreSettings } from '../../src/store/store.ts'
import { StoreUnusable } from '../../src/store/store-errors.ts'
import { addEndpoint, claimOne, enqueueOne, jobOf, success, sweep } from '../contract/fixtures.ts'
import { databaseUrl } from '../support/mongo.ts'
import { runPosthorn } from '../support/process.ts'

const SETTINGS: StoreSettings = {
  retentionMs: 0,
  retentionDeadMs: 0,
  encryptionKeys: [randomBytes(32)],
  warn: () => {},
}
const LONG_AGO = new Date('2001-01-01T00:00:00Z')
const NAMES: string[] = Object.values(COLLECTIONS)

let client: MongoClient
let url: string
let db: Db
const opened: Store[] = []

beforeAll(async () => {
  client = await new MongoClient(inject('mongoUrl'), { writeConcern: { w: 'majority' } }).connect()
})
afterAll(() => client.close())
beforeEach(() => {
  const name = `test-${randomBytes(6).toString('hex')}`
  url = databaseUrl(inject('mongoUrl'), name)
  db = client.db(name)
})
afterEach(async () => {
  await Promise.all(opened.splice(0).map((store) => store.close()))
  await db.dropDatabase()
})

async function open(settings: Partial<StoreSettings> = {}): Promise<Store> {
  const store = await openMongoStore(url, { ...SETTINGS, ...settings })
  opened.push(store)
  return store
}

const refusal = async (settings: Partial<StoreSettings> = {}): Promise<Error> => {
  const error = await open(settings).catch((cause: unknown) => cause)
  expect(error).toBeInstanceOf(StoreUnusable)
  return error as Error
}

/** All content, byte for byte, with the indexes and options of each collection. */
async function contentsOf(isShown: (name: string) => boolean = () => true) {
  const collections = await db.listCollections().toArray()
  const shown = collections.filter(({ name }) => isShown(name))
  const contents = shown.map(async (collection) => {
    const documents = await db.collection(collection.name).find({}, { raw: true }).toArray()
    const bytes = documents.map((one) => Buffer.from(one as unknown as Uint8Array).toString('hex'))
    const indexes = await db.collection(collection.name).indexes()
    return [collection.name, { collection, bytes: bytes.sort(), indexes }] as const
  })
  return Object.fromEntries(await Promise.all(contents))
}

/**
 * Documents that the TTL indexes of Posthorn would delete, and that its unique indexes would
 * refuse.
 */
const FRAGILE = {
  jobs: { endpoint: 'a', state: 'dead', purgeAt: LONG_AGO, finishedAt: LONG_AGO, originKey: 'o' },
  endpoints: { deleting: true },
  schedules: { paused: false, nextRunAt: LONG_AGO, endpoint: 'a', settings: 'daily' },
  keys: { hash: 'same' },
  workers: { seenAt: LONG_AGO },
  minuteStats: { minute: LONG_AGO },
  meta: { localMode: 1 },
}

describe('a database of an application', () => {
  it('keeps its documents and indexes while Posthorn works beside it', async () => {
    for (const [name, document] of Object.entries(FRAGILE)) {
      await db.collection(name).insertMany([{ ...document }, { ...document }])
      await db.collection(name).createIndex({ applicationField: 1 }, { name: 'its_own' })
    }
    const isTheirs = (name: string) => name in FRAGILE
    const before = await contentsOf(isTheirs)
    expect(Object.keys(before)).toHaveLength(7)

    const store = await open()
    const endpoint = await addEndpoint(store)
    const { id } = await enqueueOne(store, endpoint)
    const claimed = await claimOne(store, endpoint)
    expect(await store.settle([success(store, claimed)])).toEqual(['applied'])
    expect(await jobOf(store, id)).toMatchObject({ state: 'succeeded' })
    await store.writeApiMode({ localMode: true, publicUrl: null })
    await sweep(store)

    expect(await contentsOf(isTheirs)).toEqual(before)
    const ours = Object.keys(await contentsOf((name) => !isTheirs(name)))
    expect(ours.filter((name) => !NAMES.includes(name))).toEqual([])
    // The application can still write a document that a unique index of Posthorn would refuse.
    await db.collection('keys').insertOne({ hash: 'same' })
  })

  it.each(NAMES)('with documents of its own in %s stops the start', async (name) => {
    await db.collection(name).insertOne({ seenAt: LONG_AGO })
    const before = await contentsOf()
    expect((await refusal()).message).toMatch(
      new RegExp(`holds ${name}, which Posthorn did not create.*STORE_URL`),
    )
    expect(await contentsOf()).toEqual(before)
  })

  it('with documents under our names ends the process with a sentence and exit code 1', async () => {
    await db.collection(COLLECTIONS.jobs).insertOne({ theirs: true })
    await db.collection(COLLECTIONS.workers).insertOne({ seenAt: LONG_AGO })
    const encryption = { ENCRYPTION_KEY: randomBytes(32).toString('base64') }
    const one = runPosthorn(['api'], { STORE_URL: url, PORT: '0', ...encryption })
    expect(await new Promise((resolve) => one.child.once('exit', resolve))).toBe(1)
    expect(one.stderr()).toMatch(/^posthorn cannot start: .*posthorn_jobs, posthorn_workers/)
    expect(one.stderr()).not.toContain('    at ')
    expect(Object.keys(await contentsOf()).sort()).toEqual(['posthorn_jobs', 'posthorn_workers'])
  })

  it('may have a view with one of our names: the start is refused', async () => {
    await db.collection('orders').insertOne({ open: true })
    await db.createCollection(COLLECTIONS.minuteStats, {
      viewOn: 'orders',
      pipeline: [{ $match: { open: false } }],
    })
    expect((await refusal()).message).toContain('holds posthorn_minute_stats,')
  })

  it('may use other names that begin with posthorn_, such as that of its outbox', async () => {
    await db.collection('posthorn_outbox').insertOne({ endpoint: 'a' })
    await db.collection('posthorn_jobs_archive').insertOne({ endpoint: 'a' })
    const before = await contentsOf()
    await open()
    expect(await contentsOf((name) => !NAMES.includes(name))).toEqual(before)
  })

  it('may hold empty collections with our names, made to be sharded', async () => {
    await db.createCollection(COLLECTIONS.jobs)
    const store = await open()
    const { id } = await enqueueOne(store, await addEndpoint(store))
    expect(await jobOf(store, id)).toMatchObject({ id, state: 'queued' })
  })
})

describe('a database of Posthorn', () => {
  it('is opened again by any number of processes', async () => {
    const store = await open()
    const { id } = await enqueueOne(store, await addEndpoint(store))
    const others = await Promise.all([open(), open()])
    for (const other of others) expect(await jobOf(other, id)).toMatchObject({ id })
  })

  it('is made by many processes that start at once, and each of them comes up', async () => {
    // Each process writes into what it has created, while the others may still read what exists.
    const work = async () => {
      const store = await open()
      return enqueueOne(store, await addEndpoint(store))
    }
    const made = await Promise.all(Array.from({ length: 12 }, work))
    for (const { id } of made) expect(await jobOf(opened[0] as Store, id)).toMatchObject({ id })
  })

  it('of another schema is refused', async () => {
    await (await open()).close()
    const meta = db.collection<{ _id: string }>(COLLECTIONS.meta)
    await meta.updateOne({ _id: 'schema' }, { $set: { schema: 99 } })
    expect((await refusal()).message).toMatch(
      /has schema 99, and this version of Posthorn uses schema/,
    )
    await meta.updateOne({ _id: 'schema' }, { $set: { product: 'another' } })
    expect((await refusal()).message).toMatch(/posthorn_meta .* does not belong to Posthorn/)
  })

  it('is not taken for an outbox', async () => {
    const outbox = { database: db.databaseName, collection: COLLECTIONS.jobs }
    expect((await refusal({ outbox })).message).toMatch(/OUTBOX names posthorn_jobs/)
  })
})
