// Recognizes attempts that failed because this machine lacks a resource: file descriptors, ports or
// memory. Their endpoints are not at fault, so they use no attempt, and the worker uses fewer slots
// for a while.
import type { Logger } from 'pino'
import type { AttemptEnd } from '../src/webhook/send.ts'

/** Errors that only a lack of resources on this machine can cause. */
const CERTAIN: ReadonlySet<string> = new Set(['EMFILE', 'ENFILE', 'ENOBUFS', 'ENOMEM'])
/**
 * No port is free, or this machine has no route to such an address at all. Because it may never
 * have one, these attempts are free only up to the limit of interrupted attempts.
 */
const LIKELY: ReadonlySet<string> = new Set(['EADDRNOTAVAIL', 'EAGAIN'])

const MESSAGE = 'the machine of this worker ran out of a resource'

/** Faults within this time count once: many attempts fail for the same reason at the same time. */
const BURST_MS = 100
/** The worker claims no jobs for this long after a fault. */
const PAUSE_MS = 250
/** After each such interval without a fault the worker may use a quarter more slots. */
const GROW_EVERY_MS = 2_000
const GROWTH = 1.25
const LOG_EVERY_MS = 10_000

/** Returns null if this machine did not cause the failure. `unsent`: nothing was sent. */
export function ownFaultOf(end: AttemptEnd): { code: string; unsent: boolean } | null {
  const code = end.statusCode === null ? end.errorCode : null
  if (code === null) return null
  if (CERTAIN.has(code)) return { code, unsent: !end.isSent }
  return LIKELY.has(code) ? { code, unsent: false } : null
}

export function asInterrupted(end: AttemptEnd): AttemptEnd {
  return { ...end, outcome: 'interrupted', message: `${MESSAGE} (${end.errorCode})` }
}

export interface OwnFaults {
  note(code: string): void
  /** How many attempts may be in flight now; 0 right after a fault. */
  slots(): number
}

export function createOwnFaults(
  concurrency: number,
  log: Logger,
  monotonicMs = () => performance.now(),
): OwnFaults {
  let limit = concurrency
  let lastFaultMs = Number.NEGATIVE_INFINITY
  let lastChangeMs = Number.NEGATIVE_INFINITY
  let lastLogMs = Number.NEGATIVE_INFINITY
  let unlogged = 0

  function note(code: string): void {
    const nowMs = monotonicMs()
    if (nowMs - lastChangeMs > BURST_MS) {
      limit = Math.max(1, Math.floor(limit / 2))
      lastChangeMs = nowMs
    }
    lastFaultMs = nowMs
    unlogged++
    if (nowMs - lastLogMs < LOG_EVERY_MS) return
    const detail = `${MESSAGE}; this uses no attempt of a job. Raise its limits (ulimit -n), or lower WORKER_CONCURRENCY`
    log.error(
      { errorCode: code, attempts: unlogged, slots: limit, detail },
      'worker.out_of_resources',
    )
    lastLogMs = nowMs
    unlogged = 0
  }

  function slots(): number {
    const nowMs = monotonicMs()
    if (nowMs - lastFaultMs < PAUSE_MS) return 0
    while (limit < concurrency && nowMs - lastChangeMs >= GROW_EVERY_MS) {
      limit = Math.min(concurrency, Math.ceil(limit * GROWTH))
      lastChangeMs += GROW_EVERY_MS
    }
    return limit
  }

  return { note, slots }
}
