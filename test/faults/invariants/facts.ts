// What a history says about one job or one piece of work, gathered once for all invariants.
import type { Call, Delivery, History, JobRecord, Sighting } from '../history.ts'
import { type FaultTimes, faultTimesOf } from './fault-times.ts'

export interface Facts {
  history: History
  works: Map<number, Work>
  jobs: Map<string, JobFacts>
  faults: FaultTimes
  /** false: the store's own instants come from a clock that was turned, and tell nothing here. */
  isStoreClockTrue: boolean
}

/** What one payload, and so one idempotency key, asked for. */
export interface Work {
  workNumber: number
  /** Those that were accepted, and those whose outcome is not known; no refused ones. */
  calls: Call[]
}

export interface JobFacts {
  id: string
  /** By the answer that gave this id, else by its record; null: only deliveries know it. */
  workNumber: number | null
  /** A client was answered that this job is stored. */
  isAccepted: boolean
  record: JobRecord | null
  recordCount: number
  /** By fence, then by time. */
  deliveries: Delivery[]
  sightings: readonly Sighting[]
  /** Cancel, retry and delete, but for refused ones. */
  commands: readonly Call[]
}

/** An invariant tells each thing that breaks it. */
export type Report = (message: string) => void
export type Judge = (facts: Facts, report: Report) => void

const FINAL_STATES = new Set(['succeeded', 'dead', 'cancelled'])

export function isFinal(state: string): boolean {
  return FINAL_STATES.has(state)
}

/** `unknown`: no answer, or one of a server in trouble; it may have been done all the same. */
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

/** Most jobs are neither looked at nor commanded, and there may be a million of them. */
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

/** A retry may have worked at some instant between; one without an answer at any time from then. */
export function mayBeRetried(job: JobFacts, fromMs: number, toMs: number): boolean {
  return job.commands.some(
    (call) =>
      call.kind === 'retry' &&
      call.sentAtMs <= toMs &&
      (effectOf(call) === 'unknown' || call.endedAtMs >= fromMs),
  )
}

/** The receiver gave a whole 2xx, by all that it could see. */
export function isFullSuccess({ status, answeredAtMs }: Delivery): boolean {
  return isSuccessStatus(status) && answeredAtMs !== null
}

export function isSuccessStatus(status: number | null): boolean {
  return status !== null && status >= 200 && status < 300
}

/** From the store's epoch milliseconds to those of the logs. */
export function monotonic({ history }: Facts, epochMs: number): number {
  return epochMs - history.epochOffsetMs
}

/** null: its attempt is not recorded, or not any more. */
export function workerOf({ record }: JobFacts, { attempt }: Delivery): string | null {
  return record?.attempts.find(({ number }) => number === attempt)?.workerId ?? null
}

export function called(delivery: Delivery): string {
  const { jobId, fence, attempt } = delivery
  return `${jobId} (fence ${fence}, attempt ${attempt})`
}
