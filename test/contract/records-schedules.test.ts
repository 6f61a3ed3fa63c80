// Schedules as records, on both stores: compare-and-set by requests and by ticks, encryption, and
// the order of lists.
import { describe, expect, test } from 'vitest'
import type { Schedule, ScheduleChange, Store } from '../../src/store/store.ts'
import { ENGINES } from '../support/engines.ts'
import { useStore } from '../support/stores.ts'
import { addEndpoint, freshName } from './fixtures.ts'

const SETTINGS = '{"every":"15m","headers":{"x-token":"planted-in-schedule"}}'

describe.each(ENGINES)('schedules on %s', (engine) => {
  const place = useStore(engine)

  async function changeOf(fields: Partial<ScheduleChange> = {}): Promise<ScheduleChange> {
    return {
      name: `schedule-${freshName()}`,
      endpoint: fields.endpoint ?? (await addEndpoint(place.store)),
      paused: false,
      settings: SETTINGS,
      payload: Buffer.from('{"n": 12345678901234567890}'),
      nextRunAt: null,
      ...fields,
    }
  }

  async function add(fields: Partial<ScheduleChange> = {}, store = place.store): Promise<Schedule> {
    const result = await store.putSchedule(await changeOf(fields), null)
    if (result.kind !== 'created') throw new Error(result.kind)
    return result.schedule
  }

  async function scheduleOf(name: string, store = place.store): Promise<Schedule> {
    const schedule = await store.getSchedule(name)
    if (schedule === null) throw new Error(`${name} is gone`)
    return schedule
  }

  /** The due schedules with these names: other tests have added schedules to this store, too. */
  async function dueAmong(names: string[], store: Store = place.store): Promise<string[]> {
    const due = await store.dueSchedules(1_000)
    return due.map(({ name }) => name).filter((name) => names.includes(name))
  }

  test('a new schedule is read back as it was put, byte for byte', async () => {
    const before = place.store.clock.now()
    const change = await changeOf({ nextRunAt: before + 60_000 })
    const result = await place.store.putSchedule(change, null)
    expect(result.kind).toBe('created')
    const schedule = await scheduleOf(change.name)
    expect(result).toEqual({ kind: 'created', schedule })
    expect(schedule).toEqual({
      ...change,
      payload: schedule.payload,
      lastJobId: null,
      lastError: null,
      createdAt: schedule.updatedAt,
      updatedAt: schedule.updatedAt,
      version: 1,
    })
    expect(Buffer.from(schedule.payload)).toEqual(change.payload)
    expect(schedule.createdAt).toBeGreaterThanOrEqual(before - 5)
    expect(await place.store.getSchedule('nobody')).toBeNull()
  })

  test('one that is replaced keeps when it was made and what its last tick came to', async () => {
    const { store } = place
    const tickAt = store.clock.now()
    const first = await add({ nextRunAt: tickAt })
    await store.advanceSchedules([
      {
        name: first.name,
        version: 1,
        tickAt,
        nextRunAt: null,
        lastJobId: 'job_1',
        lastError: 'no',
      },
    ])
    const change = await changeOf({ name: first.name, paused: true, settings: '{"every":"1h"}' })
    const result = await store.putSchedule(change, 1)
    const schedule = await scheduleOf(first.name)
    expect(result).toEqual({ kind: 'replaced', schedule })
    expect(schedule).toMatchObject({
      endpoint: change.endpoint,
      paused: true,
      settings: '{"every":"1h"}',
      lastJobId: 'job_1',
      lastError: 'no',
      createdAt: first.createdAt,
      version: 2,
    })
  })

  test('of ten puts that may only create it at once, one does', async () => {
    const change = await changeOf()
    const stores = [place.store, await place.open()]
    const results = await Promise.all(
      Array.from({ length: 10 }, (_, i) => (stores[i % 2] as Store).putSchedule(change, 'none')),
    )
    expect(results.filter(({ kind }) => kind === 'created')).toHaveLength(1)
    const stale = results.filter(({ kind }) => kind === 'stale')
    expect(stale).toEqual(Array(9).fill({ kind: 'stale', version: 1 }))
  })

  test('a put for another version than the stored one changes nothing', async () => {
    const { store } = place
    const { name, endpoint } = await add()
    const change = await changeOf({ name, endpoint, paused: true })
    expect(await store.putSchedule(change, 7)).toEqual({ kind: 'stale', version: 1 })
    const other = await changeOf({ endpoint })
    expect(await store.putSchedule(other, 1)).toEqual({ kind: 'stale', version: null })
    expect((await scheduleOf(name)).paused).toBe(false)
    expect(await store.getSchedule(other.name)).toBeNull()
  })

  test('of many puts for one version one is stored, from whatever process', async () => {
    const other = await place.open()
    const { name, endpoint } = await add()
    const results = await Promise.all(
      Array.from({ length: 10 }, async (_, i) => {
        const change = await changeOf({ name, endpoint, settings: `{"n":${i}}` })
        return (i % 2 === 0 ? place.store : other).putSchedule(change, 1)
      }),
    )
    const stored = results.filter(({ kind }) => kind === 'replaced')
    expect(stored).toHaveLength(1)
    expect(stored).toMatchObject([{ schedule: { ...(await scheduleOf(name)) } }])
    expect((await scheduleOf(name)).version).toBe(2)
  })

  test('puts without a version that race are all stored, one after another', async () => {
    const other = await place.open()
    const change = await changeOf()
    const results = await Promise.all(
      [place.store, other, place.store].map((store) => store.putSchedule(change, null)),
    )
    const kinds = results.map(({ kind }) => kind).sort()
    expect(kinds).toEqual(['created', 'replaced', 'replaced'])
    expect((await scheduleOf(change.name)).version).toBe(3)
  })

  test('the endpoint must be there and not be deleted', async () => {
    const { store } = place
    const unknown = await changeOf({ endpoint: freshName() })
    expect(await store.putSchedule(unknown, null)).toEqual({ kind: 'unknown_endpoint' })
    const { name, endpoint } = await add()
    await store.deleteEndpoint(endpoint, { force: true, ifVersion: null })
    expect(await store.putSchedule(await changeOf({ name, endpoint }), null)).toEqual({
      kind: 'unknown_endpoint',
    })
    expect((await scheduleOf(name)).version).toBe(1)
  })

  test('an endpoint that a schedule names is not deleted without force', async () => {
    const { store } = place
    const { name, endpoint } = await add()
    const asked = { force: false, ifVersion: null }
    expect(await store.deleteEndpoint(endpoint, asked)).toMatchObject({
      kind: 'in_use',
      scheduleName: name,
    })
    await store.deleteSchedule(name, null)
    expect(await store.deleteEndpoint(endpoint, asked)).toEqual({ kind: 'deleted' })
  })

  test('schedules are listed by name, page by page, each once', async () => {
    const { store } = place
    const endpoint = await addEndpoint(store)
    const prefix = `list-${freshName()}-`
    const names = ['a', 'b', 'b.c', 'b_c', 'z'].map((end) => prefix + end)
    for (const name of names.toReversed()) await add({ name, endpoint })
    const first = await store.listSchedules(prefix, 2)
    expect(first.items.map(({ name }) => name)).toEqual(names.slice(0, 2))
    expect(first.next).toBe(names[1])
    const second = await store.listSchedules(first.next, 2)
    expect(second.items.map(({ name }) => name)).toEqual(names.slice(2, 4))
    expect((await store.listSchedules(null, 1_000)).next).toBeNull()
    expect(first.items[0]).toEqual(await scheduleOf(names[0] as string))
  })

  test('a schedule is deleted once, and only at the version that was named', async () => {
    const { store } = place
    const { name } = await add()
    expect(await store.deleteSchedule(name, 2)).toEqual({ kind: 'stale', version: 1 })
    expect(await store.deleteSchedule(name, 1)).toEqual({ kind: 'deleted' })
    expect(await store.deleteSchedule(name, 1)).toEqual({ kind: 'not_found' })
    expect(await store.deleteSchedule(name, null)).toEqual({ kind: 'not_found' })
    expect(await store.getSchedule(name)).toBeNull()
  })

  test('due are those whose tick has come and that are not paused, the earliest first', async () => {
    const { store } = place
    const now = store.clock.now()
    const late = await add({ nextRunAt: now - 1_000 })
    const latest = await add({ nextRunAt: now - 5_000 })
    const paused = await add({ nextRunAt: now - 3_000, paused: true })
    const future = await add({ nextRunAt: now + 3_600_000 })
    const ended = await add({ nextRunAt: null })
    const names = [late, latest, paused, future, ended].map(({ name }) => name)
    expect(await dueAmong(names)).toEqual([latest.name, late.name])
    const [first] = await store.dueSchedules(1)
    expect(first?.nextRunAt).toBeLessThanOrEqual(now - 5_000)
    const due = (await store.dueSchedules(1_000)).find(({ name }) => name === late.name)
    expect(due).toEqual(await scheduleOf(late.name))
  })

  test('a tick moves a schedule on, and raises no version', async () => {
    const { store } = place
    const tickAt = store.clock.now()
    const { name, updatedAt } = await add({ nextRunAt: tickAt })
    const next = tickAt + 60_000
    await store.advanceSchedules([
      { name, version: 1, tickAt, nextRunAt: next, lastJobId: 'job_1', lastError: null },
    ])
    const moved = { nextRunAt: next, lastJobId: 'job_1', lastError: null, version: 1, updatedAt }
    expect(await scheduleOf(name)).toMatchObject(moved)
    await store.advanceSchedules([
      { name, version: 1, tickAt: next, nextRunAt: null, lastError: 'the endpoint is disabled' },
    ])
    expect(await scheduleOf(name)).toMatchObject({
      nextRunAt: null,
      lastJobId: 'job_1',
      lastError: 'the endpoint is disabled',
    })
  })

  test('one that was changed or has moved on is not moved by what was read before', async () => {
    const { store } = place
    const tickAt = store.clock.now()
    const changed = await add({ nextRunAt: tickAt })
    const moved = await add({ nextRunAt: tickAt })
    const untouched = await add({ nextRunAt: tickAt })
    const { name, endpoint } = changed
    await store.putSchedule(await changeOf({ name, endpoint, nextRunAt: tickAt }), null)
    const move = { version: 1, tickAt, nextRunAt: tickAt + 1_000, lastError: null }
    await store.advanceSchedules([{ ...move, name: moved.name, lastJobId: 'first' }])
    await store.advanceSchedules([
      { ...move, name, lastJobId: 'second' },
      { ...move, name: moved.name, lastJobId: 'second' },
      { ...move, name: 'nobody', lastJobId: 'second' },
      { ...move, name: untouched.name, lastJobId: 'second' },
    ])
    expect(await scheduleOf(name)).toMatchObject({ nextRunAt: tickAt, lastJobId: null })
    expect(await scheduleOf(moved.name)).toMatchObject({ lastJobId: 'first' })
    expect(await scheduleOf(untouched.name)).toMatchObject({ lastJobId: 'second' })
    await store.advanceSchedules([])
  })

  test('of many workers that move a schedule on from one tick one does', async () => {
    const stores = [place.store, await place.open(), await place.open()]
    const tickAt = place.store.clock.now()
    const { name } = await add({ nextRunAt: tickAt })
    await Promise.all(
      Array.from({ length: 9 }, (_, i) => {
        const move = { name, version: 1, tickAt, nextRunAt: tickAt + i + 1, lastError: null }
        return stores[i % 3]?.advanceSchedules([{ ...move, lastJobId: `job_${i}` }])
      }),
    )
    const { nextRunAt, lastJobId } = await scheduleOf(name)
    expect(lastJobId).toBe(`job_${(nextRunAt ?? 0) - tickAt - 1}`)
  })

  test('a list of large payloads stops short, and goes on from there', async () => {
    const { store } = place
    const endpoint = await addEndpoint(store)
    const payload = Buffer.alloc(8 * 1024 * 1024, ' ')
    const names = Array.from({ length: 5 }, (_, i) => `zz-large-${i}`)
    for (const name of names) await add({ name, endpoint, payload, nextRunAt: 1_000 })
    const first = await store.listSchedules('zz-large', 100)
    const rest = await store.listSchedules(first.next, 100)
    expect(first.items.length).toBeLessThan(names.length)
    expect([...first.items, ...rest.items].map(({ name }) => name)).toEqual(names)
    expect(rest.next).toBeNull()
    expect((await dueAmong(names)).length).toBe(first.items.length)
    for (const name of names) await store.deleteSchedule(name, null)
  }, 30_000)

  test('what a schedule sends along is stored encrypted only', async () => {
    const { name } = await add()
    const text = await place.rawText()
    expect(text).toContain(name)
    expect(text).not.toContain('planted-in-schedule')
  })
})
