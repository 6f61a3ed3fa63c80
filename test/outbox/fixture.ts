// The fixture of the outbox tests: a deployment with an outbox, and a client of the application for
// the same MongoDB.
import { randomBytes } from 'node:crypto'
import { type Collection, type Db, MongoClient } from 'mongodb'
import { afterAll, beforeAll, inject } from 'vitest'
import { COLLECTIONS } from '../../src/store/collection-names.ts'
import { type Deployment, deploy } from '../support/deployment.ts'
import { type Receiver, startReceiver } from '../support/receiver.ts'
import type { Answer } from '../support/request.ts'
import { until } from '../support/until.ts'

/** A deadline for a machine with much other work. */
export const SLOW_MS = 60_000

export interface Fixture {
  posthorn: Deployment
  receiver: Receiver
  client: MongoClient
  /** The database of the application: its orders, and the outbox. */
  shop: Db
  // biome-ignore lint/suspicious/noExplicitAny: documents of any shape are inserted here
  outbox: Collection<any>
  /** The database of the store. */
  store: Db
  /** Resolves with the job once it is in this state. */
  job(id: string, state: string): Promise<Answer['body']>
  /** Resolves when only workers move documents. An API does so while it sees no worker. */
  untilApiRests(): Promise<void>
  /** Resolves when no document is left. */
  untilMoved(): Promise<void>
  /** How many jobs there are, in all states. */
  jobCount(): Promise<number>
  stats(): Promise<{ waiting: number; setAside: number; oldestAge: string | null }>
}

/**
 * One fixture for all tests of a file: an API and an endpoint `work`. The test starts the workers.
 */
export function useOutbox(settings: Record<string, string> = {}): Fixture {
  const fixture = {} as Fixture
  beforeAll(async () => {
    const database = `shop-${randomBytes(6).toString('hex')}`
    const posthorn = deploy('mongo', { OUTBOX: `${database}.posthorn_outbox`, ...settings })
    const client = await new MongoClient(inject('mongoUrl'), {
      writeConcern: { w: 'majority' },
    }).connect()
    const shop = client.db(database)
    // Some versions of MongoDB cannot create a collection within a transaction.
    await shop.createCollection('posthorn_outbox')
    await shop.createCollection('orders')
    const store = client.db(new URL(posthorn.env.STORE_URL as string).pathname.slice(1))
    Object.assign(fixture, {
      ...{ posthorn, client, shop, store, outbox: shop.collection('posthorn_outbox') },
      receiver: await startReceiver(),
      async job(id: string, state: string) {
        let found: Answer | undefined
        await until(async () => {
          found = await posthorn.request('GET', `/jobs/${id}`)
          return found.body.state === state
        }, SLOW_MS)
        return found?.body
      },
      untilApiRests: () =>
        until(async () => {
          const { items } = (await posthorn.request('GET', '/workers')).body
          const lines = (msg: string) => api.log.filter((line) => line.msg === msg).length
          return items.length > 0 && lines('upkeep.begun') === lines('upkeep.ended')
        }, SLOW_MS),
      untilMoved: () => until(async () => (await fixture.outbox.countDocuments()) === 0, SLOW_MS),
      jobCount: () => store.collection(COLLECTIONS.jobs).countDocuments(),
      stats: async () => (await posthorn.request('GET', '/stats')).body.outbox,
    })
    const api = await posthorn.startApi()
    await posthorn.endpoint('work', fixture.receiver.url)
  })
  afterAll(async () => {
    await fixture.posthorn.close()
    await fixture.receiver.close()
    await fixture.shop.dropDatabase()
    await fixture.store.dropDatabase()
    await fixture.client.close()
  })
  return fixture
}
