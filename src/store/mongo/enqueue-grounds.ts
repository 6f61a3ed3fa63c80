// What decides about a batch that is enqueued (src/job/acceptance.ts): its endpoints, and the states
// of its dependencies. Two reads for the whole batch.
import { type AcceptingEndpoint, namedOnFinish } from '../../job/acceptance.ts'
import type { JobState, NewJob } from '../../job/job.ts'
import type { MongoContext } from './context.ts'
import { stateOf } from './documents.ts'
import type { EndpointDocument } from './endpoint-documents.ts'
import { type Deadline, run } from './run-command.ts'

export interface EnqueueContext {
  endpoints: Map<string, AcceptingEndpoint>
  /** Of those dependencies that are stored. */
  states: Map<string, JobState>
}

const FOUND = { 'retry.maxAttempts': 1, disabledReason: 1, onFinish: 1 } as const
type FoundEndpoint = Pick<EndpointDocument, '_id' | 'disabledReason' | 'onFinish'> & {
  retry: { maxAttempts: number }
}

export async function loadEnqueueContext(
  context: MongoContext,
  jobs: NewJob[],
  deadline: Deadline,
): Promise<EnqueueContext> {
  const names = [
    ...new Set(
      jobs.flatMap((job) => {
        const named = namedOnFinish(job)
        return named === null ? [job.endpoint] : [job.endpoint, named.endpoint]
      }),
    ),
  ]
  const found = await run(deadline, (limit) =>
    context.endpoints
      .find<FoundEndpoint>(
        { _id: { $in: names }, deleting: false },
        { projection: FOUND, batchSize: names.length + 1, ...limit },
      )
      .toArray(),
  )
  const ids = [...new Set(jobs.flatMap(({ dependsOn }) => dependsOn))]
  const dependencies =
    ids.length === 0
      ? []
      : await run(deadline, (limit) =>
          context.jobs
            .find(
              { _id: { $in: ids } },
              { projection: { state: 1 }, batchSize: ids.length + 1, ...limit },
            )
            .toArray(),
        )
  return {
    endpoints: new Map(found.map((endpoint) => [endpoint._id, acceptingOf(endpoint)])),
    states: new Map(dependencies.map(({ _id, state }) => [_id, stateOf(state)])),
  }
}

function acceptingOf({ disabledReason, onFinish, retry }: FoundEndpoint): AcceptingEndpoint {
  return {
    disabledReason,
    onFinish,
    maxAttempts: retry.maxAttempts,
  }
}
