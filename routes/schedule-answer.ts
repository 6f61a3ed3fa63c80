// A schedule as the API shows it. Its payload goes out as the JSON text it is, never re-serialised.
import { formatDuration } from '../src/job/duration.ts'
import { type JobTemplate, readSettings } from '../src/schedule/schedule.ts'
import { nextTicks } from '../src/schedule/timing.ts'
import type { Schedule } from '../src/store/records.ts'
import { isWritable } from '../src/wire/fields.ts'
import { instantText, maskedHeaders, retryAnswer } from '../src/wire/job-answers.ts'

const NEXT_RUNS = 5

/** @param now epoch milliseconds by the store's clock */
export function scheduleJson(schedule: Schedule, now: number): string {
  const { timing } = readSettings(schedule.settings)
  const ticks = schedule.nextRunAt === null ? [] : nextTicks(timing, now, NEXT_RUNS)
  const head = JSON.stringify({
    ...summary(schedule),
    // A startAt late in the year 9999 has ticks that RFC 3339 can not write.
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
    ...templateAnswer(template),
    createdAt: instantText(schedule.createdAt),
    updatedAt: instantText(schedule.updatedAt),
    version: schedule.version,
  }
}

function templateAnswer(template: JobTemplate) {
  return {
    priority: template.priority,
    timeout: durationText(template.timeoutMs),
    retry: template.retry && retryAnswer(template.retry),
    expiresIn: durationText(template.expiresInMs),
    orderingKey: template.orderingKey,
    tags: template.tags,
    metadata: template.metadata,
    headers: maskedHeaders(template.headers),
    onFinish: template.onFinish,
  }
}

function durationText(durationMs: number | null): string | null {
  return durationMs === null ? null : formatDuration(durationMs)
}
