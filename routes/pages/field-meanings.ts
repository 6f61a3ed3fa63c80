// The meanings of the fields of requests and responses, for openapi.json and docs/api.md. A name
// has the same meaning everywhere, so it is described once. A description in a schema takes
// precedence.

type Json = Record<string, unknown>

/** The keys are names, or `parent.name` or `Schema.name` if a name has a second meaning. */
export const FIELD_MEANINGS: Record<string, string> = {
  // Jobs, and what schedules and endpoints share with them.
  id: 'the id',
  endpoint: 'the name of the endpoint',
  payload: 'the payload, byte for byte',
  runAt: 'when the job is due, or when its next attempt is due',
  delay: 'how long until the job is due; not with runAt',
  priority: 'within the endpoint, higher first',
  timeout: 'total time of one attempt, from the name lookup to the end of the response',
  retry: 'the retry policy; for a job, only the parts that differ from the endpoint’s',
  'retry.maxAttempts': 'attempts until the job is dead; default 10',
  'retry.backoff': 'the delays between attempts; default exponential, 5s × 3, at most 12h',
  'retry.maxAge': 'no attempt is due later than this after the first due time; default none',
  'backoff.type': 'how the delay grows; schedule: a list of delays',
  'backoff.delay': 'the first delay; not with schedule',
  'backoff.maxDelay': 'the longest delay; not with schedule',
  'backoff.delays': 'with schedule only: one delay for each retry, the last one repeats',
  'backoff.jitter': 'the random part of each delay: 0.2 is ± 20 %',
  expiresIn: 'after this time from runAt no attempt starts, and the job is dead',
  dedupe: 'at most one queued or running job of the endpoint has this key',
  'dedupe.key': 'the dedupe key',
  'dedupe.mode': 'what happens if another job has the key',
  orderingKey: 'jobs of the endpoint with the same key run one at a time, in order',
  fairnessKey:
    'whose job it is: the keys of an endpoint take turns, so that no customer delays the others; null: the jobs without a key take turns as one',
  cost: 'how much of the share of its fairness key the job uses up: 10 counts as ten jobs of cost 1',
  tags: 'labels to filter by',
  metadata: 'stored and returned, not delivered',
  headers: 'extra headers of each delivery',
  onFinish:
    'the endpoint that gets a notice when the job is final; null: none. For an endpoint: the default of its jobs without this field',
  'onFinish.endpoint': 'the endpoint of the notice',
  'onFinish.states': 'the final states that cause a notice; all if onFinish is a name',
  dependsOn: 'ids of jobs that must succeed first',
  needs:
    'the results of other jobs that it gets as inputs: for each name "<id>", "<id>/result/<path>", or {job, pointer, ifFailed}',
  state: 'the state',
  phase: 'of a running job: the request is sent, or the handler accepted it with 202',
  createdAt: 'when it was created',
  updatedAt: 'when it was last changed',
  startedAt: 'when its first attempt started',
  finishedAt: 'when it became final',
  expiresAt: 'no attempt starts after this instant',
  attemptCount: 'attempts that were sent, including those that used none of maxAttempts',
  maxAttempts: 'attempts until the job is dead',
  fence: 'a number that grows with every claim',
  lease: 'of a running job: the worker, and until when it holds the job',
  'lease.workerId': 'the worker that holds the lease',
  'lease.expiresAt': 'when the lease expires unless it is renewed',
  progress: 'the last progress that the handler reported',
  'progress.value': 'percent',
  'progress.message': 'text from the handler',
  'progress.at': 'when it was reported',
  failure: 'why the job is dead; null: it is not dead',
  'failure.reason': 'the reason, for programs',
  'failure.message': 'the reason, in a sentence',
  'failure.jobId': 'the job because of which it is dead; absent: it is dead for its own reasons',
  payloadBytes: 'size of the payload',
  idempotencyKey: 'the Idempotency-Key of the request that created the job',
  dedupeKey: 'the dedupe key that the job was enqueued with',
  scheduleName: 'the schedule that enqueued the job',
  version: 'grows with every change, except renewals of the lease; also the ETag',
  deduplicated: 'only in responses to an enqueue: the job existed already',
  result: 'what the handler returned, at most 64 KiB',
  resultTruncated: 'the result was too long and was not stored',
  attempts: 'the last 20, oldest first',
  'attempts.number': 'from 1',
  'attempts.startedAt': 'when it was claimed',
  'attempts.finishedAt': 'when it ended',
  durationMs: 'duration in milliseconds',
  outcome: 'how the attempt ended',
  statusCode: 'status of the response; null: there was none',
  errorCode: 'why there was no response, such as ECONNREFUSED',
  message: 'a sentence about what happened',
  responseBody: 'the first 4 KiB of the response as text',
  workerId: 'the worker of the attempt',

  // Reports of a handler, and claims.
  retryable: 'false: the job is dead at once',
  'postJobsByIdFail.message': 'why it failed; shown in the job',
  'postJobsByIdHeartbeat.message': 'text for people; shown in the job',
  'postJobsByIdHeartbeat.progress': 'percent',
  applied: 'the report of this attempt is stored',
  leaseExpiresAt: 'when the lease expires; null: the job was cancelled',
  cancelRequested: 'the job was cancelled: stop the work',
  token: 'authorizes complete, fail and heartbeat for this attempt',
  tracestate: 'the tracestate of the same trace context',
  'getJobsById.wait': 'respond when the job is final, or after this time with the job as it is',
  'postEndpointsByNameClaim.wait': 'how long to wait for a due job',
  limit: 'how many jobs at most',
  'postEndpointsByNameClaim.lease':
    'how long the lease of the claimed jobs lasts without a heartbeat',

  // Endpoints.
  name: 'the name',
  description: 'free text',
  url: 'where deliveries are sent; null: its jobs are pulled',
  completionTimeout: 'with async completion: how long the report may take',
  circuitBreaker: 'when failures open the circuit; null: never',
  statuses: 'the meaning of a response, by its status',
  concurrency: 'how many jobs run at the same time, over all workers; null: no limit',
  rateLimit: 'how many attempts start, over all workers; null: no limit',
  'rateLimit.count': 'attempts in each period; all of them may start at once',
  'rateLimit.per': 'the period of count',
  completion: 'async: a 202 means that the handler reports later',
  secret: 'signs the deliveries: whsec_ and base64 of 24–64 bytes; generated if absent',
  secretHint: 'the last four characters of the secret',
  'circuitBreaker.failures': 'failed attempts in a row that open the circuit',
  'circuitBreaker.cooldown': 'how long the circuit stays open before one attempt is sent',
  disabledReason: 'gone: it responded with 410',
  counts: 'jobs at the endpoint',
  queued: 'queued jobs, including due ones',
  running: 'running jobs',
  'counts.more': 'a count of 10000 means more',
  'postEndpointsByNameRotateSecret.overlap': 'how long the old secret also signs',
  force: 'true: delete the endpoint even if jobs or schedules use it; its jobs become dead',

  // Groups.
  'Group.state':
    'open: it takes jobs; cancelling and retrying: its jobs are changed one after another; succeeded and failed are final',
  'ListedGroup.state':
    'open: it takes jobs; cancelling and retrying: its jobs are changed one after another; succeeded and failed are final',
  'postGroups.name': 'a name to find it by',
  'Group.name': 'the name, which is not unique',
  'ListedGroup.name': 'the name, which is not unique',
  'Group.onFinish': 'its notices',
  'ListedGroup.onFinish': 'its notices',
  'onFinish.when':
    'all_final: each time it becomes final; all_succeeded: only if it has succeeded; first_dead: when a job is dead, at most once between two finishes',
  when: 'all_final: each time it becomes final; all_succeeded: only if it has succeeded; first_dead: when a job is dead, at most once between two finishes',
  'Group.idempotencyKey': 'the Idempotency-Key of the request that created the group',
  'ListedGroup.idempotencyKey': 'the Idempotency-Key of the request that created the group',
  closedAt: 'when it was closed',
  closedBy: 'request; idle: no add for closeAfter; cancel',
  cancelled: 'cancelled jobs',
  'Group.deduplicated': 'only in responses to a creation: the group existed already',
  'getGroups.state': 'only groups in this state',
  'getGroups.name': 'only groups with this name',
  'getGroupsById.wait':
    'respond when the group is final, or after this time with the group as it is',
  'postGroups.idempotency-key':
    '1–255 visible ASCII characters; a repeat with the same key returns the same group',

  // Schedules.
  cron: 'five fields or @daily and similar; exactly one of cron and every',
  timezone: 'with cron: a name of the IANA database; default UTC',
  paused: 'no ticks',
  every: 'the interval; exactly one of cron and every',
  overlap: 'skip: no job while the job of the last tick is not final',
  misfire: 'once: one job for all missed ticks; skip: none',
  startAt: 'no tick before this instant; an interval counts from it',
  endAt: 'no tick at or after this instant',
  lastJobId: 'the job of the last tick',

  // Lists, filters and bulk commands.
  items: 'the records of this page',
  nextCursor: 'the cursor of the next page; null: there is none',
  cursor: 'nextCursor of the page before',
  tag: 'only jobs with this tag',
  'getJobs.endpoint': 'only jobs of this endpoint',
  'getJobs.state': 'only jobs in this state; can be repeated',
  'getJobs.dedupeKey': 'only jobs with this dedupe key',
  'getJobs.group': 'only jobs of this group',
  'getJobs.fairnessKey': 'only jobs with this fairness key; only with endpoint',
  'getStats.endpoint': 'only this endpoint',
  createdAfter: 'only jobs created at this instant or later',
  createdBefore: 'only jobs created before this instant',
  filter: 'which jobs; at least one field',
  'filter.endpoint': 'only jobs of this endpoint',
  'filter.state': 'only jobs in this state',
  'filter.failureReason': 'only dead jobs with this failure.reason',
  dryRun: 'true: count only',
  matched: 'jobs that match, up to the limit',
  affected: 'jobs that were changed',
  'Batch.items': 'one for each job, in the order of the request',
  'Batch.status': 'the status that a single request would have',
  'Batch.error': 'instead of id: why the job was not enqueued',
  jobs: 'the claimed jobs',
  'errors.message': 'what was found and what was expected',
  errors: 'the wrong fields',
  path: 'JSON Pointer into the body, or query/…, header/…, path/…',
  code: 'the error code, for programs',
  detail: 'what was found and what was expected, in a sentence',
  type: 'urn:posthorn:error: and the code',
  title: 'the meaning of the code',
  status: 'ok or unavailable',
  'Problem.status': 'the HTTP status',
  requestId: 'the X-Request-Id of the response',
  reason: 'why the job is not running',
  'Explain.detail': 'the reason, in a sentence',

  // The service.
  checks: 'by part of the service: ok, or what is wrong',
  scope: 'what the key allows',
  asOf: 'when the counts were read, usually at most 5 s ago',
  liveWorkers: 'workers that have reported within the last 5 s and have the encryption key',
  endpoints: 'one row for each endpoint',
  due: 'queued jobs that are due',
  dead: 'dead jobs',
  oldestDueAge: 'how long the oldest due job has been due; null: none is',
  'ended.failed': 'attempts that failed, a count for each minute',
  'outbox.waiting': 'documents in the outbox',
  'outbox.setAside': 'rejected documents',
  minutes: 'with window: one row for each minute in which an attempt ended, oldest first',
  minute: 'when the minute began',
  succeeded: 'attempts that succeeded',
  failed: 'attempts that failed',
  window: 'adds the attempts that ended within this time',
  seenAt: 'the last heartbeat of the worker',
  isLive: 'it has reported within the last 5 s',
  'WorkerList.concurrency': 'WORKER_CONCURRENCY of the worker',
  'WorkerList.startedAt': 'when the worker started',
  'WorkerList.version': 'the version of Posthorn',

  // Headers of requests.
  'if-match': 'the ETag of an earlier response: apply this to that version only, else 412',
  'if-none-match': '*: create only, else 412',
  'getJobsById.if-none-match': 'the ETag of an earlier response: 304 if the job has not changed',
  prefer:
    'return=minimal: only id, state and deduplicated of each job (RFC 7240); anything else is ignored',
  'idempotency-key':
    '1–255 visible ASCII characters; a repeat with the same key returns the same job',
}

/** The beginning of the description of a duration that only has its range. */
const RANGE_ONLY = /^a duration like/

/**
 * Adds a description to each field that has none.
 *
 * @param context name of the schema, or operationId
 */
export function withMeanings(node: unknown, context: string, parent = ''): unknown {
  if (Array.isArray(node)) return node.map((item) => withMeanings(item, context, parent))
  if (typeof node !== 'object' || node === null) return node
  const parts = Object.entries(node).map(([key, value]) => {
    if (key !== 'properties') return [key, withMeanings(value, context, parent)]
    const fields = Object.entries(value as Json).map(([name, field]) => [
      name,
      describedField(withMeanings(field, context, name) as Json, name, context, parent),
    ])
    return [key, Object.fromEntries(fields)]
  })
  return Object.fromEntries(parts)
}

/** Adds a description to a parameter of a request or a property of an object. */
export function describedField(field: Json, name: string, context: string, parent = ''): Json {
  if ('$ref' in field) return field
  const { description } = field as { description?: string }
  const isRange = description !== undefined && RANGE_ONLY.test(description)
  if (description !== undefined && !isRange) return field
  const meaning = meaningOf(name, context, parent)
  if (meaning === undefined) return field
  return { ...field, description: isRange ? `${meaning}; ${description}` : meaning }
}

function meaningOf(name: string, context: string, parent: string): string | undefined {
  const keys = [`${context}.${name}`, `${parent}.${name}`, name]
  return keys.map((key) => FIELD_MEANINGS[key]).find((meaning) => meaning !== undefined)
}
