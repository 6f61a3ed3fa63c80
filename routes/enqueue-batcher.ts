// Group commit for enqueues: requests that come together share one durable write.
//
// No timer: with no write in flight a job is written at the end of this turn of the event loop,
// else it waits for a write to return. An idle request so waits for nobody, and load makes its
// own batches.

import { AppError } from '../src/errors.ts'
import type { NewJob } from '../src/job/job.ts'
import {
  type EnqueueResult,
  MAX_ENQUEUE_BATCH,
  type Store,
  StoreUnavailable,
} from '../src/store/store.ts'

const MAX_WRITES_IN_FLIGHT = 2
const MAX_BATCH_BYTES = 1_048_576
/** What may wait here; beyond it a request is refused rather than kept. */
const MAX_WAITING_JOBS = 20_000
const MAX_WAITING_BYTES = 64 * 1_048_576
/** Who has waited this long when a write finds the store away is told so, not kept for the next. */
const MAX_WAIT_IN_OUTAGE_MS = 2_000

interface Waiting {
  job: NewJob
  sinceMs: number
  resolve: (result: EnqueueResult) => void
  reject: (error: unknown) => void
}

export interface EnqueueBatcher {
  /** Resolves once the job is durable. Throws AppError overloaded when too much waits. */
  enqueue(job: NewJob): Promise<EnqueueResult>
}

/** @param onBatch told how many jobs each write holds */
export function createEnqueueBatcher(
  store: Pick<Store, 'enqueue'>,
  onBatch: (size: number) => void,
): EnqueueBatcher {
  let waiting: Waiting[] = []
  let waitingBytes = 0
  let writesInFlight = 0
  let flushPlanned = false

  function planFlush(): void {
    if (flushPlanned || writesInFlight >= MAX_WRITES_IN_FLIGHT || waiting.length === 0) return
    flushPlanned = true
    setImmediate(() => {
      flushPlanned = false
      void flush(takeBatch())
    })
  }

  function takeBatch(): Waiting[] {
    const count = batchLength(waiting)
    const batch = waiting.slice(0, count)
    waiting = waiting.slice(count)
    for (const { job } of batch) waitingBytes -= job.payload.byteLength
    return batch
  }

  async function flush(batch: Waiting[]): Promise<void> {
    writesInFlight++
    planFlush()
    onBatch(batch.length)
    try {
      const results = await store.enqueue(batch.map(({ job }) => job))
      batch.forEach(({ resolve }, i) => {
        resolve(results[i] as EnqueueResult)
      })
    } catch (error) {
      for (const { reject } of batch) reject(error)
      if (error instanceof StoreUnavailable) rejectOld(error)
    } finally {
      writesInFlight--
      planFlush()
    }
  }

  function rejectOld(error: StoreUnavailable): void {
    const oldestMs = performance.now() - MAX_WAIT_IN_OUTAGE_MS
    const kept = waiting.findIndex(({ sinceMs }) => sinceMs > oldestMs)
    for (const { job, reject } of waiting.splice(0, kept === -1 ? waiting.length : kept)) {
      waitingBytes -= job.payload.byteLength
      reject(error)
    }
  }

  return {
    enqueue(job) {
      if (
        waiting.length >= MAX_WAITING_JOBS ||
        waitingBytes + job.payload.byteLength > MAX_WAITING_BYTES
      ) {
        throw new AppError('overloaded', 'too many jobs wait to be stored; send again later', {
          headers: { 'retry-after': '1' },
        })
      }
      return new Promise((resolve, reject) => {
        waiting.push({ job, sinceMs: performance.now(), resolve, reject })
        waitingBytes += job.payload.byteLength
        planFlush()
      })
    },
  }
}

/** How many of those that wait go into the next write: at least one, however large it is. */
function batchLength(waiting: Waiting[]): number {
  let count = 0
  let bytes = 0
  for (const { job } of waiting) {
    bytes += job.payload.byteLength
    if (count > 0 && (count >= MAX_ENQUEUE_BATCH || bytes > MAX_BATCH_BYTES)) break
    count++
  }
  return count
}
