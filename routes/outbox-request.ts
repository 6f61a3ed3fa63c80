// What a document of an outbox asks for, judged as POST /jobs judges its body: the same parser, the
// same shapes, the same limits. The worker gets these from the command that starts it.
import { z } from 'zod'
import { AppError } from '../src/errors.ts'
import type { NewJob } from '../src/job/job.ts'
import type { EnqueueResult } from '../src/store/store.ts'
import { parseEnvelope, REQUEST_LIMITS } from '../src/wire/envelope.ts'
import { endpointName, payload, templateFields } from '../src/wire/fields.ts'
import { DUE_ONCE, dueTimes, isDueOnce } from '../src/wire/jobs.ts'
import { storedOrThrow } from './enqueue-answer.ts'
import { newJobFrom } from './enqueue-request.ts'
import { invalidRequest } from './http/route-schema.ts'

/** No dedupe key and no dependencies: what they mean would depend on when the document is moved. */
const outboxBody = z
  .strictObject({ endpoint: endpointName, payload, ...dueTimes, ...templateFields })
  .refine(isDueOnce, DUE_ONCE)

/**
 * @param now epoch milliseconds by the store's clock
 * @throws AppError as POST /jobs would answer
 */
export function jobFromOutbox(body: Buffer, maxBodyBytes: number, now: number): NewJob {
  if (body.length > maxBodyBytes) {
    const found = `${body.length} bytes as JSON`
    throw new AppError('payload_too_large', `the job is ${found}, the limit is ${maxBodyBytes}`)
  }
  const checked = outboxBody.safeParse(parseEnvelope(body, REQUEST_LIMITS))
  if (!checked.success) throw invalidRequest(checked.error, '')
  return newJobFrom({ ...checked.data, dependsOn: [] }, undefined, { trace: null, hops: 0 }, now)
}

/** Why the job was not stored; null: it was, now or before. */
export function refusalOf(result: EnqueueResult, job: NewJob): AppError | null {
  try {
    storedOrThrow(result, job)
    return null
  } catch (error) {
    if (error instanceof AppError) return error
    throw error
  }
}
