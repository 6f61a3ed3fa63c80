// Checks that a response comes from Posthorn: a proxy, a sign-in page or another service at the
// same address responds with 200, too. The checks cover what programs and the command line rely on.
// Additional fields are accepted, because a newer server may add some.

/**
 * The first place where the value is not as expected, as a JSON Pointer; null: the value is valid.
 */
export type Check = (value: unknown, path: string) => string | null

/** A check of an object, which exposes the checks of its fields. */
export type ObjectCheck = Check & { fields: Record<string, Check> }

const passes =
  (holds: (value: unknown) => boolean): Check =>
  (value, path) =>
    holds(value) ? null : path

const anything = passes((value) => value !== undefined)
const text = passes((value) => typeof value === 'string')
/** An id, a name, an instant or a state: not empty, no spaces. */
const word = passes((value) => typeof value === 'string' && /^[\x21-\x7e]+$/.test(value))
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

/**
 * Accepts any JSON, for a payload. Only a response header shows that a payload comes from Posthorn.
 */
export const ANYTHING = anything

const JOB_STATES = ['queued', 'running', 'succeeded', 'dead', 'cancelled']

export const JOB_SUMMARY = record({
  ...{ id: word, endpoint: word, state: oneOf(...JOB_STATES), phase: orNull(word) },
  ...{ priority: number, runAt: word, dueAt: orNull(word), createdAt: word },
  ...{ startedAt: orNull(word), finishedAt: orNull(word), expiresAt: orNull(word) },
  ...{ attemptCount: number, maxAttempts: number, fence: number, payloadBytes: number },
  lease: orNull(record({ workerId: text, expiresAt: word })),
  progress: orNull(record({ value: orNull(number), message: orNull(text), at: word })),
  failure: orNull(record({ reason: word, message: text, jobId: ifGiven(word) })),
  ...{ timeout: orNull(text), retry: orNull(object), headers: orNull(object), metadata: object },
  ...{ tags: listOf(text), dependsOn: listOf(word), needs: object, onFinish: orNull(object) },
  ...{ idempotencyKey: orNull(text), dedupeKey: orNull(text), orderingKey: orNull(text) },
  ...{ fairnessKey: orNull(text), cost: number, scheduleName: orNull(word), version: number },
  group: orNull(word),
})

export const ATTEMPT = record({
  ...{ number, startedAt: word, finishedAt: word, durationMs: number, outcome: word },
  ...{ statusCode: orNull(number), errorCode: orNull(text), message: orNull(text) },
  ...{ responseBody: orNull(text), workerId: text },
})

export const JOB = record({
  ...JOB_SUMMARY.fields,
  ...{ payload: anything, result: anything, resultTruncated: flag, attempts: listOf(ATTEMPT) },
})

/** A server that does not know the preference responds with the whole job. */
export const MINIMAL_JOB = record({
  ...{ id: word, state: oneOf(...JOB_STATES), deduplicated: ifGiven(flag) },
})

export const RETRIED_JOB = record({
  ...{ ...JOB.fields, dependenciesWaived: listOf(word), dependentsRetried: ifGiven(number) },
  ...{ left: ifGiven(listOf(word)), more: ifGiven(flag) },
})

export const CLAIMED_JOB = record({
  ...JOB.fields,
  ...{ token: word, leaseExpiresAt: word },
  ...{ traceparent: orNull(word), tracestate: orNull(word), hops: number },
  inputs: ifGiven(object),
  ...{ truncatedInputs: ifGiven(listOf(word)), failedInputs: ifGiven(listOf(word)) },
})
export const CLAIM = record({ jobs: listOf(CLAIMED_JOB) })

const STORED_ITEM = record({
  ...{ status: number, id: word, state: ifGiven(oneOf(...JOB_STATES)) },
  group: ifGiven(orNull(word)),
})
const REFUSED_ITEM = record({ status: number, error: record({ code: text, detail: text }) })
const batchItem: Check = (value, path) =>
  isObject(value) && value.error !== undefined
    ? REFUSED_ITEM(value, path)
    : STORED_ITEM(value, path)

/** A batch response: one item for each job of the request. */
export function batchOf(count: number): Check {
  return (value, path) => {
    const items = isObject(value) ? value.items : undefined
    if (!Array.isArray(items) || items.length !== count) return `${path}/items`
    return listOf(batchItem)(items, `${path}/items`)
  }
}

export const APPLIED = record({ applied: flag })
export const HEARTBEAT = record({ leaseExpiresAt: orNull(word), cancelRequested: flag })

export const BULK = record({
  ...{ matched: number, affected: number },
  ...{ more: ifGiven(flag), dependencyFailed: ifGiven(number) },
})

export const EXPLANATION = record({
  state: oneOf(...JOB_STATES),
  ...{ version: number, reason: word, detail: text, expectedAt: orNull(word) },
  turn: ifGiven(record({ fairnessKey: orNull(text), jobsBefore: number, keys: number })),
})

const rateLimit = record({ count: number, per: text })
const endpointFields = {
  ...{
    name: word,
    url: orNull(text),
    description: text,
    headers: object,
    timeout: word,
    retry: object,
  },
  ...{ concurrency: orNull(number), completion: word, completionTimeout: word },
  rateLimit: orNull(rateLimit),
  perKey: orNull(record({ concurrency: orNull(number), rateLimit: orNull(rateLimit) })),
  limits: listOf(word),
  ...{ onFinish: orNull(object), circuitBreaker: orNull(object), statuses: object, state: word },
  ...{ disabledReason: orNull(text), restingUntil: orNull(word), secretHint: text },
  counts: record({ queued: number, running: number, more: ifGiven(flag) }),
  ...{ createdAt: word, updatedAt: word, version: number },
}

export const ENDPOINT = record({ ...endpointFields, secret: ifGiven(text) })

export const LISTED_ENDPOINT = record({
  ...endpointFields,
  ...{ headers: orNull(object), secretHint: orNull(text) },
})

export const FAIRNESS_KEY = record({
  ...{ key: text, queued: number, due: number, running: number, more: ifGiven(flag) },
  ...{ weight: number, concurrency: orNull(number), rateLimit: orNull(rateLimit), paused: flag },
  restingUntil: orNull(word),
})

export const STORED_FAIRNESS_KEY = record({
  ...{ key: text, weight: number, concurrency: ifGiven(orNull(number)), paused: flag },
  ...{ rateLimit: ifGiven(orNull(rateLimit)), restingUntil: orNull(word) },
  ...{ updatedAt: orNull(word), version: number },
})

export const LISTED_LIMIT = record({
  ...{ name: word, concurrency: orNull(number), rateLimit: orNull(rateLimit) },
  ...{ tokens: orNull(number), waiting: listOf(word) },
  ...{ createdAt: word, updatedAt: word, version: number },
})

export const LIMIT = record({ ...LISTED_LIMIT.fields, endpoints: listOf(word), running: number })

const groupFields = {
  ...{ id: word, name: orNull(text), state: word, members: number, progress: number },
  ...{ metadata: object, tags: listOf(text), fairnessKey: orNull(text) },
  onFinish: listOf(record({ endpoint: word, when: word })),
  ...{ closeAfter: orNull(word), closesAt: orNull(word), idempotencyKey: orNull(text) },
  ...{ createdAt: word, closedAt: orNull(word), closedBy: orNull(word) },
  ...{ finishedAt: orNull(word), finishes: number },
}
const finalCounts = { succeeded: number, dead: number, cancelled: number }

export const LISTED_GROUP = record({ ...groupFields, counts: record(finalCounts) })

export const GROUP = record({
  ...groupFields,
  counts: record({ queued: number, running: number, ...finalCounts, more: ifGiven(flag) }),
  deduplicated: ifGiven(flag),
})

export const ROTATED_ENDPOINT = record({ ...ENDPOINT.fields, secret: word })

export const PING = record({
  ...{ outcome: word, statusCode: orNull(number), durationMs: number, errorCode: orNull(text) },
  ...{ message: orNull(text), responseBody: orNull(text) },
})

export const SCHEDULE_SUMMARY = record({
  ...{ name: word, endpoint: word, cron: orNull(text), every: orNull(word), timezone: text },
  ...{ paused: flag, overlap: word, misfire: word, startAt: orNull(word), endAt: orNull(word) },
  ...{ nextRunAt: orNull(word), lastJobId: orNull(word), lastError: orNull(text) },
  ...{ createdAt: word, updatedAt: word, version: number },
})

export const SCHEDULE = record({
  ...SCHEDULE_SUMMARY.fields,
  ...{ nextRuns: listOf(word), payload: anything },
})

export const API_KEY = record({ id: word, name: text, scope: word, createdAt: word })
export const NEW_API_KEY = record({ ...API_KEY.fields, key: word })
export const API_KEYS = record({ items: listOf(API_KEY) })

export const WORKER = record({
  ...{ id: word, version: text, startedAt: word, seenAt: word, isLive: flag },
  ...{ concurrency: number, inFlight: number, hasEncryptionKey: flag },
})
export const WORKERS = record({ items: listOf(WORKER) })

export const ENDPOINT_STATS = record({
  ...{ name: word, state: word, queued: number, due: number, running: number, dead: number },
  ...{ more: ifGiven(flag), oldestDueAge: orNull(word) },
})
const MINUTE = record({
  ...{ minute: word, succeeded: number, failed: number, durations: listOf(number) },
})
export const STATS = record({
  ...{ asOf: word, liveWorkers: number, outbox: orNull(object), endpoints: listOf(ENDPOINT_STATS) },
  ...{ more: ifGiven(flag), minutes: ifGiven(listOf(MINUTE)), moreMinutes: ifGiven(flag) },
})

/** The response to the removal of an endpoint with its jobs. */
export const DELETING = record({ name: word, state: oneOf('deleting') })

/** A page of a list whose items pass the check. */
export function pageOf(item: Check): Check {
  return record({ items: listOf(item), nextCursor: orNull(word) })
}
