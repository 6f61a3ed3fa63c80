// A synthetic history, as a run would leave it. Each job has one of a few fates.
import type {
  AttemptRecord,
  Call,
  CallKind,
  Delivery,
  EndpointFacts,
  Fault,
  FaultKind,
  GroupNotice,
  History,
  JobRecord,
  SharedLimitFacts,
} from './history.ts'
import { numberText, resultText } from './work-payload.ts'

/** The fates of jobs. Everything that happens to a job lies within its own span of time. */
export const FATES = [
  'done',
  'delayed',
  'answered_late',
  'failed_once',
  'worn_out',
  'throttled',
  'killed_unsent',
  'killed_unanswered',
  'killed_unrecorded',
  'frozen_unsent',
  'resent',
  'interrupted',
  'given_back',
  'cancelled_waiting',
  'cancelled_running',
  'retried',
  'deleted',
] as const
export type Fate = (typeof FATES)[number]

const EPOCH_OFFSET_MS = 1_790_000_000_000
const FIRST_JOB_AT_MS = 5_000
const SETTINGS = {
  ...{ leaseMs: 2_000, sweepMs: 250, pollMs: 100, slots: 2 },
  // No key has this prefix unless a corruption gives it to some.
  keyLimit: { prefix: 'limited', concurrency: 1 },
}
/** No endpoint has few jobs unless a corruption says so. */
const SHARED_LIMIT: SharedLimitFacts = {
  ...{ name: 'seats', endpoints: ['work'], few: { endpoints: [], starts: 10 } },
  ...{ concurrency: 2, rateLimit: { count: 2, perMs: 500 } },
}
const ENDPOINT: EndpointFacts = { name: 'work', maxAttempts: 3, retryDelayMs: 400, jitter: 0.2 }
/** The time from the end of a worker to the next delivery of its jobs. */
const RECOVERY_MS = 2_500
/**
 * Longer than any fate with the effects of its fault: no fault explains the extra deliveries of
 * another job.
 */
const ALONE_MS = 20_000

export interface SyntheticJob {
  fate: Fate
  id: string
  workNumber: number
  record: JobRecord
  deliveries: Delivery[]
  calls: Call[]
}

export interface SyntheticHistory extends History {
  synthetic: SyntheticJob[]
}

/** Returns a history that violates no invariant. */
export function createHistory(jobCount: number, aloneMs = ALONE_MS): SyntheticHistory {
  const history: SyntheticHistory = {
    ...{ engine: 'mongo', seed: 1, endpoints: [ENDPOINT], calls: [] },
    settings: { ...SETTINGS, sharedLimits: [structuredClone(SHARED_LIMIT)] },
    ...{ sightings: [], deliveries: [], faults: [], records: [], groups: [], synthetic: [] },
    texts: [
      { from: 'log of worker-1', text: '{"msg":"worker.started"}' },
      { from: 'store', text: 'sealed:v1:9f31' },
    ],
    secrets: ['canary-key-7d1f0a2b9c', 'whsec_Y2FuYXJ5LXNlY3JldC0wMTIz'],
    epochOffsetMs: EPOCH_OFFSET_MS,
  }
  for (let i = 0; i < jobCount; i++) {
    const story = new Story(history, i + 1, FATES[i % FATES.length] as Fate)
    story.tell(FIRST_JOB_AT_MS + i * aloneMs)
  }
  return history
}

/** Makes all jobs members of one group, which finished once and sent its notice. */
export function groupAll(history: SyntheticHistory): void {
  const id = 'grp_1'
  const counts = { queued: 0, running: 0, succeeded: 0, dead: 0, cancelled: 0 }
  for (const { record, calls } of history.synthetic) {
    record.groupId = id
    counts[record.state as keyof typeof counts] += 1
    for (const call of calls) if (call.kind === 'enqueue') call.groupId = id
  }
  history.groups.push({ id, state: 'failed', counts, finishes: 1 })
  addNotice(history, { groupId: id, counts })
}

function addNotice(history: SyntheticHistory, notice: GroupNotice): void {
  const { deliveries, record } = jobWith(history, 'done')
  const [delivery] = deliveries as [Delivery]
  const [attempt] = record.attempts as [AttemptRecord]
  const beganAtMs = Math.max(...history.deliveries.map((one) => one.beganAtMs)) + ALONE_MS
  const laterMs = beganAtMs - delivery.beganAtMs
  const job = { endpoint: 'told', workNumber: -1 }
  history.deliveries.push({
    ...{ ...delivery, ...job, jobId: 'job_notice', notice, beganAtMs },
    answeredAtMs: (delivery.answeredAtMs as number) + laterMs,
    timestampSeconds: Math.floor((beganAtMs + EPOCH_OFFSET_MS) / 1_000),
  })
  history.records.push({
    ...{ ...record, ...job, id: 'job_notice', workNumber: null, idempotencyKey: null },
    ...{ groupId: null, createdAt: record.createdAt + laterMs, runAt: record.runAt + laterMs },
    finishedAt: (record.finishedAt as number) + laterMs,
    attempts: [
      {
        ...attempt,
        startedAt: attempt.startedAt + laterMs,
        finishedAt: attempt.finishedAt + laterMs,
      },
    ],
  })
}

/** Makes the first job an input of the other one, whole and in part. */
export function letNeed(needed: SyntheticJob, { calls, deliveries }: SyntheticJob): void {
  const { id: jobId, workNumber } = needed
  const needs = [true, false].map((isPart) => ({ name: `n${isPart}`, jobId, workNumber, isPart }))
  const inputs = `{"ntrue":${numberText(workNumber)},"nfalse":${resultText(workNumber)}}`
  for (const call of calls) if (call.kind === 'enqueue') call.needs = needs
  for (const delivery of deliveries) delivery.inputs = inputs
}

/** The first job with this fate. */
export function jobWith({ synthetic }: SyntheticHistory, fate: Fate): SyntheticJob {
  const job = synthetic.find((one) => one.fate === fate)
  if (job === undefined) throw new Error(`no job is ${fate}`)
  return job
}

/** The life of one job in order: each call advances its time. */
class Story {
  #atMs = 0
  #claimedAtMs = 0
  readonly #history: SyntheticHistory
  readonly #job: SyntheticJob

  constructor(history: SyntheticHistory, workNumber: number, fate: Fate) {
    const id = `job_${workNumber}`
    const record: JobRecord = {
      ...{ id, workNumber, endpoint: ENDPOINT.name, state: 'queued', fence: 0, attemptCount: 0 },
      ...{ priority: 5, fairnessKey: `customer ${workNumber}`, cost: 1, groupId: null },
      ...{ maxAttempts: ENDPOINT.maxAttempts, createdAt: 0, runAt: 0, finishedAt: null },
      ...{
        failureReason: null,
        hasLease: false,
        hasPayload: true,
        idempotencyKey: `work-${workNumber}`,
      },
      attempts: [],
    }
    this.#history = history
    this.#job = { fate, id, workNumber, record, deliveries: [], calls: [] }
  }

  tell(atMs: number): void {
    this.#atMs = atMs
    const { record, fate } = this.#job
    if (fate === 'answered_late') this.#call('enqueue', null)
    this.#call('enqueue', fate === 'answered_late' ? 200 : 201, this.#delayMs())
    record.createdAt = this.#epoch()
    this.#see()
    this.#atMs += this.#delayMs()
    this.#live()
    this.#see()
    this.#history.synthetic.push(this.#job)
    if (fate === 'deleted') this.#call('delete', 204)
    else this.#history.records.push(record)
  }

  #delayMs(): number {
    const { fate } = this.#job
    return fate === 'delayed' || fate === 'cancelled_waiting' ? 1_500 : 0
  }

  #live(): void {
    this.#suffer()
    if (this.#job.record.finishedAt === null) this.#succeed()
  }

  /** Adds what happens before the success, or instead of it. */
  #suffer(): void {
    const { record, fate } = this.#job
    switch (fate) {
      case 'failed_once':
        this.#fail()
        break
      case 'worn_out':
        this.#wearOut()
        break
      case 'throttled':
        this.#fail('throttled', 429, 1_000)
        break
      case 'killed_unsent':
        this.#lose('kill', () => this.#claim())
        break
      case 'killed_unanswered':
        this.#lose('kill', () => Object.assign(this.#send(), { brokenOffAtMs: this.#atMs + 40 }))
        break
      case 'killed_unrecorded':
        this.#lose('kill', () => this.#answer(this.#send(), 200))
        break
      case 'frozen_unsent':
        this.#freeze()
        break
      case 'resent':
        this.#resend()
        break
      case 'interrupted':
        this.#fault('terminate', 300)
        this.#send().brokenOffAtMs = this.#atMs + 20
        this.#end('interrupted', null)
        break
      case 'given_back':
        record.fence += 1
        break
      case 'cancelled_running':
      case 'cancelled_waiting':
        if (fate === 'cancelled_running') this.#send().brokenOffAtMs = this.#atMs + 600
        this.#cancel()
        break
      case 'retried':
        this.#wearOut()
        this.#see()
        this.#call('retry', 200)
        Object.assign(record, { state: 'queued', finishedAt: null, failureReason: null })
    }
  }

  #claim(): void {
    const { record } = this.#job
    this.#atMs += 30
    this.#claimedAtMs = this.#atMs
    record.fence += 1
    record.attemptCount += 1
  }

  /** Claims the job and sends it. */
  #send(): Delivery {
    this.#claim()
    return this.#arrive(this.#job.record.fence, this.#job.record.attemptCount)
  }

  #arrive(fence: number, attempt: number): Delivery {
    const { id, workNumber, deliveries } = this.#job
    const delivery: Delivery = {
      ...{ jobId: id, workNumber, endpoint: ENDPOINT.name, fence, attempt, status: null },
      ...{ bodyHash: hashOf(workNumber), inputs: null, beganAtMs: this.#atMs, answeredAtMs: null },
      requestOnConnection: 2,
      timestampSeconds: Math.floor(this.#epoch() / 1_000),
      ...{ signature: 'valid', brokenOffAtMs: null, isHostile: false, notice: null },
    }
    deliveries.push(delivery)
    this.#history.deliveries.push(delivery)
    return delivery
  }

  #answer(delivery: Delivery, status: number): void {
    this.#atMs += 12
    Object.assign(delivery, { status, answeredAtMs: this.#atMs })
  }

  /** Writes the attempt into the record. */
  #end(outcome: string, statusCode: number | null): void {
    const { record } = this.#job
    this.#atMs += 8
    const attempt: AttemptRecord = {
      ...{ number: record.attemptCount, outcome, statusCode, workerId: this.#worker() },
      ...{ startedAt: this.#epoch(this.#claimedAtMs), finishedAt: this.#epoch() },
    }
    record.attempts.push(attempt)
  }

  #finish(state: string, failureReason: string | null = null): void {
    Object.assign(this.#job.record, { state, failureReason, finishedAt: this.#epoch() })
  }

  #succeed(): void {
    this.#answer(this.#send(), 200)
    this.#end('succeeded', 200)
    this.#finish('succeeded')
  }

  /** Ends the attempt with a failure. The next one is due after the delay. */
  #fail(outcome = 'http_error', status = 500, delayMs = ENDPOINT.retryDelayMs): void {
    this.#answer(this.#send(), status)
    this.#end(outcome, status)
    this.#atMs += delayMs
  }

  #wearOut(): void {
    for (let i = 0; i < ENDPOINT.maxAttempts; i++) this.#fail()
    this.#finish('dead', 'attempts_exhausted')
  }

  #lose(kind: FaultKind, begin: () => unknown): void {
    begin()
    this.#atMs += 20
    this.#fault(kind, 5)
    this.#atMs += RECOVERY_MS
    this.#end('lost', null)
  }

  /**
   * Freezes the worker after a claim. When it continues, it does not send, because another worker
   * has done the job by then.
   */
  #freeze(): void {
    this.#lose('freeze', () => this.#claim())
    this.#succeed()
    const fault = this.#history.faults.at(-1) as Fault
    fault.endedAtMs = this.#atMs + 500
    this.#atMs += 510
  }

  /**
   * The kept connection breaks after the request was read, and the attempt continues on a new one.
   */
  #resend(): void {
    const { record } = this.#job
    const first = this.#send()
    this.#atMs += 4
    first.brokenOffAtMs = this.#atMs
    this.#atMs += 2
    const second = this.#arrive(record.fence, record.attemptCount)
    second.requestOnConnection = 1
    this.#answer(second, 200)
    this.#end('succeeded', 200)
    this.#finish('succeeded')
  }

  #cancel(): void {
    const { record } = this.#job
    this.#call('cancel', 200)
    if (record.attemptCount > 0) this.#end('cancelled', null)
    this.#finish('cancelled')
  }

  #fault(kind: FaultKind, lastsMs: number): void {
    const endedAtMs = this.#atMs + lastsMs
    this.#history.faults.push({ kind, target: this.#worker(), beganAtMs: this.#atMs, endedAtMs })
  }

  #call(kind: CallKind, status: number | null, delayMs = 0): void {
    const { id, workNumber, record } = this.#job
    const sentAtMs = this.#atMs
    this.#atMs += 15
    const call: Call = {
      ...{ kind, sentAtMs, endedAtMs: this.#atMs, status, endpoint: ENDPOINT.name, workNumber },
      jobId: kind === 'enqueue' && status === null ? null : id,
      ...{
        idempotencyKey: record.idempotencyKey,
        bodyHash: hashOf(workNumber),
        delayMs,
        groupId: null,
        needs: [],
      },
    }
    this.#job.calls.push(call)
    this.#history.calls.push(call)
  }

  #see(): void {
    const { id, record } = this.#job
    const sentAtMs = this.#atMs + 1
    this.#atMs += 10
    const { state, fence } = record
    this.#history.sightings.push({ jobId: id, sentAtMs, endedAtMs: this.#atMs, state, fence })
  }

  #worker = () => `worker-${this.#job.workNumber}`

  #epoch(atMs = this.#atMs): number {
    return Math.floor(atMs) + EPOCH_OFFSET_MS
  }
}

export function hashOf(workNumber: number): string {
  return workNumber.toString(16).padStart(64, '0')
}
