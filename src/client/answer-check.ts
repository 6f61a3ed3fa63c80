// Whether an answer is one of Posthorn: a proxy, a sign-in page or another service on the same
// address answers 200 too. What is checked here is what callers and the command line rely on;
// further fields are for a newer server to add.

/** Where the value is not as expected, as a JSON Pointer; null: it is. */
export type Check = (value: unknown, path: string) => string | null

/** A check of an object, with the checks of its fields. */
export type ObjectCheck = Check & { fields: Record<string, Check> }

const passes =
  (holds: (value: unknown) => boolean): Check =>
  (value, path) =>
    holds(value) ? null : path

const anything = passes((value) => value !== undefined)
const text = passes((value) => typeof value === 'string')
const name = passes((value) => typeof value === 'string' && value !== '')
const number = passes((value) => typeof value === 'number')
const flag = passes((value) => typeof value === 'boolean')
const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value)
const object = passes(isObject)

const orNull =
  (check: Check): Check =>
  (value, path) =>
    value === null ? null : check(value, path)

const ifGiven =
  (check: Check): Check =>
  (value, path) =>
    value === undefined ? null : check(value, path)

function oneOf(...words: string[]): Check {
  return passes((value) => words.includes(value as string))
}

function listOf(check: Check): Check {
  return (value, path) => {
    if (!Array.isArray(value)) return path
    for (const [i, item] of value.entries()) {
      const problem = check(item, `${path}/${i}`)
      if (problem !== null) return problem
    }
    return null
  }
}

function record(fields: Record<string, Check>): ObjectCheck {
  const check: Check = (value, path) => {
    if (!isObject(value)) return path
    for (const [field, checkField] of Object.entries(fields)) {
      const problem = checkField(value[field], `${path}/${field}`)
      if (problem !== null) return problem
    }
    return null
  }
  return Object.assign(check, { fields })
}

/** JSON of any kind: a payload. */
export const ANYTHING = anything

const JOB_STATES = ['queued', 'running', 'succeeded', 'dead', 'cancelled']

export const JOB_SUMMARY = record({
  ...{ id: name, endpoint: name, state: oneOf(...JOB_STATES), phase: orNull(text) },
  ...{ priority: number, runAt: text, createdAt: text, startedAt: orNull(text) },
  ...{ finishedAt: orNull(text), expiresAt: orNull(text) },
  ...{ attemptCount: number, maxAttempts: number, fence: number, payloadBytes: number },
  lease: orNull(record({ workerId: text, expiresAt: text })),
  progress: orNull(record({ value: orNull(number), message: orNull(text), at: text })),
  failure: orNull(record({ reason: text, message: text })),
  ...{ timeout: orNull(text), retry: orNull(object), headers: object, metadata: object },
  ...{ tags: listOf(text), dependsOn: listOf(text), onFinish: orNull(object) },
  ...{ idempotencyKey: orNull(text), dedupeKey: orNull(text), orderingKey: orNull(text) },
  ...{ scheduleName: orNull(text), version: number },
})

export const ATTEMPT = record({
  ...{ number, startedAt: text, finishedAt: text, durationMs: number, outcome: text },
  ...{ statusCode: orNull(number), errorCode: orNull(text), message: orNull(text) },
  ...{ responseBody: orNull(text), workerId: text },
})

export const JOB = record({
  ...JOB_SUMMARY.fields,
  ...{ payload: anything, result: anything, resultTruncated: flag, attempts: listOf(ATTEMPT) },
})

export const RETRIED_JOB = record({ ...JOB.fields, dependenciesWaived: listOf(text) })

export const CLAIMED_JOB = record({ ...JOB.fields, token: name, leaseExpiresAt: text })
export const CLAIM = record({ jobs: listOf(CLAIMED_JOB) })

const STORED_ITEM = record({ status: number, id: name })
const REFUSED_ITEM = record({ status: number, error: record({ code: text, detail: text }) })
const batchItem: Check = (value, path) =>
  isObject(value) && value.error !== undefined
    ? REFUSED_ITEM(value, path)
    : STORED_ITEM(value, path)

/** One item for each job of the request. */
export function batchOf(count: number): Check {
  return (value, path) => {
    const items = isObject(value) ? value.items : undefined
    if (!Array.isArray(items) || items.length !== count) return `${path}/items`
    return listOf(batchItem)(items, `${path}/items`)
  }
}

export const APPLIED = record({ applied: flag })
export const HEARTBEAT = record({ leaseExpiresAt: orNull(text), cancelRequested: flag })

export const BULK = record({
  ...{ matched: number, affected: number },
  ...{ more: ifGiven(flag), dependencyFailed: ifGiven(number) },
})

export const EXPLANATION = record({
  state: oneOf(...JOB_STATES),
  ...{ version: number, reason: text, detail: text, expectedAt: orNull(text) },
})

export const ENDPOINT = record({
  ...{ name, url: orNull(text), description: text, headers: object, timeout: text, retry: object },
  ...{ concurrency: orNull(number), completion: text, completionTimeout: text },
  rateLimit: orNull(record({ count: number, per: text })),
  ...{ onFinish: orNull(object), circuitBreaker: orNull(object), statuses: object, state: text },
  ...{ disabledReason: orNull(text), restingUntil: orNull(text), secretHint: text },
  secret: ifGiven(text),
  counts: record({ queued: number, running: number, more: ifGiven(flag) }),
  ...{ createdAt: text, updatedAt: text, version: number },
})

export const ROTATED_ENDPOINT = record({ ...ENDPOINT.fields, secret: name })

export const PING = record({
  ...{ outcome: text, statusCode: orNull(number), durationMs: number, errorCode: orNull(text) },
  ...{ message: orNull(text), responseBody: orNull(text) },
})

export const SCHEDULE_SUMMARY = record({
  ...{ name, endpoint: name, cron: orNull(text), every: orNull(text), timezone: text },
  ...{ paused: flag, overlap: text, misfire: text, startAt: orNull(text), endAt: orNull(text) },
  ...{ nextRunAt: orNull(text), lastJobId: orNull(text), lastError: orNull(text) },
  ...{ createdAt: text, updatedAt: text, version: number },
})

export const SCHEDULE = record({
  ...SCHEDULE_SUMMARY.fields,
  ...{ nextRuns: listOf(text), payload: anything },
})

export const API_KEY = record({ id: name, name: text, scope: text, createdAt: text })
export const NEW_API_KEY = record({ ...API_KEY.fields, key: name })
export const API_KEYS = record({ items: listOf(API_KEY) })

export const WORKER = record({
  ...{ id: name, version: text, startedAt: text, seenAt: text, isLive: flag },
  ...{ concurrency: number, inFlight: number },
})
export const WORKERS = record({ items: listOf(WORKER) })

export const ENDPOINT_STATS = record({
  ...{ name, state: text, queued: number, due: number, running: number, dead: number },
  ...{ more: ifGiven(flag), oldestDueAge: orNull(text) },
})
export const MINUTE = record({
  ...{ minute: text, succeeded: number, failed: number, durations: listOf(number) },
})
export const STATS = record({
  ...{ asOf: text, liveWorkers: number, outbox: orNull(object), endpoints: listOf(ENDPOINT_STATS) },
  ...{ more: ifGiven(flag), minutes: ifGiven(listOf(MINUTE)), moreMinutes: ifGiven(flag) },
})

/** Of an endpoint that is removed with its jobs. */
export const DELETING = record({ name, state: oneOf('deleting') })

/** What is on a page, by the check of each item. */
export function pageOf(item: Check): Check {
  return record({ items: listOf(item), nextCursor: orNull(name) })
}
