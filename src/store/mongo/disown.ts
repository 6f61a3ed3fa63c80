// Gives back what a claim may have taken without our knowing: its update was not answered, and can
// still arrive. So it is looked for by its lease id, again and again, until its lease has ended.

import { randomId } from './changes.ts'
import { type MongoContext, nowOf } from './context.ts'
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

  const lookAgain = (ids: string[], leaseId: string, endsAt: number, waitMs: number) => {
    if (stopped || performance.now() > endsAt) {
      suspects -= 1
      return
    }
    const timer = setTimeout(async () => {
      timers.delete(timer)
      await giveBack(context, ids, leaseId)
      lookAgain(ids, leaseId, endsAt, Math.min(waitMs * 2, MAX_WAIT_MS))
    }, waitMs)
    timer.unref()
    timers.add(timer)
  }

  return {
    disown(ids, leaseId, leaseMs) {
      if (suspects === MAX_SUSPECTS) return
      suspects += 1
      lookAgain(ids, leaseId, performance.now() + leaseMs, FIRST_WAIT_MS)
    },
    stop() {
      stopped = true
      for (const timer of timers) clearTimeout(timer)
    },
  }
}

async function giveBack(context: MongoContext, ids: string[], leaseId: string): Promise<void> {
  try {
    // The lease id is random and of this claim alone: with it the guard needs no fence.
    const ours = { _id: { $in: ids }, state: 'running' as const, leaseId }
    const now = nowOf(context)
    const updates = [
      ...releasesOf(
        { ...ours, superseded: { $ne: true } },
        unsentChange('release', randomId(), now),
      ),
      ...releasesOf({ ...ours, superseded: true }, unsentChange('withdraw', randomId(), now)),
    ]
    const { matchedCount } = await run(startDeadline(), (limit) =>
      context.jobs.bulkWrite(updates, { ordered: false, ...limit }),
    )
    if (matchedCount > 0) context.hint()
  } catch {
    // The store is still away: this is what the next look is for.
  }
}
