// GET /stats: queued, running and dead jobs of each endpoint, and the attempts that ended in
// each minute.
import type { FastifyInstance } from 'fastify'
import { z } from 'zod'
import { formatDuration } from '../../src/job/duration.ts'
import type { EndpointStats } from '../../src/stats/metrics.ts'
import {
  DURATION_BOUNDS_MS,
  MINUTE_MS,
  MINUTE_STATS_KEPT_MS,
  type MinuteStats,
} from '../../src/store/minute-stats.ts'
import type { Store } from '../../src/store/store.ts'
import { duration, endpointName, instantText } from '../../src/wire/fields.ts'
import type { Snapshots } from './queue-snapshot.ts'

const statsQuery = z
  .strictObject({
    window: duration(MINUTE_MS, MINUTE_STATS_KEPT_MS).optional(),
    endpoint: endpointName.optional(),
    by: z.literal('endpoint').optional().meta({
      description: 'with window: `ended` of each endpoint instead of `minutes`',
    }),
  })
  .refine(({ by, window }) => by === undefined || window !== undefined, {
    path: ['by'],
    message: 'needs window',
  })

export const statsResponse = z.object({
  asOf: z.iso.datetime(),
  liveWorkers: z.int(),
  endpoints: z.array(
    z.object({
      name: z.string(),
      state: z.string(),
      queued: z.int(),
      due: z.int(),
      running: z.int(),
      dead: z.int(),
      more: z.literal(true).optional().meta({ description: 'a count of 10000 means more' }),
      oldestDueAge: z.string().nullable(),
      ended: z
        .object({
          from: z.iso.datetime().meta({ description: 'the first minute of the lists' }),
          succeeded: z
            .array(z.int())
            .meta({ description: 'attempts that succeeded, a count for each minute' }),
          failed: z.array(z.int()),
          durations: z.array(z.int()).meta({
            description:
              'of all these minutes together: one count for each bound, and one above the last',
          }),
        })
        .optional()
        .meta({ description: 'with `window` and `by=endpoint`, if an attempt has ended' }),
    }),
  ),
  more: z.literal(true).optional().meta({
    description:
      'endpoints beyond the first 10000 by name are left out; query them with `endpoint`',
  }),
  deletedEndpoints: z
    .array(z.object({ name: z.string(), dead: z.int() }))
    .optional()
    .meta({ description: 'dead jobs of deleted endpoints, the first 1000 by name' }),
  outbox: z
    .object({
      waiting: z.int(),
      setAside: z.int(),
      oldestAge: z
        .string()
        .nullable()
        .meta({ description: 'age of the oldest document; null: its _id contains no time' }),
    })
    .nullable()
    .meta({ description: 'null: OUTBOX is not set. A count of 10000 also means more' }),
  durationBounds: z
    .array(z.string())
    .optional()
    .meta({ description: 'upper bounds of the histograms `durations`' }),
  minutes: z
    .array(
      z.object({
        minute: z.iso.datetime(),
        succeeded: z.int(),
        failed: z.int(),
        durations: z.array(z.int()).meta({ description: 'attempts for each bound, and above' }),
      }),
    )
    .optional(),
  moreMinutes: z.literal(true).optional().meta({
    description:
      'older minutes of the window are left out, because all endpoints together have too many; query one with `endpoint`',
  }),
})

interface StatsRoute {
  store: Pick<Store, 'clock' | 'minuteStatsSince' | 'outbox'>
  snapshots: Snapshots
}

export function registerStatsRoute(app: FastifyInstance, { store, snapshots }: StatsRoute): void {
  app.get<{ Querystring: { window?: number; endpoint?: string; by?: 'endpoint' } }>(
    '/stats',
    {
      schema: {
        summary: 'Jobs by endpoint and state; with ?window the attempts that ended in each minute',
        querystring: statsQuery,
        response: { 200: statsResponse },
      },
    },
    async (request) => {
      const { window, endpoint, by } = request.query
      const snapshot = await (endpoint === undefined
        ? snapshots.ofAll()
        : snapshots.ofOne(endpoint))
      const { asOf, liveWorkers, endpoints, more, deleted } = snapshot
      const shown = {
        asOf: instantText(asOf),
        liveWorkers,
        outbox: await outboxStats(store),
        endpoints: endpoints.map((stats) => endpointStats(stats, asOf)),
        ...(more ? { more } : {}),
        ...(deleted.length > 0
          ? { deletedEndpoints: deleted.map(({ name, dead }) => ({ name, dead })) }
          : {}),
      }
      if (window === undefined) return shown
      const read = await store.minuteStatsSince(store.clock.now() - window, endpoint ?? null)
      const durationBounds = DURATION_BOUNDS_MS.map(formatDuration)
      const cut = read.more ? { moreMinutes: true } : {}
      if (by === 'endpoint') {
        const ended = byEndpoint(read.stats)
        const rows = shown.endpoints.map((row) => ({ ...row, ended: ended.get(row.name) }))
        return { ...shown, endpoints: rows, durationBounds, ...cut }
      }
      return { ...shown, durationBounds, minutes: byMinute(read.stats), ...cut }
    },
  )
}

function endpointStats(stats: EndpointStats, asOf: number) {
  const { oldestDueAt, keysDue, more, ...counts } = stats
  return {
    ...counts,
    ...(more ? { more } : {}),
    oldestDueAge: oldestDueAt === null ? null : formatDuration(Math.max(0, asOf - oldestDueAt)),
  }
}

async function outboxStats({ outbox, clock }: StatsRoute['store']) {
  if (outbox === null) return null
  const { waiting, setAside, oldestAt } = await outbox.stats()
  const oldestAge = oldestAt === null ? null : formatDuration(Math.max(0, clock.now() - oldestAt))
  return { waiting, setAside, oldestAge }
}

/** The minutes of each endpoint, as lists that begin with the oldest minute of any endpoint. */
function byEndpoint(stats: MinuteStats[]) {
  const first = stats[0]?.minute ?? 0
  const count = ((stats.at(-1)?.minute ?? 0) - first) / MINUTE_MS + 1
  const from = instantText(first)
  const zeros = () => Array<number>(count).fill(0)
  const all = new Map<
    string,
    { from: string | null; succeeded: number[]; failed: number[]; durations: number[] }
  >()
  for (const { minute, endpoint, succeeded, failed, durations } of stats) {
    const sum = all.get(endpoint) ?? {
      ...{ from, succeeded: zeros(), failed: zeros() },
      durations: durations.map(() => 0),
    }
    all.set(endpoint, sum)
    const at = (minute - first) / MINUTE_MS
    sum.succeeded[at] = succeeded
    sum.failed[at] = failed
    durations.forEach((many, i) => {
      sum.durations[i] = (sum.durations[i] ?? 0) + many
    })
  }
  return all
}

/** The minutes of all endpoints together, oldest first. */
function byMinute(stats: MinuteStats[]) {
  const minutes = new Map<number, Omit<MinuteStats, 'endpoint'>>()
  for (const { minute, succeeded, failed, durations } of stats) {
    const sum = minutes.get(minute)
    if (sum === undefined)
      minutes.set(minute, { minute, succeeded, failed, durations: [...durations] })
    else {
      sum.succeeded += succeeded
      sum.failed += failed
      durations.forEach((count, i) => {
        sum.durations[i] = (sum.durations[i] ?? 0) + count
      })
    }
  }
  return [...minutes.values()]
    .sort((a, b) => a.minute - b.minute)
    .map((sum) => ({ ...sum, minute: instantText(sum.minute) }))
}
