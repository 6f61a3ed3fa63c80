// /stats and /metrics with more endpoints than one read covers: no endpoint is missing, and the
// figures of one endpoint do not depend on the jobs of the others.
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { DURATION_BOUNDS_MS } from '../../src/store/minute-stats.ts'
import { addEndpoint, enqueueMany, settingsOf } from '../contract/fixtures.ts'
import { ENGINES } from '../support/engines.ts'
import { type ServedApp, serveApp } from '../support/served-app.ts'
import { useStore } from '../support/stores.ts'

const COUNT = 1_030
const AT_ONCE = 10
const LAST = 'sz-the-last'
const MINUTE_MS = 60_000

describe.each(ENGINES)('on %s', (engine) => {
  const place = useStore(engine)
  let served: ServedApp

  beforeAll(async () => {
    const { store } = place
    const names = Array.from({ length: COUNT - 1 }, (_, i) => `endpoint-${i}`)
    for (let i = 0; i < names.length; i += AT_ONCE) {
      await Promise.all(names.slice(i, i + AT_ONCE).map((name) => addEndpoint(store, { name })))
    }
    await addEndpoint(store, settingsOf({ name: LAST }))
    await enqueueMany(store, LAST, 3, { runAt: store.clock.now() - 10 * MINUTE_MS })
    served = await serveApp({ store })
  }, 120_000)
  afterAll(() => served.close())

  const stats = async (query = '') => (await fetch(`${served.url}/stats${query}`)).json()

  test('the last endpoint by name is found, alone and among all', async () => {
    const found = { name: LAST, state: 'active', queued: 3, due: 3, oldestDueAge: /^10m/ }
    const one = (await stats(`?endpoint=${LAST}`)) as { endpoints: object[] }
    expect(one.endpoints).toMatchObject([{ ...found, oldestDueAge: expect.stringMatching(/^10m/) }])
    const all = (await stats()) as { endpoints: { name: string }[] }
    expect(all.endpoints).toHaveLength(COUNT)
    expect(all.endpoints.at(-1)).toMatchObject({ name: LAST, queued: 3 })
    expect(all).not.toHaveProperty('more')
    expect(await stats('?endpoint=unknown')).toMatchObject({ endpoints: [] })
  })

  test('an alert on any endpoint that is late fires by it', async () => {
    const text = await (await fetch(`${served.url}/metrics`)).text()
    const figureOf = (line: string) => Number(new RegExp(`^${line} (.+)$`, 'm').exec(text)?.[1])
    const other = '\\{endpoint="other",process="api"\\}'
    expect(figureOf(`posthorn_oldest_due_age_seconds${other}`)).toBeGreaterThan(599)
    expect(figureOf(`posthorn_due_jobs${other}`)).toBe(3)
    expect(figureOf('posthorn_endpoints\\{state="active",process="api"\\}')).toBe(COUNT)
    expect(figureOf('posthorn_endpoints_cut\\{process="api"\\}')).toBe(0)
  })

  test('the minutes of one endpoint are found, whatever the others did', async () => {
    const { store } = place
    const now = Math.floor(store.clock.now() / MINUTE_MS) * MINUTE_MS
    const durations = Array(DURATION_BOUNDS_MS.length + 1).fill(0)
    durations[1] = 1
    const counted = { succeeded: 2, failed: 1, durations }
    await store.addMinuteStats(
      [
        { ...counted, minute: now - 5 * MINUTE_MS, endpoint: LAST },
        { ...counted, minute: now - 5 * MINUTE_MS, endpoint: 'endpoint-1' },
        { ...counted, minute: now - 90 * MINUTE_MS, endpoint: LAST },
      ],
      { writer: 'w', number: 1 },
    )
    const one = (await stats(`?window=1h&endpoint=${LAST}`)) as { minutes: object[] }
    expect(one.minutes).toMatchObject([{ succeeded: 2, failed: 1 }])
    const each = (await stats('?window=2h&by=endpoint')) as {
      durationBounds: string[]
      endpoints: { name: string; ended?: { from: string; succeeded: number[]; failed: number[] } }[]
    }
    const endedOf = (name: string) => each.endpoints.find((one) => one.name === name)?.ended
    const from = new Date(now - 90 * MINUTE_MS).toISOString()
    const places = (...at: number[]) =>
      Array.from({ length: 86 }, (_, i) => (at.includes(i) ? 1 : 0))
    expect(endedOf(LAST)).toEqual({
      from,
      succeeded: places(0, 85).map((one) => 2 * one),
      failed: places(0, 85),
      durations: durations.map((_, i) => (i === 1 ? 2 : 0)),
    })
    expect(endedOf('endpoint-1')).toMatchObject({ from, failed: places(85) })
    expect(each.endpoints.filter(({ ended }) => ended !== undefined)).toHaveLength(2)
    expect(each).not.toHaveProperty('minutes')
    expect(await stats('?by=endpoint')).toMatchObject({ status: 400, code: 'invalid_request' })
    const all = (await stats('?window=2h')) as { minutes: { succeeded: number }[] }
    expect(all.minutes.map(({ succeeded }) => succeeded)).toEqual([2, 4])
    expect(all).not.toHaveProperty('moreMinutes')
  })
})
