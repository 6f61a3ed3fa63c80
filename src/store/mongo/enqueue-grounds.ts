// What must be known before a job is stored: what its endpoint gives it, whether its notice has
// somewhere to go, which of its dependencies have succeeded. Two looks for the whole batch.
import type { NewJob, OnFinish } from '../../job/job.ts'
import type { EnqueueResult } from '../store.ts'
import type { MongoContext } from './context.ts'
import type { JobDocument } from './documents.ts'
import type { EndpointDocument } from './endpoint-documents.ts'
import type { Grounds } from './new-job-document.ts'
import { type Deadline, run } from './run-command.ts'

/** Notices begin so (src/job/notice.ts): they take no onFinish, and wait at a disabled endpoint. */
const NOTICE_ORIGIN = 'finish:'

export interface Looked {
  endpoints: Map<string, FoundEndpoint>
  /** Of those dependencies that are stored. */
  states: Map<string, JobDocument['state']>
}

const FOUND = { 'retry.maxAttempts': 1, disabledReason: 1, onFinish: 1 } as const
type FoundEndpoint = Pick<EndpointDocument, '_id' | 'disabledReason' | 'onFinish'> & {
  retry: { maxAttempts: number }
}

export async function lookForGrounds(
  context: MongoContext,
  jobs: NewJob[],
  deadline: Deadline,
): Promise<Looked> {
  const names = [
    ...new Set(
      jobs.flatMap(({ endpoint, onFinish }) =>
        onFinish === null ? [endpoint] : [endpoint, onFinish.endpoint],
      ),
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
    endpoints: new Map(found.map((endpoint) => [endpoint._id, endpoint])),
    states: new Map(dependencies.map(({ _id, state }) => [_id, state])),
  }
}

export type Judged =
  | { kind: 'accepted'; grounds: Grounds }
  /** `isFinal`: whatever its idempotency key says. */
  | { kind: 'refused'; result: EnqueueResult; isFinal: boolean }

/** @param inserted ids of earlier jobs of the batch that are stored by now, or surely will be */
export function judge(job: NewJob, looked: Looked, inserted: Set<string>): Judged {
  const endpoint = looked.endpoints.get(job.endpoint)
  if (endpoint === undefined) {
    return { kind: 'refused', result: { kind: 'unknown_endpoint' }, isFinal: true }
  }
  const isDisabled = (endpoint.disabledReason ?? null) !== null
  if (isDisabled && !isNotice(job)) {
    return { kind: 'refused', result: { kind: 'endpoint_disabled' }, isFinal: true }
  }
  if (job.onFinish !== null && !looked.endpoints.has(job.onFinish.endpoint)) {
    const result = {
      kind: 'unknown_notice_endpoint',
      endpoint: job.onFinish.endpoint,
    } as const
    return { kind: 'refused', result, isFinal: false }
  }
  const unknown = job.dependsOn.find((id) => !looked.states.has(id) && !inserted.has(id))
  if (unknown !== undefined) {
    const result = { kind: 'unknown_dependency', jobId: unknown } as const
    return { kind: 'refused', result, isFinal: false }
  }
  const grounds = {
    maxAttempts: job.maxAttempts ?? endpoint.retry.maxAttempts,
    onFinish: onFinishOf(job, endpoint),
    waitingFor: job.dependsOn.filter((id) => looked.states.get(id) !== 'succeeded'),
  }
  return { kind: 'accepted', grounds }
}

function onFinishOf(job: NewJob, endpoint: FoundEndpoint): OnFinish | null {
  if (isNotice(job)) return null
  return job.onFinish ?? endpoint.onFinish ?? null
}

function isNotice({ originKey }: NewJob): boolean {
  return originKey?.startsWith(NOTICE_ORIGIN) ?? false
}
