// Whether a store takes writes, as health checks ask it: however many ask, and however often, the
// store is asked at most once a second, and not at all while it is known from its own writes.
import { StoreUnavailable, type UnavailableKind } from './store-errors.ts'

/** How long the result of a write, or of a proof, stands for the next one. */
const KNOWN_FOR_MS = 1_000
/**
 * A small proof can fit where the writes of the day do not, as on a full disk: a failed write
 * counts for longer than the client that repeats it waits.
 */
const FAILED_FOR_MS = 2_000
/** A part that is still whole may take the proof, and what was found does not pass by itself. */
const DAMAGED_FOR_MS = 10_000
/** What a read finds and a write meets too. */
const FOUND_BY_READS: ReadonlySet<UnavailableKind> = new Set(['damaged', 'disk_error', 'read_only'])

export interface Readiness {
  /** Of any write of this process. */
  noteSuccess(): void
  noteFailure(error: unknown): void
  /** Of any read of this process. */
  noteReadFailure(error: unknown): void
  /** Throws StoreUnavailable unless a write succeeded lately or the proof succeeds. */
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
