// Converts what a file asks for to the form in which the API returns it, with the schemas of the
// routes: `90s` becomes `1m30s`, omitted fields get their defaults, and header values are masked.
import { AppError } from '../../src/errors.ts'
import {
  endpointBody,
  endpointView,
  rateLimitView,
  settingsFrom,
} from '../../src/wire/endpoints.ts'
import { parseEnvelope, REQUEST_LIMITS } from '../../src/wire/envelope.ts'
import { endpointName } from '../../src/wire/fields.ts'
import { limitBody, limitSettingsFrom } from '../../src/wire/limits.ts'
import { scheduleBody, scheduleFrom, scheduleJson } from '../../src/wire/schedules.ts'

/** The fields that a client sets. The API sets the others. */
export const ENDPOINT_FIELDS = [
  'url',
  'description',
  'headers',
  'timeout',
  'retry',
  'concurrency',
  'rateLimit',
  'perKey',
  'limits',
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
  'fairnessKey',
  'cost',
  'tags',
  'metadata',
  'headers',
  'onFinish',
] as const

type Fields = Record<string, unknown>

interface Problem {
  /** The path within the endpoint or schedule; empty: all of it. */
  path: PropertyKey[]
  message: string
}

/** The fields, or the problems with them. */
export type Canonical = { fields: Fields } | { problems: Problem[] }

export function canonicalEndpoint(name: string, given: unknown): Canonical {
  const problems = nameProblems(name)
  const body = requestBody(given)
  if ('problems' in body) return { problems: [...problems, ...body.problems] }
  const checked = endpointBody.safeParse(body.value)
  if (!checked.success) problems.push(...checked.error.issues.flatMap(problemsOf))
  if (problems.length > 0 || checked.data === undefined) return { problems }
  const { secret } = checked.data
  const view = endpointView(
    {
      ...settingsFrom(name, checked.data),
      secrets: secret === undefined ? [] : [secret],
      undecryptable: null,
      keyId: '',
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
  // The API returns only the end of a secret. Without one in the file, the secret is kept.
  const names = secret === undefined ? ENDPOINT_FIELDS : [...ENDPOINT_FIELDS, 'secretHint']
  return { fields: picked(view, names) }
}

export function canonicalLimit(name: string, given: unknown): Canonical {
  const problems = nameProblems(name)
  const checked = limitBody.safeParse(given)
  if (!checked.success) problems.push(...checked.error.issues.flatMap(problemsOf))
  if (problems.length > 0 || checked.data === undefined) return { problems }
  const { concurrency, rateLimit } = limitSettingsFrom(name, checked.data)
  return { fields: { concurrency, rateLimit: rateLimitView(rateLimit) } }
}

export function canonicalSchedule(name: string, given: unknown): Canonical {
  const problems = nameProblems(name)
  const body = requestBody(given)
  if ('problems' in body) return { problems: [...problems, ...body.problems] }
  const checked = scheduleBody.safeParse(body.value)
  if (!checked.success) problems.push(...checked.error.issues.flatMap(problemsOf))
  if (checked.data === undefined) return { problems }
  try {
    const now = Date.now()
    const change = scheduleFrom(name, checked.data, null, now)
    const unread = { lastJobId: null, lastError: null, createdAt: 0, updatedAt: 0, version: 0 }
    if (problems.length > 0) return { problems }
    const view = JSON.parse(scheduleJson({ ...change, ...unread }, now)) as Fields
    // Without `paused` in the file, the schedule stays paused or active.
    const names =
      checked.data.paused === undefined ? SCHEDULE_FIELDS : [...SCHEDULE_FIELDS, 'paused']
    return { fields: picked(view, names) }
  } catch (error) {
    return { problems: [...problems, ...refusal(error)] }
  }
}

/** Parses a body as the routes do: depth and size are checked, and the payload becomes bytes. */
function requestBody(given: unknown): { value: unknown } | { problems: Problem[] } {
  // null stands for a name without a value in YAML.
  if (given === null) return { value: given }
  try {
    return { value: parseEnvelope(Buffer.from(JSON.stringify(given)), REQUEST_LIMITS) }
  } catch (error) {
    return { problems: refusal(error) }
  }
}

/** The problems that the routes would report; any other error is thrown. */
function refusal(error: unknown): Problem[] {
  if (!(error instanceof AppError)) throw error
  if (error.errors === undefined) return [{ path: [], message: error.message }]
  return error.errors.map(({ path, message }) => ({ path: pointerSteps(path), message }))
}

/** The steps of a JSON Pointer (RFC 6901). */
function pointerSteps(pointer: string): string[] {
  const steps = pointer.split('/').slice(1)
  return steps.map((step) => step.replaceAll('~1', '/').replaceAll('~0', '~'))
}

function nameProblems(name: string): Problem[] {
  const checked = endpointName.safeParse(name)
  return checked.success ? [] : checked.error.issues.flatMap(problemsOf)
}

export function isName(value: unknown): value is string {
  return endpointName.safeParse(value).success
}

/** An issue as zod reports it. */
interface Issue extends Problem {
  code: string
  /** Only with the code `unrecognized_keys`. */
  keys?: string[]
}

/** One problem for each unknown field, because each is on another line of the file. */
function problemsOf({ code, path, message, keys = [] }: Issue): Problem[] {
  if (code !== 'unrecognized_keys') return [{ path, message }]
  return keys.map((key) => ({ path: [...path, key], message: 'is unknown' }))
}

export function picked(view: object, names: readonly string[]): Fields {
  return Object.fromEntries(names.map((name) => [name, (view as Fields)[name]]))
}
