// Sends Posthorn a known secret in each place that accepts one, and searches all its output for
// these secrets.
import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { Binary, BSON, MongoClient } from 'mongodb'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { COLLECTIONS } from '../../src/store/collection-names.ts'
import { ENGINES, type Engine } from '../support/engines.ts'
import type { Process } from '../support/process.ts'
import { type Receiver, startReceiver } from '../support/receiver.ts'
import { until } from '../support/until.ts'
import { expectNothingFromInside, type Fixture, openFixture } from './fixture.ts'
import { listenTo, logProblems } from './listening.ts'
import type { Json } from './operations.ts'

/** Each is a different text, so that a leak shows which one it was. */
const CANARIES = {
  apiKey: 'canary-api-key-0123456789abcdef',
  secret: `whsec_${Buffer.from('canary-endpoint-secret-32-bytes!').toString('base64')}`,
  olderSecret: `whsec_${Buffer.from('canary-older-secret-of-32-bytes!').toString('base64')}`,
  encryptionKey: Buffer.from('canary-encryption-key-32-bytes!!').toString('base64'),
  endpointHeader: 'Bearer canary-endpoint-header',
  jobHeader: 'Bearer canary-job-header',
  scheduleHeader: 'Bearer canary-schedule-header',
  payload: 'canary-payload',
  metadata: 'canary-metadata',
  idempotencyKey: 'canary-idempotency-key',
  dedupeKey: 'canary-dedupe-key',
  answer: 'canary-answer-of-a-receiver',
  result: 'canary-result',
}
/** The values that a client may read back: they are its own, and not secret. */
const READABLE = ['payload', 'metadata', 'idempotencyKey', 'dedupeKey', 'answer', 'result']

describe.each(ENGINES)('on %s', (engine) => {
  const planted: Record<string, string> = { ...CANARIES }
  const heard: string[] = []
  let fixture: Fixture
  let worker: Process
  let receiver: Receiver
  let logs: ReturnType<typeof listenTo>[]
  let madeKey: string

  beforeAll(async () => {
    fixture = await openFixture(engine, {
      API_KEYS: CANARIES.apiKey,
      ENCRYPTION_KEY: CANARIES.encryptionKey,
      PUBLIC_URL: 'http://127.0.0.1:9',
      ALLOWED_TARGETS: '127.0.0.0/8',
      LOG_LEVEL: 'trace',
      SWEEP_INTERVAL: '50ms',
      WORKER_PORT: '0',
    })
    worker = await fixture.posthorn.startWorker()
    logs = [listenTo(fixture.api), listenTo(worker)]
    receiver = await startReceiver([
      { status: 500, body: CANARIES.answer },
      { status: 202 },
      { status: 200, body: `"${CANARIES.result}"` },
    ])
  })
  afterAll(async () => {
    await fixture.posthorn.close()
    await receiver.close()
  })

  async function ask(method: string, path: string, body?: object, headers: object = {}) {
    const text = body === undefined ? undefined : JSON.stringify(body)
    const answer = await fixture.ask(method, path, text, headers)
    heard.push(`${method} ${path}\n${[...answer.headers].join('\n')}\n${answer.text}`)
    return answer.text === '' ? {} : (JSON.parse(answer.text) as Json)
  }

  function job(endpoint: string): object {
    return {
      endpoint,
      payload: CANARIES.payload,
      metadata: { a: CANARIES.metadata },
      headers: { 'x-authorization': CANARIES.jobHeader },
    }
  }

  it('secrets are planted, and used: deliveries carry them', async () => {
    const settings = {
      url: receiver.url,
      secret: CANARIES.olderSecret,
      headers: { authorization: CANARIES.endpointHeader },
      completion: 'async',
      retry: { backoff: { type: 'fixed', delay: '0s' } },
    }
    const made = JSON.parse(
      (await fixture.ask('PUT', '/endpoints/work', JSON.stringify(settings))).text,
    )
    expect(made.secret).toBe(CANARIES.olderSecret)
    const rotated = await fixture.ask(
      'POST',
      '/endpoints/work/rotate-secret',
      JSON.stringify({ secret: CANARIES.secret }),
    )
    expect(JSON.parse(rotated.text).secret).toBe(CANARIES.secret)
    const key = { name: 'canary', scope: 'admin' }
    madeKey = JSON.parse((await fixture.ask('POST', '/keys', JSON.stringify(key))).text).key
    planted.madeKey = madeKey
    const { id } = await ask('POST', '/jobs', job('work'), {
      'idempotency-key': CANARIES.idempotencyKey,
    })
    await receiver.waitFor(({ length }) => length === 2, 15_000)
    const { headers } = receiver.requests[1] as Receiver['requests'][number]
    expect(headers).toMatchObject({
      authorization: CANARIES.endpointHeader,
      'x-authorization': CANARIES.jobHeader,
    })
    const completeUrl = new URL(headers['posthorn-complete-url'] as string)
    planted.token = completeUrl.searchParams.get('token') as string
    expect(planted.token.length).toBeGreaterThan(40)
    const path = completeUrl.pathname + completeUrl.search
    const body = JSON.stringify({ result: CANARIES.result })
    await until(async () => (await ask('GET', `/jobs/${id}`)).phase === 'awaiting_completion')
    expect((await fixture.ask('POST', path, body)).status).toBe(200)
  })

  it('every route is asked, rightly and wrongly', async () => {
    const schedule = { ...job('work'), every: '1h', headers: { 'x-a': CANARIES.scheduleHeader } }
    await ask('PUT', '/schedules/canary', schedule)
    await ask('POST', '/schedules/canary/run')
    const dedupe = { key: CANARIES.dedupeKey, mode: 'reject' }
    await ask('POST', '/endpoints/known/pause')
    const { id } = await ask('POST', '/jobs', { ...job('known'), dedupe })
    await ask('POST', '/jobs', { ...job('known'), dedupe })
    await ask(
      'POST',
      '/jobs',
      { ...job('work'), payload: 2 },
      { 'idempotency-key': CANARIES.idempotencyKey },
    )
    await ask('POST', '/jobs', { ...job('work'), headers: { host: CANARIES.jobHeader } })
    await ask('PUT', '/endpoints/work', { url: 'http://10.0.0.1/', secret: CANARIES.secret })
    await ask('PUT', '/endpoints/work', {
      url: null,
      secret: `${CANARIES.secret}x`,
      headers: { host: CANARIES.endpointHeader },
    })
    await ask('POST', '/keys', { name: 'x', scope: madeKey })
    await ask('GET', '/jobs', undefined, { authorization: `Bearer ${madeKey}x` })
    await ask('POST', `/jobs/${id}/complete?token=${planted.token}`, {})
    await ask('POST', `/jobs/${id}/copy`)
    for (const operation of fixture.operations) {
      if (operation.method !== 'GET' || operation.path.endsWith('/{file}')) continue
      const path = operation.path.replace('{id}', id).replace('{name}', 'work')
      const { text } = await fixture.ask(
        'GET',
        path.replace('/schedules/work', '/schedules/canary'),
      )
      heard.push(`GET ${path}\n${text}`)
    }
    const port = (await worker.logged('worker_port.listening')).url as string
    const authorization = `Bearer ${CANARIES.apiKey}`
    const metrics = await fetch(`${port}/metrics`, { headers: { authorization } })
    heard.push(`worker's metrics\n${await metrics.text()}`)
  })

  it('what is stored holds no secret as it is', async () => {
    const raw = await RAW[engine](fixture.posthorn.env.STORE_URL as string)
    expect(foundIn(raw, READABLE)).toEqual([
      'payload',
      'metadata',
      'idempotencyKey',
      'dedupeKey',
      'answer',
      'result',
    ])
    expect(
      foundIn(
        raw,
        Object.keys(planted).filter((name) => !READABLE.includes(name)),
      ),
    ).toEqual([])
  })

  it('a write that fails in the store is logged without what it would have written', async () => {
    await BREAKS[engine](fixture.posthorn.env.STORE_URL as string)
    const { url } = fixture.posthorn
    const send = (path: string, body: object) =>
      fetch(url() + path, {
        method: 'POST',
        headers: {
          'content-type': 'application/json',
          authorization: `Bearer ${CANARIES.apiKey}`,
          'idempotency-key': `${CANARIES.idempotencyKey}-2`,
        },
        body: JSON.stringify(body),
      })
    const answer = await send('/jobs', { ...job('known'), priority: 3 })
    // MongoDB's driver does not distinguish a write that can never succeed from one that may
    // succeed later.
    expect(answer.status).toBe(engine === 'sqlite' ? 500 : 503)
    const text = await answer.text()
    expectNothingFromInside(text, 'the answer')
    heard.push(text)
    heard.push(
      await (await send('/jobs/batch', { jobs: [{ ...job('known'), priority: 3 }] })).text(),
    )
    await until(() => fixture.api.log.some(({ msg }) => msg === 'request.failed'))
  })

  it('no response holds a secret, and what is the client’s own only where it asked for it', () => {
    const all = heard.join('\n')
    expect(all.length).toBeGreaterThan(10_000)
    expect(foundIn(all, ['payload'])).toEqual(['payload'])
    expect(
      foundIn(
        all,
        Object.keys(planted).filter((name) => !READABLE.includes(name) && name !== 'token'),
      ),
    ).toEqual([])
    // The path of the request contains the token, and this test itself has recorded that path.
    expect(foundIn(all.replaceAll(/^POST .*$/gm, ''), ['token'])).toEqual([])
  })

  it('no line of either log holds any of them', () => {
    for (const { stdout, stderr } of logs) {
      expect(stdout()).not.toBe('')
      expect(logProblems(stdout())).toEqual([])
      expect(foundIn(stdout() + stderr(), Object.keys(planted))).toEqual([])
    }
  })

  /** The names of the canaries whose text, or secret part, the output contains. */
  function foundIn(text: string, names: string[]): string[] {
    return names.filter((name) =>
      formsOf(planted[name] as string).some((form) => text.includes(form)),
    )
  }
})

/** The secret as it is, without its prefix, and as the bytes that it encodes. */
function formsOf(canary: string): string[] {
  const core = canary.replace(/^(whsec_|Bearer )/, '')
  const bytes = Buffer.from(core, 'base64').toString('latin1')
  return [
    core,
    Buffer.from(core).toString('base64').slice(0, -4),
    ...(bytes.startsWith('canary') ? [bytes] : []),
  ]
}

const RAW: Record<Engine, (storeUrl: string) => Promise<string>> = {
  async sqlite(storeUrl) {
    const folder = dirname(storeUrl.replace('sqlite:', ''))
    return readdirSync(folder)
      .map((name) => readFileSync(join(folder, name), 'latin1'))
      .join('\n')
  },
  async mongo(storeUrl) {
    const client = new MongoClient(storeUrl)
    const collections = await client.db().collections()
    const all = await Promise.all(collections.map((one) => one.find().toArray()))
    await client.close()
    const shown = (_: string, value: unknown) =>
      value instanceof Binary ? Buffer.from(value.buffer).toString('latin1') : value
    return all
      .flat()
      .map(
        (document) =>
          JSON.stringify(document, shown) +
          Buffer.from(BSON.serialize(document)).toString('latin1'),
      )
      .join('\n')
  },
}

/** Makes the next insert of a job fail with an unexpected error. */
const BREAKS: Record<Engine, (storeUrl: string) => Promise<void>> = {
  async sqlite(storeUrl) {
    const database = new DatabaseSync(storeUrl.replace('sqlite:', ''))
    database.exec(
      "create trigger broken before insert on jobs begin select raise(abort, 'a test'); end",
    )
    database.close()
  },
  async mongo(storeUrl) {
    const client = new MongoClient(storeUrl)
    const jobs = client.db().collection(COLLECTIONS.jobs)
    await jobs.updateOne({ endpoint: 'known' }, { $set: { priority: 3 } })
    await jobs.createIndex(
      { endpoint: 1, priority: 1 },
      { unique: true, name: 'broken', partialFilterExpression: { priority: 3 } },
    )
    await client.close()
  },
}
