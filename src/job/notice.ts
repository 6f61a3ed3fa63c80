// Notices: the job that onFinish enqueues when another job becomes final.
import { DEFAULT_COST, type Job, MAX_HOPS, type NewJob, type OnFinish } from './job.ts'
import { newJobId } from './job-id.ts'

/** The fields of the finished job that make its notice. */
export type Finished = Pick<
  Job,
  'id' | 'createdAt' | 'endpoint' | 'state' | 'result' | 'failure' | 'metadata' | 'fairnessKey'
> &
  Pick<NewJob, 'hops'>

/** Why a notice is not enqueued. */
export type DropReason = 'endpoint_not_found' | 'too_many_hops'

/** Prefix of the origin keys of notices, and of no others. */
const NOTICE_ORIGIN = 'finish:'

/**
 * Whether the job is a notice. A notice has no notice of its own, and waits at a disabled endpoint.
 */
export function isNotice({ originKey }: Pick<NewJob, 'originKey'>): boolean {
  return originKey?.startsWith(NOTICE_ORIGIN) ?? false
}

/** Whether a job that reaches this state sends a notice. */
export function sendsNotice(onFinish: OnFinish | null, state: Job['state']): onFinish is OnFinish {
  return onFinish?.states.includes(state) ?? false
}

/**
 * The notice of a finish. It has no onFinish, not even its endpoint's: an endpoint whose onFinish
 * names itself would otherwise enqueue notices forever.
 *
 * @param finishes how often the job has become final. It is part of the origin key, so that each
 * finish has one notice, whichever process enqueues it
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
    // A flood of one customer is also a flood at the endpoint of its notices.
    fairnessKey: job.fairnessKey,
    cost: DEFAULT_COST,
    dependsOn: [],
    needs: [],
    onFinish: null,
    scheduleName: null,
    // createdAt is part of the key because an outbox can reuse an id after its job was deleted.
    originKey: `${NOTICE_ORIGIN}${job.id}:${job.createdAt}:${finishes}`,
    trace: null,
    // The delivery of the job led to its notice. Without this count, two endpoints whose notices
    // lead to each other would loop forever.
    hops: job.hops + 1,
  }
}

/**
 * Whether the notice has more hops than a request may have. A request is refused. A notice has no
 * client that could be refused, so it is dropped.
 */
export function hasTooManyHops({ hops }: Pick<NewJob, 'hops'>): boolean {
  return hops > MAX_HOPS
}

/** The result is inserted as stored JSON text, never re-serialised. */
function noticeText({ id, endpoint, state, result, failure, metadata }: Finished): string {
  const head = JSON.stringify({ jobId: id, endpoint, state, metadata }).slice(0, -1)
  if (state === 'succeeded') return `${head},"result":${result ?? 'null'}}`
  return `${head},"failure":${JSON.stringify(failure)}}`
}
