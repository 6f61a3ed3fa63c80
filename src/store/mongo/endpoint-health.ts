// What attempts tell about the health of their endpoints: reckoned from what was read, and written
// under the guard that nobody else has written meanwhile.
import type { UpdateFilter } from 'mongodb'
import { type Health, type HealthReport, healthAfter } from '../../endpoint/health.ts'
import { StoreUnavailable } from '../store.ts'
import { randomId } from './changes.ts'
import type { MongoContext } from './context.ts'
import { type EndpointDocument, restOf } from './endpoint-documents.ts'
import { type Deadline, run, startDeadline } from './run-command.ts'

/** Workers that report at once get past each other one by one. */
const MAX_ROUNDS = 20

const HEALTH = {
  version: 1,
  circuitBreaker: 1,
  disabledReason: 1,
  restingUntil: 1,
  restCause: 1,
  throttleStreak: 1,
  failureCount: 1,
  ramp: 1,
  healthId: 1,
} as const
type Seen = Pick<EndpointDocument, '_id' | keyof typeof HEALTH>

export async function reportHealth(context: MongoContext, reports: HealthReport[]): Promise<void> {
  const deadline = startDeadline()
  let open = reports
  for (let round = 0; open.length > 0; round++) {
    if (round === MAX_ROUNDS) {
      throw new StoreUnavailable('the endpoints changed each time they were read')
    }
    const seen = await look(context, open, deadline)
    const writes = open.flatMap((report) => {
      const endpoint = seen.get(report.endpoint)
      if (endpoint === undefined) return []
      const update = changeBy(endpoint, report, context.clock.now())
      return update === null ? [] : [{ report, endpoint, update }]
    })
    open = await write(context, writes, deadline)
  }
}

async function look(context: MongoContext, reports: HealthReport[], deadline: Deadline) {
  const names = reports.map(({ endpoint }) => endpoint)
  const found = await run(deadline, (limit) =>
    context.endpoints
      .find<Seen>(
        { _id: { $in: names } },
        { projection: HEALTH, batchSize: names.length + 1, ...limit },
      )
      .toArray(),
  )
  return new Map(found.map((endpoint) => [endpoint._id, endpoint]))
}

interface Write {
  report: HealthReport
  endpoint: Seen
  update: UpdateFilter<EndpointDocument>
}

/** Returns the reports whose endpoint has changed since it was read. */
async function write(
  context: MongoContext,
  writes: Write[],
  deadline: Deadline,
): Promise<HealthReport[]> {
  if (writes.length === 0) return []
  const healthId = randomId()
  const updates = writes.map(({ endpoint, update: { $set = {}, ...rest } }) => ({
    updateOne: {
      filter: {
        _id: endpoint._id,
        version: endpoint.version,
        healthId: endpoint.healthId,
      },
      update: { ...rest, $set: { ...$set, healthId } },
    },
  })) as Parameters<typeof context.endpoints.bulkWrite>[0]
  const { matchedCount } = await run(deadline, (limit) =>
    context.endpoints.bulkWrite(updates, { ordered: false, ...limit }),
  )
  if (matchedCount === writes.length) return []
  const now = await look(
    context,
    writes.map(({ report }) => report),
    deadline,
  )
  return writes.flatMap(({ report }) =>
    now.get(report.endpoint)?.healthId === healthId ? [] : [report],
  )
}

/** null: it changes nothing, like the successes of an endpoint that is well. */
function changeBy(
  seen: Seen,
  report: HealthReport,
  now: number,
): UpdateFilter<EndpointDocument> | null {
  const before: Health = {
    version: seen.version,
    ...restOf(seen),
    restCause: seen.restCause,
    throttleStreak: seen.throttleStreak,
    failureCount: seen.failureCount,
    isGone: false,
  }
  const after = healthAfter(before, report, seen.circuitBreaker, now)
  if (JSON.stringify(after) === JSON.stringify(before)) return null
  const { restingUntil, restCause, throttleStreak, failureCount, ramp, isGone } = after
  return {
    $set: {
      restingUntil: restingUntil === null ? null : new Date(restingUntil),
      restCause,
      throttleStreak,
      failureCount,
      ramp: ramp && { ...ramp, endsAt: new Date(ramp.endsAt) },
      ...(isGone ? { disabledReason: 'gone' as const, updatedAt: new Date(now) } : {}),
    },
    ...(isGone ? { $inc: { version: 1 } } : {}),
  }
}
