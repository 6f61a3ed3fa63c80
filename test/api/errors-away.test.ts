// The table of errors, continued: the responses while the store is not available.
import { DatabaseSync } from 'node:sqlite'
import { afterAll, beforeAll, describe, expect, inject, it } from 'vitest'
import { expectProblem } from '../support/api-fixture.ts'
import { type Deployment, deploy } from '../support/deployment.ts'
import { ENGINES, type Engine } from '../support/engines.ts'
import { databaseUrl } from '../support/mongo.ts'
import { startMongoProxy } from '../support/mongo-proxy.ts'
import type { Answer } from '../support/request.ts'
import { until } from '../support/until.ts'

/** Makes the store unavailable: another program locks the file, or the network returns nothing. */
const OUTAGES: Record<Engine, () => Promise<Outage>> = {
  async sqlite() {
    let writer: DatabaseSync | null = null
    return {
      settings: {},
      begin({ STORE_URL }) {
        writer = new DatabaseSync((STORE_URL as string).replace('sqlite:', ''))
        writer.exec('begin immediate')
      },
      async end() {
        writer?.close()
      },
    }
  },
  async mongo() {
    const name = `test-api-${Date.now().toString(36)}`
    const proxy = await startMongoProxy(databaseUrl(inject('mongoUrl'), name))
    return {
      settings: { STORE_URL: proxy.url },
      begin: () => proxy.stall(),
      async end() {
        proxy.restore()
        await proxy.stop()
      },
    }
  },
}

interface Outage {
  settings: Record<string, string>
  begin(env: Record<string, string>): void
  end(): Promise<void>
}

describe.each(ENGINES)('on %s, while the store is away', (engine) => {
  const MIB = 1_048_576
  const CODES = ['overloaded', 'store_unavailable']
  const answers: Answer[] = []
  let read: Answer
  let outage: Outage
  let posthorn: Deployment
  beforeAll(async () => {
    outage = await (OUTAGES[engine] as () => Promise<Outage>)()
    posthorn = deploy(engine, { MAX_BODY_BYTES: String(8 * MIB), ...outage.settings })
    await posthorn.startApi()
    await posthorn.request('PUT', '/endpoints/known', { url: null })
    outage.begin(posthorn.env)
    // More jobs than may wait to be stored.
    const payload = 'x'.repeat(7 * MIB)
    const enqueue = () => posthorn.request('POST', '/jobs', { endpoint: 'known', payload })
    const sent = Array.from({ length: 13 }, async () => void answers.push(await enqueue()))
    await until(() => CODES.every((code) => withCode(code).length > 0))
    read = await posthorn.request('GET', '/jobs')
    await outage.end()
    await Promise.all(sent)
  })
  afterAll(async () => {
    await posthorn.close()
  })
  const withCode = (code: string) => answers.filter((answer) => answer.body.code === code)

  it('store_unavailable: 503 with Retry-After, and how to repeat the write', () => {
    const refused = withCode('store_unavailable')
    expect(refused.length).toBeGreaterThan(0)
    for (const answer of refused) {
      expectProblem(answer, 503, 'store_unavailable', {
        detail: expect.stringMatching(/Idempotency-Key/),
      })
      expect(answer.headers.get('retry-after')).toBe('1')
    }
  })

  it.runIf(engine === 'mongo')(
    'store_unavailable: the error of a read does not say how to repeat a write',
    () => {
      // A file that another program has locked can still be read.
      expectProblem(read, 503, 'store_unavailable', { detail: 'the store did not respond in time' })
    },
  )

  it('overloaded: 503 with Retry-After once too much waits', () => {
    const refused = withCode('overloaded')
    expect(refused.length).toBeGreaterThan(0)
    for (const answer of refused) {
      expectProblem(answer, 503, 'overloaded')
      expect(answer.headers.get('retry-after')).toBe('1')
    }
  })
})
