// Schedules in requests and responses: their shapes, how a PUT becomes a schedule to store, and the
// JSON of a schedule. The payload is sent as its stored JSON text, never serialized again.
import { z } from 'zod'
import { AppError } from '../errors.ts'
import { formatDuration } from '../job/duration.ts'
import { cronProblem, MAX_CRON_LENGTH } from '../schedule/cron-line.ts'
import {
  type JobTemplate,
  MISFIRES,
  OVERLAPS,
  readSettings,
  type ScheduleSettings,
  settingsText,
} from '../schedule/schedule.ts'
import { isTimeZone } from '../schedule/time-zone.ts'
import {
  isSameTiming,
  MAX_EVERY_MS,
  MIN_EVERY_MS,
  nextTick,
  nextTicks,
  type Timing,
  timingProblem,
} from '../schedule/timing.ts'
import type { Schedule, ScheduleChange } from '../store/store.ts'
import {
  duration,
  endpointName,
  instant,
  instantText,
  isWritable,
  maskedHeaders,
  payload,
  responseInstant,
  retryResponse,
  templateFields,
  text,
} from './fields.ts'
import { templateFrom } from './jobs.ts'

const MAX_ZONE_LENGTH = 64

const cron = text(1, MAX_CRON_LENGTH)
  .trim()
  .superRefine((line, context) => {
    const problem = cronProblem(line)
    if (problem !== null) context.addIssue({ code: 'custom', message: problem })
  })

const timezone = text(1, MAX_ZONE_LENGTH).refine(
  isTimeZone,
  'expected a time zone of the IANA database, like Europe/Berlin',
)

export const scheduleBody = z
  .strictObject({
    cron: cron.nullable().optional(),
    every: duration(MIN_EVERY_MS, MAX_EVERY_MS).nullable().optional(),
    timezone: timezone.optional(),
    endpoint: endpointName,
    payload,
    ...templateFields,
    paused: z
      .boolean()
      .optional()
      .meta({ description: 'no ticks; absent: unchanged, false for a new schedule' }),
    overlap: z.enum(OVERLAPS).default('allow'),
    misfire: z.enum(MISFIRES).default('once'),
    startAt: instant.nullable().optional(),
    endAt: instant.nullable().optional(),
  })
  // This check runs even if a field is refused, so that the client gets all problems at once.
  .superRefine(noteTimingFields, { when: ({ value }) => isFields(value) })
export type ScheduleBody = z.output<typeof scheduleBody>

type TimingFields = Record<'cron' | 'every' | 'timezone', unknown>

function isFields(value: unknown): boolean {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** @param body its fields may have any type */
function noteTimingFields(
  { cron, every, timezone }: Partial<TimingFields>,
  context: z.core.$RefinementCtx,
): void {
  if (every != null && timezone !== undefined) {
    const message = 'expected with cron only: every counts from an instant, in no time zone'
    context.addIssue({ code: 'custom', path: ['timezone'], message })
  }
  const given = [cron, every].filter((value) => value != null).length
  if (given === 1) return
  const message = `expected one of cron and every; found ${given === 0 ? 'none' : 'both'}`
  context.addIssue({ code: 'custom', path: [given === 0 ? 'cron' : 'every'], message })
}

/** The schedule that a PUT asks for. @throws AppError invalid_request */
export function scheduleFrom(
  name: string,
  body: ScheduleBody,
  stored: Schedule | null,
  now: number,
): ScheduleChange {
  const before = stored === null ? null : readSettings(stored.settings)
  const settings = settingsFrom(body, before?.timing.anchorAt ?? now)
  refuseImpossible(settings.timing)
  const paused = body.paused ?? stored?.paused ?? false
  // The next tick is computed again only if the timing has changed. Otherwise a deploy that repeats
  // its PUT in the second of a tick would skip that tick.
  const goesOn = stored?.paused === false && before && isSameTiming(before.timing, settings.timing)
  const nextRunAt = goesOn ? stored.nextRunAt : nextTick(settings.timing, now)
  return {
    name,
    endpoint: body.endpoint,
    paused,
    settings: settingsText(settings),
    payload: body.payload.bytes,
    nextRunAt: paused ? null : nextRunAt,
  }
}

function settingsFrom(body: ScheduleBody, anchorAt: number): ScheduleSettings {
  const { expiresAt: _, ...template } = templateFrom(body, anchorAt)
  return {
    timing: {
      cron: body.cron ?? null,
      everyMs: body.every ?? null,
      timezone: body.timezone ?? 'UTC',
      startAt: body.startAt ?? null,
      endAt: body.endAt ?? null,
      anchorAt,
    },
    overlap: body.overlap,
    misfire: body.misfire,
    template: { ...template, expiresInMs: body.expiresIn ?? null },
  }
}

function refuseImpossible(timing: Timing): void {
  const problem = timingProblem(timing)
  if (problem === null) return
  throw new AppError('invalid_request', `${problem.path}: ${problem.message}`, {
    errors: [problem],
  })
}

const summaryFields = {
  name: z.string(),
  endpoint: z.string(),
  cron: z.string().nullable(),
  every: z.string().nullable(),
  timezone: z.string(),
  paused: z.boolean(),
  overlap: z.enum(OVERLAPS),
  misfire: z.enum(MISFIRES),
  startAt: responseInstant,
  endAt: responseInstant,
  nextRunAt: responseInstant.meta({
    description: 'the next tick; null: paused, or no tick is left',
  }),
  lastJobId: z.string().nullable(),
  lastError: z
    .string()
    .nullable()
    .meta({ description: 'why the last tick enqueued no job; null: it did' }),
  priority: z.int(),
  timeout: z.string().nullable().meta({ description: 'null: the endpoint’s' }),
  retry: z.record(z.string(), z.unknown()).nullable().meta({ description: 'null: the endpoint’s' }),
  expiresIn: z.string().nullable(),
  orderingKey: z.string().nullable(),
  fairnessKey: z.string().nullable(),
  cost: z.int(),
  tags: z.array(z.string()),
  metadata: z.record(z.string(), z.string()),
  headers: z.record(z.string(), z.string()).meta({ description: 'values are masked' }),
  onFinish: z
    .object({ endpoint: z.string(), states: z.array(z.string()) })
    .nullable()
    .optional()
    .meta({
      description:
        'the endpoint that gets a notice when a job is final; null: none; absent: onFinish of the endpoint',
    }),
  createdAt: z.iso.datetime(),
  updatedAt: z.iso.datetime(),
  version: z.int(),
}

export const scheduleResponse = z.object({
  ...summaryFields,
  nextRuns: z.array(z.iso.datetime()).meta({ description: 'the next five; empty while paused' }),
  payload: z.unknown(),
})

export const scheduleListResponse = z.object({
  items: z.array(z.object(summaryFields)),
  nextCursor: z.string().nullable(),
})

const NEXT_RUNS = 5

/** @param now epoch milliseconds by the store's clock */
export function scheduleJson(schedule: Schedule, now: number): string {
  const { timing } = readSettings(schedule.settings)
  const ticks = schedule.nextRunAt === null ? [] : nextTicks(timing, now, NEXT_RUNS)
  const head = JSON.stringify({
    ...summary(schedule),
    // A startAt late in the year 9999 has ticks that RFC 3339 cannot write.
    nextRuns: ticks.filter(isWritable).map(instantText),
  })
  return `${head.slice(0, -1)},"payload":${Buffer.from(schedule.payload).toString('utf8')}}`
}

/** The JSON text of a page of schedules. */
export function scheduleListJson(schedules: Schedule[], nextCursor: string | null): string {
  return JSON.stringify({ items: schedules.map(summary), nextCursor })
}

function summary(schedule: Schedule) {
  const { timing, overlap, misfire, template } = readSettings(schedule.settings)
  return {
    name: schedule.name,
    endpoint: schedule.endpoint,
    cron: timing.cron,
    every: durationText(timing.everyMs),
    timezone: timing.timezone,
    paused: schedule.paused,
    overlap,
    misfire,
    startAt: instantText(timing.startAt),
    endAt: instantText(timing.endAt),
    nextRunAt: instantText(schedule.nextRunAt),
    lastJobId: schedule.lastJobId,
    lastError: schedule.lastError,
    ...templateResponse(template),
    createdAt: instantText(schedule.createdAt),
    updatedAt: instantText(schedule.updatedAt),
    version: schedule.version,
  }
}

function templateResponse(template: JobTemplate) {
  return {
    priority: template.priority,
    timeout: durationText(template.timeoutMs),
    retry: template.retry && retryResponse(template.retry),
    expiresIn: durationText(template.expiresInMs),
    orderingKey: template.orderingKey,
    fairnessKey: template.fairnessKey,
    cost: template.cost,
    tags: template.tags,
    metadata: template.metadata,
    headers: maskedHeaders(template.headers),
    ...(template.onFinish === 'inherited' ? {} : { onFinish: template.onFinish }),
  }
}

function durationText(durationMs: number | null): string | null {
  return durationMs === null ? null : formatDuration(durationMs)
}
