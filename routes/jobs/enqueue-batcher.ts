// Group commit for enqueues: concurrent requests share one durable write.
//
// There is no timer. A job is written once a turn of the event loop brings no further job, or after
// a few turns. While two writes are in progress, it waits for one of them to return. So an idle API
// does not wait, and under load batches form by themselves.

import type { BatchSize } from '../../src/batch-size.ts'
import { AppError } from '../../src/errors.ts'
import type { MinimalJob, NewJob } from '../../src/job/job.ts'
import { NEED_COST_BYTES } from '../../src/job/needs.ts'
import { type EnqueueResult, STORE_DEADLINE_MS, type Store } from '../../src/store/store.ts'
import { StoreUnavailable } from '../../src/store/store-errors.ts'

const MAX_WRITES_IN_FLIGHT = 2
/** A turn of the event loop takes about a millisecond under load. */
const MAX_GATHER_TURNS = 8
const MAX_BATCH_BYTES = 1_048_576
/** Limit of jobs that wait for a write. Beyond this limit requests are refused. */
const MAX_WAITING_JOBS = 20_000
const MAX_WAITING_BYTES = 64 * 1_048_576
/**
 * Requests are also refused while the oldest of several waiting jobs has waited this long: the
 * store cannot keep up, and a client should learn that early.
 */
const MAX_WAIT_UNDER_LOAD_MS = 1_000
/**
 * If a write fails, jobs that have waited this long are refused instead of waiting for the next
 * write.
 */
const MAX_WAIT_IN_OUTAGE_MS = 2_000
const RETRY_AFTER_SECONDS = '1'

interface Waiting {
  job: NewJob
  isMinimal: boolean
  sinceMs: number
  resolve: (result: EnqueueResult) => void
  reject: (error: unknown) => void
}

export interface EnqueueBatcher {
  /** Resolves once the job is durable. Throws AppError overloaded if too many jobs wait. */
  enqueue(job: NewJob): Promise<EnqueueResult>
  /** The same, but the result may contain only a MinimalJob. */
  enqueueMinimal(job: NewJob): Promise<EnqueueResult<MinimalJob>>
  /**
   * Throws AppError overloaded if enqueue() would throw it, before the request has cost anything.
   */
  refuseIfFull(): void
}

/**
 * @param size how many jobs one write may contain, learned from all writes of jobs in this process
 * @param onBatch called with the number of jobs of each write
 */
export function createEnqueueBatcher(
  store: Pick<Store, 'enqueue'>,
  size: BatchSize,
  onBatch: (size: number) => void,
): EnqueueBatcher {
  let waiting: Waiting[] = []
  let waitingBytes = 0
  let writesInFlight = 0
  let flushPlanned = false

  function planFlush(): void {
    if (flushPlanned || writesInFlight >= MAX_WRITES_IN_FLIGHT || waiting.length === 0) return
    flushPlanned = true
    const count = () => Math.min(waiting.length, size.limit)
    onceGathered(count, () => {
      flushPlanned = false
      void flush(takeBatch())
    })
  }

  function takeBatch(): Waiting[] {
    const count = batchLength(waiting, size.limit)
    const batch = waiting.slice(0, count)
    waiting = waiting.slice(count)
    for (const { job } of batch) waitingBytes -= job.payload.byteLength
    return batch
  }

  async function flush(batch: Waiting[]): Promise<void> {
    writesInFlight++
    planFlush()
    onBatch(batch.length)
    const failure = await write(store, size, batch)
    if (failure instanceof StoreUnavailable) rejectOld(failure)
    writesInFlight--
    planFlush()
  }

  function rejectOld(error: StoreUnavailable): void {
    const oldestMs = performance.now() - MAX_WAIT_IN_OUTAGE_MS
    const kept = waiting.findIndex(({ sinceMs }) => sinceMs > oldestMs)
    for (const { job, reject } of waiting.splice(0, kept === -1 ? waiting.length : kept)) {
      waitingBytes -= job.payload.byteLength
      reject(error)
    }
  }

  function isFull(): boolean {
    if (waiting.length >= MAX_WAITING_JOBS || waitingBytes >= MAX_WAITING_BYTES) return true
    if (waiting.length <= size.limit && waitingBytes <= MAX_BATCH_BYTES) return false
    const oldestMs = performance.now() - MAX_WAIT_UNDER_LOAD_MS
    return (waiting[0]?.sinceMs ?? oldestMs) < oldestMs
  }

  function refuseIfFull(): void {
    if (isFull()) throw tooMuchWaits()
  }

  function wait(job: NewJob, isMinimal: boolean): Promise<EnqueueResult> {
    refuseIfFull()
    return new Promise((resolve, reject) => {
      waiting.push({ job, isMinimal, sinceMs: performance.now(), resolve, reject })
      waitingBytes += job.payload.byteLength
      planFlush()
    })
  }

  return {
    refuseIfFull,
    enqueue: (job) => wait(job, false),
    enqueueMinimal: (job) => wait(job, true),
  }
}

/** Requests arrive in bursts, and a job costs less in a larger write. */
function onceGathered(count: () => number, then: () => void): void {
  function look(before: number, turns: number): void {
    const now = count()
    if (now > before && turns < MAX_GATHER_TURNS) setImmediate(look, now, turns + 1)
    else then()
  }
  setImmediate(look, count(), 1)
}

function tooMuchWaits(): AppError {
  return new AppError('overloaded', 'too many jobs wait to be stored; send again later', {
    headers: { 'retry-after': RETRY_AFTER_SECONDS },
  })
}

/** Writes the batch and resolves or rejects each of its jobs. Resolves with the error, or null. */
async function write(
  store: Pick<Store, 'enqueue'>,
  size: BatchSize,
  batch: Waiting[],
): Promise<unknown> {
  const stopWaiting = refuseInTime(batch)
  const jobs = batch.map(({ job }) => job)
  const isMinimal = (index: number) => batch[index]?.isMinimal === true
  try {
    const results = await size.run(jobs.length, () => store.enqueue(jobs, isMinimal))
    batch.forEach(({ resolve }, i) => {
      resolve(results[i] as EnqueueResult)
    })
    return null
  } catch (error) {
    for (const { reject } of batch) reject(error)
    return error
  } finally {
    stopWaiting()
  }
}

/**
 * This deadline is a little later than that of the store, because the store's own error says more.
 */
const STORE_FIRST_MS = 100

/**
 * Fails the batch at the deadline of its first job, which has waited longest. It is then unknown
 * whether the jobs are stored.
 */
function refuseInTime(batch: Waiting[]): () => void {
  const sinceMs = batch[0]?.sinceMs ?? performance.now()
  const leftMs = Math.max(0, sinceMs + STORE_DEADLINE_MS + STORE_FIRST_MS - performance.now())
  const timer = setTimeout(() => {
    const error = new StoreUnavailable(`the store did not respond within ${STORE_DEADLINE_MS} ms`)
    for (const { reject } of batch) reject(error)
  }, leftMs)
  return () => clearTimeout(timer)
}

/** How many of the waiting jobs go into the next write: at least one, however large it is. */
function batchLength(waiting: Waiting[], limit: number): number {
  let count = 0
  let bytes = 0
  for (const { job } of waiting) {
    bytes += job.payload.byteLength + NEED_COST_BYTES * job.needs.length
    if (count > 0 && (count >= limit || bytes > MAX_BATCH_BYTES)) break
    count++
  }
  return count
}
