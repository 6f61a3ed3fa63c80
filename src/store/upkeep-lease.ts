// When a stored lease of the upkeep is valid.

/**
 * A lease that ends later than this was written before the clock was set back, and is void. A lease
 * that ends up to `leaseMs` too late is valid, because processes may have different clocks and
 * request different lengths.
 */
export function latestUpkeepEnd(now: number, leaseMs: number): number {
  return now + 2 * leaseMs
}
