// When a stored lease of the upkeep is valid.

/**
 * A lease that ends later than this was written before the clock was set back, and is void. Clocks
 * of processes differ, and so may the lengths they ask for: less than a length too late is valid.
 */
export function latestUpkeepEnd(now: number, leaseMs: number): number {
  return now + 2 * leaseMs
}
