// Percentiles of measured times.

/** The smallest value that `share` of all values do not exceed, in whole milliseconds. */
export function percentile(timesMs: number[], share: number): number {
  if (timesMs.length === 0) throw new Error('nothing was measured')
  const ascending = Float64Array.from(timesMs).sort()
  const index = Math.max(0, Math.ceil(share * ascending.length) - 1)
  return Math.round(ascending[index] as number)
}
