// Decides when a busy worker writes. A claim or a settle costs more for the write than for each
// job. So while more jobs are due than the worker can take, it waits until several slots are free
// before it claims, and settles the attempts that ended in one write. A worker that is not behind
// does not wait.
import { setImmediate as nextTurn } from 'node:timers/promises'

/** A write waits until this share of the slots is free. */
const LEAST_SHARE = 1 / 2

export interface WritePacer {
  /** Whether the last claim returned as many jobs as it asked for: then more are due. */
  isBehind: boolean
  /** An attempt has ended. */
  noteEnded(): void
  /** Resolves when it is time to write; callers in one turn of the event loop share the wait. */
  next(): Promise<void>
}

/** @param concurrency of the worker */
export function createWritePacer(concurrency: number): WritePacer {
  const least = Math.ceil(concurrency * LEAST_SHARE)
  let ended = 0
  let gathering: Promise<void> | null = null

  /** Ends with the first turn in which no attempt ends, so that slots do not stay free for long. */
  async function gather(): Promise<void> {
    let before: number
    do {
      before = ended
      await nextTurn()
    } while (ended > before && ended < least)
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
