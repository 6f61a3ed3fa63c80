// How free slots are shared among endpoints, so that one that hangs can not hold them all. Pure.
import type { Lane } from '../src/store/store.ts'

/**
 * An attempt may start only while its endpoint's attempts here are fewer than this × the free
 * slots.
 */
const ATTEMPTS_PER_FREE_SLOT = 4

export interface ReadyEndpoint {
  endpoint: string
  /** Its attempts in flight in this worker. */
  inFlightCount: number
}

/**
 * Deals `freeSlots` out one by one, the endpoints taking turns. One endpoint that hangs so ends up
 * with 80 slots of 100, two with 89, and a slot stays free for the others. What an endpoint turns
 * out not to need is dealt again in the next round.
 */
export function fairShares(endpoints: Iterable<ReadyEndpoint>, freeSlots: number): Lane[] {
  const shares = firstThatMayStart(endpoints, freeSlots).map((one) => ({ ...one, limit: 0 }))
  let left = freeSlots
  let taking = shares
  while (left > 0 && taking.length > 0) {
    taking = taking.filter((share) => {
      if (left === 0 || share.inFlightCount + share.limit >= ATTEMPTS_PER_FREE_SLOT * left) {
        return false
      }
      share.limit++
      left--
      return true
    })
  }
  return shares
    .filter((share) => share.limit > 0)
    .map(({ endpoint, limit }) => ({ endpoint, limit }))
}

/** No more endpoints than slots, and none that could not take even one: it would keep out another. */
function firstThatMayStart(endpoints: Iterable<ReadyEndpoint>, freeSlots: number): ReadyEndpoint[] {
  const found: ReadyEndpoint[] = []
  for (const endpoint of endpoints) {
    if (found.length >= freeSlots) break
    if (endpoint.inFlightCount < ATTEMPTS_PER_FREE_SLOT * freeSlots) found.push(endpoint)
  }
  return found
}
