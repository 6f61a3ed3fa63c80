// Schedules whose settings no configured key decrypts. Lists and ticks omit them. A process
// remembers them for a while: it logs each once in that time, and queries exclude them, so that
// they never delay other due schedules.

import type { StoreSettings } from './store.ts'
import { StoreUnusable } from './store-errors.ts'

/** After this time, a schedule that was replaced under a configured key is found again. */
const REMEMBERED_MS = 60_000
/** With a wrong key, no schedule can be decrypted, and remembering more would not help. */
const MAX_REMEMBERED = 10_000

export interface UndecryptableSchedules {
  /** The names that queries exclude, at most MAX_REMEMBERED. */
  names(): string[]
  /**
   * Returns the result of `open`. If no key decrypts the settings, remembers the name and returns
   * null.
   */
  tryDecrypt<T>(name: string, open: () => T): T | null
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
    tryDecrypt(name, open) {
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
