// The store of a scheduler goes away in the middle of a tick. The scheduler waits, continues, and
// enqueues nothing twice.
import { DatabaseSync } from 'node:sqlite'
import { pino } from 'pino'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { openStore } from '../../src/store/open-store.ts'
import type { Store } from '../../src/store/store.ts'
import { Scheduler } from '../../src/upkeep/scheduler.ts'
import { addEndpoint } from '../contract/fixtures.ts'
import { type MongoProxy, startMongoProxy } from '../support/mongo-proxy.ts'
import { useStore } from '../support/stores.ts'
import { until } from '../support/until.ts'
import { addSchedule, movedOn } from './fixtures.ts'

/** Starts a scheduler, and collects its log. */
function startScheduler(store: Store): { scheduler: Scheduler; hasLogged(msg: string): boolean } {
  const lines: string[] = []
  const log = pino({ level: 'info' }, { write: (line: string) => void lines.push(line) })
  const scheduler = new Scheduler(store, log)
  scheduler.start()
  return { scheduler, hasLogged: (msg) => lines.some((line) => line.includes(`"msg":"${msg}"`)) }
}

async function dueTimesAt(store: Store, endpoint: string): Promise<number[]> {
  const { items } = await store.listJobs({ endpoint, limit: 100 })
  return items.map(({ runAt }) => runAt)
}

describe('on sqlite', () => {
  const place = useStore('sqlite')

  it('a tick that comes while another program holds the file is made up for', async () => {
    const endpoint = await addEndpoint(place.store)
    const schedule = await addSchedule(place.store, endpoint, 100)
    const other = new DatabaseSync(place.url.replace('sqlite:', ''))
    other.exec('begin immediate')
    const { scheduler, hasLogged } = startScheduler(place.store)
    await until(() => hasLogged('schedules.failed'))
    other.close()
    await movedOn(place.store, schedule)
    await scheduler.stop()
    expect(await dueTimesAt(place.store, endpoint)).toEqual([schedule.nextRunAt])
  })
})

describe('on mongo', () => {
  const place = useStore('mongo')
  let proxy: MongoProxy
  /** This store uses the proxy. place.store does not. */
  let store: Store
  beforeEach(async () => {
    proxy = await startMongoProxy(place.url)
    store = await openStore(proxy.url, {
      retentionMs: 3_600_000,
      retentionDeadMs: 3_600_000,
      encryptionKeys: [place.encryptionKey],
      warn: (_, message) => expect.fail(message),
    })
  })
  afterEach(async () => {
    proxy.restore()
    await store.close()
    await proxy.stop()
  })

  it('a tick that comes while the server is out of reach is made up for', async () => {
    const endpoint = await addEndpoint(place.store)
    const schedule = await addSchedule(place.store, endpoint, 100)
    proxy.cut()
    const { scheduler, hasLogged } = startScheduler(store)
    await until(() => hasLogged('schedules.failed'))
    proxy.restore()
    await movedOn(place.store, schedule)
    await scheduler.stop()
    expect(await dueTimesAt(place.store, endpoint)).toEqual([schedule.nextRunAt])
  })

  it.each([
    ['the insert of its job', 'originKey'],
    ['its move to the next tick', 'lastError'],
  ])('a tick is one job though the response to %s is lost', async (_, text) => {
    const endpoint = await addEndpoint(place.store)
    const schedule = await addSchedule(place.store, endpoint, 1_500)
    const lostBefore = proxy.lostAnswers()
    proxy.loseAnswerTo(text)
    const { scheduler } = startScheduler(store)
    await movedOn(place.store, schedule)
    await until(() => proxy.lostAnswers() === lostBefore + 1)
    await scheduler.stop()
    expect(await dueTimesAt(place.store, endpoint)).toEqual([schedule.nextRunAt])
  })
})
