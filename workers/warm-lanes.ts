// Which endpoints are worth asking for work: warm since something of theirs became due, cold once a
// claim brought less than it asked for. With 10,000 endpoints an idle look so costs one query.
import type { Due, Store } from '../src/store/store.ts'

/** A look goes back this far before the last one: a job is seen late when its write was slow. */
const OVERLAP_MS = 5_000
/**
 * How often all endpoints with queued jobs are looked at: finds a job given back with an old
 * runAt.
 */
const FULL_LOOK_INTERVAL_MS = 10_000

export interface WarmLanes {
  /** Asks the store what became due. */
  look(): Promise<void>
  /** The warm endpoints, whoever waited longest first. */
  inTurn(): Iterable<string>
  /** No lane is warm. */
  isCold(): boolean
  /** After a claim: those that gave all they were asked for go to the end of the line. */
  turn(endpoint: string): void
  cool(endpoint: string): void
  warm(endpoint: string): void
  /** By the store's clock: when the next job is due that was not due at the last look. */
  nextAt(): number | null
}

export function createWarmLanes(store: Pick<Store, 'due' | 'clock'>): WarmLanes {
  const warm = new Set<string>()
  let lastLookAt: number | null = null
  let nextFullLookAtMs = 0
  let nextAt: number | null = null

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
      for (const endpoint of found.endpoints) warm.add(endpoint)
      nextAt = found.nextAt
    },
    inTurn: () => warm,
    isCold: () => warm.size === 0,
    turn(endpoint) {
      if (warm.delete(endpoint)) warm.add(endpoint)
    },
    cool(endpoint) {
      warm.delete(endpoint)
    },
    warm(endpoint) {
      warm.add(endpoint)
    },
    nextAt: () => nextAt,
  }
}
