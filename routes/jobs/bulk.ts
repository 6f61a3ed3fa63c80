// POST /jobs/cancel and /jobs/retry: a command on all jobs that match a filter.
import type { FastifyInstance } from 'fastify'
import { z } from 'zod'
import { type BatchSize, createBatchSize } from '../../src/batch-size.ts'
import { retryOrder } from '../../src/job/dependencies.ts'
import { FAILURE_REASONS, JOB_STATES, type JobState, type JobSummary } from '../../src/job/job.ts'
import { dependenciesOf } from '../../src/job/needs.ts'
import { STORE_DEADLINE_MS, type Store } from '../../src/store/store.ts'
import { StoreUnavailable } from '../../src/store/store-errors.ts'
import { endpointName, instant, text } from '../../src/wire/fields.ts'
import { noQuery } from '../http/route-schema.ts'

const MAX_BULK = 10_000
const DEFAULT_BULK = 1_000

const bulkFilter = z
  .strictObject({
    endpoint: endpointName.optional(),
    state: z.enum(JOB_STATES).optional(),
    tag: text(1, 64).optional(),
    createdAfter: instant.optional(),
    createdBefore: instant.optional(),
    failureReason: z.enum(FAILURE_REASONS).optional(),
  })
  .refine((filter) => Object.keys(filter).length > 0, 'an empty filter is refused')

export const bulkBody = z.strictObject({
  filter: bulkFilter,
  limit: z.int().min(1).max(MAX_BULK).default(DEFAULT_BULK),
  dryRun: z.boolean().default(false),
})
type BulkBody = z.output<typeof bulkBody>

export const bulkResponse = z.object({
  matched: z.int(),
  affected: z.int(),
  more: z.literal(true).optional().meta({
    description:
      'more jobs match than the limit, or than the store could change in time: repeat the request. A retry begins with the oldest job, a cancel with the newest',
  }),
  dependencyFailed: z.int().optional().meta({
    description:
      'of a retry: jobs left unchanged, because a job that they depend on stays dead, cancelled or deleted; retry such a job by its id to run it without that dependency, unless it needs the result of that job',
  }),
})

/** What each command can change: jobs in other states do not match, whatever the filter says. */
const STATES = {
  cancel: ['queued', 'running'],
  retry: ['dead', 'cancelled'],
} as const satisfies Record<string, readonly JobState[]>

const PAGE = 500
/** A write of this many jobs ends well within its deadline unless the store is slow. */
const MAX_WRITE = 100
/**
 * No write begins later than this after the request, because each write has a deadline of its own
 * in addition.
 */
const MAX_BEGIN_MS = STORE_DEADLINE_MS / 2

export function registerBulkRoutes(app: FastifyInstance, { store }: { store: Store }): void {
  registerBulk(app, store, 'cancel', 'Cancel all jobs that match a filter, newest first')
  registerBulk(
    app,
    store,
    'retry',
    'Retry all dead and cancelled jobs that match a filter, oldest first',
  )
}

function registerBulk(
  app: FastifyInstance,
  store: Store,
  verb: keyof typeof STATES,
  summary: string,
): void {
  const size = createBatchSize(MAX_WRITE)
  app.post<{ Body: BulkBody }>(
    `/jobs/${verb}`,
    { schema: { summary, body: bulkBody, querystring: noQuery, response: { 200: bulkResponse } } },
    async (request) => {
      const { filter, limit, dryRun } = request.body
      const bulk = { store, size, endsAtMs: performance.now() + MAX_BEGIN_MS }
      const { jobs, more } = await findMatching(store, verb, filter, limit)
      const matched = { matched: jobs.length, ...(more ? { more } : {}) }
      if (dryRun) return { ...matched, affected: 0 }
      return { ...matched, ...(await applyToAll(bulk, verb, inOrder(verb, jobs))) }
    },
  )
}

/** `dependsOn`: with the jobs that it needs. */
type Found = Pick<JobSummary, 'id' | 'dependsOn'>

/**
 * Finds the jobs to change. If more than `limit` match: the oldest for a retry, the newest for a
 * cancel (see inOrder).
 */
async function findMatching(
  store: Store,
  verb: keyof typeof STATES,
  { state, ...filter }: BulkBody['filter'],
  limit: number,
): Promise<{ jobs: Found[]; more: boolean }> {
  const states = STATES[verb].filter((one) => state === undefined || one === state)
  const jobs: Found[] = []
  let after: string | null = null
  while (states.length > 0) {
    const page = await store.listJobs({
      ...(filter as object),
      states,
      oldestFirst: verb === 'retry',
      limit: Math.min(PAGE, limit - jobs.length + 1),
      ...(after === null ? {} : { after }),
    })
    jobs.push(...page.items.map((job) => ({ id: job.id, dependsOn: dependenciesOf(job) })))
    if (jobs.length > limit) return { jobs: jobs.slice(0, limit), more: true }
    if (page.next === null) break
    after = page.next
  }
  return { jobs, more: false }
}

/**
 * The ids in the order of the writes. Each part is committed alone, and workers act on it at once.
 * A retry begins with the first job of an ordering key or a chain of dependencies. A cancel begins
 * with the last one: it must neither unblock a job that it is about to cancel, nor make a job dead
 * by cancelling its dependency.
 */
function inOrder(verb: keyof typeof STATES, jobs: Found[]): string[] {
  const ids = retryOrder(jobs)
  return verb === 'retry' ? ids : ids.reverse()
}

interface Bulk {
  store: Store
  size: BatchSize
  /** By the monotonic clock. */
  endsAtMs: number
}

/**
 * Applies the command to the jobs. If the store is too slow for all of them, it stops in time, with
 * `more`.
 */
async function applyToAll(
  { store, size, endsAtMs }: Bulk,
  verb: keyof typeof STATES,
  ids: string[],
): Promise<{ affected: number; dependencyFailed?: number; more?: true }> {
  let affected = 0
  let dependencyFailed = 0
  let at = 0
  while (at < ids.length && (at === 0 || performance.now() < endsAtMs)) {
    const some = ids.slice(at, at + size.limit)
    const write = async () =>
      verb === 'retry' ? await store.retry(some, { waives: false }) : await store.cancel(some)
    const results = await size.run(some.length, write).catch((error) => {
      // The response counts the jobs that were changed before. The result for these jobs is
      // unknown.
      if (at > 0 && error instanceof StoreUnavailable) return null
      throw error
    })
    if (results === null) break
    at += some.length
    affected += results.filter(({ kind }) => kind === 'applied').length
    dependencyFailed += results.filter(({ kind }) => kind === 'dependency_failed').length
  }
  return {
    affected,
    ...(dependencyFailed > 0 ? { dependencyFailed } : {}),
    ...(at < ids.length ? { more: true } : {}),
  }
}
