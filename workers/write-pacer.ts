// When a busy worker writes: a claim and a settle cost by the write more than by the job. So while
// more is due than it can take, slots are let free up before the next claim, and what ended is
// recorded with it. Who is not behind waits for nobody.
import { setImmediate as nextTurn } from 'node:timers/promises'

/** So many of the slots are worth a write. */
const WORTH = 1 / 2

export interface WritePacer {
  /** Whether the last claim got all it asked for: then there is more. */
  isBehind: boolean
  /** An attempt has ended. */
  noteEnded(): void
  /** Resolves when it is time to write, for all who wait in the same turn of the event loop. */
  next(): Promise<void>
}

/** @param concurrency of the worker */
export function createWritePacer(concurrency: number): WritePacer {
  const worth = Math.ceil(concurrency * WORTH)
  let ended = 0
  let gathering: Promise<void> | null = null

  /** No slot stays empty for long: the first turn in which nothing ends is the last. */
  async function gather(): Promise<void> {
    let before: number
    do {
      before = ended
      await nextTurn()
    } while (ended > before && ended < worth)
    ended = 0
    gathering = null
  }

  return {
    isBehind: false,
    noteEnded() {
      ended++
    },
    next() {
      if (!this.isBehind) return nextTurn()
      gathering ??= gather()
      return gathering
    },
  }
}
