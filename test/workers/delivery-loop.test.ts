// How the loop of a worker begins and ends.
import pino from 'pino'
import { describe, expect, it } from 'vitest'
import { createBeat } from '../../workers/beat.ts'
import { DeliveryLoop } from '../../workers/delivery-loop.ts'
import { createEndpointCache } from '../../workers/endpoint-cache.ts'
import { ENGINES, useStore } from '../support/stores.ts'

/** Longer than a test may take. */
const POLL_INTERVAL_MS = 600_000

describe.each(ENGINES)('on %s', (engine) => {
  const place = useStore(engine)

  it('stops at once when it is stopped while it looks for due jobs', async () => {
    const { store } = place
    const loop = new DeliveryLoop({
      ...{ store, workerId: 'worker-1', concurrency: 1, leaseMs: 30_000 },
      ...{ pollIntervalMs: POLL_INTERVAL_MS, log: pino({ level: 'silent' }) },
      ...{ leases: { isBehind: false }, affordable: () => 1, beat: createBeat(1) },
      slots: () => 1,
      endpoints: createEndpointCache(store, () => {}),
      deliver: async () => {},
      onClaimed: () => {},
    })
    const beforeMs = performance.now()
    loop.start()
    await loop.stop()
    expect(performance.now() - beforeMs).toBeLessThan(POLL_INTERVAL_MS)
  })
})
