// Enqueue: one read of the endpoints and one of the dependencies, then one insert for the whole
// batch, after one of the payloads that are stored apart (bodies.ts). A key that another job has is
// a duplicate-key error; enqueue-conflicts.ts reads which job that is. A job that depends on others
// or has an ordering key is inserted blocked, and promoted before enqueue returns. After an insert
// without a response, the jobs are read back by their ids.
import type { WriteError } from 'mongodb'
import {
  type AcceptingEndpoint,
  decideAcceptance,
  isDisabledFor,
  namedOnFinish,
  newlyQueued,
  newlyQueuedMinimal,
} from '../../job/acceptance.ts'
import type { IsMinimal, JobState, MinimalJob, NewJob } from '../../job/job.ts'
import { dependenciesOf } from '../../job/needs.ts'
import { type EnqueueResult, MAX_ENQUEUE_BATCH, STORE_DEADLINE_MS } from '../store.ts'
import { StoreUnavailable } from '../store-errors.ts'
import { type BlockedJob, checkBlocked, markDependedOn, statesOf } from './blocked-jobs.ts'
import { bodiesOf, deleteBodies, storeBodies } from './bodies.ts'
import {
  type Deadline,
  isBareDuplicateKey,
  isDuplicateKey,
  isOnlyDuplicateKeys,
  type MongoContext,
  NEWEST,
  run,
  startDeadline,
} from './connection.ts'
import type { EndpointDocument } from './endpoint-document.ts'
import {
  type BatchResults,
  fillInFrom,
  findHolders,
  type Item,
  isSameJob,
  knownBy,
  type Resolved,
  readJobs,
  refusedBy,
  resolve,
} from './enqueue-conflicts.ts'
import { registerAdds } from './group-members.ts'
import { announceNeeds, keepNeeded } from './inputs.ts'
import { BY_ID, newJobDocument } from './job-document.ts'
import { admitStored, type EndpointLanes, placeNew } from './turns.ts'

/** The holder of a key can be purged between insert and read: then the key is free again. */
const MAX_ROUNDS_WITHOUT_PROGRESS = 5

interface Enqueued {
  results: EnqueueResult<MinimalJob>[]
  /** Ids of jobs that became final because others took their dedupe keys. */
  finished: string[]
  /** Jobs of the batch that wait for one of these: they fail with the effects of its finish. */
  doomed: BlockedJob[]
}

/** One call of enqueue. */
interface Batch extends BatchResults {
  context: MongoContext
  finished: string[]
  /** Indexes of members that an earlier add has stored. */
  ofEarlierAdd: Set<number>
  blocked: Item[]
  lanes: Map<string, EndpointLanes>
  deadline: Deadline
}

interface EnqueueContext {
  endpoints: Map<string, AcceptingEndpoint>
  /** Of the endpoints that have had a fairness key. */
  lanes: Map<string, EndpointLanes>
  /** By id. A dependency that is not stored has none. */
  states: Map<string, JobState>
}

const FOUND = {
  'retry.maxAttempts': 1,
  disabledReason: 1,
  onFinish: 1,
  lanes: 1,
  hasKeySettings: 1,
} as const

type FoundEndpoint = Pick<
  EndpointDocument,
  '_id' | 'disabledReason' | 'onFinish' | keyof EndpointLanes
> & {
  retry: { maxAttempts: number }
}

/** Reserved for reading back the outcome of an insert without a response. */
const READ_BACK_MS = 500
/**
 * After this many rounds without progress a job is inserted without its key. On mongod the second
 * round succeeds, because the holder of the key has lost it in the first one.
 */
const KEYLESS_FROM_ROUND = 2
/** Longer than any verb takes: until then no sweep checks a job that is not complete yet. */
const KEYLESS_MS = 10_000

export async function enqueue(
  context: MongoContext,
  jobs: NewJob[],
  isMinimal: IsMinimal,
): Promise<Enqueued> {
  if (jobs.length > MAX_ENQUEUE_BATCH) {
    throw new Error(`a batch holds at most ${MAX_ENQUEUE_BATCH} jobs, not ${jobs.length}`)
  }
  const results: Enqueued['results'] = jobs.map(() => ({ kind: 'unknown_endpoint' }))
  if (jobs.length === 0) return { results, finished: [], doomed: [] }
  const deadline = startDeadline()
  await announceNeeds(context, jobs, deadline)
  const { endpoints, lanes, states } = await loadEnqueueContext(context, jobs, deadline)
  const batch: Batch = {
    ...{ context, results, isMinimal, existing: [] },
    ...{ finished: [], ofEarlierAdd: new Set(), blocked: [], lanes, deadline },
  }
  const adds = await registerAdds(context, jobs, deadline)
  const accepts = (name: string) => endpoints.has(name)
  /** Earlier jobs of the batch that are stored, or certainly will be. */
  const inserted = new Set<string>()
  const stateOf = (id: string) => states.get(id) ?? (inserted.has(id) ? 'queued' : null)
  const refused: { index: number; job: NewJob }[] = []
  for (const wave of wavesOf(jobs)) {
    const items: Item[] = []
    for (const index of wave) {
      const job = jobs[index] as NewJob
      const endpoint = endpoints.get(job.endpoint)
      if (endpoint === undefined) continue
      if (isDisabledFor(job, endpoint)) {
        results[index] = { kind: 'endpoint_disabled' }
        continue
      }
      const decision = decideAcceptance(job, endpoint, accepts, stateOf, adds.refusal(index))
      if (decision.kind === 'accepted') {
        const ticket = adds.ticketOf(index)
        const document = newJobDocument(job, decision, context.box, context.clock.now(), ticket)
        items.push({ index, job, document })
        if (!mayBeKnown(job)) inserted.add(job.id)
      } else {
        results[index] = decision
        if (mayBeKnown(job)) refused.push({ index, job })
      }
    }
    await storeItems(batch, items)
    for (const { index, job } of items)
      if (results[index]?.kind === 'inserted') inserted.add(job.id)
  }
  await adds.confirm(
    (index) => results[index]?.kind === 'inserted' && !batch.ofEarlierAdd.has(index),
  )
  await fillInKnown(batch, refused)
  const isChanged = await promoteBlocked(batch)
  await fillIn({ ...batch, blocked: isChanged ? batch.blocked : [] })
  if (results.some(({ kind }) => kind === 'inserted')) context.notifyWork()
  return { results, finished: batch.finished, doomed: doomedOf(batch) }
}

function doomedOf({ blocked, finished }: Batch): BlockedJob[] {
  const ids = new Set(finished)
  return blocked
    .map(({ document }) => document)
    .filter(({ waitingFor = [] }) => waitingFor.some((id) => ids.has(id)))
}

/**
 * Parts of the batch, as indexes; each is stored after the ones before. A job that depends on an
 * earlier job of the batch is in a later part, if that one may turn out to be stored already.
 */
function wavesOf(jobs: NewJob[]): number[][] {
  if (jobs.every((job) => dependenciesOf(job).length === 0)) return [[...jobs.keys()]]
  const indexById = new Map(jobs.map(({ id }, index) => [id, index]))
  const waveOf: number[] = []
  jobs.forEach((dependent, index) => {
    const earliest = dependenciesOf(dependent).map((id) => {
      const other = indexById.get(id) ?? index
      const job = jobs[other]
      if (other >= index || job === undefined) return 0
      return (waveOf[other] ?? 0) + (mayBeKnown(job) ? 1 : 0)
    })
    waveOf.push(Math.max(0, ...earliest))
  })
  const waves = Map.groupBy([...jobs.keys()], (index) => waveOf[index] ?? 0)
  return [...waves].sort(([a], [b]) => a - b).map(([, indices]) => indices)
}

function mayBeKnown({ idempotency, dedupe, originKey }: NewJob): boolean {
  return idempotency !== null || dedupe !== null || originKey !== null
}

async function storeItems(batch: Batch, items: Item[]): Promise<void> {
  const { context, results, deadline } = batch
  const bodies = items.flatMap(({ job: { payload, inputs = payload }, document }) =>
    bodiesOf(document).map((name) => ({
      ...name,
      bytes: name._id === document.inputsId ? inputs : payload,
    })),
  )
  await storeBodies(context, bodies, deadline)
  await beginLanes(batch, items)
  const outside = await placeNew(context, items, batch.lanes, deadline)
  const inUse = new Set<string | undefined>()
  let open = items
  let roundsWithoutProgress = 0
  while (open.length > 0) {
    const taken = await tryToInsert(context, open, roundsWithoutProgress, deadline)
    for (const item of open) {
      if (taken.has(item)) continue
      results[item.index] = insertedAs(item, batch)
      inUse.add(item.document.payloadId).add(item.document.inputsId)
      if (item.document.state === 'blocked') batch.blocked.push(item)
    }
    const resolved = await resolveAll(batch, [...taken])
    for (const item of resolved.own) {
      results[item.index] = insertedAs(item, batch)
      if (item.groupAdd !== item.document.groupAdd) batch.ofEarlierAdd.add(item.index)
      inUse.add(item.payloadId).add(item.document.inputsId)
      if (item.document.state === 'blocked') batch.blocked.push(item)
    }
    batch.finished.push(...resolved.finished)
    roundsWithoutProgress = resolved.open.length < open.length ? 0 : roundsWithoutProgress + 1
    if (roundsWithoutProgress > MAX_ROUNDS_WITHOUT_PROGRESS) {
      throw new StoreUnavailable('a key was freed each time it was found in use')
    }
    open = resolved.open
  }
  await admitStored(context, outside, deadline)
  const unused = bodies.filter(({ _id }) => !inUse.has(_id))
  await deleteBodies(context, unused, deadline)
}

/** From now on claims look at the lanes of these endpoints. */
async function beginLanes({ context, lanes, deadline }: Batch, items: Item[]): Promise<void> {
  const names = new Set(
    items.flatMap(({ job: { endpoint, fairnessKey } }) =>
      fairnessKey === null || lanes.get(endpoint)?.lanes !== undefined ? [] : [endpoint],
    ),
  )
  if (names.size === 0) return
  // One by one: the driver does not repeat an update of many documents when the primary changes.
  const updates = [...names].map((_id) => ({
    updateOne: {
      filter: { _id, lanes: { $exists: false } },
      update: { $set: { lanes: {} } },
      ...BY_ID,
    },
  }))
  await run(deadline, (limit) => context.endpoints.bulkWrite(updates, { ordered: false, ...limit }))
  for (const name of names) {
    lanes.set(name, { ...lanes.get(name), lanes: {} })
    context.newlyKeyed.add(name)
  }
}

/** Reads again where the holder of a key changed meanwhile. That needs no other insert. */
async function resolveAll(batch: Batch, items: Item[]): Promise<Resolved> {
  const { context, deadline } = batch
  const all: Resolved = { open: [], raced: [], own: [], finished: [] }
  for (let left = items; left.length > 0; left = all.raced.splice(0)) {
    const some = await resolve(context, left, batch, deadline)
    for (const kind of ['open', 'raced'] as const) all[kind].push(...some[kind])
    all.own.push(...some.own)
    all.finished.push(...some.finished)
  }
  return all
}

async function tryToInsert(
  context: MongoContext,
  items: Item[],
  roundsWithoutProgress: number,
  deadline: Deadline,
): Promise<Set<Item>> {
  const isKeyless = ({ document }: Item) =>
    roundsWithoutProgress >= KEYLESS_FROM_ROUND && document.dedupeHolder !== undefined
  const keyless = items.filter(isKeyless)
  const others = items.filter((item) => !isKeyless(item))
  const taken = others.length === 0 ? new Set<Item>() : await insert(context, others, deadline)
  if (keyless.length === 0) return taken
  return new Set([...taken, ...(await insertKeyless(context, keyless, deadline))])
}

/** A repeated request that would be refused now has the result of the first one. */
async function fillInKnown(batch: Batch, refused: { index: number; job: NewJob }[]): Promise<void> {
  if (refused.length === 0) return
  const jobs = refused.map(({ index, job }) => ({ index, job: { ...job, dedupe: null } }))
  const holders = await findHolders(batch.context, jobs, batch.isMinimal, batch.deadline)
  for (const { index, job } of refused) {
    const known = knownBy(job, holders)
    if (known === null || isMadeAfter(batch, index, known.holder._id)) continue
    if (known.kind !== 'existing') batch.results[index] = refusedBy(known.holder, known.kind)
    else batch.existing.push({ index, jobId: known.holder._id })
  }
}

/** Whether a later request of the batch made the job: an earlier request cannot repeat it. */
function isMadeAfter({ results }: Batch, index: number, jobId: string): boolean {
  return results
    .slice(index + 1)
    .some((result) => result.kind === 'inserted' && result.job.id === jobId)
}

/** Marks the dependencies, then reads them, so that one that finishes in between is not missed. */
async function promoteBlocked({ context, blocked, deadline }: Batch): Promise<boolean> {
  if (blocked.length === 0) return false
  const documents = blocked.map(({ document }) => document)
  const waitedFor = documents.flatMap(({ waitingFor = [] }) => waitingFor)
  await markDependedOn(context, [...new Set(waitedFor)], deadline)
  await keepNeeded(context, documents, deadline)
  const { isChanged } = await checkBlocked(context, documents, { fails: false }, deadline)
  return isChanged
}

/** Reads the jobs whose result is not complete: existing ones, and those that were promoted. */
async function fillIn(batch: Batch): Promise<void> {
  const { context, results, isMinimal, existing, blocked, deadline } = batch
  const promoted = blocked.map(({ index, job }) => ({ index, jobId: job.id }))
  const found = await readJobs(context, [...existing, ...promoted], isMinimal, deadline)
  fillInFrom(found, existing, results)
  for (const { index, jobId } of promoted) {
    const job = found.get(jobId)
    if (job !== undefined) results[index] = { kind: 'inserted', job }
  }
}

function insertedAs(
  { index, job, document }: Item,
  { isMinimal }: Pick<Batch, 'isMinimal'>,
): EnqueueResult<MinimalJob> {
  if (isMinimal(index)) return { kind: 'inserted', job: newlyQueuedMinimal(job) }
  const { maxAttempts, onFinish = null, waitingFor = [] } = document
  const isBlocked = document.state === 'blocked'
  return {
    kind: 'inserted',
    job: newlyQueued(job, { maxAttempts, onFinish, waitingFor, isBlocked }),
  }
}

async function loadEnqueueContext(
  context: MongoContext,
  jobs: NewJob[],
  deadline: Deadline,
): Promise<EnqueueContext> {
  const names = [
    ...new Set(
      jobs.flatMap((job) => {
        const named = namedOnFinish(job)
        return named === null ? [job.endpoint] : [job.endpoint, named.endpoint]
      }),
    ),
  ]
  const found = await run(deadline, (limit) =>
    context.endpoints
      .find<FoundEndpoint>(
        { _id: { $in: names }, deleting: false },
        { projection: FOUND, batchSize: names.length + 1, ...NEWEST, ...limit },
      )
      .toArray(),
  )
  const dependencies = jobs.flatMap(dependenciesOf)
  return {
    endpoints: new Map(found.map((endpoint) => [endpoint._id, acceptingOf(endpoint)])),
    lanes: new Map(found.map((endpoint) => [endpoint._id, endpoint])),
    states: await statesOf(context, dependencies, deadline),
  }
}

function acceptingOf({ disabledReason, onFinish, retry }: FoundEndpoint): AcceptingEndpoint {
  return {
    disabledReason,
    onFinish,
    maxAttempts: retry.maxAttempts,
  }
}

/**
 * Inserts; returns those that were refused because their id or a key is stored already. The server
 * says which of them only in its message, next to the key, which is a caller's text.
 */
async function insert(
  context: MongoContext,
  items: Item[],
  deadline: Deadline,
): Promise<Set<Item>> {
  const ownMs = Math.min(STORE_DEADLINE_MS, deadline.leftMs()) - READ_BACK_MS
  try {
    await run(startDeadline(ownMs), (limit) =>
      context.jobs.insertMany(
        items.map(({ document }) => document),
        { ordered: false, ...limit },
      ),
    )
    return new Set()
  } catch (error) {
    if (isOnlyDuplicateKeys(error)) return refusedItems(items, [error.writeErrors].flat())
    if (!(error instanceof StoreUnavailable)) throw error
    const missing = await notStored(context, items, deadline)
    if (missing.size === 0) return missing
    if (isBareDuplicateKey(error.cause)) return missing
    throw error
  }
}

/**
 * Inserts without the dedupe key, blocked, and then gives it the key. Slower, and so only if an
 * insert was refused for a key that no job has: on some engines (secantusd-rs 0.5), a key that an
 * update removed still prevents inserts, but not updates. Returns those whose key was taken.
 */
async function insertKeyless(
  context: MongoContext,
  items: Item[],
  deadline: Deadline,
): Promise<Set<Item>> {
  const recheckAt = new Date(context.clock.now() + KEYLESS_MS)
  const keyless = items.map(({ document: { dedupeHolder, ...rest }, ...item }) => ({
    ...item,
    document: { ...rest, state: 'blocked' as const, recheckAt },
  }))
  const refused = await insert(context, keyless, deadline)
  // The driver repeats an insert without a response: then a job is refused, but stored.
  const missing = refused.size === 0 ? refused : await notStored(context, [...refused], deadline)
  const taken = new Set<Item>()
  for (const [i, item] of items.entries()) {
    const isStored = !missing.has(keyless[i] as Item)
    if (!isStored || !(await giveKey(context, item, deadline))) taken.add(item)
  }
  return taken
}

async function giveKey(context: MongoContext, item: Item, deadline: Deadline): Promise<boolean> {
  const { _id, endpoint, dedupeHolder, state } = item.document
  if (dedupeHolder === undefined) throw new Error('only a job with a dedupe key can get one')
  try {
    await run(deadline, (limit) =>
      context.jobs.updateOne(
        { _id, endpoint, state: 'blocked' },
        { $set: { dedupeHolder, state, recheckAt: new Date(0) } },
        { ...BY_ID, ...limit },
      ),
    )
    return true
  } catch (error) {
    if (!isDuplicateKey(error)) throw error
    await run(deadline, (limit) =>
      context.jobs.deleteOne({ _id, endpoint, state: 'blocked' }, { ...BY_ID, ...limit }),
    )
    return false
  }
}

function refusedItems(items: Item[], errors: WriteError[]): Set<Item> {
  return new Set(errors.flatMap(({ index }) => items[index] ?? []))
}

/** Those that are not stored, after an insert with an unknown outcome. */
async function notStored(
  context: MongoContext,
  items: Item[],
  deadline: Deadline,
): Promise<Set<Item>> {
  const ids = items.map(({ job }) => job.id)
  const found = await run(deadline, (limit) =>
    context.jobs
      .find(
        { _id: { $in: ids } },
        { projection: { originKey: 1, originHash: 1 }, batchSize: ids.length + 1, ...limit },
      )
      .toArray(),
  )
  const stored = new Map(found.map((document) => [document._id, document]))
  return new Set(items.filter(({ job }) => !isSameJob(job, stored.get(job.id))))
}
