// A process that stops gives the upkeep to another one, which does not wait until the lease would
// have ended.
import { pino } from 'pino'
import { afterEach, describe, expect, it } from 'vitest'
import { readConfig } from '../../src/config.ts'
import type { Store } from '../../src/store/store.ts'
import { Upkeep } from '../../src/upkeep/upkeep.ts'
import { addEndpoint, enqueueOne } from '../contract/fixtures.ts'
import { ENGINES } from '../support/engines.ts'
import { useStore } from '../support/stores.ts'
import { until } from '../support/until.ts'

/** The lease of the holder lasts 2.4 s, and was taken just before. */
const SOON_MS = 1_500

describe.each(ENGINES)('on %s', (engine) => {
  const place = useStore(engine)
  const running: Upkeep[] = []
  afterEach(async () => {
    await Promise.all(running.map((one) => one.stop()))
  })

  /** Counts the looks at the lease of another process. */
  function counted(store: Store): { store: Store; looks: () => number } {
    let looks = 0
    const upkeepLease = () => {
      looks++
      return store.upkeepLease()
    }
    return { store: Object.assign(Object.create(store), { upkeepLease }), looks: () => looks }
  }

  function start(store: Store, name: string) {
    const lines: string[] = []
    const log = pino({ level: 'info' }, { write: (line: string) => void lines.push(line) })
    const options = { name, isStandby: false, lacksKey: () => false, onSwept() {}, onOutbox() {} }
    const upkeep = new Upkeep(store, readConfig({}), options, log)
    running.push(upkeep)
    upkeep.start()
    return { upkeep, hasBegun: () => lines.some((line) => line.includes('upkeep.begun')) }
  }

  it('a hint is enough for the next one', async () => {
    const endpoint = await addEndpoint(place.store)
    const first = start(place.store, 'first')
    await until(first.hasBegun)
    const { store, looks } = counted(await place.open())
    const second = start(store, 'second')
    await until(() => looks() > 0)
    await first.upkeep.stop()
    const stoppedAtMs = performance.now()
    await until(async () => {
      // On MongoDB, only a job is a hint, once the change stream is open.
      if (engine === 'mongo') await enqueueOne(place.store, endpoint)
      return second.hasBegun()
    })
    expect(performance.now() - stoppedAtMs).toBeLessThan(SOON_MS)
    expect(looks()).toBeLessThan(5)
  })
})
