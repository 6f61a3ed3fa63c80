// The writes of this process, in the order of the calls. Those of one turn of the event loop share
// a transaction: a worker's settle and claim then cost one commit, not two.
import { setImmediate as nextTurn } from 'node:timers/promises'
import { STORE_DEADLINE_MS } from '../store.ts'
import { StoreUnavailable } from '../store-errors.ts'
import { asStoreError, isBusy, pause, stillBusy } from './errors.ts'

/** `full`: survives power loss. `normal`: survives the death of any process. */
export type Durability = 'full' | 'normal'

/** Runs all of `body` or nothing of it. */
type Transaction = (durability: Durability, body: () => void) => void

interface WriteQueue {
  /** Resolves after the commit. Retries while the file is busy. */
  add<T>(durability: Durability, body: () => T): Promise<T>
  /** Resolves when no write waits. */
  drained(): Promise<void>
}

/** A transaction blocks other writers, who must not wait long. */
const MAX_SHARED = 8
/** Far more than one process has at once. A longer queue would only use memory. */
const MAX_WAITING_WRITES = 10_000

interface Write {
  durability: Durability
  body: () => unknown
  resolve: (value: unknown) => void
  reject: (error: unknown) => void
  deadline: number
  isAlone: boolean
}

/**
 * Two turns: by then the callers of the last transaction have asked for their next writes. It also
 * lets responses and timers run between two transactions.
 */
async function gather(): Promise<void> {
  await nextTurn()
  await nextTurn()
}

export function createWriteQueue(path: string, transaction: Transaction): WriteQueue {
  const waiting: Write[] = []
  let draining: Promise<void> | null = null

  async function drain(): Promise<void> {
    for (await gather(); waiting.length > 0; await gather()) {
      const shared = waiting[0]?.isAlone ? waiting.slice(0, 1) : waiting.slice(0, MAX_SHARED)
      if (commit(shared)) {
        waiting.splice(0, shared.length)
        continue
      }
      rejectOverdue()
      await pause()
    }
    draining = null
  }

  function rejectOverdue(): void {
    const now = performance.now()
    while (waiting[0] !== undefined && waiting[0].deadline < now) {
      waiting.shift()?.reject(stillBusy(path))
    }
  }

  /** Returns whether the writes are done; otherwise they must be retried. */
  function commit(writes: Write[]): boolean {
    const durability = writes.some((write) => write.durability === 'full') ? 'full' : 'normal'
    const values: unknown[] = []
    try {
      transaction(durability, () => {
        for (const { body } of writes) values.push(body())
      })
    } catch (error) {
      if (isBusy(error)) return false
      if (writes.length === 1) writes[0]?.reject(asStoreError(path, error))
      // The failed write has undone the others: each is retried in a transaction of its own.
      for (const write of writes) write.isAlone = true
      return writes.length === 1
    }
    writes.forEach(({ resolve }, i) => {
      resolve(values[i])
    })
    return true
  }

  return {
    add<T>(durability: Durability, body: () => T) {
      if (waiting.length >= MAX_WAITING_WRITES) {
        const detail = `the store ${path} is busy: ${waiting.length} writes wait`
        return Promise.reject(new StoreUnavailable(detail))
      }
      return new Promise<T>((resolve, reject) => {
        const deadline = performance.now() + STORE_DEADLINE_MS
        waiting.push({
          durability,
          body,
          resolve: resolve as Write['resolve'],
          reject,
          deadline,
          isAlone: false,
        })
        draining ??= drain()
      })
    },
    async drained() {
      await draining
    },
  }
}
