// POST /jobs/batch: many jobs in one request, each with a result of its own.
import { setImmediate as nextTurn } from 'node:timers/promises'
import type { FastifyInstance } from 'fastify'
import { z } from 'zod'
import type { BatchSize } from '../../src/batch-size.ts'
import { AppError } from '../../src/errors.ts'
import { JOB_STATES, type MinimalJob, type NewJob } from '../../src/job/job.ts'
import { dependenciesOf, NEED_COST_BYTES } from '../../src/job/needs.ts'
import type { ApiMetrics } from '../../src/stats/metrics.ts'
import { type EnqueueResult, STORE_DEADLINE_MS, type Store } from '../../src/store/store.ts'
import { StoreUnavailable } from '../../src/store/store-errors.ts'
import { traceContextOf, traceEnqueue } from '../../src/tracing.ts'
import { invalidRequest } from '../../src/wire/field-errors.ts'
import {
  type BatchGroupBody,
  batchGroupBody,
  groupResponse,
  groupView,
  newGroupFrom,
  storedGroupOrThrow,
} from '../../src/wire/groups.ts'
import {
  type BatchJobBody,
  batchJobBody,
  hopsOf,
  newJobFrom,
  type RequestOrigin,
  storedOrThrow,
} from '../../src/wire/jobs.ts'
import { unknownDependency } from '../../src/wire/needs.ts'
import { preferHeaders, setPreferenceHeaders } from '../http/prefer.ts'
import { noQuery, problemResponse, UNKNOWN_ENDPOINT } from '../http/route-schema.ts'

const MAX_BATCH_JOBS = 1_000
/** A batch may be this many times as large as a request with one job. */
export const BATCH_SIZE_FACTOR = 16
/** Limit of the payload bytes of one write to the store, so that other writes are not delayed. */
const MAX_WRITE_BYTES = 16 * 1_048_576
const HEADER_BYTE_COST = 4
const DEPENDENCY_COST_BYTES = 2_048
/** Limit of jobs in all batches that are being stored. Jobs beyond it would wait for seconds. */
const MAX_STORING_JOBS = 20_000
/**
 * No write begins later than this after the first one, because each write has a deadline of its own
 * in addition.
 */
const MAX_BEGIN_MS = STORE_DEADLINE_MS / 2
/** How long items are checked before other requests are served. */
const MAX_STEP_MS = 5
const RETRY_AFTER_SECONDS = '1'
const GROUP_REFERENCE = '#group'

/**
 * The handler checks items one by one, so that an invalid one does not affect the others. This
 * schema only describes them.
 */
const batchBody = z.strictObject({
  jobs: z.array(z.unknown()).min(1).max(MAX_BATCH_JOBS).meta({
    description:
      'each has the fields of POST /jobs and idempotencyKey, and is validated on its own; "#0" in dependsOn or needs names the first item, "#group" in dependsOn the group of the batch',
  }),
  group: batchGroupBody.optional().meta({
    description:
      'creates a group that the items join unless they name another one, or null. Has the fields of a new group, idempotencyKey, which is required if an item has one, and open; false closes the group if every item was accepted',
  }),
})
type BatchBody = z.output<typeof batchBody>

export const batchResponse = z.object({
  items: z.array(
    z.union([
      z.object({
        status: z.int(),
        id: z.string(),
        state: z
          .enum(JOB_STATES)
          .optional()
          .meta({ description: 'the state; only with Prefer: return=minimal' }),
        deduplicated: z.literal(true).optional(),
        group: z
          .string()
          .nullable()
          .optional()
          .meta({ description: 'the group of the job; only if the batch has one' }),
      }),
      z.object({
        status: z.int(),
        error: z.object({
          code: z.string(),
          detail: z.string(),
          errors: problemResponse.shape.errors,
        }),
      }),
    ]),
  ),
  group: groupResponse.optional().meta({ description: 'the group of the batch' }),
})

interface BatchRoutes {
  store: Store
  size: BatchSize
  maxBodyBytes: number
  metrics: ApiMetrics
}

export function registerBatchRoute(app: FastifyInstance, parts: BatchRoutes): void {
  let storingCount = 0
  app.post<{ Body: BatchBody }>(
    '/jobs/batch',
    {
      bodyLimit: parts.maxBodyBytes * BATCH_SIZE_FACTOR,
      config: { scope: 'enqueue' },
      schema: {
        summary: 'Enqueue up to 1,000 jobs, each with its own result',
        body: batchBody,
        querystring: noQuery,
        headers: preferHeaders,
        response: { 200: batchResponse },
        errors: ['overloaded', 'idempotency_key_reused', UNKNOWN_ENDPOINT],
        responseHeaders: { 200: ['preference-applied', 'vary'] },
      },
    },
    async ({ body: { jobs, group: asked }, headers }, reply) => {
      const isMinimal = (headers as z.output<typeof preferHeaders>).prefer === 'minimal'
      const hops = hopsOf(headers)
      const traced = { endpoint: null, jobCount: jobs.length }
      return traceEnqueue(traceContextOf(headers), traced, async (trace) => {
        if (storingCount + jobs.length > MAX_STORING_JOBS) throw tooManyBatches()
        storingCount += jobs.length
        try {
          const group = asked ? await createBatchGroup(parts.store, asked, jobs, hops) : null
          const items = await readItems(parts, { trace, hops }, jobs, group)
          await enqueueInOrder(parts, items, group).catch((error) => failRest(items, error))
          if (group !== null) await closeIfAccepted(parts.store, group, items)
          // The usual response has no whole jobs either, so only `minimal` changes anything.
          setPreferenceHeaders(reply, isMinimal ? 'minimal' : null)
          const responses = { items: items.map((item) => responseOf(item, isMinimal, group)) }
          if (group === null) return responses
          const stored = await parts.store.getGroup(group.id)
          return stored === null ? responses : { ...responses, group: groupView(stored) }
        } finally {
          storingCount -= jobs.length
        }
      })
    },
  )
}

/** The group that a batch creates. */
interface BatchGroup {
  id: string
  /** Whether it is closed after the last member. */
  closes: boolean
  isClosed: boolean
}

async function createBatchGroup(
  store: Store,
  { open, idempotencyKey, ...body }: BatchGroupBody,
  jobs: unknown[],
  hops: number,
): Promise<BatchGroup> {
  const hasKey = (job: unknown) =>
    typeof job === 'object' && job !== null && 'idempotencyKey' in job
  if (idempotencyKey === undefined && jobs.some(hasKey)) {
    const message = 'is required if an item has one, so that a repeat finds the group'
    const errors = [{ path: '/group/idempotencyKey', message }]
    throw new AppError('invalid_request', `/group/idempotencyKey: ${message}`, { errors })
  }
  const made = newGroupFrom(body, idempotencyKey, hops, store.clock.now())
  const { group } = storedGroupOrThrow(await store.createGroup(made))
  return { id: group.id, closes: !open, isClosed: false }
}

/** An item that was not stored may be sent again: the group must still take it. */
async function closeIfAccepted(store: Store, group: BatchGroup, items: Item[]): Promise<void> {
  if (!group.closes || group.isClosed) return
  if (!items.every(({ response }) => response !== null && 'id' in response)) return
  await store.closeGroup(group.id)
  group.isClosed = true
}

/** An item of the batch, from its request to its response. */
interface Item {
  job: NewJob | null
  /** Of dependsOn and needs: ids, and `#n` for earlier items, as in the request. */
  dependencies: string[]
  /** The item has no key that could lead to another job, so its id is known before it is stored. */
  isKeyless: boolean
  response: ItemResponse | null
  /** The job as it is stored; null: there is none. */
  stored: MinimalJob | null
}

type ItemResponse =
  | { status: 200 | 201; id: string; deduplicated?: true }
  | { status: number; error: { code: string; detail: string; errors: AppError['errors'] } }

/** Serves other requests every few milliseconds: checking an invalid batch can take long. */
async function readItems(
  parts: BatchRoutes,
  origin: RequestOrigin,
  jobs: unknown[],
  group: BatchGroup | null,
): Promise<Item[]> {
  const items: Item[] = []
  let turnAtMs = performance.now() + MAX_STEP_MS
  for (const body of jobs) {
    items.push(readItem(parts, origin, body, group))
    if (performance.now() < turnAtMs) continue
    await nextTurn()
    turnAtMs = performance.now() + MAX_STEP_MS
  }
  return items
}

function readItem(
  { store, maxBodyBytes }: BatchRoutes,
  origin: RequestOrigin,
  body: unknown,
  group: BatchGroup | null,
): Item {
  const item: Item = { job: null, dependencies: [], isKeyless: true, response: null, stored: null }
  if (body instanceof AppError) return { ...item, response: refusal(body) }
  const checked = batchJobBody.safeParse(body)
  if (!checked.success) return { ...item, response: refusal(invalidRequest(checked.error, '')) }
  const { idempotencyKey, dependsOn, ...rest }: BatchJobBody = checked.data
  if (rest.payload.bytes.byteLength > maxBodyBytes) {
    const detail = 'the payload is larger than MAX_BODY_BYTES allows'
    return { ...item, response: refusal(new AppError('payload_too_large', detail)) }
  }
  try {
    const now = store.clock.now()
    const joined = rest.group === undefined ? (group?.id ?? null) : rest.group
    item.job = newJobFrom({ ...rest, group: joined, dependsOn }, idempotencyKey, origin, now)
    item.dependencies = dependenciesOf(item.job)
    item.isKeyless = idempotencyKey === undefined && !rest.dedupe
  } catch (error) {
    item.response = refusal(error)
  }
  return item
}

/**
 * Writes items in groups, with the same results as one by one. A group ends when it becomes too
 * large, and before an item that refers to another item of the group whose id is not known yet.
 */
async function enqueueInOrder(
  parts: BatchRoutes,
  items: Item[],
  group: BatchGroup | null,
): Promise<void> {
  const endsAtMs = performance.now() + MAX_BEGIN_MS
  let stretch: Item[] = []
  let bytes = 0
  const write = async () => {
    await enqueueStretch(parts, stretch, endsAtMs)
    stretch = []
    bytes = 0
  }
  for (const [index, item] of items.entries()) {
    const itemBytes = item.job === null ? 0 : writeCostOf(item.job)
    if (waitsForEarlier(item, items) || bytes + itemBytes > MAX_WRITE_BYTES) await write()
    if (item.dependencies.includes(GROUP_REFERENCE)) {
      await write()
      if (group !== null) await closeIfAccepted(parts.store, group, items.slice(0, index))
      resolveGroup(item, group)
    }
    if (item.dependencies.length > 0) resolveReferences(item, items.slice(0, index))
    if (item.job === null) continue
    stretch.push(item)
    bytes += itemBytes
  }
  await write()
}

/**
 * The cost of a job, expressed as bytes of payload. Headers cost more because they are encrypted,
 * a dependency because it is looked up and stored as a row, and a need because a result is copied.
 */
function writeCostOf({ payload, headers, dependsOn, needs }: NewJob): number {
  const headerBytes = Object.values(headers).reduce((sum, value) => sum + value.length, 0)
  return (
    payload.byteLength +
    HEADER_BYTE_COST * headerBytes +
    DEPENDENCY_COST_BYTES * dependsOn.length +
    NEED_COST_BYTES * needs.length
  )
}

function waitsForEarlier(item: Item, items: Item[]): boolean {
  return item.dependencies.filter(isItemReference).some((text) => {
    const earlier = items[indexOf(text)]
    return earlier !== undefined && earlier.response === null && !earlier.isKeyless
  })
}

/** Replaces `#group` by the id of the group, which must be closed by now. */
function resolveGroup(item: Item, group: BatchGroup | null): void {
  const { job } = item
  if (job === null) return
  if (group?.isClosed !== true || job.group === group.id) {
    item.job = null
    const message =
      '#group: expected open: false in the group, accepted items before, and group: null in this item'
    item.response = refusal(unknownDependency(message, job, GROUP_REFERENCE))
    return
  }
  const { id } = group
  job.dependsOn = job.dependsOn.map((text) => (text === GROUP_REFERENCE ? id : text))
}

/** Replaces `#n` by ids. An item that refers to an item without a job is refused. */
function resolveReferences(item: Item, earlier: Item[]): void {
  const { job } = item
  if (job === null) return
  const ids = new Map<string, string>()
  for (const text of dependenciesOf(job)) {
    const id = isItemReference(text) ? idOf(earlier[indexOf(text)]) : text
    if (id === null) {
      item.job = null
      item.response = refusal(notStored([text], job, text))
      return
    }
    ids.set(text, id)
  }
  const resolved = (text: string) => ids.get(text) as string
  job.needs = job.needs.map((need) => ({ ...need, jobId: resolved(need.jobId) }))
  // An item can turn out to be a job that the request names by its id, too.
  const needed = new Set(job.needs.map(({ jobId }) => jobId))
  job.dependsOn = [...new Set(job.dependsOn.map(resolved))].filter((id) => !needed.has(id))
}

function idOf(item: Item | undefined): string | null {
  if (item?.response) return 'id' in item.response ? item.response.id : null
  return item?.job?.id ?? null
}

/** Writes as many items at a time as the store can take. */
async function enqueueStretch(
  parts: BatchRoutes,
  stretch: Item[],
  endsAtMs: number,
): Promise<void> {
  for (let at = 0; at < stretch.length; ) {
    if (performance.now() > endsAtMs) throw new StoreUnavailable('the store took too long')
    const some = stretch.slice(at, at + parts.size.limit)
    await enqueueSome(parts, some)
    at += some.length
  }
}

async function enqueueSome({ store, size, metrics }: BatchRoutes, some: Item[]): Promise<void> {
  const startedAtMs = performance.now()
  metrics.onBatch(some.length)
  const jobs = some.map(({ job }) => job as NewJob)
  const results = await size.run(jobs.length, () => store.enqueue(jobs, () => true))
  const durationMs = performance.now() - startedAtMs
  some.forEach((item, i) => {
    const result = results[i] as EnqueueResult<MinimalJob>
    metrics.onEnqueued(result.kind, durationMs)
    item.response = responseTo(result, item)
    if ('job' in result) item.stored = result.job
  })
}

/**
 * Handles a write that failed. If the store wrote only the first items in time, the response says
 * so, and the client can send the rest again. If it wrote nothing, the whole batch fails.
 */
function failRest(items: Item[], error: unknown): void {
  const isPartlyStored = items.some(({ response }) => response !== null && 'id' in response)
  if (!(error instanceof StoreUnavailable) || !isPartlyStored) throw error
  const detail = 'the store did not store the whole batch in time; send this job again'
  for (const item of items) item.response ??= refusal(new AppError('store_unavailable', detail))
}

function responseTo(result: EnqueueResult<MinimalJob>, { job, dependencies }: Item): ItemResponse {
  try {
    const stored = storedOrThrow(result, job as NewJob)
    return stored.kind === 'inserted'
      ? { status: 201, id: stored.job.id }
      : { status: 200, id: stored.job.id, deduplicated: true }
  } catch (error) {
    // The id of an item that was refused was made here and means nothing to the client.
    const isOurs = result.kind === 'unknown_dependency' && !dependencies.includes(result.jobId)
    return refusal(
      isOurs ? notStored(dependencies.filter(isReference), job as NewJob, result.jobId) : error,
    )
  }
}

function tooManyBatches(): AppError {
  return new AppError('overloaded', 'too many batches are being stored; send again later', {
    headers: { 'retry-after': RETRY_AFTER_SECONDS },
  })
}

function notStored(references: string[], job: NewJob, jobId: string): AppError {
  const message = `${references.join(', ')}: expected earlier items that were stored`
  return unknownDependency(message, job, jobId)
}

function refusal(error: unknown): ItemResponse {
  if (!(error instanceof AppError)) throw error
  const { status, code, message: detail, errors } = error
  return { status, error: { code, detail, errors } }
}

function responseOf(
  { response, stored }: Item,
  isMinimal: boolean,
  batchGroup: BatchGroup | null,
): object {
  if (response === null) throw new Error('an item of a batch was left without a response')
  if (stored === null) return response
  const { state, group } = stored
  return {
    ...response,
    ...(isMinimal ? { state } : {}),
    ...(batchGroup === null ? {} : { group }),
  }
}

function isReference(text: string): boolean {
  return text.startsWith('#')
}

function isItemReference(text: string): boolean {
  return isReference(text) && text !== GROUP_REFERENCE
}

function indexOf(reference: string): number {
  return Number(reference.slice(1))
}
