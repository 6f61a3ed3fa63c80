// Notices: the job that onFinish enqueues when another job, or a group, becomes final.
import {
  type CountedGroup,
  type DueNotice,
  MAX_FAILURE_LENGTH,
  MAX_FAILURES_NAMED,
  queuedCount,
} from './groups.ts'
import {
  DEFAULT_COST,
  type Failure,
  type Job,
  MAX_HOPS,
  type NewJob,
  type OnFinish,
} from './job.ts'
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
  // createdAt is part of the key because an outbox can reuse an id after its job was deleted.
  const key = `${job.id}:${job.createdAt}:${finishes}`
  return newNotice(noticeText(job), { ...job, endpoint, key }, now)
}

/** A dead member as the notice of its group names it. */
export interface FailedMember {
  jobId: string
  endpoint: string
  failure: Failure | null
}

/**
 * The notice of a group. Its key has the number of finishes and the place in the list of notices:
 * each finish has one notice of each kind, and so has the first dead member since then.
 *
 * @param failures the dead members with the smallest ids, at most MAX_FAILURES_NAMED
 * @param now epoch milliseconds by the store's clock
 */
export function groupNoticeOf(
  group: CountedGroup,
  { endpoint, when, entry }: DueNotice,
  failures: FailedMember[],
  now: number,
): NewJob {
  const { id, name, state, running, counts, metadata } = group
  const queued = queuedCount(group, running)
  const text = JSON.stringify({
    ...{ groupId: id, name, state, when, counts: { queued, running, ...counts } },
    failures: failures.slice(0, MAX_FAILURES_NAMED).map(shortened),
    metadata,
  })
  const key = `${id}:${entry}:${group.finishes}`
  return newNotice(text, { ...group, endpoint, key }, now)
}

function shortened({ failure, ...member }: FailedMember): FailedMember {
  if (failure === null) return { ...member, failure }
  return {
    ...member,
    failure: { ...failure, message: failure.message.slice(0, MAX_FAILURE_LENGTH).toWellFormed() },
  }
}

function newNotice(
  text: string,
  origin: Pick<NewJob, 'endpoint' | 'fairnessKey' | 'hops'> & { key: string },
  now: number,
): NewJob {
  return {
    id: newJobId(now),
    endpoint: origin.endpoint,
    payload: Buffer.from(text),
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
    fairnessKey: origin.fairnessKey,
    cost: DEFAULT_COST,
    group: null,
    dependsOn: [],
    needs: [],
    onFinish: null,
    scheduleName: null,
    originKey: NOTICE_ORIGIN + origin.key,
    trace: null,
    // The delivery of the job led to its notice. Without this count, two endpoints whose notices
    // lead to each other would loop forever.
    hops: origin.hops + 1,
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
