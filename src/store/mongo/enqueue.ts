// Enqueue: one look at the endpoints, one insert for the whole batch. A key that is taken comes
// back as a duplicate-key error and is told apart by reading who has it. A job that depends on
// others or has an ordering key is inserted held, and promoted before this returns.
import { decideAcceptance, isDisabledFor, newlyQueued } from '../../job/acceptance.ts'
import type { NewJob } from '../../job/job.ts'
import { type EnqueueResult, MAX_ENQUEUE_BATCH, StoreUnavailable } from '../store.ts'
import type { MongoContext } from './context.ts'
import {
  type Answers,
  answerFrom,
  findHolders,
  knownBy,
  type Resolved,
  readExisting,
  refusedBy,
  resolve,
} from './enqueue-conflicts.ts'
import { loadEnqueueContext } from './enqueue-grounds.ts'
import { type Item, insert, insertKeyless } from './enqueue-insert.ts'
import { checkHeld, markDependedOn } from './held.ts'
import { newJobDocument } from './new-job-document.ts'
import { type Deadline, startDeadline } from './run-command.ts'

/** A key's holder can be purged between the insert and the look: then the key is free again. */
const MAX_ROUNDS_WITHOUT_PROGRESS = 5

export interface Enqueued {
  results: EnqueueResult[]
  /** Ids of jobs that became final, for others have their dedupe keys now. */
  finished: string[]
}

/** One call at work. */
interface Batch extends Answers {
  context: MongoContext
  finished: string[]
  held: Item[]
  deadline: Deadline
}

export async function enqueue(context: MongoContext, jobs: NewJob[]): Promise<Enqueued> {
  if (jobs.length > MAX_ENQUEUE_BATCH) {
    throw new Error(`a batch holds at most ${MAX_ENQUEUE_BATCH} jobs, not ${jobs.length}`)
  }
  const results: EnqueueResult[] = jobs.map(() => ({ kind: 'unknown_endpoint' }))
  if (jobs.length === 0) return { results, finished: [] }
  const deadline = startDeadline()
  const batch: Batch = { context, results, existing: [], finished: [], held: [], deadline }
  const { endpoints, states } = await loadEnqueueContext(context, jobs, deadline)
  const accepts = (name: string) => endpoints.has(name)
  /** Earlier jobs of the batch that are stored by now, or surely will be. */
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
      const decision = decideAcceptance(job, endpoint, accepts, stateOf)
      if (decision.kind === 'accepted') {
        items.push({ index, job, document: newJobDocument(job, decision, context.box) })
        if (!mayBeKnown(job)) inserted.add(job.id)
      } else {
        results[index] = decision
        if (mayBeKnown(job)) refused.push({ index, job })
      }
    }
    await store(batch, items)
    for (const { index, job } of items)
      if (results[index]?.kind === 'inserted') inserted.add(job.id)
  }
  await answerKnown(batch, refused)
  const isChanged = await promoteHeld(batch)
  await fillIn({ ...batch, held: isChanged ? batch.held : [] })
  if (results.some(({ kind }) => kind === 'inserted')) context.hint()
  return { results, finished: batch.finished }
}

/**
 * The batch in parts, by index, each to be stored when those before have been: a job that depends
 * on an earlier one of the batch waits for it, if that one may turn out to be known already.
 */
function wavesOf(jobs: NewJob[]): number[][] {
  if (jobs.every(({ dependsOn }) => dependsOn.length === 0)) return [[...jobs.keys()]]
  const indexById = new Map(jobs.map(({ id }, index) => [id, index]))
  const waveOf: number[] = []
  jobs.forEach(({ dependsOn }, index) => {
    const earliest = dependsOn.map((id) => {
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

async function store(batch: Batch, items: Item[]): Promise<void> {
  const { context, results, deadline } = batch
  let open = items
  let fruitless = 0
  while (open.length > 0) {
    const taken = await tryToInsert(context, open, fruitless, deadline)
    for (const item of open) {
      if (taken.has(item)) continue
      results[item.index] = insertedAs(item)
      if (item.document.state === 'held') batch.held.push(item)
    }
    const resolved = await resolveAll(batch, [...taken])
    for (const item of resolved.own) {
      results[item.index] = insertedAs(item)
      if (item.document.state === 'held') batch.held.push(item)
    }
    batch.finished.push(...resolved.finished)
    fruitless = resolved.open.length < open.length ? 0 : fruitless + 1
    if (fruitless > MAX_ROUNDS_WITHOUT_PROGRESS) {
      throw new StoreUnavailable('a key was freed each time it was found in use')
    }
    open = resolved.open
  }
}

/** Whose job changed under the hands of others at once is looked for again: no insert is needed. */
async function resolveAll(batch: Batch, items: Item[]): Promise<Resolved> {
  const { context, deadline } = batch
  const all: Resolved = { open: [], raced: [], own: [], finished: [] }
  for (let left = items; left.length > 0; left = all.raced.splice(0)) {
    const some = await resolve(context, left, batch, deadline)
    for (const kind of ['open', 'raced', 'own'] as const) all[kind].push(...some[kind])
    all.finished.push(...some.finished)
  }
  return all
}

async function tryToInsert(
  context: MongoContext,
  items: Item[],
  fruitless: number,
  deadline: Deadline,
): Promise<Set<Item>> {
  const isKeyless = ({ document }: Item) => fruitless > 0 && document.dedupeHolder !== undefined
  const keyless = items.filter(isKeyless)
  const others = items.filter((item) => !isKeyless(item))
  const taken = others.length === 0 ? new Set<Item>() : await insert(context, others, deadline)
  if (keyless.length === 0) return taken
  return new Set([...taken, ...(await insertKeyless(context, keyless, deadline))])
}

/** A request that would be refused now, but was answered before, is answered as it was. */
async function answerKnown(batch: Batch, refused: { index: number; job: NewJob }[]): Promise<void> {
  if (refused.length === 0) return
  const jobs = refused.map(({ job }) => ({ ...job, dedupe: null }))
  const holders = await findHolders(batch.context, jobs, batch.deadline)
  for (const { index, job } of refused) {
    const known = knownBy(job, holders)
    if (known === null) continue
    if (known.kind !== 'existing') batch.results[index] = refusedBy(known.holder, known.kind)
    else batch.existing.push({ index, jobId: known.holder._id })
  }
}

/** First the marks, then the look: a dependency that finishes in between is not overlooked. */
async function promoteHeld({ context, held, deadline }: Batch): Promise<boolean> {
  if (held.length === 0) return false
  const waitedFor = held.flatMap(({ document }) => document.waitingFor ?? [])
  await markDependedOn(context, [...new Set(waitedFor)], deadline)
  const { isChanged } = await checkHeld(
    context,
    held.map(({ document }) => document),
    { fails: false },
    deadline,
  )
  return isChanged
}

/** Jobs as they are in the end: those that were there, and those that were promoted. */
async function fillIn({ context, results, existing, held, deadline }: Batch): Promise<void> {
  const ids = [...existing.map(({ jobId }) => jobId), ...held.map(({ job }) => job.id)]
  const found = await readExisting(context, ids, deadline)
  answerFrom(found, existing, results)
  for (const { index, job } of held) {
    const result = found.get(job.id)
    if (result?.kind === 'existing') results[index] = { kind: 'inserted', job: result.job }
  }
}

function insertedAs({ job, document }: Item): EnqueueResult {
  const { maxAttempts, onFinish = null, waitingFor = [] } = document
  const isHeld = document.state === 'held'
  return { kind: 'inserted', job: newlyQueued(job, { maxAttempts, onFinish, waitingFor, isHeld }) }
}
