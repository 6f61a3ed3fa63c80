// The facts of a history about each job and each piece of work, collected once for all invariants.
import type { Call, Delivery, History, JobRecord, Sighting } from '../history.ts'
import { type FaultTimes, faultTimesOf } from './fault-times.ts'

export interface Facts {
  history: History
  works: Map<number, Work>
  jobs: Map<string, JobFacts>
  faults: FaultTimes
  /** false: the clock of the store was changed, so its instants prove nothing here. */
  isStoreClockTrue: boolean
}

/** What was requested for one payload, and therefore for one idempotency key. */
export interface Work {
  workNumber: number
  /** Accepted calls and calls with an unknown outcome, without refused ones. */
  calls: Call[]
}

export interface JobFacts {
  id: string
  /**
   * From the response that contains this id, else from the record; null: only deliveries have this
   * id.
   */
  workNumber: number | null
  /** A client got a response that says that this job is stored. */
  isAccepted: boolean
  record: JobRecord | null
  recordCount: number
  /** Sorted by fence, then by time. */
  deliveries: Delivery[]
  sightings: readonly Sighting[]
  /** Calls of cancel, retry and delete, without refused ones. */
  commands: readonly Call[]
}

/** Reports each violation of an invariant. */
export type Report = (message: string) => void
export type Check = (facts: Facts, report: Report) => void

const FINAL_STATES = new Set(['succeeded', 'dead', 'cancelled'])

export function isFinal(state: string): boolean {
  return FINAL_STATES.has(state)
}

/**
 * Whether a call changed something. `unknown`: there was no response, or the server failed, so the
 * change may have been made.
 */
export function effectOf({ status }: Call): 'done' | 'none' | 'unknown' {
  if (status === null || status >= 500) return 'unknown'
  return status >= 200 && status < 300 ? 'done' : 'none'
}

export function factsOf(history: History): Facts {
  const works = new Map<number, Work>()
  const jobs = new Map<string, JobFacts>()
  for (const call of history.calls) takeCall(works, jobs, call)
  for (const record of history.records) {
    const job = jobOf(jobs, record.id)
    job.record ??= record
    job.recordCount += 1
    job.workNumber ??= record.workNumber
  }
  for (const sighting of history.sightings) {
    const job = jobOf(jobs, sighting.jobId)
    job.sightings = added(job.sightings, sighting)
  }
  for (const delivery of history.deliveries) jobOf(jobs, delivery.jobId).deliveries.push(delivery)
  for (const { deliveries } of jobs.values()) {
    deliveries.sort((a, b) => a.fence - b.fence || a.beganAtMs - b.beganAtMs)
  }
  const isClockTurned = history.faults.some(({ kind }) => kind === 'clock')
  return {
    ...{ history, works, jobs, faults: faultTimesOf(history) },
    isStoreClockTrue: !(history.engine === 'sqlite' && isClockTurned),
  }
}

function takeCall(works: Map<number, Work>, jobs: Map<string, JobFacts>, call: Call): void {
  const effect = effectOf(call)
  if (effect === 'none') return
  if (call.kind !== 'enqueue') {
    if (call.jobId !== null) {
      const job = jobOf(jobs, call.jobId)
      job.commands = added(job.commands, call)
    }
    return
  }
  const work = works.get(call.workNumber)
  if (work === undefined) works.set(call.workNumber, { workNumber: call.workNumber, calls: [call] })
  else work.calls.push(call)
  if (effect === 'unknown' || call.jobId === null) return
  const job = jobOf(jobs, call.jobId)
  job.isAccepted = true
  job.workNumber ??= call.workNumber
}

/**
 * Shared by the jobs without sightings and commands: most have none, and there may be a million
 * jobs.
 */
const NONE: readonly never[] = []

function added<T>(items: readonly T[], item: T): readonly T[] {
  if (items === NONE) return [item]
  ;(items as T[]).push(item)
  return items
}

function jobOf(jobs: Map<string, JobFacts>, id: string): JobFacts {
  const known = jobs.get(id)
  if (known !== undefined) return known
  const job: JobFacts = {
    ...{ id, workNumber: null, isAccepted: false, record: null, recordCount: 0 },
    ...{ deliveries: [], sightings: NONE, commands: NONE },
  }
  jobs.set(id, job)
  return job
}

export function workOf({ works }: Facts, { workNumber }: JobFacts): Work | null {
  return workNumber === null ? null : (works.get(workNumber) ?? null)
}

export function mayBeDeleted({ commands }: JobFacts): boolean {
  return commands.some(({ kind }) => kind === 'delete')
}

export function retriesOf({ commands }: JobFacts): Call[] {
  return commands.filter(({ kind }) => kind === 'retry')
}

/**
 * Whether the job may have been retried between the two instants. A retry took effect between its
 * request and its response; if there was no response, at any time after the request.
 */
export function mayBeRetried(job: JobFacts, fromMs: number, toMs: number): boolean {
  return job.commands.some(
    (call) =>
      call.kind === 'retry' &&
      call.sentAtMs <= toMs &&
      (effectOf(call) === 'unknown' || call.endedAtMs >= fromMs),
  )
}

/** Whether the receiver sent a whole 2xx, as far as the receiver could see. */
export function isFullSuccess({ status, answeredAtMs }: Delivery): boolean {
  return isSuccessStatus(status) && answeredAtMs !== null
}

function isSuccessStatus(status: number | null): boolean {
  return status !== null && status >= 200 && status < 300
}

/** Converts epoch milliseconds of the store to milliseconds of the logs. */
export function monotonic({ history }: Facts, epochMs: number): number {
  return epochMs - history.epochOffsetMs
}

/** The worker of a delivery; null: its attempt is not recorded, or no longer. */
export function workerOf({ record }: JobFacts, { attempt }: Delivery): string | null {
  return record?.attempts.find(({ number }) => number === attempt)?.workerId ?? null
}

/**
 * The last instant at which the request can have been written. It may arrive long after: the kernel
 * keeps what a worker wrote before it was killed until a busy receiver accepts the connection.
 */
export function writtenByMs({ faults }: Facts, job: JobFacts, delivery: Delivery): number {
  return Math.min(delivery.beganAtMs, faults.diedAtMs(workerOf(job, delivery)))
}

export function called(delivery: Delivery): string {
  const { jobId, fence, attempt } = delivery
  return `${jobId} (fence ${fence}, attempt ${attempt})`
}
