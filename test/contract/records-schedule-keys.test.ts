// Schedules whose settings were encrypted with a key that the store does not have, on both stores.
import { randomBytes } from 'node:crypto'
import { describe, expect, test } from 'vitest'
import type { ScheduleChange, Store } from '../../src/store/store.ts'
import { ENGINES } from '../support/engines.ts'
import { useStore } from '../support/stores.ts'
import { addEndpoint } from './fixtures.ts'

const SETTINGS = '{"every":"1s"}'
const [OLD, NEW] = [randomBytes(32), randomBytes(32)]

describe.each(ENGINES)('the keys of schedules on %s', (engine) => {
  const place = useStore(engine, { encryptionKeys: [OLD] })

  async function put(store: Store, fields: Partial<ScheduleChange>): Promise<void> {
    const change = { name: '', endpoint: '', paused: false, settings: SETTINGS, nextRunAt: null }
    const { kind } = await store.putSchedule(
      { ...change, payload: Buffer.from('{}'), ...fields },
      null,
    )
    expect(['created', 'replaced']).toContain(kind)
  }

  const namesListed = async (store: Store) =>
    (await store.listSchedules(null, 100)).items.map(({ name }) => name)

  test('a key is taken out once a process has started with both, and none is lost', async () => {
    const both = { encryptionKeys: [NEW, OLD] }
    const endpoint = await addEndpoint(await place.open(both))
    await put(place.store, { name: 'from-before', endpoint })
    await place.open(both)
    const store = await place.open({ encryptionKeys: [NEW] })
    expect(await store.getSchedule('from-before')).toMatchObject({ settings: SETTINGS, version: 1 })
    expect(await store.deleteSchedule('from-before', 1)).toEqual({ kind: 'deleted' })
  })

  test('one that no key decrypts delays none of the others, and can be replaced', async () => {
    const store = await place.open({ encryptionKeys: [NEW] })
    const endpoint = await addEndpoint(store)
    const now = store.clock.now()
    // Written by a process that still runs with the old key alone.
    await put(place.store, { name: 'lost', endpoint, nextRunAt: now - 2_000 })
    await put(store, { name: 'well', endpoint, nextRunAt: now - 1_000 })
    const warningCount = place.warnings.length

    expect(await namesListed(store)).toEqual(['well'])
    expect(await store.listSchedules(null, 1)).toEqual({ items: [], next: 'lost' })
    expect((await store.dueSchedules(1)).map(({ name }) => name)).toEqual(['well'])
    expect(await store.getSchedule('well')).toMatchObject({ settings: SETTINGS })
    await expect(store.getSchedule('lost')).rejects.toThrow(/ENCRYPTION_KEY does not hold/)
    expect(place.warnings.slice(warningCount)).toEqual([
      {
        message: 'schedule.unreadable',
        fields: expect.objectContaining({ schedule: 'lost' }),
      },
    ])

    await put(store, { name: 'lost', endpoint, nextRunAt: now - 2_000 })
    expect(await store.getSchedule('lost')).toMatchObject({ settings: SETTINGS, version: 2 })
    expect(await namesListed(store)).toEqual(['lost', 'well'])
  })

  test('one that no key decrypts ends no start: it is reported, and can be deleted', async () => {
    const newer = await place.open({ encryptionKeys: [NEW] })
    const endpoint = await addEndpoint(newer)
    await put(place.store, { name: 'stray', endpoint })
    const warningCount = place.warnings.length
    const store = await place.open({ encryptionKeys: [NEW] })
    expect(place.warnings.slice(warningCount)).toMatchObject([{ fields: { schedule: 'stray' } }])
    expect(await store.deleteSchedule('stray', null)).toEqual({ kind: 'deleted' })
  })
})
