// Reports of minute statistics: if a write fails, nothing is lost or counted twice, whether or not
// the store applied it.
import { randomBytes } from 'node:crypto'
import { DatabaseSync } from 'node:sqlite'
import pino from 'pino'
import { describe, expect, onTestFinished, test } from 'vitest'
import { OUTCOMES } from '../../src/job/job.ts'
import { MinuteStatReports } from '../../src/stats/minute-stat-reports.ts'
import { createMinuteStatsBuffer } from '../../src/stats/minute-stats-buffer.ts'
import { openStore } from '../../src/store/open-store.ts'
import type { Store } from '../../src/store/store.ts'
import { ENGINES, type Engine } from '../support/engines.ts'
import { startMongoProxy } from '../support/mongo-proxy.ts'
import { useStore } from '../support/stores.ts'
import { until } from '../support/until.ts'

const INTERVAL_MS = 50
const DEADLINE_MS = 30_000
const encryptionKeys = [randomBytes(32)]

/** A store that does not respond between `begin` and `end`. */
interface Outage {
  store: Store
  begin(): void
  end(): void
}

describe('the reports of minute statistics', () => {
  test('counts as failures what the endpoint could not do, and no cancel or throttle', () => {
    const book = createMinuteStatsBuffer()
    for (const outcome of OUTCOMES) book.add(outcome, outcome, 1, 60_000)
    const taken = book.take()
    const failed = taken.filter((one) => one.failed === 1).map(({ endpoint }) => endpoint)
    expect(taken.filter((one) => one.succeeded === 1)).toMatchObject([{ endpoint: 'succeeded' }])
    const neither = ['succeeded', 'accepted', 'throttled', 'interrupted', 'cancelled']
    expect(failed).toEqual(OUTCOMES.filter((outcome) => !neither.includes(outcome)))
    expect(taken).toHaveLength(failed.length + 1)
  })

  test('is bounded, and says how much it left out', () => {
    const book = createMinuteStatsBuffer()
    for (let i = 0; i < 10_003; i++) book.add(`endpoint-${i}`, 'succeeded', 1, 60_000)
    book.add('endpoint-1', 'succeeded', 1, 60_000)
    expect([book.takeLeftOut(), book.takeLeftOut()]).toEqual([3, 0])
    expect(book.take().reduce((sum, { succeeded }) => sum + succeeded, 0)).toBe(10_001)
  })
})

describe.each(ENGINES)('reports on %s', (engine) => {
  const place = useStore(engine, { encryptionKeys })

  const OUTAGES: Record<Engine, () => Promise<Outage>> = {
    async sqlite() {
      const writer = new DatabaseSync(place.url.replace('sqlite:', ''))
      onTestFinished(() => writer.close())
      return {
        store: place.store,
        begin: () => writer.exec('begin immediate'),
        end: () => writer.exec('rollback'),
      }
    },
    async mongo() {
      const proxy = await startMongoProxy(place.url)
      const settings = { retentionMs: 60_000, retentionDeadMs: 60_000, encryptionKeys, warn() {} }
      const store = await openStore(proxy.url, settings)
      onTestFinished(async () => {
        await store.close()
        await proxy.stop()
      })
      // The store accepts the report, but its response is lost.
      return { store, begin: () => proxy.cutAfter('reports.'), end: () => proxy.restore() }
    },
  }

  test('a write that fails loses nothing, and what was stored is not added twice', async () => {
    const outage = await OUTAGES[engine]()
    const lines: string[] = []
    const log = pino({ level: 'info' }, { write: (line: string) => void lines.push(line) })
    const book = createMinuteStatsBuffer()
    const reports = new MinuteStatReports(outage.store, book, log, INTERVAL_MS)
    const minute = Math.floor(place.store.clock.now() / 60_000) * 60_000
    const endpoints = Array.from({ length: 500 }, (_, i) => `endpoint-${i}`)
    const addAll = () => {
      for (const name of endpoints) book.add(name, 'succeeded', 1, minute)
    }
    const logged = (msg: string) => lines.filter((line) => line.includes(`"msg":"${msg}"`)).length
    const sums = async () => {
      const { stats } = await place.store.minuteStatsSince(minute, null)
      return stats.map(({ succeeded }) => succeeded)
    }
    addAll()
    outage.begin()
    reports.start()
    await until(() => logged('figures.failed') > 0, DEADLINE_MS)
    // Attempts of the same minute end before the earlier report is stored.
    addAll()
    outage.end()
    await until(
      async () => (await sums()).length === 500 && !(await sums()).includes(1),
      DEADLINE_MS,
    )
    addAll()
    await reports.stop()
    expect(await sums()).toEqual(Array(500).fill(3))
    expect(logged('figures.lost')).toBe(0)
  })

  // On SQLite a write without a response is not stored, so there is only one case.
  test.runIf(engine === 'mongo')(
    'one that comes again, in other parts or late, adds nothing',
    async () => {
      const { store } = place
      const row = { minute: 60_000, succeeded: 1, failed: 0, durations: Array<number>(12).fill(0) }
      const rows = ['a', 'b', 'c'].map((endpoint) => ({ ...row, endpoint }))
      const first = { writer: 'one', number: 7 }
      await store.addMinuteStats(rows.slice(0, 2), first)
      await store.addMinuteStats(rows, first)
      await store.addMinuteStats(rows, { writer: 'another', number: 7 })
      await store.addMinuteStats(rows.slice(0, 1), { writer: 'one', number: 8 })
      await store.addMinuteStats(rows, first)
      const { stats } = await store.minuteStatsSince(0, null)
      const sums = stats.filter(({ minute }) => minute === 60_000)
      expect(Object.fromEntries(sums.map((one) => [one.endpoint, one.succeeded]))).toEqual({
        a: 3,
        b: 2,
        c: 2,
      })
    },
  )
})
