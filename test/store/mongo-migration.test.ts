// The schema and the indexes of a MongoDB store from one version to the next. The steps and indexes
// are made up for this test, and the database is as an earlier version left it.
import { randomBytes } from 'node:crypto'
import { type Db, MongoClient } from 'mongodb'
import {
  afterAll,
  afterEach,
  beforeAll,
  beforeEach,
  describe,
  expect,
  inject,
  it,
  onTestFinished,
} from 'vitest'
import { COLLECTIONS } from '../../src/store/collection-names.ts'
import { startError } from '../../src/store/mongo/errors.ts'
import {
  DEFINITIONS,
  type Definitions,
  type Migration,
  migrateDatabase,
  openDatabase,
} from '../../src/store/mongo/schema.ts'
import { openMongoStore } from '../../src/store/mongo/store.ts'
import type { StoreSettings } from '../../src/store/store.ts'
import { StoreUnusable } from '../../src/store/store-errors.ts'
import { openShell } from '../cli/command-line.ts'
import { addEndpoint, enqueueOne, jobOf } from '../contract/fixtures.ts'
import { databaseUrl } from '../support/mongo.ts'
import { runPosthorn } from '../support/process.ts'
import { startRewritingProxy } from '../support/rewriting-proxy.ts'

const KEY = randomBytes(32)
const SETTINGS: StoreSettings = {
  retentionMs: 60_000,
  retentionDeadMs: 60_000,
  encryptionKeys: [KEY],
  warn: () => {},
}
const NUMBER = DEFINITIONS.migrations.at(-1)?.number as number
const ENCRYPTION_KEY = KEY.toString('base64')

let client: MongoClient
let url: string
let db: Db
let runs: number

beforeAll(async () => {
  client = await new MongoClient(inject('mongoUrl'), { writeConcern: { w: 'majority' } }).connect()
})
afterAll(() => client.close())
beforeEach(() => {
  const name = `test-${randomBytes(6).toString('hex')}`
  url = databaseUrl(inject('mongoUrl'), name)
  db = client.db(name)
  runs = 0
})
afterEach(() => db.dropDatabase())

async function createStore(): Promise<string> {
  const store = await openMongoStore(url, SETTINGS)
  const { id } = await enqueueOne(store, await addEndpoint(store))
  await store.close()
  return id
}

/** Gives each job a colour. The step may run again. */
const NEXT: Migration = {
  number: NUMBER + 1,
  online: true,
  async run(database, names) {
    runs += 1
    await database.collection(names.jobs).updateMany({}, { $set: { colour: 'red' } })
  },
}
const later = (fields: Partial<Migration> = {}): Definitions => ({
  ...DEFINITIONS,
  migrations: [...DEFINITIONS.migrations, { ...NEXT, ...fields }],
})

const meta = () => db.collection<{ _id: string; schema?: number }>(COLLECTIONS.meta)
const schemaNow = async () => (await meta().findOne({ _id: 'schema' }))?.schema
const indexesOf = async (collection: string) =>
  new Map((await db.collection(collection).indexes()).map((index) => [index.name, index]))

async function open(
  definitions: Definitions,
  upgrades: 'none' | 'online' = 'online',
): Promise<void> {
  const { client: opened } = await openDatabase(url, upgrades, { definitions })
  await opened.close()
}

describe('a step', () => {
  it('is taken by an API that starts, on all documents', async () => {
    const id = await createStore()
    await open(later())
    expect(await schemaNow()).toBe(NUMBER + 1)
    expect(await db.collection(COLLECTIONS.jobs).findOne()).toMatchObject({ colour: 'red' })
    expect(await meta().findOne({ _id: 'migration' })).toBeNull()
    const store = await openMongoStore(url, SETTINGS).catch((error: Error) => error)
    expect((store as Error).message).toMatch(`has schema ${NUMBER + 1}, and this version of`)
    await meta().updateOne({ _id: 'schema' }, { $set: { schema: NUMBER } })
    const old = await openMongoStore(url, SETTINGS)
    expect(await jobOf(old, id)).toMatchObject({ id })
    await old.close()
  })

  it('is taken once, by one process at a time, however many start together', async () => {
    await createStore()
    let inside = 0
    let most = 0
    const slow = later({
      async run(database, names) {
        inside += 1
        most = Math.max(most, inside)
        await NEXT.run(database, names)
        inside -= 1
      },
    })
    await Promise.all([open(slow), open(slow), migrateDatabase(url, slow), open(slow)])
    expect({ runs, most, schema: await schemaNow() }).toEqual({
      ...{ runs: 1, most: 1 },
      schema: NUMBER + 1,
    })
  })

  it('that fails leaves the schema, and the next process takes it', async () => {
    await createStore()
    const failing = later({ run: () => Promise.reject(new Error('no such field')) })
    await expect(open(failing)).rejects.toThrow('no such field')
    expect(await schemaNow()).toBe(NUMBER)
    expect((await migrateDatabase(url, later())).to).toBe(NUMBER + 1)
  })

  it('of a process that was killed is taken over when its lease has expired', async () => {
    await createStore()
    const leases = db.collection<{ _id: string; holder: string; expiresAt: Date }>(COLLECTIONS.meta)
    const expiresAt = new Date(Date.now() + 2_000)
    await leases.insertOne({ _id: 'migration', holder: 'killed', expiresAt })
    await open(later())
    expect(Date.now()).toBeGreaterThanOrEqual(expiresAt.getTime() - 1_000)
    expect(runs).toBe(1)
  })

  it('is not taken by a worker, which names the command', async () => {
    await createStore()
    await expect(open(later(), 'none')).rejects.toThrow(
      /older schema, and this version of Posthorn uses schema \d: run posthorn migrate, or start/,
    )
    expect(runs).toBe(0)
  })

  it('that older processes cannot work with waits for posthorn migrate, and for workers', async () => {
    await createStore()
    const offline = later({ online: false })
    await expect(open(offline)).rejects.toThrow(/stop every API and worker, and run posthorn/)
    const workers = db.collection<{ _id: string; seenAt: Date }>(COLLECTIONS.workers)
    await workers.insertOne({ _id: 'worker-1', seenAt: new Date() })
    await expect(migrateDatabase(url, offline)).rejects.toThrow(/^workers use the store: 1 /)
    expect(runs).toBe(0)
    await workers.updateOne({}, { $set: { seenAt: new Date(Date.now() - 60_000) } })
    expect(await migrateDatabase(url, offline)).toMatchObject({ from: NUMBER, to: NUMBER + 1 })
  })
})

describe('indexes', () => {
  /** The index `deleting` under a new name, and another time to live of the workers. */
  const { deleting = { key: {}, options: {} }, ...kept } = DEFINITIONS.indexes.endpoints ?? {}
  const changed: Definitions = {
    ...DEFINITIONS,
    indexes: {
      ...DEFINITIONS.indexes,
      endpoints: { ...kept, deleting_by_name: { key: { deleting: 1, _id: 1 }, options: {} } },
      workers: { seen: { key: { seenAt: 1 }, options: { expireAfterSeconds: 60 } } },
    },
    retired: { endpoints: { deleting } },
  }

  it('with a new name are created at the start; the command drops those that they replace', async () => {
    await createStore()
    await open(changed)
    expect([...(await indexesOf(COLLECTIONS.endpoints)).keys()].sort()).toEqual(
      ['_id_', ...Object.keys(kept), 'deleting', 'deleting_by_name'].sort(),
    )
    expect(await migrateDatabase(url, changed)).toEqual({
      ...{ from: NUMBER, to: NUMBER, createdIndexes: [] },
      changedIndexes: [`${COLLECTIONS.workers}.seen`],
      droppedIndexes: [`${COLLECTIONS.endpoints}.deleting`],
      faults: [],
    })
    expect([...(await indexesOf(COLLECTIONS.endpoints)).keys()]).not.toContain('deleting')
    const seen = (await indexesOf(COLLECTIONS.workers)).get('seen')
    expect(seen).toMatchObject({ expireAfterSeconds: 60 })
  })

  it('are created again for a user without the privilege to change them', async () => {
    await createStore()
    const refusal = { ok: 0, code: 13, codeName: 'Unauthorized', errmsg: 'not authorized' }
    const proxy = await startRewritingProxy(inject('mongoUrl'), { collMod: () => refusal })
    const { changedIndexes } = await migrateDatabase(proxy.url(db.databaseName), changed)
    await proxy.stop()
    expect(changedIndexes).toEqual([`${COLLECTIONS.workers}.seen`])
    const dropped = proxy.commands.filter(({ dropIndexes }) => dropIndexes !== undefined)
    expect(dropped.map(({ index }) => index)).toEqual(['seen', 'deleting'])
    const seen = (await indexesOf(COLLECTIONS.workers)).get('seen')
    expect(seen).toMatchObject({ expireAfterSeconds: 60 })
  })

  it('that another command has dropped meanwhile do not fail the command', async () => {
    await createStore()
    const gone = { ok: 0, code: 27, codeName: 'IndexNotFound', errmsg: 'index not found' }
    const proxy = await startRewritingProxy(inject('mongoUrl'), { dropIndexes: () => gone })
    const { droppedIndexes } = await migrateDatabase(proxy.url(db.databaseName), changed)
    await proxy.stop()
    expect(droppedIndexes).toEqual([`${COLLECTIONS.endpoints}.deleting`])
    const { droppedIndexes: again } = await migrateDatabase(url, changed)
    expect(again).toEqual([])
  })

  it('that no longer keep keys unique end a start, and the command names what to do', async () => {
    await createStore()
    const jobs = db.collection(COLLECTIONS.jobs)
    await jobs.dropIndex('keys')
    await jobs.createIndex({ endpoint: 1, 'keys.key': 1 }, { name: 'keys' })
    const text =
      'posthorn_jobs.keys has another definition, so that keys may not be unique. Drop the index, ' +
      'and run posthorn migrate to create it again.'
    for (const upgrades of ['online', 'none'] as const) {
      await expect(open(DEFINITIONS, upgrades)).rejects.toThrow(`The index ${text}`)
    }
    expect((await migrateDatabase(url)).faults).toEqual([text])
    const shell = openShell({ STORE_URL: url })
    onTestFinished(() => shell.close())
    const { code, stderr } = await shell.run(['migrate'])
    expect(code).toBe(1)
    expect(stderr).toContain(text)

    await jobs.dropIndex('keys')
    expect(await migrateDatabase(url)).toMatchObject({
      createdIndexes: ['posthorn_jobs.keys'],
      faults: [],
    })
    await open(DEFINITIONS)
  })

  it('of somebody else with the name of a retired one are kept', async () => {
    await createStore()
    const endpoints = db.collection(COLLECTIONS.endpoints)
    await endpoints.dropIndex('deleting')
    await endpoints.createIndex({ theirs: 1 }, { name: 'deleting' })
    expect((await migrateDatabase(url, changed)).droppedIndexes).toEqual([])
    expect((await indexesOf(COLLECTIONS.endpoints)).get('deleting')?.key).toEqual({ theirs: 1 })
  })
})

it('a store that is not there is not created by the command, nor by a worker', async () => {
  await expect(migrateDatabase(url)).rejects.toThrow(/^there is no store in the database test-/)
  await expect(openMongoStore(url, { ...SETTINGS, mayCreate: false })).rejects.toThrow(
    new RegExp(`^there is no store in the database ${db.databaseName}, .* start the API first`),
  )
  expect(await db.listCollections().toArray()).toEqual([])
})

it('a later schema ends each process with a sentence and exit code 1', async () => {
  await createStore()
  await meta().updateOne({ _id: 'schema' }, { $set: { schema: 99 } })
  const env = { STORE_URL: url, PORT: '0', ENCRYPTION_KEY }
  for (const words of [['api'], ['worker'], ['migrate']]) {
    const one = runPosthorn(words, env)
    expect(await new Promise((resolve) => one.child.once('exit', resolve))).toBe(1)
    expect(one.stderr()).toMatch(
      /has schema 99, and this version of Posthorn uses schema \d+: start/,
    )
    expect(one.stderr()).not.toContain('    at ')
  }
})

describe('four processes that start at once', () => {
  const env = () => ({ STORE_URL: url, PORT: '0', ENCRYPTION_KEY })

  async function startFour(commands: string[]) {
    const all = commands.map((command) => runPosthorn([command], env()))
    try {
      await Promise.all(
        all.map((one, i) => one.logged(commands[i] === 'api' ? 'api.listening' : 'worker.started')),
      )
    } finally {
      await Promise.all(all.map((one) => one.stop()))
    }
  }

  it('on an empty database all come up, with every index', { timeout: 120_000 }, async () => {
    await startFour(['api', 'worker', 'api', 'api'])
    for (const [kind, indexes] of Object.entries(DEFINITIONS.indexes)) {
      const name = COLLECTIONS[kind as keyof typeof COLLECTIONS]
      expect([...(await indexesOf(name)).keys()]).toEqual(
        expect.arrayContaining(Object.keys(indexes)),
      )
    }
  })

  it('on a database that lost an index all come up, with it', { timeout: 120_000 }, async () => {
    await createStore()
    await db.collection(COLLECTIONS.jobs).dropIndex('claim')
    await startFour(['api', 'worker', 'api', 'worker'])
    expect([...(await indexesOf(COLLECTIONS.jobs)).keys()]).toContain('claim')
  })
})

it('an error of the command has the words of a start', async () => {
  const error = await migrateDatabase('mongodb://127.0.0.1:9/x').catch((cause) =>
    startError('mongodb://127.0.0.1:9/x', cause),
  )
  expect((error as Error).message).toMatch(/^MongoDB cannot be reached/)
  expect(error).not.toBeInstanceOf(StoreUnusable)
})
