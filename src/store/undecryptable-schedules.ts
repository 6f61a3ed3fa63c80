// Schedules whose settings no configured key opens: lists and ticks go on without them. They are
// remembered for a while, so that each is told of once in that time and looked past meanwhile:
// however many there are at the head of what is due, they hold up none of the others.

import type { StoreSettings } from './store.ts'
import { StoreUnusable } from './store-errors.ts'

/** A schedule that was put anew under a key at hand is found again after so long. */
const REMEMBERED_MS = 60_000
/** With a wrong key that is all of them: then nothing is gained by remembering each. */
const MAX_REMEMBERED = 10_000

export interface UndecryptableSchedules {
  /** At most MAX_REMEMBERED: those to look past. */
  names(): string[]
  /** What `open` returns; null, and remembered, when no key opens the settings of this schedule. */
  openOrNote<T>(name: string, open: () => T): T | null
}

export function rememberUndecryptableSchedules(
  warn: StoreSettings['warn'],
  monotonicMs: () => number = () => performance.now(),
): UndecryptableSchedules {
  const remembered = new Set<string>()
  let rememberedSince = 0

  function forgetOld(): void {
    if (monotonicMs() - rememberedSince < REMEMBERED_MS) return
    remembered.clear()
    rememberedSince = monotonicMs()
  }

  return {
    names() {
      forgetOld()
      return [...remembered]
    },
    openOrNote(name, open) {
      try {
        return open()
      } catch (error) {
        if (!(error instanceof StoreUnusable)) throw error
        forgetOld()
        if (!remembered.has(name) && remembered.size < MAX_REMEMBERED) {
          remembered.add(name)
          warn({ schedule: name, reason: error.message }, 'schedule.unreadable')
        }
        return null
      }
    },
  }
}
