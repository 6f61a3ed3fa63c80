// Calls every method for schedules, keys, workers and statistics once, for tests that record the
// commands.
import type { Store } from '../../src/store/store.ts'

/** @param endpoint the name of a stored endpoint */
export async function useRecordVerbs(store: Store, endpoint: string): Promise<void> {
  const tickAt = store.clock.now() - 1_000
  const change = { name: 'a-schedule', endpoint, paused: false, settings: '{}' }
  const full = { ...change, payload: Buffer.from('{}'), nextRunAt: tickAt }
  await store.putSchedule(full, null)
  await store.putSchedule(full, 1)
  await store.getSchedule(change.name)
  await store.listSchedules(null, 10)
  await store.listSchedules('a', 10)
  await store.dueSchedules(10)
  await store.advanceSchedules([
    { name: change.name, version: 2, tickAt, nextRunAt: null, lastError: null },
  ])
  await store.deleteSchedule(change.name, 2)
  await store.deleteSchedule(change.name, null)

  const hash = 'aGFzaA=='
  await store.addKey({ id: 'key_1', name: 'a key', scope: 'work', hash, createdAt: tickAt })
  await store.listKeys()
  await store.removeKey('key_1')

  const report = {
    id: 'worker-1',
    version: '1',
    startedAt: tickAt,
    concurrency: 1,
    inFlight: 0,
    keyIds: [],
  }
  await store.reportWorker(report)
  await store.listWorkers()
  await store.removeWorker(report.id)

  const minute = Math.floor(tickAt / 60_000) * 60_000
  const stats = [{ minute, endpoint, succeeded: 1, failed: 0, durations: [1] }]
  // The second call finds that the row was added already.
  for (let i = 0; i < 2; i++) await store.addMinuteStats(stats, { writer: 'w', number: 1 })
  await store.minuteStatsSince(tickAt, null)
  await store.minuteStatsSince(tickAt, endpoint)
  await store.statsOf([endpoint, 'nobody'])
  await store.deletedEndpoints()
  // Of many endpoints, the store asks only about those that have jobs.
  await store.statsOf([endpoint, ...Array.from({ length: 20 }, (_, i) => `nobody-${i}`)])
}
