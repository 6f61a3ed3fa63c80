// Which endpoints hand out jobs, remembered for a moment: a claim is not to ask each time. Those
// with limits are asked again at their gate (gate.ts), where nothing is remembered.
import { isLimited } from '../../endpoint/admission.ts'
import type { MongoContext } from './context.ts'
import { ELIGIBILITY, type Eligibility, limitsOf } from './endpoint-documents.ts'
import { type Deadline, run } from './run-command.ts'

/** A change is to reach every worker within 1 s; a worker remembers for a moment as well. */
const REMEMBERED_MS = 400
/** Names are remembered only as long as they fit; beyond, all are forgotten. */
const MAX_REMEMBERED = 20_000

export interface EligibleEndpoints {
  /** Those of the names that hand out jobs; `gated`: only through their gate. */
  among(names: string[], now: number, deadline: Deadline): Promise<Map<string, { gated: boolean }>>
  forget(name: string): void
}

export function rememberEligibleEndpoints(endpoints: MongoContext['endpoints']): EligibleEndpoints {
  const remembered = new Map<string, { endpoint: Eligibility | null; until: number }>()
  const ask = async (names: string[], deadline: Deadline) => {
    const until = performance.now() + REMEMBERED_MS
    const found = await run(deadline, (limit) =>
      endpoints
        .find<Eligibility>(
          { _id: { $in: names }, deleting: false },
          { projection: ELIGIBILITY, batchSize: names.length + 1, ...limit },
        )
        .toArray(),
    )
    const byName = new Map(found.map((endpoint) => [endpoint._id, endpoint]))
    if (remembered.size + names.length > MAX_REMEMBERED) remembered.clear()
    for (const name of names) {
      remembered.set(name, { endpoint: byName.get(name) ?? null, until })
    }
    return byName
  }
  return {
    async among(names, now, deadline) {
      const monotonicMs = performance.now()
      const unknown = names.filter((name) => (remembered.get(name)?.until ?? 0) < monotonicMs)
      const asked = unknown.length === 0 ? new Map() : await ask([...new Set(unknown)], deadline)
      const eligible = new Map<string, { gated: boolean }>()
      for (const name of names) {
        const endpoint = asked.get(name) ?? remembered.get(name)?.endpoint ?? null
        if (endpoint !== null && handsOut(endpoint, now)) {
          eligible.set(name, { gated: isLimited(limitsOf(endpoint)) })
        }
      }
      return eligible
    },
    forget(name) {
      remembered.delete(name)
    },
  }
}

function handsOut(endpoint: Eligibility, now: number): boolean {
  const { deleting, paused, disabledReason, restingUntil } = endpoint
  if (deleting || paused || disabledReason !== null) return false
  return restingUntil === null || restingUntil.getTime() <= now
}
