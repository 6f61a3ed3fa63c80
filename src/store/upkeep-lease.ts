// The lease of the upkeep (src/upkeep/upkeep.ts), and which process may take it.

/** The right to do the upkeep for all processes during the next `leaseMs`. */
export interface UpkeepLease {
  /** The process. */
  holder: string
  /** The holder gives the lease up to any process that is no stand-by. */
  isStandby: boolean
  leaseMs: number
}

export type StoredUpkeepLease = Omit<UpkeepLease, 'leaseMs'> & { expiresAt: number }

/**
 * A lease that ends later than this was written before the clock was set back, and is void. A lease
 * that ends up to twice `leaseMs` too late is valid, because processes may have different clocks
 * and request different lengths.
 */
export function latestUpkeepEnd(now: number, leaseMs: number): number {
  return now + 3 * leaseMs
}

/** Whether a process may take or extend the lease. Stores enforce the same rule. */
export function mayTakeUpkeep(
  known: StoredUpkeepLease,
  { holder, isStandby, leaseMs }: UpkeepLease,
  now: number,
): boolean {
  if (known.holder === holder || (known.isStandby && !isStandby)) return true
  return known.expiresAt <= now || known.expiresAt > latestUpkeepEnd(now, leaseMs)
}
