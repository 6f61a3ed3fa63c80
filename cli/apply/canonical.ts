// What a file asks for, in the very form in which the API reads it back: by the rules of the routes
// themselves, so that `90s` is `1m30s`, what is left out is its default, and headers are masked.
import { endpointView } from '../../routes/endpoint-answer.ts'
import { settingsFrom } from '../../routes/endpoint-change.ts'
import { endpointBody } from '../../routes/endpoint-schemas.ts'
import { parseEnvelope, REQUEST_LIMITS } from '../../routes/json-body.ts'
import { scheduleJson } from '../../routes/schedule-answer.ts'
import { scheduleFrom } from '../../routes/schedule-change.ts'
import { scheduleBody } from '../../routes/schedule-schemas.ts'
import { endpointName } from '../../routes/schemas.ts'
import { AppError } from '../../src/errors.ts'

/** Of what is read back only this is decided by whoever writes. */
export const ENDPOINT_FIELDS = [
  'url',
  'description',
  'headers',
  'timeout',
  'retry',
  'concurrency',
  'rateLimit',
  'completion',
  'completionTimeout',
  'onFinish',
  'circuitBreaker',
  'statuses',
] as const
const SCHEDULE_FIELDS = [
  'endpoint',
  'cron',
  'every',
  'timezone',
  'overlap',
  'misfire',
  'startAt',
  'endAt',
  'payload',
  'priority',
  'timeout',
  'retry',
  'expiresIn',
  'orderingKey',
  'tags',
  'metadata',
  'headers',
  'onFinish',
] as const

type Fields = Record<string, unknown>

/** The fields, or a sentence for each that is wrong. */
export type Canonical = { fields: Fields } | { problems: string[] }

export function canonicalEndpoint(name: string, given: unknown): Canonical {
  const problems = nameProblems(name)
  const body = requestBody(given)
  if ('problem' in body) return { problems: [...problems, body.problem] }
  const checked = endpointBody.safeParse(body.value)
  if (!checked.success) problems.push(...checked.error.issues.map(issueText))
  if (problems.length > 0 || checked.data === undefined) return { problems }
  const { secret } = checked.data
  const view = endpointView(
    {
      ...settingsFrom(name, checked.data),
      secrets: secret === undefined ? [] : [secret],
      deleting: false,
      paused: false,
      disabledReason: null,
      restingUntil: null,
      ramp: null,
      failureCount: 0,
      rateFreeAt: null,
      createdAt: 0,
      updatedAt: 0,
      version: 0,
    },
    { queued: 0, running: 0, more: false },
    0,
  )
  // A secret is read back by its end only; one that is not given stays as it is.
  const names = secret === undefined ? ENDPOINT_FIELDS : [...ENDPOINT_FIELDS, 'secretHint']
  return { fields: picked(view, names) }
}

export function canonicalSchedule(name: string, given: unknown): Canonical {
  const problems = nameProblems(name)
  const body = requestBody(given)
  if ('problem' in body) return { problems: [...problems, body.problem] }
  const checked = scheduleBody.safeParse(body.value)
  if (!checked.success) problems.push(...checked.error.issues.map(issueText))
  if (problems.length > 0 || checked.data === undefined) return { problems }
  try {
    const now = Date.now()
    const change = scheduleFrom(name, checked.data, null, now)
    const unread = { lastJobId: null, lastError: null, createdAt: 0, updatedAt: 0, version: 0 }
    const view = JSON.parse(scheduleJson({ ...change, ...unread }, now)) as Fields
    // Whether it is paused is kept unless it is said.
    const names =
      checked.data.paused === undefined ? SCHEDULE_FIELDS : [...SCHEDULE_FIELDS, 'paused']
    return { fields: picked(view, names) }
  } catch (error) {
    if (error instanceof AppError) return { problems: [error.message] }
    throw error
  }
}

/** As the routes get it: its depth and size are checked, and the payload is cut out. */
function requestBody(given: unknown): { value: unknown } | { problem: string } {
  // A mapping without a value.
  if (given === null) return { value: given }
  try {
    return { value: parseEnvelope(Buffer.from(JSON.stringify(given)), REQUEST_LIMITS) }
  } catch (error) {
    if (error instanceof AppError) return { problem: error.message }
    throw error
  }
}

function nameProblems(name: string): string[] {
  const checked = endpointName.safeParse(name)
  return checked.success ? [] : checked.error.issues.map(issueText)
}

function issueText({ path, message }: { path: PropertyKey[]; message: string }): string {
  return path.length === 0 ? message : `${path.join('.')}: ${message}`
}

export function picked(view: object, names: readonly string[]): Fields {
  return Object.fromEntries(names.map((name) => [name, (view as Fields)[name]]))
}
