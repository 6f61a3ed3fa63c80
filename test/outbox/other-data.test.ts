// No value of OUTBOX makes Posthorn move or delete its own data, or documents that do not belong to
// an outbox. The start is refused with a sentence and exit code 2.
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import fc from 'fast-check'
import { type Db, MongoClient } from 'mongodb'
import { afterAll, beforeAll, describe, expect, inject, it, vi } from 'vitest'
import { ConfigError, readConfig } from '../../src/config.ts'
import { COLLECTIONS } from '../../src/store/collection-names.ts'
import { SettingUnusable } from '../../src/store/store-errors.ts'
import { databaseUrl } from '../support/mongo.ts'
import { runPosthorn } from '../support/process.ts'
import { useStore } from '../support/stores.ts'
import { SLOW_MS } from './fixture.ts'

vi.setConfig({ testTimeout: 2 * SLOW_MS })

const OWN: string[] = Object.values(COLLECTIONS)
const STORE_URL = 'mongodb://localhost/posthorn'
const read = (OUTBOX: string) => readConfig({ STORE_URL, OUTBOX }).OUTBOX

/** The same name in another mix of upper and lower case. */
const recased = (name: string) =>
  fc
    .array(fc.boolean(), { minLength: name.length, maxLength: name.length })
    .map((upper) => [...name].map((one, i) => (upper[i] ? one.toUpperCase() : one)).join(''))

describe('the name of an outbox', () => {
  it('is none of the collections of Posthorn, in whichever database, case or space', () => {
    const own = fc.constantFrom(...OWN).chain(recased)
    const database = fc.constantFrom('posthorn.', 'Posthorn.', 'shop.', '')
    const space = fc.constantFrom('', ' ', '\n', '\t')
    fc.assert(
      fc.property(database, own, space, (before, name, around) => {
        expect(() => read(`${around}${before}${name}${around}`)).toThrow(ConfigError)
      }),
    )
    expect(() => read('shop.Posthorn_Jobs')).toThrow(
      'OUTBOX is "shop.Posthorn_Jobs"; expected a collection of your application, not ' +
        'Posthorn_Jobs, which holds data of Posthorn.',
    )
  })

  it('names nothing of Posthorn or MongoDB, nor does the place where documents are set aside', () => {
    const part = fc.oneof(
      fc.constantFrom('system', 'admin', 'local', 'config', 'posthorn', '_rejected', '.', '$', ''),
      fc.constantFrom(...OWN),
      fc.string({ unit: 'grapheme', maxLength: 200 }),
    )
    const text = fc.array(part, { minLength: 1, maxLength: 4 }).map((parts) => parts.join(''))
    const name = fc.oneof(
      fc.tuple(text, text).map(([database, collection]) => `${database}.${collection}`),
      fc.tuple(fc.constantFrom('shop', 'a'), text).map((two) => two.join('.')),
    )
    fc.assert(
      fc.property(name, (value) => {
        let accepted: ReturnType<typeof read>
        try {
          accepted = read(value)
        } catch (error) {
          expect(error).toBeInstanceOf(ConfigError)
          return
        }
        const { database, collection } = accepted as NonNullable<typeof accepted>
        const lower = collection.toLowerCase()
        expect(['admin', 'local', 'config']).not.toContain(database.toLowerCase())
        for (const one of [lower, `${lower}_rejected`]) expect(OWN).not.toContain(one)
        expect(lower).not.toMatch(/^system\.|_rejected$|^\.|\.$|\.\./)
        expect(Buffer.byteLength(`${database}.${collection}_rejected`)).toBeLessThanOrEqual(255)
        expect(value.trim()).toBe(`${database}.${collection}`)
      }),
      { numRuns: 1_000 },
    )
  })
})

describe('an outbox whose collection', () => {
  const place = useStore('mongo')
  const database = `shop-${randomBytes(6).toString('hex')}`
  let client: MongoClient
  let shop: Db
  beforeAll(async () => {
    client = await new MongoClient(inject('mongoUrl')).connect()
    shop = client.db(database)
    await shop.collection('orders').insertMany([{ order: 1 }, { endpoint: 7, payload: 1 }])
    await shop.collection('orders_archive').insertOne({ order: 0 })
    await shop.collection('bills_rejected').insertOne({ bill: 1, reason: 'unpaid' })
    await shop.createCollection('log', { capped: true, size: 4_096 })
    await shop.createCollection('measured', { timeseries: { timeField: 'at' } })
    await shop.createCollection('view', { viewOn: 'orders', pipeline: [] })
  })
  afterAll(async () => {
    await shop.dropDatabase()
    await client.close()
  })

  const contents = async () => {
    const names = (await shop.listCollections().toArray()).map(({ name }) => name).sort()
    const all = names.map(async (name) => [name, await shop.collection(name).find().toArray()])
    return Promise.all(all)
  }

  it.each([
    ['orders', /holds documents that are not jobs: none has an endpoint and a payload/],
    ['bills', /set aside in .*\.bills_rejected, but it holds other documents/],
    ['log', /log is a capped collection: documents cannot be moved there/],
    ['measured', /measured is a timeseries/],
    ['view', /view is a view/],
    ['posthorn_meta', /OUTBOX names posthorn_meta; expected a collection of your application/],
  ])('is %s is refused, and nothing in it is changed', async (collection, sentence) => {
    const before = await contents()
    const error = await place.open({ outbox: { database, collection } }).catch((cause) => cause)
    expect(error).toBeInstanceOf(SettingUnusable)
    expect(error.message).toMatch(sentence)
    expect(await contents()).toEqual(before)
  })

  it('was accepted before is opened again, whatever document waits there by then', async () => {
    const outbox = { database, collection: 'outbox' }
    await place.open({ outbox })
    await shop.collection('outbox').insertOne({ endpont: 'work', payload: 1 })
    await shop.collection('outbox_rejected').insertOne({ endpont: 'work', payload: 2 })
    await place.open({ outbox })
    // A collection that contains jobs, even with invalid documents among them, is an outbox, too.
    await shop.collection('filled').insertMany([{ order: 1 }, { endpoint: 'work', payload: 1 }])
    await place.open({ outbox: { database, collection: 'filled' } })
  })

  it('is one of Posthorn or of other data ends the start with exit code 2', async () => {
    const url = databaseUrl(inject('mongoUrl'), `test-${randomBytes(6).toString('hex')}`)
    const env = {
      ...{ STORE_URL: url, PORT: '0' },
      ENCRYPTION_KEY: randomBytes(32).toString('base64'),
    }
    const refused = async (OUTBOX: string) => {
      const { child, stderr } = runPosthorn(['api'], { ...env, OUTBOX })
      const [exitCode] = await once(child, 'exit')
      expect(exitCode).toBe(2)
      return stderr()
    }
    expect(await refused('shop.posthorn_jobs')).toMatch(
      /^posthorn cannot start with these settings:\nOUTBOX is "shop\.posthorn_jobs"; expected/,
    )
    const before = await contents()
    expect(await refused(`${database}.orders`)).toMatch(
      /^posthorn cannot start with these settings:\nOUTBOX names .*\.orders, which holds/,
    )
    expect(await contents()).toEqual(before)
    await client.db(new URL(url).pathname.slice(1)).dropDatabase()
  })
})
