// Waiting for other processes that write: on timers, for SQLite's own busy timeout would sleep the
// event loop.
import { setTimeout as delay } from 'node:timers/promises'
import { MAX_ANSWER_MS, StoreUnavailable } from '../store.ts'
import { asStoreError, isBusy } from './sqlite-errors.ts'

/** Around the length of a transaction, jittered so that processes do not meet again and again. */
const MIN_PAUSE_MS = 0.5
const MAX_PAUSE_MS = 5

/** Does it, again and again while it is refused as busy. A read waits for no write's turn. */
export async function retryWhileBusy<T>(path: string, work: () => T): Promise<T> {
  const deadline = performance.now() + MAX_ANSWER_MS
  for (;;) {
    try {
      return work()
    } catch (error) {
      if (!isBusy(error)) throw asStoreError(path, error)
      if (performance.now() > deadline) throw stillBusy(path)
    }
    await pause()
  }
}

export function pause(): Promise<void> {
  return delay(MIN_PAUSE_MS + Math.random() * (MAX_PAUSE_MS - MIN_PAUSE_MS))
}

export function stillBusy(path: string): StoreUnavailable {
  return new StoreUnavailable(
    `the store ${path} was in use by another process for more than ${MAX_ANSWER_MS} ms`,
    { kind: 'locked' },
  )
}
