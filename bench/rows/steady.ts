// Row b2: jobs are posted and delivered at the same time, as fast as a lag of less than a second
// allows.
import type { Row } from '../row.ts'
import { startRedis } from '../servers.ts'
import {
  compareTrips,
  startPeerSystem,
  startPosthornSystem,
  startTrips,
  type TripTerms,
} from './round-trip-sides.ts'

const SECONDS = 30
/**
 * Limit of posted and not yet delivered jobs: at 2,000 jobs/s it is half a second of lag, and a
 * larger limit would only lengthen queues.
 */
const MAX_OUTSTANDING = 1_000

export const steadyRow: Row = {
  name: 'b2',
  title: 'enqueue and deliver at once, lag under a second, against BullMQ behind Fastify',
  async play(bench) {
    const redis = await startRedis(bench.folder)
    const trips = await startTrips()
    try {
      const posthorn = await startPosthornSystem(bench, 'sqlite', trips)
      const bullmq = await startPeerSystem('bullmq', redis, trips)
      const terms = {
        ...{ row: 'b2', what: 'jobs posted one by one and delivered', unit: 'jobs/s' },
        ...{ better: 'more', mustReach: 1.3, aim: 2 },
        order: { seconds: SECONDS * bench.scale, pace: { outstanding: MAX_OUTSTANDING } },
        reading: ({ inTime, seconds }) => inTime / seconds,
      } as const satisfies TripTerms
      return [await compareTrips(bench, trips, terms, [posthorn, bullmq])]
    } finally {
      trips.stop()
      await redis.stop()
    }
  },
}
