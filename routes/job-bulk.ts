// POST /jobs/cancel and /jobs/retry: a command on all jobs that a filter finds.
import type { FastifyInstance } from 'fastify'
import type { JobState } from '../src/job/job.ts'
import type { Store } from '../src/store/store.ts'
import { bulkAnswer } from './answers.ts'
import { type BulkBody, bulkBody } from './job-schemas.ts'
import { nothing } from './schemas.ts'

/** What each command can change: jobs in other states do not match, whatever the filter says. */
const STATES = {
  cancel: ['queued', 'running'],
  retry: ['dead', 'cancelled'],
} as const satisfies Record<string, readonly JobState[]>

const PAGE = 500
/** A store's verb has a deadline: so many jobs are well within it. */
const WRITE = 100

export function registerBulkRoutes(app: FastifyInstance, { store }: { store: Store }): void {
  registerBulk(app, store, 'cancel', 'Cancel all jobs that the filter finds')
  registerBulk(app, store, 'retry', 'Retry all dead and cancelled jobs that the filter finds')
}

function registerBulk(
  app: FastifyInstance,
  store: Store,
  verb: keyof typeof STATES,
  summary: string,
): void {
  app.post<{ Body: BulkBody }>(
    `/jobs/${verb}`,
    { schema: { summary, body: bulkBody, querystring: nothing, response: { 200: bulkAnswer } } },
    async (request) => {
      const { filter, limit, dryRun } = request.body
      const { ids, more } = await findMatching(store, filter, STATES[verb], limit)
      const affected = dryRun ? 0 : await applyToAll(store, verb, ids)
      return { matched: ids.length, affected, ...(more ? { more } : {}) }
    },
  )
}

async function findMatching(
  store: Store,
  { state, ...filter }: BulkBody['filter'],
  possible: readonly JobState[],
  limit: number,
): Promise<{ ids: string[]; more: boolean }> {
  const states = possible.filter((one) => state === undefined || one === state)
  const ids: string[] = []
  let after: string | null = null
  while (states.length > 0) {
    const page = await store.listJobs({
      ...(filter as object),
      states,
      limit: Math.min(PAGE, limit - ids.length + 1),
      ...(after === null ? {} : { after }),
    })
    ids.push(...page.items.map(({ id }) => id))
    if (ids.length > limit) return { ids: ids.slice(0, limit), more: true }
    if (page.next === null) break
    after = page.next
  }
  return { ids, more: false }
}

async function applyToAll(store: Store, verb: keyof typeof STATES, ids: string[]): Promise<number> {
  let affected = 0
  for (let i = 0; i < ids.length; i += WRITE) {
    const results = await store[verb](ids.slice(i, i + WRITE))
    affected += results.filter(({ kind }) => kind === 'applied').length
  }
  return affected
}
