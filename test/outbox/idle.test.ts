// The cost of an idle outbox for a MongoDB server, in commands.
import { randomBytes } from 'node:crypto'
import { type Collection, MongoClient } from 'mongodb'
import { pino } from 'pino'
import { afterAll, beforeAll, expect, inject, it } from 'vitest'
import { outboxDocument } from '../../src/client/client.ts'
import { openStore } from '../../src/store/open-store.ts'
import { OUTBOX_HOLD_MS, type Outbox } from '../../src/store/outbox.ts'
import type { Store } from '../../src/store/store.ts'
import { OutboxRelay } from '../../src/upkeep/outbox-relay.ts'
import { addEndpoint } from '../contract/fixtures.ts'
import { databaseUrl } from '../support/mongo.ts'
import { until } from '../support/until.ts'

const POLL_INTERVAL_MS = 250
/** The relay is idle after two holds. Its change stream has responded by then. */
const SETTLE_MS = 2 * OUTBOX_HOLD_MS + 2_000
const COUNT_MS = 15_000
/** The store itself checks its clock and its indexes; a look every 250 ms would be 4 more. */
const MAX_PER_SECOND = 2

const name = `test-${randomBytes(6).toString('hex')}`
const url = databaseUrl(inject('mongoUrl'), name)
const client = new MongoClient(url, { writeConcern: { w: 'majority' } })
let documents: Collection
let store: Store
let relay: OutboxRelay

beforeAll(async () => {
  documents = await client.db().createCollection('orders_outbox')
  store = await openStore(url, {
    ...{ retentionMs: 60_000, retentionDeadMs: 60_000, encryptionKeys: [randomBytes(32)] },
    ...{ outbox: { database: name, collection: 'orders_outbox' }, warn: () => {} },
  })
  relay = new OutboxRelay({
    ...{ store, outbox: store.outbox as Outbox, pollIntervalMs: POLL_INTERVAL_MS },
    ...{ maxBodyBytes: 1_000_000, onMoved: () => {}, log: pino({ level: 'silent' }) },
  })
  relay.start()
})
afterAll(async () => {
  await relay.stop()
  await store.close()
  await client.db().dropDatabase()
  await client.close()
})

it('an idle relay asks rarely, and moves a document at once', { timeout: 120_000 }, async () => {
  await passed(SETTLE_MS)
  const before = store.commandCount
  await passed(COUNT_MS)
  const perSecond = (store.commandCount - before) / (COUNT_MS / 1_000)
  expect(perSecond).toBeGreaterThan(0)
  expect(perSecond).toBeLessThanOrEqual(MAX_PER_SECOND)

  const endpoint = await addEndpoint(store)
  const { _id, ...document } = outboxDocument({ endpoint, payload: 1 })
  await documents.insertOne({ _id: _id as never, ...document })
  // Sooner than the next look without the change stream.
  await until(async () => (await store.getJob(_id)) !== null, 2_000)
})

function passed(ms: number): Promise<void> {
  const endsAtMs = performance.now() + ms
  return until(() => performance.now() >= endsAtMs, 2 * ms)
}
