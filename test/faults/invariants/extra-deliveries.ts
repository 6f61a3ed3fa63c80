// I8: each full 2xx after the first is explained by a fault or a retry, and each fault or retry
// explains only one.
import type { Delivery, Fault } from '../history.ts'
import {
  called,
  effectOf,
  type Facts,
  isFullSuccess,
  type JobFacts,
  type Report,
  retriesOf,
} from './facts.ts'

/** A 2xx after the first one. */
export interface ExtraDelivery {
  delivery: Delivery
  /** null: nothing that happened between this delivery and the one before explains it. */
  cause: Fault | 'retry' | null
}

interface Explanation {
  cause: Fault | 'retry'
  fromMs: number
  toMs: number
  isUsed: boolean
}

export function checkExtraDeliveries(facts: Facts, report: Report): void {
  for (const job of facts.jobs.values()) {
    for (const { delivery, cause } of extraDeliveriesOf(facts, job)) {
      if (cause === null) {
        report(`${called(delivery)} is one more 2xx that no fault of its own explains`)
      }
    }
  }
}

export function extraDeliveriesOf(facts: Facts, job: JobFacts): ExtraDelivery[] {
  if (job.deliveries.length < 2) return []
  const full = job.deliveries.filter((one) => !one.isHostile && isFullSuccess(one))
  if (full.length < 2) return []
  const explanations = explanationsOf(facts, job, full)
  return full.slice(1).map((delivery, i) => {
    const earlier = full[i] as Delivery
    const [fromMs, toMs] = inOrder(earlier.beganAtMs, delivery.beganAtMs)
    // Takes the fault that ends first: a fault that lasts longer may be needed for a later
    // delivery.
    const explanation = explanations.find(
      (one) => !one.isUsed && one.fromMs <= toMs && one.toMs >= fromMs,
    )
    if (explanation === undefined) return { delivery, cause: null }
    explanation.isUsed = true
    return { delivery, cause: explanation.cause }
  })
}

/**
 * Puts two instants in order. Deliveries are sorted by fence, and a bug may send them in another
 * order.
 */
function inOrder(a: number, b: number): [number, number] {
  return a <= b ? [a, b] : [b, a]
}

function explanationsOf({ faults }: Facts, job: JobFacts, full: Delivery[]): Explanation[] {
  const times = full.map(({ beganAtMs }) => beganAtMs)
  const explanations: Explanation[] = faults
    .felt(Math.min(...times), Math.max(...times))
    .map((fault) => ({
      ...{ cause: fault, fromMs: fault.beganAtMs, toMs: faults.feltUntilMs(fault) },
      isUsed: false,
    }))
  for (const call of retriesOf(job)) {
    const toMs = effectOf(call) === 'unknown' ? Number.POSITIVE_INFINITY : call.endedAtMs
    explanations.push({ cause: 'retry', fromMs: call.sentAtMs, toMs, isUsed: false })
  }
  return explanations.sort((a, b) => a.toMs - b.toMs)
}
