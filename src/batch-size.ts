// How many items one write to the store may hold. A store can be slower than usual: a write of a
// thousand items then takes longer than its deadline, and taking it again at that size fails again.
// So sizes follow what was written in time: additive increase, multiplicative decrease, down to one
// (Chiu and Jain, "Analysis of the Increase and Decrease Algorithms for Congestion Avoidance",
// 1989; Jacobson, "Congestion Avoidance and Control", 1988).
import { MAX_ANSWER_MS, StoreUnavailable } from './store/store.ts'

/** A write that took more than this share of its deadline was nearly too large. */
const SLOW_SHARE = 2 / 3
/** What a write may take if sizes are to grow by more than one. */
const QUICK_SHARE = 1 / 3
const DECREASE = { slow: 1 / 2, failed: 1 / 4 }
/** So many failures in a row are not chance: then sizes go below what a write is worth. */
const PATIENCE = 4
/** A healthy store is back at the largest size after so many full writes. */
const STEPS = 16

export interface BatchSize {
  /** How many items the next write may hold; at least one. */
  readonly limit: number
  /**
   * Runs a write of so many items and learns from how long it took, or that it failed.
   *
   * @param countOf how many items it really was about, where only its result tells
   */
  run<T>(count: number, write: () => Promise<T>, countOf?: (result: T) => number): Promise<T>
  /** For a write that was not run by run(). */
  written(count: number, tookMs: number): void
  /** A write of so many items did not succeed in time. */
  failed(count: number): void
}

export interface BatchLimits {
  /** After which a write has failed, or is of no use any more; default: MAX_ANSWER_MS. */
  deadlineMs?: number
  /** Fewer items make no write quicker: sizes go below only while writes of so many fail. */
  worth?: number
}

/** Starts at the largest size: a healthy store is not slowed. */
export function createBatchSize(
  max: number,
  { deadlineMs = MAX_ANSWER_MS, worth = 1 }: BatchLimits = {},
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
    if (limit < worth) {
      if (count >= limit) limit = Math.min(worth, limit * 2)
      return
    }
    if (tookMs > deadlineMs * SLOW_SHARE) {
      shrink(count, DECREASE.slow, worth)
      return
    }
    // A write that was not full says nothing about larger ones.
    if (count < limit) return
    // Never far beyond what this pace affords. By one always: where a write takes its time whatever
    // its size, larger ones cost nothing.
    const affordable = Math.floor((count * quickMs) / Math.max(1, tookMs))
    limit = Math.min(max, limit + step, Math.max(limit + 1, affordable))
  }

  function failed(count: number): void {
    failures += 1
    shrink(count, DECREASE.failed, failures < PATIENCE ? worth : 1)
  }

  /** By the items of this write, which may be fewer than the limit: they were too many. */
  function shrink(count: number, share: number, least: number): void {
    const smaller = Math.floor(Math.min(limit, count) * share)
    limit = Math.max(1, smaller, Math.min(least, limit))
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
