// The store's clock: wall time for due times, monotonic time for leases, so that setting the clock
// ends no lease. All processes of a machine read the same monotonic clock.

import { readFileSync } from 'node:fs'
import { createSetBackWatch } from '../set-back-watch.ts'
import type { StoreClock } from '../store.ts'

const BOOT_ID_FILE = '/proc/sys/kernel/random/boot_id'
/** 48 bits: an integer that a double represents exactly, and short in an index. */
const BOOT_ID_HEX_DIGITS = 12
/** On a system without boot ids. `lease_lapsed` in guards.ts has the rule that replaces them. */
export const UNKNOWN_BOOT = 0

export interface SqliteClock extends StoreClock {
  /** Identifies the start of the machine: monotonic instants of another start mean nothing. */
  readonly boot: number
  /** Milliseconds since some instant of this start of the machine. */
  monotonic(): number
}

export function createClock(): SqliteClock {
  const setBack = createSetBackWatch(() => Date.now() - performance.now())
  return {
    boot: readBoot(),
    now() {
      const now = Date.now()
      setBack.note(now - performance.now())
      return now
    },
    watchSetBack: setBack.watch,
    monotonic: () => Number(process.hrtime.bigint() / 1_000_000n),
  }
}

function readBoot(): number {
  if (process.platform !== 'linux') return UNKNOWN_BOOT
  const digits = readFileSync(BOOT_ID_FILE, 'latin1').replaceAll('-', '')
  return Number.parseInt(digits.slice(0, BOOT_ID_HEX_DIGITS), 16)
}
