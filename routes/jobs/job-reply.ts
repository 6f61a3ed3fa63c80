// How the routes of jobs find a job by the id in the path and send it, and the errors if they
// cannot do so. A job is sent with its version as the ETag.
import type { FastifyReply } from 'fastify'
import { z } from 'zod'
import { AppError } from '../../src/errors.ts'
import type { Job, JobState, JobWithAttempts, MinimalJob, NewJob } from '../../src/job/job.ts'
import { isJobId } from '../../src/job/job-id.ts'
import type { EnqueueResult, Store } from '../../src/store/store.ts'
import { jobJson, minimalJobJson, storedOrThrow } from '../../src/wire/jobs.ts'
import { etagOf } from '../http/conditional.ts'
import { JSON_TYPE } from '../http/route-schema.ts'

/** Accepts any text: a text that is not an id gets 404, not 400. */
export const jobParams = z.object({ id: z.string() })

/** @throws AppError job_not_found */
export async function readJob(store: Pick<Store, 'getJob'>, id: string): Promise<Job> {
  const job = isJobId(id) ? await store.getJob(id) : null
  if (job === null) throw jobNotFound(id)
  return job
}

/**
 * Like readJob, for a request that needs neither payload nor result.
 *
 * @throws AppError job_not_found
 */
export async function readJobWithAttempts(
  store: Pick<Store, 'getJobWithAttempts'>,
  id: string,
): Promise<JobWithAttempts> {
  const job = isJobId(id) ? await store.getJobWithAttempts(id) : null
  if (job === null) throw jobNotFound(id)
  return job
}

export function jobNotFound(id: string): AppError {
  return new AppError('job_not_found', `no job has the id ${JSON.stringify(id.slice(0, 64))}`)
}

/** @param needed the states that the command needs, like "one that is final" */
export function stateConflict(state: JobState, verb: string, needed: string): AppError {
  return new AppError('job_state_conflict', `the job is ${state}; ${verb} needs ${needed}`)
}

/** Responds with 201 and a job that was stored, or 200 and one that existed. */
export function sendEnqueued(
  reply: FastifyReply,
  result: EnqueueResult,
  job: NewJob,
  more: object = {},
): string {
  return sendStored(reply, result, job, (stored, isNew) =>
    jobJson(stored, isNew ? more : { ...more, deduplicated: true }),
  )
}

/** The same with only the id and the state of the job. */
export function sendEnqueuedMinimal(
  reply: FastifyReply,
  result: EnqueueResult<MinimalJob>,
  job: NewJob,
): string {
  return sendStored(reply, result, job, (stored, isNew) =>
    minimalJobJson(stored, isNew ? {} : { deduplicated: true }),
  )
}

function sendStored<J extends MinimalJob>(
  reply: FastifyReply,
  result: EnqueueResult<J>,
  job: NewJob,
  toText: (stored: J, isNew: boolean) => string,
): string {
  const stored = storedOrThrow(result, job)
  const isNew = stored.kind === 'inserted'
  reply.code(isNew ? 201 : 200).header('location', `/jobs/${stored.job.id}`)
  setJobHeaders(reply, stored.job)
  return toText(stored.job, isNew)
}

export function sendJob(reply: FastifyReply, job: Job, more: object = {}): string {
  setJobHeaders(reply, job)
  return jobJson(job, more)
}

function setJobHeaders(reply: FastifyReply, { version }: MinimalJob): void {
  reply.header('etag', etagOf(version)).type(JSON_TYPE)
}
