// Jobs by the id in a path, and what is said when there is none.
import { AppError } from '../src/errors.ts'
import type { Job, JobState } from '../src/job/job.ts'
import { isJobId } from '../src/job/job-id.ts'
import type { Store } from '../src/store/store.ts'

/** @throws AppError job_not_found */
export async function readJob(store: Pick<Store, 'getJob'>, id: string): Promise<Job> {
  const job = isJobId(id) ? await store.getJob(id) : null
  if (job === null) throw jobNotFound(id)
  return job
}

export function jobNotFound(id: string): AppError {
  return new AppError('job_not_found', `no job has the id ${JSON.stringify(id.slice(0, 64))}`)
}

/** @param needed what the verb needs, like "one that is final" */
export function stateConflict(state: JobState, verb: string, needed: string): AppError {
  return new AppError('job_state_conflict', `the job is ${state}; ${verb} needs ${needed}`)
}
