// How jobs are answered: with their version as ETag, payload and result as the JSON text they are.
import type { FastifyReply } from 'fastify'
import type { Job, NewJob } from '../../src/job/job.ts'
import type { EnqueueResult } from '../../src/store/store.ts'
import { jobJson } from '../../src/wire/job-answers.ts'
import { storedOrThrow } from '../enqueue-answer.ts'
import { etagOf } from '../http/conditional.ts'

export const JSON_TYPE = 'application/json; charset=utf-8'

/** Answers 201 with a job that was stored, 200 with one that was known. */
export function sendEnqueued(
  reply: FastifyReply,
  result: EnqueueResult,
  job: NewJob,
  more: object = {},
): string {
  const stored = storedOrThrow(result, job)
  const isNew = stored.kind === 'inserted'
  reply.code(isNew ? 201 : 200).header('location', `/jobs/${stored.job.id}`)
  return sendJob(reply, stored.job, isNew ? more : { ...more, deduplicated: true })
}

export function sendJob(reply: FastifyReply, job: Job, more: object = {}): string {
  reply.header('etag', etagOf(job.version)).type(JSON_TYPE)
  return jobJson(job, more)
}
