// Preloaded into a process (node --expose-gc --import) that its parent has forked: for a message,
// it collects the garbage and reports its memory in bytes.

export interface Memory {
  /** The most that the process had so far. */
  mostResident: number
  /** What it uses after the garbage is collected. */
  inUse: number
}

process.on('message', () => {
  globalThis.gc?.()
  const { heapUsed, external } = process.memoryUsage()
  const mostResident = process.resourceUsage().maxRSS * 1_024
  process.send?.({ mostResident, inUse: heapUsed + external } satisfies Memory)
})
// The process must end as without it.
process.channel?.unref()
