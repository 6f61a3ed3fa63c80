// The outbox document that enqueues a job within your own transaction. Insert it with your MongoDB
// driver into the collection that OUTBOX names.
import { randomBytes } from 'node:crypto'
import { givenObject, notNull, refuseNoDate } from './given.ts'
import type { JobTemplate, NeedOptions, RawJson } from './job.ts'
import { payloadJson } from './json-text.ts'

/** The options of an outbox job: all except a dedupe key, `dependsOn` and an idempotency key. */
export type OutboxJob<Payload = unknown> = JobTemplate & {
  endpoint: string
  runAt?: string | Date | undefined
  delay?: string | undefined
  needs?: Record<string, string | NeedOptions> | undefined
  group?: string | null | undefined
} & ({ payload: Payload; rawPayload?: undefined } | { payload?: undefined; rawPayload: RawJson })

export type OutboxDocument = Record<string, unknown> & {
  /** The id of the future job. */
  _id: string
  endpoint: string
  payloadJson: string
}

/**
 * Fields that an outbox document cannot have, because their meaning depends on when it is moved.
 */
const NOT_TAKEN = ['dedupe', 'dependsOn', 'idempotencyKey']
/** For these fields null is a value and means "none". */
const MAY_BE_NULL = ['expiresIn', 'orderingKey', 'fairnessKey', 'group', 'onFinish']

/**
 * The document to insert, once. The payload is stored as JSON text, so that the endpoint receives
 * the same bytes as after POST /jobs, regardless of its keys and numbers.
 *
 * @throws TypeError if there is no payload, there are two, or the payload is not JSON; for a field
 *   that an outbox does not accept, an invalid Date, and null where a value is expected
 */
export function outboxDocument(job: OutboxJob): OutboxDocument {
  const { payload, rawPayload, ...given } = givenObject('job', job)
  const fields = Object.entries(given).filter(([, value]) => value !== undefined)
  for (const [name, value] of fields) refuseUnmovable(name, value)
  if (typeof given.endpoint !== 'string') throw new TypeError('endpoint is not a name')
  return {
    ...(Object.fromEntries(fields) as { endpoint: string }),
    _id: newJobId(Date.now()),
    payloadJson: payloadJson(job),
  }
}

/**
 * The document is checked here because the program would not see a later refusal: the document
 * would be stored, then set aside.
 */
function refuseUnmovable(name: string, value: unknown): void {
  if (NOT_TAKEN.includes(name)) throw new TypeError(`an outbox document cannot have ${name}`)
  if (!MAY_BE_NULL.includes(name)) notNull(name, value)
  refuseNoDate(name, value)
}

const BASE32 = '0123456789abcdefghjkmnpqrstvwxyz'

/** A ULID in lower case: ten characters of time, sixteen random ones. */
function newJobId(now: number): string {
  const time = Array.from({ length: 10 }, (_, i) => Math.floor(now / 32 ** (9 - i)) % 32)
  const chance = [...randomBytes(16)].map((byte) => byte & 31)
  return `job_${[...time, ...chance].map((digit) => BASE32[digit]).join('')}`
}
