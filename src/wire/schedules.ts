// The wire of schedules: what a client may send, and what it is answered.
import { z } from 'zod'
import { cronProblem, MAX_CRON_LENGTH } from '../schedule/cron-line.ts'
import { MISFIRES, OVERLAPS } from '../schedule/schedule.ts'
import { isTimeZone } from '../schedule/time-zone.ts'
import { MAX_EVERY_MS, MIN_EVERY_MS } from '../schedule/timing.ts'
import {
  duration,
  endpointName,
  instant,
  pageFields,
  payload,
  templateFields,
  text,
} from './fields.ts'

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
  .superRefine((body, context) => {
    if (body.every != null && body.timezone !== undefined) {
      const message = 'expected with cron only: every counts from an instant, in no time zone'
      context.addIssue({ code: 'custom', path: ['timezone'], message })
    }
    const given = [body.cron, body.every].filter((value) => value != null).length
    if (given === 1) return
    const message = `expected one of cron and every; found ${given === 0 ? 'none' : 'both'}`
    context.addIssue({ code: 'custom', path: [given === 0 ? 'cron' : 'every'], message })
  })
export type ScheduleBody = z.output<typeof scheduleBody>

export const scheduleParams = z.object({ name: endpointName })
export const schedulesQuery = z.strictObject(pageFields)

const answeredInstant = z.iso.datetime()

const summaryFields = {
  name: z.string(),
  endpoint: z.string(),
  cron: z.string().nullable(),
  every: z.string().nullable(),
  timezone: z.string(),
  paused: z.boolean(),
  overlap: z.enum(OVERLAPS),
  misfire: z.enum(MISFIRES),
  startAt: answeredInstant.nullable(),
  endAt: answeredInstant.nullable(),
  nextRunAt: answeredInstant
    .nullable()
    .meta({ description: 'the next tick; null: paused, or no tick is left' }),
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
  tags: z.array(z.string()),
  metadata: z.record(z.string(), z.string()),
  headers: z.record(z.string(), z.string()).meta({ description: 'values are masked' }),
  onFinish: z.object({ endpoint: z.string(), states: z.array(z.string()) }).nullable(),
  createdAt: answeredInstant,
  updatedAt: answeredInstant,
  version: z.int(),
}

export const scheduleAnswer = z.object({
  ...summaryFields,
  nextRuns: z.array(answeredInstant).meta({ description: 'the next five; empty while paused' }),
  payload: z.unknown(),
})

export const scheduleListAnswer = z.object({
  items: z.array(z.object(summaryFields)),
  nextCursor: z.string().nullable(),
})
