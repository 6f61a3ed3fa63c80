// The part of POST /jobs/:id/retry that retries the jobs that are dead because of that one, and
// those that are dead because of them.
import { z } from 'zod'
import { type Dependent, retryOrder } from '../../src/job/dependencies.ts'
import { dependenciesOf } from '../../src/job/needs.ts'
import { STORE_DEADLINE_MS, type Store } from '../../src/store/store.ts'

const MAX_DEPENDENTS = 10_000
const MAX_LEFT_SHOWN = 100
/** A write of this many jobs ends well within its deadline unless the store is slow. */
const MAX_WRITE = 100
/** Neither the search nor the writes begin later than this, because each has a deadline itself. */
const MAX_BEGIN_MS = STORE_DEADLINE_MS / 2

const retryFields = z.strictObject({
  withDependents: z.boolean().default(false).meta({
    description: 'retries also the jobs that are dead because of this one, parents first',
  }),
})
export const retryBody = retryFields.nullish().transform((body) => body ?? retryFields.parse({}))
export type RetryBody = z.output<typeof retryFields>

interface RetriedDependents {
  dependentsRetried: number
  left: string[]
  more?: true
}

/** Called when the job itself is queued again, or need not be. */
export async function retryDependents(store: Store, id: string): Promise<RetriedDependents> {
  const { dead, isCut } = await deadBecauseOf(store, id)
  const ids = retryOrder(dead.map((job) => ({ id: job.id, dependsOn: dependenciesOf(job) })))
  const endsAtMs = performance.now() + MAX_BEGIN_MS
  const left: string[] = []
  let retried = 0
  let at = 0
  while (at < ids.length && performance.now() < endsAtMs) {
    const some = ids.slice(at, at + MAX_WRITE)
    at += some.length
    const results = await store.retry(some, { waives: false })
    results.forEach(({ kind }, i) => {
      if (kind === 'applied') retried++
      else left.push(some[i] as string)
    })
  }
  return {
    dependentsRetried: retried,
    left: left.slice(0, MAX_LEFT_SHOWN),
    ...(isCut || at < ids.length ? { more: true } : {}),
  }
}

/**
 * Looks through the jobs that wait for others, too: an earlier command may have queued them again,
 * and those behind them are still dead.
 */
async function deadBecauseOf(
  store: Store,
  id: string,
): Promise<{ dead: Dependent[]; isCut: boolean }> {
  const endsAtMs = performance.now() + MAX_BEGIN_MS
  const found = new Map<string, Dependent>()
  let level = [id]
  while (level.length > 0) {
    if (performance.now() > endsAtMs) return { dead: deadAmong(found), isCut: true }
    const next = await store.dependentsOf(level, MAX_DEPENDENTS + 1 - found.size)
    const fresh = next.filter((job) => !found.has(job.id) && job.id !== id)
    for (const job of fresh) found.set(job.id, job)
    if (found.size > MAX_DEPENDENTS) return { dead: deadAmong(found), isCut: true }
    level = [...new Set(fresh.map((job) => job.id))]
  }
  return { dead: deadAmong(found), isCut: false }
}

function deadAmong(found: Map<string, Dependent>): Dependent[] {
  return [...found.values()].filter(({ state }) => state === 'dead')
}
