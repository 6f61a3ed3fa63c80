// Gives back what a claim may have taken without our knowing: its update was not answered, and can
// still arrive. So it is looked for by its lease id, again and again, until its lease has ended.

import { randomId } from './changes.ts'
import { type MongoContext, nowOf } from './context.ts'
import { BY_ID } from './indexes.ts'
import { releasesOf, unsentChange } from './leases.ts'
import { run, startDeadline } from './run-command.ts'

const FIRST_WAIT_MS = 100
const MAX_WAIT_MS = 5_000
/** Claims under suspicion at once. Beyond, the sweeper finds them when their leases have lapsed. */
const MAX_SUSPECTS = 100

export interface Disowner {
  disown(ids: string[], leaseId: string, leaseMs: number): void
  stop(): void
}

export function createDisowner(context: MongoContext): Disowner {
  const timers = new Set<NodeJS.Timeout>()
  let suspects = 0
  let stopped = false

  const lookAgain = (suspect: Suspect, waitMs: number) => {
    if (stopped || performance.now() > suspect.endsAt) {
      suspects -= 1
      return
    }
    const timer = setTimeout(async () => {
      timers.delete(timer)
      const isMore = await giveBack(context, suspect)
      lookAgain(suspect, isMore ? FIRST_WAIT_MS : Math.min(waitMs * 2, MAX_WAIT_MS))
    }, waitMs)
    timer.unref()
    timers.add(timer)
  }

  return {
    disown(ids, leaseId, leaseMs) {
      if (suspects === MAX_SUSPECTS) return
      suspects += 1
      const endsAt = performance.now() + leaseMs
      lookAgain({ ids, leaseId, endsAt, most: ids.length }, FIRST_WAIT_MS)
    },
    stop() {
      stopped = true
      for (const timer of timers) clearTimeout(timer)
    },
  }
}

interface Suspect {
  ids: string[]
  leaseId: string
  /** Monotonic. */
  endsAt: number
  /** What one write gives back: a store that did not write so many in time is given fewer. */
  most: number
}

/** Whether there is more to be given back. */
async function giveBack(context: MongoContext, suspect: Suspect): Promise<boolean> {
  const { ids, leaseId } = suspect
  try {
    const found = await run(startDeadline(), (limit) =>
      context.jobs
        .find(
          { _id: { $in: ids }, state: 'running', leaseId },
          { projection: { superseded: 1 }, batchSize: ids.length + 1, ...BY_ID, ...limit },
        )
        .toArray(),
    )
    // Mostly there is nothing: a store that is slow to write is spared updates of nothing.
    if (found.length === 0) return false
    const now = nowOf(context)
    const updates = found.slice(0, suspect.most).flatMap(({ _id, superseded }) =>
      releasesOf(
        // The lease id is random and of this claim alone: with it the guard needs no fence.
        { _id, state: 'running', leaseId, superseded: superseded === true ? true : { $ne: true } },
        unsentChange(superseded === true ? 'withdraw' : 'release', randomId(), now),
      ),
    )
    const { matchedCount } = await run(startDeadline(), (limit) =>
      context.jobs.bulkWrite(updates, { ordered: false, ...limit }),
    )
    if (matchedCount > 0) context.hint()
    return found.length > suspect.most
  } catch {
    // The store is still away, or too slow for so many: this is what the next look is for.
    suspect.most = Math.max(1, Math.floor(suspect.most / 2))
    return false
  }
}
