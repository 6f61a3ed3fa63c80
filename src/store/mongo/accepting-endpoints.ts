// Which endpoints take work, remembered for a moment: a claim is not to ask each time.
import type { MongoContext } from './context.ts'
import { type Deadline, run } from './run-command.ts'

/** A change to an endpoint is to reach every worker within a second. */
const REMEMBERED_MS = 900
/** Names are remembered only as long as they fit; beyond, all are forgotten. */
const MAX_REMEMBERED = 20_000

export interface AcceptingEndpoints {
  /** Those of the names that are stored and not being deleted. */
  among(names: string[], deadline: Deadline): Promise<Set<string>>
  forget(name: string): void
}

export function rememberAcceptingEndpoints(
  endpoints: MongoContext['endpoints'],
): AcceptingEndpoints {
  const remembered = new Map<string, { accepts: boolean; until: number }>()
  const ask = async (names: string[], deadline: Deadline) => {
    const until = performance.now() + REMEMBERED_MS
    const found = await run(deadline, (limit) =>
      endpoints
        .find(
          { _id: { $in: names }, deleting: false },
          { projection: { _id: 1 }, batchSize: names.length + 1, ...limit },
        )
        .toArray(),
    )
    const accepting = new Set(found.map(({ _id }) => _id))
    if (remembered.size + names.length > MAX_REMEMBERED) remembered.clear()
    for (const name of names) remembered.set(name, { accepts: accepting.has(name), until })
    return accepting
  }
  return {
    async among(names, deadline) {
      const now = performance.now()
      const accepting = new Set<string>()
      const unknown: string[] = []
      for (const name of names) {
        const known = remembered.get(name)
        if (known === undefined || known.until < now) unknown.push(name)
        else if (known.accepts) accepting.add(name)
      }
      if (unknown.length === 0) return accepting
      return new Set([...accepting, ...(await ask(unknown, deadline))])
    },
    forget(name) {
      remembered.delete(name)
    },
  }
}
