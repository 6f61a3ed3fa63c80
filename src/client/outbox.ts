// The document that enqueues a job within a transaction of the caller's: it is inserted with the
// caller's own MongoDB driver into the collection that OUTBOX names.
import { randomBytes } from 'node:crypto'
import { givenObject, notNull, refuseNoDate } from './given.ts'
import type { JobTemplate, RawJson } from './job.ts'
import { payloadJson } from './json-text.ts'

/** What such a job may be given: all but a dedupe key, dependencies and an idempotency key. */
export type OutboxJob<Payload = unknown> = JobTemplate & {
  endpoint: string
  runAt?: string | Date | undefined
  delay?: string | undefined
} & ({ payload: Payload; rawPayload?: undefined } | { payload?: undefined; rawPayload: RawJson })

export type OutboxDocument = Record<string, unknown> & {
  /** The id that the job will have. */
  _id: string
  endpoint: string
  payloadJson: string
}

/** What no document of an outbox may have, because its meaning depends on when it is moved. */
const NOT_TAKEN = ['dedupe', 'dependsOn', 'idempotencyKey']
/** null means something here: none. */
const MAY_BE_NULL = ['expiresIn', 'orderingKey', 'onFinish']

/**
 * The document to insert, once. The payload goes as JSON text, so that the endpoint gets what
 * POST /jobs would have sent it, whatever its keys and numbers.
 *
 * @throws TypeError when there is no payload, two, or one that is not JSON; for a field that no
 *   outbox takes, an invalid Date, and null where a value is expected
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

/** The caller would not learn of it: the document is stored, and set aside later. */
function refuseUnmovable(name: string, value: unknown): void {
  if (NOT_TAKEN.includes(name)) throw new TypeError(`an outbox takes no ${name}`)
  if (!MAY_BE_NULL.includes(name)) notNull(name, value)
  refuseNoDate(name, value)
}

const BASE32 = '0123456789abcdefghjkmnpqrstvwxyz'

/** A ULID in lower case: ten characters of time, sixteen of chance. */
function newJobId(now: number): string {
  const time = Array.from({ length: 10 }, (_, i) => Math.floor(now / 32 ** (9 - i)) % 32)
  const chance = [...randomBytes(16)].map((byte) => byte & 31)
  return `job_${[...time, ...chance].map((digit) => BASE32[digit]).join('')}`
}
