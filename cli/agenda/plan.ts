// What a document of Agenda becomes in Posthorn: a job, a schedule, or nothing and why. Whether the
// API takes the job or the schedule is for the API to say: none of its limits stand here.
import { createHash } from 'node:crypto'
import { BSON, Double, Int32, Long, ObjectId } from 'mongodb'
import type { NewJob, ScheduleSettings } from '../../src/client/client.ts'
import { formatDuration } from '../../src/job/duration.ts'
import { jsonOfBson, NoJsonForm } from '../../src/store/bson-json.ts'
import { rhythmOf, timeOfDay } from './interval.ts'

/** As Agenda 4, 5 and 6 write it; what is not there may be null or absent. Numbers are BSON's. */
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
  /** Not carried over on purpose. */
  | { kind: 'left'; reason: string }
  /** It should be carried over, and cannot be. */
  | { kind: 'refused'; reason: string }
)

/** A document that cannot be carried over, as a sentence. */
class Refused extends Error {
  override readonly name = 'Refused'
}

/** Agenda takes the zone of its process then, which nobody can see from here. */
const NO_ZONE = 'UTC for want of a zone'
const MAX_SLUG_LENGTH = 36
const MAX_ID_LENGTH = 100

/** What the import was asked for. */
export interface Given {
  /** By name in Agenda. */
  endpoints: Map<string, string>
  /** The collection that the document is from. */
  source: string
}

export function planOf(document: AgendaDocument, { endpoints, source }: Given): Plan {
  const { name, lockedAt } = document
  if (typeof name !== 'string') return { name: '(no name)', kind: 'left', reason: 'it has no name' }
  const left = (reason: string): Plan => ({ name, kind: 'left', reason })
  const endpoint = endpoints.get(name)
  if (endpoint === undefined) return left('no --map says which endpoint it is for')
  if (lockedAt) return left('running now, or its process died: import again later')
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

/** How a person finds the document in Agenda. */
export function shownId(id: unknown): string {
  if (id instanceof ObjectId) return id.toHexString()
  const text = typeof id === 'string' ? id : BSON.EJSON.stringify(id as object)
  return text.length <= MAX_ID_LENGTH ? text : `${text.slice(0, MAX_ID_LENGTH - 1)}…`
}

interface Carried {
  endpoint: string
  rawPayload: string
  /** Hex digits that name the document. */
  idText: string
}

function jobPlan(document: AgendaDocument, name: string, { idText, ...of }: Carried): Plan {
  const left = (reason: string): Plan => ({ name, kind: 'left', reason })
  if (document.disabled) return left('disabled, and a single job cannot be paused')
  const nextRunAt = dateIn(document, 'nextRunAt')
  if (nextRunAt === null) return left('it has no next run')
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
  const rhythm = isInterval ? rhythmOf(String(plain(repeatInterval))) : timeOfDay(String(repeatAt))
  if ('problem' in rhythm) throw new Refused(rhythm.problem)
  const paused = document.disabled === true
  const nextRunAt = dateIn(document, 'nextRunAt')
  if (!paused && nextRunAt === null) return { name, kind: 'left', reason: 'it has no next run' }
  const startAt = dateIn(document, 'startDate')
  const endAt = dateIn(document, 'endDate')
  const settings = {
    ...of,
    ...{ priority: priorityOf(document.priority), paused },
    ...(endAt === null ? {} : { endAt }),
  }
  const rest = { name, kind: 'schedule', scheduleName: scheduleNameOf(name, idText) } as const
  if ('everyMs' in rhythm) {
    // Its ticks count from here, so that the next one stays where it is.
    const from = nextRunAt === null ? {} : { startAt: nextRunAt }
    const every = formatDuration(rhythm.everyMs)
    return { ...rest, settings: { ...settings, ...from, every }, note: every }
  }
  const { cron } = rhythm
  const zone = isInterval && isSet(repeatTimezone) ? repeatTimezone : null
  const timezone = zone === null ? {} : { timezone: zone as string }
  const from = startAt === null ? {} : { startAt }
  const note = `${cron}, ${zone ?? NO_ZONE}`
  return { ...rest, settings: { ...settings, ...from, ...timezone, cron }, note }
}

function refuseSkippedDays(skipDays: unknown): void {
  if (!isSet(skipDays) || (Array.isArray(skipDays) && skipDays.length === 0)) return
  throw new Refused('skipDays has no counterpart: write a cron line')
}

/** As JavaScript in Agenda takes it. */
function isSet(value: unknown): boolean {
  return Boolean(plain(value))
}

/** A number of whichever BSON type as one of JavaScript; anything else as it is. */
function plain(value: unknown): unknown {
  if (value instanceof Int32 || value instanceof Double) return value.valueOf()
  return value instanceof Long ? value.toNumber() : value
}

/** null: it is not there. */
function dateIn(document: AgendaDocument, field: AgendaField): Date | null {
  const value = document[field]
  if (value === undefined || value === null) return null
  if (value instanceof Date && !Number.isNaN(value.getTime())) return value
  throw new Refused(`its ${field} is no date that can be read`)
}

/** −20 (lowest) to 20 (highest) there, 0 to 9 here; normal is 0 there and 5 here. */
function priorityOf(value: unknown): number {
  const given = plain(value)
  const priority = typeof given === 'number' && Number.isFinite(given) ? given : 0
  return Math.min(9, Math.max(0, Math.round(5 + priority / 5)))
}

/** @throws NoJsonForm */
function payloadOf(data: unknown): string {
  return jsonOfBson(data ?? null, ['data'], { largeIntegers: 'text' })
}

/** Readable, and another one for each document. */
function scheduleNameOf(name: string, idText: string): string {
  const slug = name
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, '-')
    .slice(0, MAX_SLUG_LENGTH)
    .replace(/^-+|-+$/g, '')
  return `${slug || 'agenda'}-${idText}`
}

/** Another id than an ObjectId can be there in two collections, of two documents. */
function idTextOf(id: unknown, source: string): string {
  if (id instanceof ObjectId) return id.toHexString()
  return createHash('sha256')
    .update(BSON.EJSON.stringify([source, id]))
    .digest('hex')
    .slice(0, 24)
}
