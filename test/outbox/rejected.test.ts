// Documents that cannot become jobs are set aside with their reason: they do not delay others,
// never come back by themselves, and can be inserted again.
import {
  BSONRegExp,
  BSONSymbol,
  Code,
  DBRef,
  Decimal128,
  Double,
  MaxKey,
  MinKey,
  ObjectId,
  Timestamp,
} from 'mongodb'
import { describe, expect, it, vi } from 'vitest'
import { NO_JOB } from '../support/api-fixture.ts'
import type { Process } from '../support/process.ts'
import { until } from '../support/until.ts'
import { SLOW_MS, useOutbox } from './fixture.ts'

interface Rejected {
  _id: string
  posthornError: { reason: string; message: string }
}

vi.setConfig({ testTimeout: 2 * SLOW_MS })

describe('documents that cannot become jobs', () => {
  const fixture = useOutbox({ MAX_BODY_BYTES: '20000' })
  let worker: Process

  it('are set aside, each with its reason', async () => {
    const { posthorn, shop, outbox, stats, jobCount } = fixture
    worker = await posthorn.startWorker()
    const bad = {
      unknown: { endpoint: 'nowhere', payload: 1 },
      field: { endpoint: 'work', payload: 1, priorty: 3 },
      value: { endpoint: 'work', payload: 1, priority: 12 },
      item: { endpoint: 'work', payload: 1, needs: { a: '#0' } },
      gone: { endpoint: 'work', payload: 1, needs: { a: NO_JOB } },
      nan: { endpoint: 'work', payload: { a: [new Double(Number.NaN)] } },
      decimal: { endpoint: 'work', payload: Decimal128.fromString('NaN') },
      stamp: { endpoint: 'work', payload: { at: new Timestamp({ t: 1, i: 2 }) } },
      // Only PCRE reads this pattern; JavaScript does not.
      pattern: { endpoint: 'work', payload: [new BSONRegExp('(?i)a', 'x')] },
      code: { endpoint: 'work', payload: new Code('x', { a: 1 }) },
      symbol: { endpoint: 'work', payload: new BSONSymbol('x') },
      min: { endpoint: 'work', payload: { from: new MinKey() } },
      max: { endpoint: 'work', payload: { to: new MaxKey() } },
      ref: { endpoint: 'work', payload: { of: new DBRef('orders', new ObjectId()) } },
      runAt: { endpoint: 'work', payload: 1, runAt: new Timestamp({ t: 1, i: 2 }) },
      text: { endpoint: 'work', payloadJson: '1,"priority":9' },
      both: { endpoint: 'work', payloadJson: '1', payload: 1 },
      none: { endpoint: 'work' },
      large: { endpoint: 'work', payload: 'x'.repeat(20_000) },
    }
    const documents = Object.entries(bad).map(([_id, fields]) => ({ _id, ...fields }))
    await outbox.insertMany(documents)
    await until(async () => (await stats()).setAside === documents.length, SLOW_MS)
    const found = await shop
      .collection('posthorn_outbox_rejected')
      .find({}, { bsonRegExp: true })
      .toArray()
    const reasons = found.map(({ _id, posthornError }) => [
      String(_id),
      `${posthornError.reason}: ${posthornError.message}`,
    ])
    expect(Object.fromEntries(reasons)).toEqual({
      unknown: expect.stringMatching(/^endpoint_not_found: there is no endpoint "nowhere"/),
      field: 'invalid_request: /priorty: this field is unknown',
      value: expect.stringMatching(/^invalid_request: \/priority: /),
      item: 'invalid_request: /needs/a: expected the id of a job',
      gone: `invalid_request: /needs/a: no job has the id ${NO_JOB}`,
      nan: 'invalid_request: /payload/a/0 is NaN, which JSON cannot express',
      decimal: 'invalid_request: /payload is NaN, which JSON cannot express',
      stamp: 'invalid_request: /payload/at is a BSON Timestamp, which has no JSON form here',
      pattern: 'invalid_request: /payload/0 is a BSON RegExp, which has no JSON form here',
      code: 'invalid_request: /payload is a BSON Code, which has no JSON form here',
      symbol: 'invalid_request: /payload is a BSON Symbol, which has no JSON form here',
      min: 'invalid_request: /payload/from is a BSON MinKey, which has no JSON form here',
      max: 'invalid_request: /payload/to is a BSON MaxKey, which has no JSON form here',
      ref: 'invalid_request: /payload/of is a BSON DBRef, which has no JSON form here',
      runAt: 'invalid_request: /runAt is a BSON Timestamp, which has no JSON form here',
      text: 'invalid_request: payloadJson is not JSON text',
      both: 'invalid_request: payload and payloadJson cannot both be given',
      none: expect.stringMatching(/^invalid_request: \/payload: a payload is needed/),
      large: expect.stringMatching(/^payload_too_large: /),
    })
    expect(found.find(({ _id }) => String(_id) === 'large')?.payload).toHaveLength(20_000)
    expect(await stats()).toEqual({ waiting: 0, setAside: documents.length, oldestAge: null })
    expect(await jobCount()).toBe(0)
  })

  it('are set aside when their _id is the id of a job that another request made', async () => {
    const { posthorn, shop, outbox, jobCount, untilMoved } = fixture
    const soon = { endpoint: 'work', payload: 'first', delay: '1h' }
    const { body } = await posthorn.request('POST', '/jobs', soon)
    const before = await jobCount()
    await outbox.insertOne({ _id: body.id, endpoint: 'work', payload: 'second' })
    await untilMoved()
    const rejected = shop.collection<Rejected>('posthorn_outbox_rejected')
    const found = await rejected.findOne({ _id: body.id })
    expect(found?.posthornError.reason).toBe('invalid_request')
    expect(found?.posthornError.message).toMatch(/^_id: job .* was not made from this document/)
    expect(await jobCount()).toBe(before)
    expect((await posthorn.request('GET', `/jobs/${body.id}/payload`)).body).toBe('first')
    await rejected.deleteOne({ _id: body.id })
  })

  it('can be given another try as the page says', async () => {
    const { posthorn, shop, outbox, receiver } = fixture
    await posthorn.endpoint('nowhere', receiver.url)
    const rejected = shop.collection<{ _id: ObjectId }>('posthorn_outbox_rejected')
    const again = await rejected.find({ endpoint: 'nowhere' }).toArray()
    for (const document of again) {
      await outbox.insertOne(document)
      await rejected.deleteOne({ _id: document._id })
    }
    await receiver.waitFor((requests) => requests.length === 1, SLOW_MS)
  })

  it('in their thousand do not keep a good one waiting', async () => {
    const { outbox, receiver, stats, untilMoved } = fixture
    const before = receiver.requests.length
    const setAsideBefore = (await stats()).setAside
    const bad = Array.from({ length: 1_000 }, (_, n) => ({ endpoint: 'nobody', payload: n }))
    await outbox.insertMany(bad.slice(0, 500))
    await outbox.insertOne({ endpoint: 'work', payload: 'among them' })
    await outbox.insertMany(bad.slice(500))
    await receiver.waitFor((requests) => requests.length > before, SLOW_MS)
    await untilMoved()
    expect((await stats()).setAside).toBe(setAsideBefore + 1_000)
    // The documents are where no relay looks: the next document is the only one that is taken.
    // Lines of the moves before can still come, but those moved nothing.
    const moves = () => worker.log.filter(({ msg, moved }) => msg === 'outbox.moved' && moved !== 0)
    const earlier = moves().length
    await outbox.insertOne({ endpoint: 'work', payload: 'after them' })
    await receiver.waitFor((requests) => requests.length > before + 1, SLOW_MS)
    await until(() => moves().length > earlier)
    const last = moves().at(-1)
    expect(last).toMatchObject({ moved: 1, setAside: 0 })
  })
})
