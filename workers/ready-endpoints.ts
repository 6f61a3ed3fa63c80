// Which endpoints to claim jobs from. An endpoint is ready from when one of its jobs becomes due
// until a claim returns fewer jobs than it asked for. An endpoint that is paused, throttled or at a
// limit is deferred: it becomes ready again after a time. Its jobs are due already, so no job that
// becomes due would make it ready. A look, which asks the store for endpoints with due jobs, is one
// query for all endpoints.
import type { Due, Store } from '../src/store/store.ts'

/** Each look covers this much time before the last one, because a slow write shows its job late. */
const OVERLAP_MS = 5_000
/** How often a look covers all queued jobs. It finds released jobs, whose runAt is old. */
const FULL_LOOK_INTERVAL_MS = 10_000
/** A resume must reach every worker within 1 s. Longer than the endpoint cache keeps an entry. */
const LONGEST_DEFERRAL_MS = 450
/** Limit of endpoints made ready together. With more deferred endpoints, each comes less often. */
const MAX_AT_ONCE = 200
/** Beyond this limit endpoints are forgotten instead of deferred; a full look finds them again. */
const MAX_DEFERRED = 20_000

export interface ReadyEndpoints {
  /** Asks the store which endpoints have jobs that became due. */
  look(): Promise<void>
  /** The ready endpoints, the one that has waited longest first. */
  inOrder(): Iterable<string>
  isEmpty(): boolean
  markDrained(endpoint: string): void
  /** Called after a claim of an endpoint that may have more jobs due. */
  moveToBack(endpoint: string): void
  /**
   * @param inMs when to claim again; undefined: unknown, so after the longest deferral
   * @param limits the limits shared with other endpoints that it waits for
   */
  defer(endpoint: string, inMs?: number, limits?: string[]): void
  /**
   * A job of the endpoint ended, so a limit may allow the next one, also at other endpoints that
   * share these limits. Returns whether one of them was deferred.
   */
  endDeferrals(ended: { name: string; limits: string[] }): boolean
  /** Milliseconds until the next deferral is over; null: none is. */
  untilDeferralEndsMs(): number | null
  /** By the store's clock: when the next job becomes due that was not due at the last look. */
  nextDueAt(): number | null
}

export function createReadyEndpoints(store: Pick<Store, 'due' | 'clock'>): ReadyEndpoints {
  const ready = new Set<string>()
  const deferrals = createDeferrals()
  let lastLookAt: number | null = null
  let nextFullLookAtMs = 0
  let nextDueAt: number | null = null

  async function due(): Promise<Due> {
    const nowMs = performance.now()
    const isFull = lastLookAt === null || nowMs >= nextFullLookAtMs
    const lookAt = store.clock.now()
    const found = await store.due(isFull ? null : (lastLookAt as number) - OVERLAP_MS)
    if (isFull) nextFullLookAtMs = nowMs + FULL_LOOK_INTERVAL_MS
    lastLookAt = lookAt
    return found
  }

  return {
    async look() {
      const found = await due()
      for (const endpoint of found.endpoints) ready.add(endpoint)
      nextDueAt = found.nextAt
    },
    inOrder() {
      for (const endpoint of deferrals.takeEnded()) ready.add(endpoint)
      return ready
    },
    isEmpty: () => ready.size === 0,
    markDrained(endpoint) {
      ready.delete(endpoint)
    },
    moveToBack(endpoint) {
      if (ready.delete(endpoint)) ready.add(endpoint)
    },
    defer: deferrals.add,
    endDeferrals({ name, limits }) {
      const free = [name, ...limits.flatMap(deferrals.waitingFor)].filter(deferrals.remove)
      for (const endpoint of free) ready.add(endpoint)
      return free.length > 0
    },
    untilDeferralEndsMs: deferrals.untilFirstEndsMs,
    nextDueAt: () => nextDueAt,
  }
}

function createDeferrals() {
  /** Monotonic times, in the order in which the endpoints were deferred. */
  const untilMsOf = new Map<string, number>()
  /** The deferred endpoints, by the shared limits that they wait for. */
  const byLimit = new Map<string, Set<string>>()
  const limitsOf = new Map<string, string[]>()

  function remove(endpoint: string): boolean {
    for (const limit of limitsOf.get(endpoint) ?? []) {
      const waiting = byLimit.get(limit)
      waiting?.delete(endpoint)
      if (waiting?.size === 0) byLimit.delete(limit)
    }
    limitsOf.delete(endpoint)
    return untilMsOf.delete(endpoint)
  }
  return {
    add(endpoint: string, inMs = LONGEST_DEFERRAL_MS, limits: string[] = []): void {
      if (untilMsOf.size >= MAX_DEFERRED && !untilMsOf.has(endpoint)) return
      remove(endpoint)
      // A resume may end a pause or a rest earlier, so the wait is limited.
      const waitMs = Math.min(Math.max(1, inMs), LONGEST_DEFERRAL_MS)
      untilMsOf.set(endpoint, performance.now() + waitMs)
      if (limits.length > 0) limitsOf.set(endpoint, limits)
      for (const limit of limits) {
        byLimit.set(limit, (byLimit.get(limit) ?? new Set()).add(endpoint))
      }
    },
    remove,
    waitingFor: (limit: string): string[] => [...(byLimit.get(limit) ?? [])],
    takeEnded(): string[] {
      const nowMs = performance.now()
      const ended: string[] = []
      for (const [endpoint, untilMs] of untilMsOf) {
        if (untilMs <= nowMs && ended.length < MAX_AT_ONCE) ended.push(endpoint)
      }
      for (const endpoint of ended) remove(endpoint)
      return ended
    },
    untilFirstEndsMs(): number | null {
      if (untilMsOf.size === 0) return null
      let first = Number.POSITIVE_INFINITY
      for (const untilMs of untilMsOf.values()) if (untilMs < first) first = untilMs
      return first - performance.now()
    },
  }
}
