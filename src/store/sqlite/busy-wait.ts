// Waiting for other processes that write: on timers, for SQLite's own busy timeout would sleep the
// event loop, and in the order of the calls.
import { setTimeout as delay, setImmediate as nextTurn } from 'node:timers/promises'
import { StoreUnavailable } from '../store.ts'
import { asStoreError, isBusy } from './sqlite-errors.ts'

/** How long a batch waits for other processes; the API then answers 503. */
export const MAX_WAIT_MS = 3_000
/** Around the length of a transaction, jittered so that processes do not meet again and again. */
const MIN_PAUSE_MS = 0.5
const MAX_PAUSE_MS = 5
/** Far more than the doors of one process send at once; beyond it memory would only grow. */
const MAX_WAITING_WRITES = 10_000

export interface WriteQueue {
  /** Tries the write until it is not refused as busy, after all that were added before it. */
  add<T>(write: () => T): Promise<T>
  /** Resolves when nothing waits. */
  drained(): Promise<void>
}

interface WaitingWrite {
  attempt(): 'done' | 'busy'
  fail(error: unknown): void
  deadline: number
}

export function createWriteQueue(path: string): WriteQueue {
  const waiting: WaitingWrite[] = []
  let draining: Promise<void> | null = null

  async function drain(): Promise<void> {
    await pause()
    for (let head = waiting[0]; head !== undefined; head = waiting[0]) {
      if (head.attempt() === 'done') {
        waiting.shift()
        // A long queue must not hold up answers and timers.
        await nextTurn()
      } else if (performance.now() > head.deadline) {
        waiting.shift()
        head.fail(stillBusy(path))
      } else {
        await pause()
      }
    }
    draining = null
  }

  return {
    add(write) {
      return new Promise((resolve, reject) => {
        const attempt = () => {
          try {
            resolve(write())
          } catch (error) {
            if (isBusy(error)) return 'busy'
            reject(asStoreError(path, error))
          }
          return 'done'
        }
        if (waiting.length === 0 && attempt() === 'done') return
        if (waiting.length >= MAX_WAITING_WRITES) {
          reject(new StoreUnavailable(`the store ${path} is busy: ${waiting.length} writes wait`))
          return
        }
        waiting.push({ attempt, fail: reject, deadline: performance.now() + MAX_WAIT_MS })
        draining ??= drain()
      })
    },
    async drained() {
      await draining
    },
  }
}

/** Does it, again and again while it is refused as busy. A read waits for no other write's turn. */
export async function retryWhileBusy<T>(path: string, work: () => T): Promise<T> {
  const deadline = performance.now() + MAX_WAIT_MS
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

function pause(): Promise<void> {
  return delay(MIN_PAUSE_MS + Math.random() * (MAX_PAUSE_MS - MIN_PAUSE_MS))
}

function stillBusy(path: string): StoreUnavailable {
  return new StoreUnavailable(
    `the store ${path} was in use by another process for more than ${MAX_WAIT_MS} ms`,
  )
}
