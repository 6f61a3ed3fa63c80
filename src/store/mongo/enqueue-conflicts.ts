// Jobs of an enqueue that were refused because their id or a key is stored: which job has it, and
// what follows. The id is checked first, then the idempotency key, the origin (what the job was
// made for, such as a tick of a schedule), and the dedupe key.
import type { Filter, UpdateFilter } from 'mongodb'
import { type DedupeDecision, decideDedupe } from '../../job/dedupe.ts'
import type { IsMinimal, MinimalJob, NewJob } from '../../job/job.ts'
import type { EnqueueResult } from '../store.ts'
import { StoreUnavailable } from '../store-errors.ts'
import { deleteBodies, readWhole, storeBodies } from './bodies.ts'
import { type Deadline, isDuplicateKey, type MongoContext, nowOf, run } from './connection.ts'
import { guardOf } from './guards.ts'
import {
  BY_ID,
  dateOrNull,
  type JobDocument,
  jobOf,
  newBody,
  payloadFields,
  sealHeaders,
  stateOf,
  toFinal,
  type Whole,
} from './job-document.ts'
import { closeGaps, joinAgain } from './turns.ts'

const WITHOUT_PAYLOAD = { payload: 0, inputs: 0 } as const
/** The large fields, which only the whole job needs. */
const WITHOUT_CONTENT = {
  ...{ payload: 0, inputs: 0, result: 0, attempts: 0, headers: 0, metadata: 0 },
} as const
const MINIMAL = { state: 1, version: 1, group: 1 } as const

type WholeHolder = Omit<JobDocument, keyof typeof WITHOUT_PAYLOAD>
/** It is a WholeHolder unless all results may be minimal. */
type Holder = Omit<JobDocument, keyof typeof WITHOUT_CONTENT> &
  Partial<Pick<WholeHolder, 'attempts'>>

interface Holders {
  byId: Map<string, Holder>
  byKey: Map<string, Holder>
  byOrigin: Map<string, Holder>
  byDedupe: Map<string, Holder>
}

/** An item with the body and the add to its group that the stored job has. */
type StoredItem = Item & Partial<Pick<JobDocument, 'payloadId' | 'groupAdd'>>

export interface Resolved {
  /** Items whose key is free by now: they must be inserted again. */
  open: Item[]
  /**
   * Items whose key belongs to a job that changed meanwhile, or that an earlier one of these items
   * changed.
   */
  raced: Item[]
  /** Items that are stored already: the response to an earlier insert of them was lost. */
  own: StoredItem[]
  /** Ids of jobs that became final. */
  finished: string[]
}

/** The results of a batch, by index. */
export interface BatchResults {
  results: EnqueueResult<MinimalJob>[]
  isMinimal: IsMinimal
  /** Items whose result is a stored job that must still be read. */
  existing: Existing[]
}

interface Existing {
  index: number
  jobId: string
}

/**
 * Limit of idempotency keys of a job. Beyond it, the oldest is dropped, but never the one that
 * created the job.
 */
const MAX_KEYS = 1_000

type DedupeOutcome =
  | { kind: 'dedupe_conflict'; jobId: string }
  /** The result is the job as it is; null: it must still be read. */
  | { kind: 'kept' | 'replaced'; job: MinimalJob | null }
  /** The job no longer has the key. */
  | { kind: 'released'; isFinal: boolean }
  /** The job changed since it was read. */
  | { kind: 'raced' }

const RACED: DedupeOutcome = { kind: 'raced' }

/** A job of the batch that is being stored. */
export interface Item {
  index: number
  job: NewJob
  document: JobDocument
}

/** The id alone is not enough: an application can give an outbox document the id of another job. */
export function isSameJob(
  job: NewJob,
  stored: Pick<JobDocument, '_id' | 'originKey' | 'originHash'> | undefined,
): boolean {
  if (stored?._id !== job.id || (stored.originKey ?? null) !== job.originKey) return false
  return stored.originHash === job.originHash
}

/** Writes what it decides into the results; returns what the caller must do with the rest. */
export async function resolve(
  context: MongoContext,
  items: Item[],
  batch: BatchResults,
  deadline: Deadline,
): Promise<Resolved> {
  const { results, existing, isMinimal } = batch
  /** @param found null: the job must still be read */
  const setExisting = (index: number, jobId: string, found: MinimalJob | null) => {
    if (found === null) existing.push({ index, jobId })
    else results[index] = { kind: 'existing', job: found }
  }
  const resolved: Resolved = { open: [], raced: [], own: [], finished: [] }
  if (items.length === 0) return resolved
  const holders = await findHolders(context, items, isMinimal, deadline)
  // A holder that was changed here is read again before the next item of its key.
  const touched = new Set<string>()
  for (const item of items) {
    const { job, index } = item
    const stored = holders.byId.get(job.id)
    if (stored !== undefined) {
      if (isSameJob(job, stored)) {
        const { payloadId, groupAdd } = stored
        resolved.own.push({
          ...item,
          ...(payloadId === undefined ? {} : { payloadId }),
          ...(groupAdd === undefined ? {} : { groupAdd }),
        })
      } else results[index] = { kind: 'id_taken', jobId: job.id }
      continue
    }
    const known = knownBy(job, holders)
    if (known !== null) {
      if (known.kind !== 'existing') results[index] = refusedBy(known.holder, known.kind)
      else setExisting(index, known.holder._id, jobOfHolder(context, known.holder, item, isMinimal))
      continue
    }
    const text = keyText(job.endpoint, job.dedupe?.key)
    const holder = holders.byDedupe.get(text)
    if (holder === undefined || touched.has(text)) {
      ;(holder === undefined ? resolved.open : resolved.raced).push(item)
      continue
    }
    // Earlier requests of the batch get the job as it was before the replacement.
    if (job.dedupe?.mode === 'replace') {
      const earlier = existing.filter(({ jobId }) => jobId === holder._id)
      fillInFrom(await readJobs(context, earlier, isMinimal, deadline), earlier, results)
      existing.splice(0, existing.length, ...existing.filter((one) => !earlier.includes(one)))
    }
    const outcome = await applyDedupe(context, item, holder, isMinimal, deadline)
    if (outcome.kind !== 'kept') touched.add(text)
    if (outcome.kind === 'dedupe_conflict') results[index] = outcome
    else if (outcome.kind === 'raced') resolved.raced.push(item)
    else if (outcome.kind === 'released') resolved.open.push(item)
    else setExisting(index, holder._id, outcome.job)
    if (outcome.kind === 'released' && outcome.isFinal) resolved.finished.push(holder._id)
  }
  return resolved
}

export async function findHolders(
  context: MongoContext,
  items: Pick<Item, 'index' | 'job'>[],
  isMinimal: IsMinimal,
  deadline: Deadline,
): Promise<Holders> {
  const jobs = items.map(({ job }) => job)
  const projection = items.every(({ index }) => isMinimal(index))
    ? WITHOUT_CONTENT
    : WITHOUT_PAYLOAD
  const byId = new Map<string, Holder>()
  const byKey = new Map<string, Holder>()
  const byOrigin = new Map<string, Holder>()
  const byDedupe = new Map<string, Holder>()
  const byEndpoint = [...Map.groupBy(jobs, ({ endpoint }) => endpoint)].flatMap(([endpoint, own]) =>
    alternativesOf(endpoint, own),
  )
  const alternatives = [{ _id: { $in: jobs.map(({ id }) => id) } }, ...byEndpoint]
  const found = await run(deadline, (limit) =>
    context.jobs
      .find<Holder>({ $or: alternatives }, { projection, batchSize: 4 * jobs.length + 1, ...limit })
      .toArray(),
  )
  for (const holder of found) {
    byId.set(holder._id, holder)
    const { endpoint, keys = [], originKey, dedupeHolder } = holder
    for (const { key } of keys) byKey.set(keyText(endpoint, key), holder)
    if (originKey !== undefined) byOrigin.set(keyText(endpoint, originKey), holder)
    if (dedupeHolder !== undefined) byDedupe.set(keyText(endpoint, dedupeHolder), holder)
  }
  return { byId, byKey, byOrigin, byDedupe }
}

/** The job with its idempotency key or origin, and what that means; null: there is none. */
export function knownBy(
  job: NewJob,
  { byKey, byOrigin }: Pick<Holders, 'byKey' | 'byOrigin'>,
): { kind: 'existing' | 'key_reused' | 'id_taken'; holder: Holder } | null {
  const { endpoint, idempotency, originKey } = job
  const holder = byKey.get(keyText(endpoint, idempotency?.key))
  if (holder !== undefined) {
    const isSame = hashOf(holder, idempotency?.key ?? '') === idempotency?.requestHash
    return { kind: isSame ? 'existing' : 'key_reused', holder }
  }
  const original = byOrigin.get(keyText(endpoint, originKey ?? undefined))
  if (original === undefined) return null
  const isSame = original.originHash === job.originHash
  return { kind: isSame ? 'existing' : 'id_taken', holder: original }
}

export function refusedBy({ _id }: Holder, kind: 'key_reused' | 'id_taken'): EnqueueResult {
  return { kind, jobId: _id }
}

export function fillInFrom(
  found: Map<string, MinimalJob>,
  existing: Existing[],
  results: EnqueueResult<MinimalJob>[],
): void {
  for (const { index, jobId } of existing) {
    const job = found.get(jobId)
    if (job === undefined) throw new StoreUnavailable('the job that has the key was purged')
    results[index] = { kind: 'existing', job }
  }
}

/** The jobs as they are now, by id. Those that all their requests want minimal are minimal. */
export async function readJobs(
  context: MongoContext,
  wanted: Existing[],
  isMinimal: IsMinimal,
  deadline: Deadline,
): Promise<Map<string, MinimalJob>> {
  const ids = new Set(wanted.flatMap(({ index, jobId }) => (isMinimal(index) ? [] : jobId)))
  const minimalIds = new Set(wanted.flatMap(({ jobId }) => (ids.has(jobId) ? [] : jobId)))
  const whole =
    ids.size === 0
      ? []
      : await readWhole(context, { _id: { $in: [...ids] } }, { count: ids.size }, deadline)
  const minimal = minimalIds.size === 0 ? [] : await readMinimal(context, minimalIds, deadline)
  const jobs = [...whole.map((document) => jobOf(document, context.box)), ...minimal]
  return new Map(jobs.map((job) => [job.id, job]))
}

async function readMinimal(
  context: MongoContext,
  ids: Set<string>,
  deadline: Deadline,
): Promise<MinimalJob[]> {
  const documents = await run(deadline, (limit) =>
    context.jobs
      .find<MinimalDocument>(
        { _id: { $in: [...ids] } },
        { projection: MINIMAL, batchSize: ids.size + 1, ...limit },
      )
      .toArray(),
  )
  return documents.map(minimalOf)
}

type MinimalDocument = Pick<JobDocument, '_id' | keyof typeof MINIMAL>

function minimalOf({ _id, state, version, group }: MinimalDocument): MinimalJob {
  return { id: _id, state: stateOf(state), version, group: group ?? null }
}

/**
 * The holder as a result; null: the job must be read. A blocked job is read, because it may be
 * promoted before the batch returns. The hash covers the payload: if the key made the job, its
 * bytes need not be read.
 */
function jobOfHolder(
  { box }: MongoContext,
  holder: Holder,
  { index, job }: Item,
  isMinimal: IsMinimal,
): MinimalJob | null {
  if (holder.state === 'blocked') return null
  if (isMinimal(index)) return minimalOf(holder)
  const { idempotencyKey, payloadChanged, resultId } = holder
  const hasPayload = job.idempotency !== null && idempotencyKey === job.idempotency.key
  const hasAll = hasPayload && payloadChanged !== true && resultId === undefined
  return hasAll && isWhole(holder) ? jobOf({ ...holder, payload: job.payload }, box) : null
}

function isWhole(holder: Holder): holder is WholeHolder {
  return holder.attempts !== undefined
}

function hashOf({ keys = [] }: Holder, key: string): string | undefined {
  return keys.find((one) => one.key === key)?.hash
}

/**
 * One filter for each index. A value that is not null satisfies the partial indexes. `$exists`
 * beside it would be harmful: on the keys, which are an array, MongoDB bounds the scan by one
 * condition only, and `$exists` would scan every key of the endpoint (SERVER-12281).
 */
function alternativesOf(endpoint: string, jobs: NewJob[]): Filter<JobDocument>[] {
  const keys = jobs.flatMap(({ idempotency }) => idempotency?.key ?? [])
  const origins = jobs.flatMap(({ originKey }) => originKey ?? [])
  const dedupes = jobs.flatMap(({ dedupe }) => dedupe?.key ?? [])
  return [
    ...(keys.length === 0 ? [] : [{ endpoint, 'keys.key': { $in: keys } }]),
    ...(origins.length === 0 ? [] : [{ endpoint, originKey: { $in: origins } }]),
    ...(dedupes.length === 0 ? [] : [{ endpoint, dedupeHolder: { $in: dedupes } }]),
  ]
}

/** A name contains no space, so that two pairs never get one text. No key: a text that none has. */
function keyText(endpoint: string, key: string | undefined): string {
  return key === undefined ? '' : `${endpoint} ${key}`
}

async function applyDedupe(
  context: MongoContext,
  { index, job }: Item,
  holder: Holder,
  isMinimal: IsMinimal,
  deadline: Deadline,
): Promise<DedupeOutcome> {
  if (job.dedupe === null) return RACED
  const now = nowOf(context)
  const { _id, version, state, attemptCount } = holder
  const owned = { _id, endpoint: job.endpoint, dedupeHolder: job.dedupe.key }
  const owner = { state: stateOf(state), wasSent: attemptCount > 0 }
  const decision = decideDedupe(job.dedupe.mode, owner)
  switch (decision.kind) {
    case 'reject':
      return { kind: 'dedupe_conflict', jobId: _id }
    case 'keep': {
      if (job.idempotency === null) {
        const isKnown = isMinimal(index) && state !== 'blocked'
        return { kind: 'kept', job: isKnown ? minimalOf(holder) : null }
      }
      const addition = keyAddition(job, holder)
      const document = await updateOwner(context, owned, addition, isMinimal(index), deadline)
      if (document === null) return RACED
      // A blocked job may be promoted before the batch returns.
      if (document.state === 'blocked') return { kind: 'kept', job: null }
      return { kind: 'kept', job: jobOfOwner(context, document, document.payload) }
    }
    case 'replace': {
      const filter = { ...owned, ...guardOf('replace', { now, version }), attemptCount: 0 }
      const body = newBody(holder, job.payload, now.getTime())
      const own = body === null ? [] : [body]
      await storeBodies(context, own, deadline)
      const update = replacement(context, job, holder, payloadFields(job.payload, body))
      const document = await updateOwner(context, filter, update, isMinimal(index), deadline)
      const { endpoint, payloadId } = holder
      const replaced = payloadId === undefined ? [] : [{ _id: payloadId, endpoint }]
      await deleteBodies(context, document === null ? own : replaced, deadline)
      if (document === null) return RACED
      await closeGaps(context, [holder])
      return { kind: 'replaced', job: jobOfOwner(context, document, job.payload) }
    }
    case 'displace': {
      const filter = { ...owned, ...guardOf('displace', { now }) }
      const isWritten = await releaseDedupeKey(
        context,
        filter,
        toFinal('cancelled', now, {}),
        deadline,
      )
      if (isWritten) await closeGaps(context, [holder])
      return isWritten ? { kind: 'released', isFinal: true } : RACED
    }
    case 'supersede': {
      const filter = { ...owned, ...guardOf('supersede', { now }) }
      const isWritten = await releaseDedupeKey(context, filter, SUPERSEDE, deadline)
      return isWritten ? { kind: 'released', isFinal: false } : RACED
    }
    default:
      throw new Error(`unknown decision ${(decision satisfies never as DedupeDecision).kind}`)
  }
}

const SUPERSEDE = {
  $set: { superseded: true as const },
  $unset: { dedupeHolder: '' as const },
  $inc: { version: 1 },
}

/** All fields that the request gives. Nothing of the job was sent yet. */
function replacement(
  { box }: MongoContext,
  job: NewJob,
  holder: Holder,
  payload: ReturnType<typeof payloadFields>,
): UpdateFilter<JobDocument> {
  const runAt = new Date(job.runAt)
  const absent: Partial<Record<'tags' | 'payloadId', ''>> = {
    ...(job.tags.length > 0 ? {} : { tags: '' }),
    ...('payloadId' in payload ? {} : { payloadId: '' }),
  }
  return {
    ...keyAddition(job, holder),
    $set: {
      ...(job.idempotency === null ? {} : { hasKey: true }),
      ...payload,
      payloadBytes: job.payload.byteLength + (holder.inputsBytes ?? 0),
      payloadChanged: true,
      runAt,
      firstRunAt: runAt,
      priority: job.priority,
      ...joinAgain(holder),
      metadata: JSON.stringify(job.metadata),
      headers: sealHeaders(job.headers, holder._id, box),
      expiresAt: dateOrNull(job.expiresAt),
      ...(job.tags.length > 0 ? { tags: job.tags } : {}),
    },
    $unset: absent,
    $inc: { version: 1 },
  }
}

/**
 * Adds the key of the request to a stored job. The key that created the job stays first, and newer
 * keys come before older ones. The last keys are dropped.
 */
function keyAddition(
  { idempotency }: NewJob,
  { idempotencyKey }: Holder,
): UpdateFilter<JobDocument> {
  if (idempotency === null) return {}
  const entry = { key: idempotency.key, hash: idempotency.requestHash }
  const $position = idempotencyKey === undefined ? 0 : 1
  return {
    $push: { keys: { $each: [entry], $position, $slice: MAX_KEYS } },
    $set: { hasKey: true },
  }
}

/** As it was read: a minimal one has no further fields. */
type Owner = MinimalDocument & Partial<JobDocument>

/**
 * Returns null if the filter does not match, or another job took the key of the request just now.
 */
async function updateOwner(
  context: MongoContext,
  filter: Filter<JobDocument>,
  update: UpdateFilter<JobDocument>,
  isMinimal: boolean,
  deadline: Deadline,
): Promise<Owner | null> {
  try {
    return await run(deadline, (limit) =>
      context.jobs.findOneAndUpdate(filter, update, {
        returnDocument: 'after',
        ...(isMinimal ? { projection: MINIMAL } : {}),
        ...BY_ID,
        ...limit,
      }),
    )
  } catch (error) {
    if (isDuplicateKey(error)) return null
    throw error
  }
}

/** null: the job must be read, because its payload is stored apart. */
function jobOfOwner(
  { box }: MongoContext,
  owner: Owner,
  payload: Uint8Array | null | undefined,
): MinimalJob | null {
  if (owner.attempts === undefined) return minimalOf(owner)
  if (payload === null) return null
  return jobOf({ ...owner, payload } as Whole<JobDocument>, box)
}

async function releaseDedupeKey(
  context: MongoContext,
  filter: Filter<JobDocument>,
  update: UpdateFilter<JobDocument>,
  deadline: Deadline,
): Promise<boolean> {
  const { matchedCount } = await run(deadline, (limit) =>
    context.jobs.updateOne(filter, update, { ...BY_ID, ...limit }),
  )
  return matchedCount === 1
}
