// The job that tells of another one's finish (onFinish).
import { type Job, MAX_HOPS, type NewJob, type OnFinish } from './job.ts'
import { newJobId } from './job-id.ts'

/** What a notice tells of the job that has finished. */
export type Finished = Pick<
  Job,
  'id' | 'createdAt' | 'endpoint' | 'state' | 'result' | 'failure' | 'metadata'
> &
  Pick<NewJob, 'hops'>

/** Why a notice is not enqueued. */
export type DropReason = 'endpoint_not_found' | 'too_many_hops'

/** The origin keys of notices begin so, and no others. */
const NOTICE_ORIGIN = 'finish:'

/** Notices tell of jobs, and none tells of them; they wait at a disabled endpoint. */
export function isNotice({ originKey }: Pick<NewJob, 'originKey'>): boolean {
  return originKey?.startsWith(NOTICE_ORIGIN) ?? false
}

/** Whether this finish is to be told. */
export function isToldOf(onFinish: OnFinish | null, state: Job['state']): onFinish is OnFinish {
  return onFinish?.states.includes(state) ?? false
}

/**
 * The notice of a finish. It has no onFinish of its own, not even its endpoint's, or an endpoint
 * that is told of itself would never come to rest.
 *
 * @param finishes how many times the job has become final: one notice for each, whoever makes it
 * @param now epoch milliseconds by the store's clock
 */
export function noticeOf(job: Finished, finishes: number, endpoint: string, now: number): NewJob {
  return {
    id: newJobId(now),
    endpoint,
    payload: Buffer.from(noticeText(job)),
    createdAt: now,
    runAt: now,
    priority: 5,
    maxAttempts: null,
    timeoutMs: null,
    retry: null,
    expiresAt: null,
    tags: [],
    metadata: {},
    headers: {},
    idempotency: null,
    dedupe: null,
    orderingKey: null,
    dependsOn: [],
    onFinish: null,
    scheduleName: null,
    // An outbox can give an id again once its job was deleted.
    originKey: `${NOTICE_ORIGIN}${job.id}:${job.createdAt}:${finishes}`,
    trace: null,
    // The delivery of the job led to its notice. Without this count two endpoints that lead to each
    // other by a notice would loop forever.
    hops: job.hops + 1,
  }
}

/** A request with as many hops is refused. Nobody waits for the answer here: the notice is dropped. */
export function hasTooManyHops({ hops }: Pick<NewJob, 'hops'>): boolean {
  return hops > MAX_HOPS
}

/** The result goes in as the JSON text it is, never re-serialised. */
function noticeText({ id, endpoint, state, result, failure, metadata }: Finished): string {
  const head = JSON.stringify({ jobId: id, endpoint, state, metadata }).slice(0, -1)
  if (state === 'succeeded') return `${head},"result":${result ?? 'null'}}`
  return `${head},"failure":${JSON.stringify(failure)}}`
}
