// Divides the free slots among the ready endpoints, so that one that hangs cannot hold them all.
// Pure.
import type { EndpointShare } from '../src/store/store.ts'

/**
 * An endpoint gets another slot only while it has fewer attempts in this worker than this factor
 * times the free slots.
 */
const ATTEMPTS_PER_FREE_SLOT = 4

export interface ReadyEndpoint {
  endpoint: string
  /** Its attempts in flight in this worker. */
  inFlightCount: number
}

/**
 * Deals out `freeSlots` one at a time, round robin. Of 100 slots, one endpoint that hangs gets at
 * most 80 and two get at most 89, so a slot always stays free for the others. The next claim deals
 * out again the slots that an endpoint did not use.
 */
export function fairShares(endpoints: Iterable<ReadyEndpoint>, freeSlots: number): EndpointShare[] {
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

/**
 * The endpoints that may start an attempt, at most as many as there are slots. An endpoint that
 * cannot take one slot is left out: it would take the place of another endpoint.
 */
function firstThatMayStart(endpoints: Iterable<ReadyEndpoint>, freeSlots: number): ReadyEndpoint[] {
  const found: ReadyEndpoint[] = []
  for (const endpoint of endpoints) {
    if (found.length >= freeSlots) break
    if (endpoint.inFlightCount < ATTEMPTS_PER_FREE_SLOT * freeSlots) found.push(endpoint)
  }
  return found
}
