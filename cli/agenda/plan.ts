// Decides what a document of Agenda becomes: a job, a schedule, or nothing, with the reason. The
// limits of the API are not repeated here: the API itself accepts or refuses the result.
import { createHash } from 'node:crypto'
import { BSON, Double, Int32, Long, ObjectId } from 'mongodb'
import type { NewJob, ScheduleSettings } from '../../src/client/client.ts'
import { formatDuration } from '../../src/job/duration.ts'
import { jsonOfBson, NoJsonForm } from '../../src/store/bson-json.ts'
import { intervalOf, timeOfDay } from './interval.ts'

/**
 * A document as Agenda 4, 5 and 6 write it: any field may be null or absent. Numbers have BSON
 * types.
 */
export type AgendaDocument = { _id: unknown } & Partial<Record<AgendaField, unknown>>
type AgendaField =
  | 'name'
  | 'data'
  | 'priority'
  | 'nextRunAt'
  | 'lockedAt'
  | 'repeatInterval'
  | 'repeatTimezone'
  | 'repeatAt'
  | 'disabled'
  | 'startDate'
  | 'endDate'
  | 'skipDays'

export type Plan = { name: string } & (
  | { kind: 'job'; job: NewJob & { rawPayload: string } }
  | { kind: 'schedule'; scheduleName: string; settings: ScheduleSettings; note: string }
  /** The document is deliberately not imported. */
  | { kind: 'skipped'; reason: string }
  /** The document should be imported, but cannot be. */
  | { kind: 'refused'; reason: string }
)

/** The message says why the document cannot be imported. */
class Refused extends Error {
  override readonly name = 'Refused'
}

/** Agenda uses the time zone of its process then, which it does not store. */
const NO_ZONE = 'UTC, because it has no time zone'
const MAX_SLUG_LENGTH = 36
const MAX_ID_LENGTH = 100

/** What the user asked to import. */
export interface Given {
  /** The endpoint for each job name of Agenda. */
  endpoints: Map<string, string>
  /** Database and name of the collection. */
  source: string
}

export function planOf(document: AgendaDocument, { endpoints, source }: Given): Plan {
  const { name, lockedAt } = document
  if (typeof name !== 'string')
    return { name: '(no name)', kind: 'skipped', reason: 'it has no name' }
  const skipped = (reason: string): Plan => ({ name, kind: 'skipped', reason })
  const endpoint = endpoints.get(name)
  if (endpoint === undefined) return skipped('no --map names an endpoint for it')
  if (lockedAt) return skipped('running now, or its process died: import again later')
  try {
    const idText = idTextOf(document._id, source)
    const of = { endpoint, rawPayload: payloadOf(document.data), idText }
    const isRepeating = isSet(document.repeatInterval) || isSet(document.repeatAt)
    return isRepeating ? schedulePlan(document, name, of) : jobPlan(document, name, of)
  } catch (error) {
    if (!(error instanceof Refused || error instanceof NoJsonForm)) throw error
    return { name, kind: 'refused', reason: error.message }
  }
}

/** The id in the form in which a person can find it in Agenda. */
export function shownId(id: unknown): string {
  if (id instanceof ObjectId) return id.toHexString()
  const text = typeof id === 'string' ? id : BSON.EJSON.stringify(id as object)
  return text.length <= MAX_ID_LENGTH ? text : `${text.slice(0, MAX_ID_LENGTH - 1)}…`
}

interface Carried {
  endpoint: string
  rawPayload: string
  /** Hex digits that identify the document. */
  idText: string
}

function jobPlan(document: AgendaDocument, name: string, { idText, ...of }: Carried): Plan {
  const skipped = (reason: string): Plan => ({ name, kind: 'skipped', reason })
  if (document.disabled) return skipped('disabled, and a single job cannot be paused')
  const nextRunAt = dateIn(document, 'nextRunAt')
  if (nextRunAt === null) return skipped('it has no next run')
  const job = {
    ...{ ...of, runAt: nextRunAt.toISOString() },
    priority: priorityOf(document.priority),
    metadata: { agendaId: idText },
    idempotencyKey: `agenda:${idText}`,
  }
  return { name, kind: 'job', job }
}

function schedulePlan(document: AgendaDocument, name: string, { idText, ...of }: Carried): Plan {
  const { repeatInterval, repeatAt, repeatTimezone } = document
  refuseSkippedDays(document.skipDays)
  const isInterval = isSet(repeatInterval)
  const interval = isInterval
    ? intervalOf(String(plain(repeatInterval)))
    : timeOfDay(String(repeatAt))
  if ('problem' in interval) throw new Refused(interval.problem)
  const paused = document.disabled === true
  const nextRunAt = dateIn(document, 'nextRunAt')
  if (!paused && nextRunAt === null) {
    return { name, kind: 'skipped', reason: 'it has no next run' }
  }
  const startAt = dateIn(document, 'startDate')
  const endAt = dateIn(document, 'endDate')
  const settings = {
    ...of,
    ...{ priority: priorityOf(document.priority), paused },
    ...(endAt === null ? {} : { endAt }),
  }
  const rest = { name, kind: 'schedule', scheduleName: scheduleNameOf(name, idText) } as const
  if ('everyMs' in interval) {
    // Ticks are counted from startAt, so the next one is when Agenda would have run it.
    const from = nextRunAt === null ? {} : { startAt: nextRunAt }
    const every = formatDuration(interval.everyMs)
    return { ...rest, settings: { ...settings, ...from, every }, note: every }
  }
  const { cron } = interval
  const zone = isInterval && isSet(repeatTimezone) ? repeatTimezone : null
  const timezone = zone === null ? {} : { timezone: zone as string }
  const from = startAt === null ? {} : { startAt }
  const note = `${cron}, ${zone ?? NO_ZONE}`
  return { ...rest, settings: { ...settings, ...from, ...timezone, cron }, note }
}

function refuseSkippedDays(skipDays: unknown): void {
  if (!isSet(skipDays) || (Array.isArray(skipDays) && skipDays.length === 0)) return
  throw new Refused('skipDays has no counterpart: use a cron expression')
}

/** Agenda tests these fields for truth: 0 and an empty text count as absent. */
function isSet(value: unknown): boolean {
  return Boolean(plain(value))
}

/** A BSON number as a number of JavaScript; anything else unchanged. */
function plain(value: unknown): unknown {
  if (value instanceof Int32 || value instanceof Double) return value.valueOf()
  return value instanceof Long ? value.toNumber() : value
}

/** null: the field is absent. */
function dateIn(document: AgendaDocument, field: AgendaField): Date | null {
  const value = document[field]
  if (value === undefined || value === null) return null
  if (value instanceof Date && !Number.isNaN(value.getTime())) return value
  throw new Refused(`its ${field} is not a valid date`)
}

/** In Agenda −20 (lowest) to 20 (highest), normal is 0; in Posthorn 0 to 9, normal is 5. */
function priorityOf(value: unknown): number {
  const given = plain(value)
  const priority = typeof given === 'number' && Number.isFinite(given) ? given : 0
  return Math.min(9, Math.max(0, Math.round(5 + priority / 5)))
}

/** @throws NoJsonForm */
function payloadOf(data: unknown): string {
  return jsonOfBson(data ?? null, ['data'], { largeIntegers: 'text' })
}

/** The name is readable, and unique for each document. */
function scheduleNameOf(name: string, idText: string): string {
  const slug = name
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, '-')
    .slice(0, MAX_SLUG_LENGTH)
    .replace(/^-+|-+$/g, '')
  return `${slug || 'agenda'}-${idText}`
}

/** Only an ObjectId is unique across collections; any other id is hashed with its collection. */
function idTextOf(id: unknown, source: string): string {
  if (id instanceof ObjectId) return id.toHexString()
  return createHash('sha256')
    .update(BSON.EJSON.stringify([source, id]))
    .digest('hex')
    .slice(0, 24)
}
