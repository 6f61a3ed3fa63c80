// What this process knows of the jobs it claimed: whether their finish leads to more (a notice, a
// dependent, the next of an ordering key). So a settlement of plain jobs needs no look at them.
import type { KnownDebts } from './context.ts'

/** Beyond, all is forgotten: then settlements look, which costs them a command. */
const MAX_KNOWN = 50_000

export function rememberDebts(): KnownDebts {
  const owesById = new Map<string, boolean>()
  return {
    noteClaimed(jobs) {
      if (owesById.size + jobs.length > MAX_KNOWN) owesById.clear()
      for (const { _id, owes } of jobs) owesById.set(_id, owes === true)
    },
    noteOwing(jobIds) {
      for (const id of jobIds) if (owesById.has(id)) owesById.set(id, true)
    },
    takeOwing(jobIds) {
      const owing = jobIds.filter((id) => owesById.get(id) !== false)
      for (const id of jobIds) owesById.delete(id)
      return owing
    },
  }
}
