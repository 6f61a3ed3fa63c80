// Whether a store accepts writes, for health checks. However many checks there are, the store gets
// at most one test write a second, and none while its other writes show whether it does.
import { StoreUnavailable, type UnavailableKind } from './store-errors.ts'

/** How long the result of a write or of a test write counts. */
const KNOWN_FOR_MS = 1_000
/**
 * A small test write can succeed where ordinary writes fail, as on a full disk. So a failed write
 * counts for longer than a client waits before it repeats the write.
 */
const FAILED_FOR_MS = 2_000
/**
 * The test write may use an undamaged part of the file, and the damage remains until it is
 * repaired.
 */
const DAMAGED_FOR_MS = 10_000
/** Failures of a read that a write would have, too. */
const FOUND_BY_READS: ReadonlySet<UnavailableKind> = new Set(['damaged', 'disk_error', 'read_only'])

export interface Readiness {
  /** Called after any write of this process. */
  noteSuccess(): void
  noteFailure(error: unknown): void
  /** Called after any read of this process that failed. */
  noteReadFailure(error: unknown): void
  /** Throws StoreUnavailable unless a write succeeded lately or a test write succeeds now. */
  check(): Promise<void>
}

/** @param proveWritable a small write with a deadline of its own */
export function createReadiness(proveWritable: () => Promise<void>): Readiness {
  let succeededAtMs = Number.NEGATIVE_INFINITY
  let failure: { error: StoreUnavailable; untilMs: number } | null = null
  let proving: Promise<void> | null = null

  function fail(error: unknown, forMs: number): void {
    if (!(error instanceof StoreUnavailable)) return
    const isDamaged = error.kind === 'damaged'
    const untilMs = performance.now() + (isDamaged ? DAMAGED_FOR_MS : forMs)
    if (failure === null || failure.untilMs < untilMs) failure = { error, untilMs }
  }

  async function prove(): Promise<void> {
    try {
      await proveWritable()
      succeededAtMs = performance.now()
    } catch (error) {
      fail(error, KNOWN_FOR_MS)
      throw error
    } finally {
      proving = null
    }
  }

  return {
    noteSuccess() {
      succeededAtMs = performance.now()
    },
    noteFailure: (error) => fail(error, FAILED_FOR_MS),
    noteReadFailure(error) {
      if (error instanceof StoreUnavailable && FOUND_BY_READS.has(error.kind)) {
        fail(error, FAILED_FOR_MS)
      }
    },
    async check() {
      const nowMs = performance.now()
      if (failure !== null && nowMs < failure.untilMs) throw failure.error
      if (nowMs - succeededAtMs < KNOWN_FOR_MS) return
      proving ??= prove()
      await proving
    },
  }
}
