// Enqueue: one look at the endpoints, one insert for the whole batch. A key that is taken comes
// back as a duplicate-key error and is told apart by reading its holder.
import type { WriteError } from 'mongodb'
import { type NewJob, newlyQueued } from '../../job/job.ts'
import { type EnqueueResult, MAX_ENQUEUE_BATCH, StoreUnavailable } from '../store.ts'
import type { MongoContext } from './context.ts'
import { type JobDocument, jobOf, newJobDocument } from './documents.ts'
import {
  type Deadline,
  isOnlyDuplicateKeys,
  run,
  startDeadline,
  VERB_DEADLINE_MS,
} from './run-command.ts'

/** Kept back from the insert, to find out what became of one that was not answered. */
const READ_BACK_MS = 500
/** A key's holder can be purged between the insert and the look: then the key is free again. */
const MAX_ROUNDS = 3

interface Item {
  index: number
  job: NewJob
  document: JobDocument
}

type Holder = Omit<JobDocument, 'payload'>

export async function enqueue(context: MongoContext, jobs: NewJob[]): Promise<EnqueueResult[]> {
  if (jobs.length > MAX_ENQUEUE_BATCH) {
    throw new Error(`a batch holds at most ${MAX_ENQUEUE_BATCH} jobs, not ${jobs.length}`)
  }
  if (jobs.length === 0) return []
  const deadline = startDeadline()
  const maxAttempts = await acceptingEndpoints(context, jobs, deadline)
  const results: EnqueueResult[] = jobs.map(() => ({ kind: 'unknown_endpoint' }))
  let open: Item[] = []
  jobs.forEach((job, index) => {
    const endpointMaxAttempts = maxAttempts.get(job.endpoint)
    if (endpointMaxAttempts === undefined) return
    const budget = job.maxAttempts ?? endpointMaxAttempts
    open.push({ index, job, document: newJobDocument(job, budget, context.box) })
  })
  for (let round = 1; open.length > 0; round++) {
    if (round > MAX_ROUNDS)
      throw new StoreUnavailable('keys were freed as often as they were tried')
    const taken = await insert(context, open, deadline)
    for (const item of open) {
      if (taken.has(item)) continue
      results[item.index] = inserted(item)
    }
    open = await tellApart(context, [...taken], results, deadline)
  }
  if (results.some(({ kind }) => kind === 'inserted')) context.hint()
  return results
}

/** The budget of each endpoint that takes jobs. */
async function acceptingEndpoints(
  context: MongoContext,
  jobs: NewJob[],
  deadline: Deadline,
): Promise<Map<string, number>> {
  const names = [...new Set(jobs.map(({ endpoint }) => endpoint))]
  const found = await run(deadline, (limit) =>
    context.endpoints
      .find(
        { _id: { $in: names }, deleting: false },
        { projection: { 'retry.maxAttempts': 1 }, batchSize: names.length + 1, ...limit },
      )
      .toArray(),
  )
  return new Map(found.map(({ _id, retry }) => [_id, retry.maxAttempts]))
}

/** Inserts; returns those whose key was taken. */
async function insert(
  context: MongoContext,
  items: Item[],
  deadline: Deadline,
): Promise<Set<Item>> {
  const ownMs = Math.min(VERB_DEADLINE_MS, deadline.leftMs()) - READ_BACK_MS
  try {
    await run(startDeadline(ownMs), (limit) =>
      context.jobs.insertMany(
        items.map(({ document }) => document),
        { ordered: false, ...limit },
      ),
    )
    return new Set()
  } catch (error) {
    if (isOnlyDuplicateKeys(error)) return itemsWithTakenKeys(items, [error.writeErrors].flat())
    if (!(error instanceof StoreUnavailable)) throw error
    await readBack(context, items, deadline, error)
    return new Set()
  }
}

function itemsWithTakenKeys(items: Item[], errors: WriteError[]): Set<Item> {
  const taken = new Set<Item>()
  for (const { index, errmsg, err } of errors) {
    const pattern: object | undefined = (err as { keyPattern?: object }).keyPattern
    const ownId = pattern === undefined ? errmsg?.includes('index: _id_') : '_id' in pattern
    // Its own id is there already: an insert whose answer was lost, and which was sent again.
    if (ownId === true) continue
    const item = items[index]
    if (item !== undefined) taken.add(item)
  }
  return taken
}

/** Was it stored after all? Only if every job of it is found; else nobody can tell yet. */
async function readBack(
  context: MongoContext,
  items: Item[],
  deadline: Deadline,
  cause: StoreUnavailable,
): Promise<void> {
  const ids = items.map(({ job }) => job.id)
  const found = await run(deadline, (limit) =>
    context.jobs.countDocuments({ _id: { $in: ids } }, { ...limit }),
  )
  if (found < ids.length) throw cause
}

/** Settles those whose key is held by another job; returns those whose key is free again. */
async function tellApart(
  context: MongoContext,
  items: Item[],
  results: EnqueueResult[],
  deadline: Deadline,
): Promise<Item[]> {
  if (items.length === 0) return []
  const holders = await findHolders(context, items, deadline)
  const open: Item[] = []
  for (const item of items) {
    const { job, index } = item
    const holder = holders.get(keyOf(job.endpoint, job.idempotency?.key ?? ''))
    if (holder === undefined) open.push(item)
    else if (holder._id === job.id) results[index] = inserted(item)
    else if (holder.requestHash !== job.idempotency?.requestHash) {
      results[index] = { kind: 'key_reused', jobId: holder._id }
    } else {
      // The hash covers the payload: its bytes are those at hand and need not travel.
      const document = { ...holder, payload: job.payload }
      results[index] = { kind: 'existing', job: jobOf(document, context.box) }
    }
  }
  return open
}

async function findHolders(
  context: MongoContext,
  items: Item[],
  deadline: Deadline,
): Promise<Map<string, Holder>> {
  const keys = new Map<string, string[]>()
  for (const { job } of items) {
    const known = keys.get(job.endpoint) ?? []
    known.push(job.idempotency?.key ?? '')
    keys.set(job.endpoint, known)
  }
  const alternatives = [...keys].map(([endpoint, some]) => ({
    endpoint,
    idempotencyKey: { $in: some, $exists: true },
  }))
  const found = await run(deadline, (limit) =>
    context.jobs
      .find(
        { $or: alternatives },
        { projection: { payload: 0 }, batchSize: items.length + 1, ...limit },
      )
      .toArray(),
  )
  return new Map(
    found.map((holder) => [keyOf(holder.endpoint, holder.idempotencyKey ?? ''), holder]),
  )
}

function inserted({ job, document }: Item): EnqueueResult {
  return { kind: 'inserted', job: newlyQueued(job, document.maxAttempts) }
}

/** A name holds no space, so that two pairs never look the same. */
function keyOf(endpoint: string, key: string): string {
  return `${endpoint} ${key}`
}
