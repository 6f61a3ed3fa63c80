// The store's clock: wall time for due times, monotonic time for leases, so a stepped clock ends no
// lease. The monotonic clock is the machine's: all its processes read the same one.

import { readFileSync } from 'node:fs'
import { createSetBackWatch } from '../set-back-watch.ts'
import type { StoreClock } from '../store.ts'

const BOOT_ID_FILE = '/proc/sys/kernel/random/boot_id'
/** 48 bits: a whole number that a double holds exactly, and short in an index. */
const BOOT_ID_HEX_DIGITS = 12
/**
 * Where the system tells no boot id; see `lease_lapsed` in guards.ts for the rule that replaces
 * it.
 */
export const UNKNOWN_BOOT = 0

export interface SqliteClock extends StoreClock {
  /** Which start of the machine this is; monotonic instants of another start mean nothing. */
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
