// What a document of Agenda becomes in Posthorn: a job, a schedule, or nothing and why.
import { createHash } from 'node:crypto'
import { BSON, Decimal128, Long, ObjectId } from 'mongodb'
import type { NewJob, ScheduleSettings } from '../../src/client/client.ts'
import { formatDuration } from '../../src/job/duration.ts'
import { rhythmOf, timeOfDay } from './interval.ts'

/** As Agenda 4, 5 and 6 write it; what is not there may be null or absent. */
export interface AgendaDocument {
  _id: unknown
  name?: unknown
  data?: unknown
  priority?: unknown
  nextRunAt?: Date | null
  lockedAt?: Date | null
  repeatInterval?: string | number | null
  repeatTimezone?: string | null
  repeatAt?: string | null
  disabled?: boolean | null
  startDate?: Date | null
  endDate?: Date | null
  skipDays?: string | unknown[] | null
}

export type Plan = { name: string } & (
  | { kind: 'job'; job: NewJob & { rawPayload: string } }
  | { kind: 'schedule'; scheduleName: string; settings: ScheduleSettings; note: string }
  | { kind: 'left'; reason: string }
)

/** Agenda takes the zone of its process then, which nobody can see from here. */
const NO_ZONE = 'UTC for want of a zone'
const MAX_SLUG_LENGTH = 36

/** @param endpoints by name in Agenda */
export function planOf(document: AgendaDocument, endpoints: Map<string, string>): Plan {
  const { name, lockedAt, repeatInterval, repeatAt, nextRunAt, disabled } = document
  if (typeof name !== 'string') return { name: '(no name)', kind: 'left', reason: 'it has no name' }
  const left = (reason: string): Plan => ({ name, kind: 'left', reason })
  const endpoint = endpoints.get(name)
  if (endpoint === undefined) return left('no --map says which endpoint it is for')
  if (lockedAt) return left('running now, or its process died: import again later')
  const rawPayload = payloadOf(document.data)
  if (rawPayload === null) return left('its data holds a number that JSON can not say')
  if (repeatInterval || repeatAt) return schedulePlan(document, name, { endpoint, rawPayload })
  if (disabled) return left('disabled, and a single job can not be paused')
  if (!(nextRunAt instanceof Date)) return left('it has no next run')
  const job = {
    ...{ endpoint, rawPayload, runAt: nextRunAt.toISOString() },
    priority: priorityOf(document.priority),
    metadata: { agendaId: idText(document._id).slice(0, 512) },
    idempotencyKey: `agenda:${idText(document._id)}`,
  }
  return { name, kind: 'job', job }
}

function schedulePlan(
  document: AgendaDocument,
  name: string,
  of: { endpoint: string; rawPayload: string },
): Plan {
  const { repeatInterval, repeatAt, repeatTimezone, nextRunAt, startDate, endDate } = document
  const left = (reason: string): Plan => ({ name, kind: 'left', reason })
  if (document.skipDays?.length) return left('skipDays has no counterpart: write a cron line')
  const rhythm = repeatInterval ? rhythmOf(repeatInterval) : timeOfDay(repeatAt as string)
  if ('problem' in rhythm) return left(rhythm.problem)
  const isPaused = document.disabled === true
  if (!isPaused && !(nextRunAt instanceof Date)) return left('it has no next run')
  const settings = {
    ...of,
    priority: priorityOf(document.priority),
    paused: isPaused,
    ...(endDate instanceof Date ? { endAt: endDate } : {}),
  }
  const rest = { name, kind: 'schedule', scheduleName: scheduleNameOf(document) } as const
  if ('everyMs' in rhythm) {
    // Its ticks count from here, so that the next one stays where it is.
    const startAt = nextRunAt instanceof Date ? { startAt: nextRunAt } : {}
    const every = formatDuration(rhythm.everyMs)
    return { ...rest, settings: { ...settings, ...startAt, every }, note: every }
  }
  const { cron } = rhythm
  const zone = repeatAt && !repeatInterval ? null : repeatTimezone
  const timezone = zone ? { timezone: zone } : {}
  const startAt = startDate instanceof Date ? { startAt: startDate } : {}
  const note = `${cron}, ${zone ? zone : NO_ZONE}`
  return { ...rest, settings: { ...settings, ...startAt, ...timezone, cron }, note }
}

/** −20 (lowest) to 20 (highest) there, 0 to 9 here; normal is 0 there and 5 here. */
function priorityOf(value: unknown): number {
  const priority = typeof value === 'number' && Number.isFinite(value) ? value : 0
  return Math.min(9, Math.max(0, Math.round(5 + priority / 5)))
}

/** JSON text: dates as instants, ids as hex, what is too large for a number as text. */
function payloadOf(data: unknown): string | null {
  let isWhole = true
  const text = JSON.stringify(data ?? null, function (this: Record<string, unknown>, key, json) {
    const value = this[key]
    if (value instanceof Decimal128 || value instanceof Long) return value.toString()
    if (typeof value === 'number' && !Number.isFinite(value)) isWhole = false
    return json
  })
  return isWhole ? text : null
}

/** Readable, and another one for each document. */
function scheduleNameOf({ _id, name }: AgendaDocument): string {
  const slug = String(name)
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, '-')
    .slice(0, MAX_SLUG_LENGTH)
    .replace(/^-+|-+$/g, '')
  return `${slug || 'agenda'}-${idText(_id)}`
}

/** Hex digits that name the document. */
function idText(id: unknown): string {
  if (id instanceof ObjectId) return id.toHexString()
  return createHash('sha256')
    .update(BSON.EJSON.stringify([id]))
    .digest('hex')
    .slice(0, 24)
}
