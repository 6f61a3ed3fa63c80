// Decides how many items one write to the store may contain. On a slow store a write of a thousand
// items takes longer than its deadline, and a retry of the same size fails again. So the size
// follows what was written in time: additive increase, multiplicative decrease, down to one (Chiu
// and Jain, "Analysis of the Increase and Decrease Algorithms for Congestion Avoidance", 1989;
// Jacobson, "Congestion Avoidance and Control", 1988).

import { STORE_DEADLINE_MS } from './store/store.ts'
import { StoreUnavailable } from './store/store-errors.ts'

/** A write that took more than this share of its deadline was almost too large. */
const SLOW_SHARE = 2 / 3
/** The size grows by more than one only while its writes fit into this share of the deadline. */
const QUICK_SHARE = 1 / 3
const DECREASE = { slow: 1 / 2, failed: 1 / 4 }
/** After this many failures in a row, which are not chance, the size may go below `least`. */
const PATIENCE = 4
/** On a healthy store, this many full writes bring the size back to the largest one. */
const STEPS = 16

export interface BatchSize {
  /** How many items the next write may contain; at least one. */
  readonly limit: number
  /**
   * Runs a write of `count` items and adapts the limit to its duration or failure.
   *
   * @param countOf the actual number of items, if only the result shows it
   */
  run<T>(count: number, write: () => Promise<T>, countOf?: (result: T) => number): Promise<T>
  /** Adapts the limit to a write that run() did not run. */
  written(count: number, tookMs: number): void
  /** Adapts the limit to a write of `count` items that failed or took too long. */
  failed(count: number): void
}

export interface BatchLimits {
  /** After this time a write has failed or is useless; default: STORE_DEADLINE_MS. */
  deadlineMs?: number
  /**
   * A write of fewer items than this takes no less time: the limit is lower only while writes fail.
   */
  least?: number
}

/** Starts at the largest size, so that a healthy store is not slowed down. */
export function createBatchSize(
  max: number,
  { deadlineMs = STORE_DEADLINE_MS, least = 1 }: BatchLimits = {},
): BatchSize {
  let limit = max
  let failures = 0
  const quickMs = deadlineMs * QUICK_SHARE
  const step = Math.max(1, Math.floor(max / STEPS))

  function written(count: number, tookMs: number): void {
    if (count === 0) return
    if (tookMs > deadlineMs) {
      failed(count)
      return
    }
    failures = 0
    if (limit < least) {
      if (count >= limit) limit = Math.min(least, limit * 2)
      return
    }
    if (tookMs > deadlineMs * SLOW_SHARE) {
      shrink(count, DECREASE.slow, least)
      return
    }
    // A write that was not full shows nothing about larger ones.
    if (count < limit) return
    // The limit stays near what fits at this pace, but always grows by one: if writes take the same
    // time whatever their size, larger ones cost nothing.
    const affordable = Math.floor((count * quickMs) / Math.max(1, tookMs))
    limit = Math.min(max, limit + step, Math.max(limit + 1, affordable))
  }

  function failed(count: number): void {
    failures += 1
    shrink(count, DECREASE.failed, failures < PATIENCE ? least : 1)
  }

  /** Starts from the items of this write, which may be fewer than the limit but were too many. */
  function shrink(count: number, share: number, bound: number): void {
    const smaller = Math.floor(Math.min(limit, count) * share)
    limit = Math.max(1, smaller, Math.min(bound, limit))
  }

  return {
    get limit() {
      return limit
    },
    written,
    failed,
    async run(count, write, countOf = () => count) {
      const startedAtMs = performance.now()
      try {
        const result = await write()
        written(countOf(result), performance.now() - startedAtMs)
        return result
      } catch (error) {
        if (error instanceof StoreUnavailable) failed(count)
        throw error
      }
    },
  }
}
