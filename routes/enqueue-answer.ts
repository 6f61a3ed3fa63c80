// What became of an enqueue, in the words of the API: alike for one job, a batch and a copy.
import { AppError } from '../src/errors.ts'
import type { NewJob } from '../src/job/job.ts'
import type { EnqueueResult } from '../src/store/store.ts'

type Stored = Extract<EnqueueResult, { kind: 'inserted' | 'existing' }>

/** The job that was stored or found; throws AppError for all else. */
export function storedOrThrow(result: EnqueueResult, job: NewJob): Stored {
  switch (result.kind) {
    case 'inserted':
    case 'existing':
      return result
    case 'key_reused':
      throw new AppError(
        'idempotency_key_reused',
        `this Idempotency-Key was used for job ${result.jobId} with another request`,
      )
    case 'dedupe_conflict':
      throw new AppError(
        'dedupe_conflict',
        `job ${result.jobId} of this endpoint has the dedupe key and is not final`,
      )
    case 'id_taken':
      throw new AppError(
        'invalid_request',
        `_id: job ${result.jobId} was not made from this document; use each _id once, and the id of no other job`,
      )
    case 'unknown_endpoint':
      throw unknownEndpoint(job.endpoint)
    case 'endpoint_disabled':
      throw new AppError(
        'endpoint_disabled',
        `endpoint "${job.endpoint}" is disabled; POST /endpoints/${job.endpoint}/resume enables it`,
      )
    case 'unknown_notice_endpoint':
      throw unknownEndpoint(result.endpoint, '/onFinish')
    case 'unknown_dependency':
      throw unknownDependency(`no job has the id ${result.jobId}`)
    default:
      throw new Error(`unknown result ${JSON.stringify(result satisfies never)}`)
  }
}

export function unknownDependency(message: string): AppError {
  return new AppError('invalid_request', `/dependsOn: ${message}`, {
    errors: [{ path: '/dependsOn', message }],
  })
}

/** The 422 of a request that is right but for a name in its body. */
export function unknownEndpoint(name: string, path = '/endpoint'): AppError {
  const message = `there is no endpoint "${name}"; register it with PUT /endpoints/${name}`
  return new AppError('endpoint_not_found', message, { status: 422, errors: [{ path, message }] })
}
