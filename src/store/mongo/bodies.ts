// Bodies: the payloads, inputs and results that are stored apart from their jobs, because they are
// large. A body never changes. Its job names it by its id, and a new payload is a new body, so that
// a reader gets the payload of the version of the job that it read. A body is stored before the
// write that names it, and deleted after the write that removes its name from the job, so that a
// job never lacks its body. A crash between two writes leaves a body that no job names: an orphan,
// which a sweep deletes.
import type { Filter } from 'mongodb'
import { StoreUnavailable } from '../store-errors.ts'
import { type Deadline, type MongoContext, run, startDeadline } from './connection.ts'
import {
  atEndpoints,
  type BodyDocument,
  BY_ID,
  bodyIdParts,
  type JobDocument,
  type Whole,
} from './job-document.ts'

/** A job can be edited between the read of its document and that of its body. */
const MAX_ROUNDS = 5

/**
 * Far longer than an enqueue takes: the job of a younger body may still be on its way. If it came
 * later than this, it would lack its payload.
 */
const ORPHAN_AFTER_MS = 86_400_000
/** Orphans are rare and do no harm, so an idle process sends one command a minute to find them. */
const LOOK_EVERY_MS = 60_000
const BODIES_PER_LOOK = 5_000

/** A process looks at all bodies in turn, in the order of their ids. */
export interface OrphanSearch {
  after: string
  /** By the monotonic clock. */
  lookedAt: number
}

type BodyName = Pick<BodyDocument, '_id' | 'endpoint'>
type Naming = Pick<JobDocument, 'endpoint'> &
  Partial<
    Pick<JobDocument, 'payload' | 'inputs' | 'result' | `${'payload' | 'inputs' | 'result'}Id`>
  >

export async function storeBodies(
  context: MongoContext,
  bodies: BodyDocument[],
  deadline: Deadline,
): Promise<void> {
  if (bodies.length === 0) return
  await run(deadline, (limit) => context.bodies.insertMany(bodies, { ordered: false, ...limit }))
}

/** The bodies that this job names. */
export function bodiesOf({ endpoint, payloadId, inputsId, resultId }: Naming): BodyName[] {
  const names = [payloadId, inputsId, resultId]
  return names.flatMap((_id) => (_id === undefined ? [] : [{ _id, endpoint }]))
}

/**
 * The documents with their payloads, inputs and results, as far as they were read. Those whose body
 * is no longer stored are left out: their job has changed since it was read, or is deleted.
 */
export async function withBodies<T extends Naming>(
  context: MongoContext,
  documents: T[],
  deadline: Deadline,
): Promise<Whole<T>[]> {
  const names = documents.flatMap(bodiesOf)
  if (names.length === 0) return documents as Whole<T>[]
  const found = await run(deadline, (limit) =>
    context.bodies
      .find(atEndpoints(names), {
        projection: { bytes: 1 },
        batchSize: names.length + 1,
        // A majority stored it before the job named it. After an election a majority read can be
        // older than that (SERVER-53813), but a local read cannot. A body never changes, so a local
        // read is correct.
        readConcern: 'local',
        ...BY_ID,
        ...limit,
      })
      .toArray(),
  )
  const bytesById = new Map(found.map(({ _id, bytes }) => [_id, bytes]))
  return documents.flatMap((document) => {
    const { payloadId, inputsId, resultId } = document
    if (!bodiesOf(document).every(({ _id }) => bytesById.has(_id))) return []
    const payload = payloadId === undefined ? document.payload : bytesById.get(payloadId)
    const inputs = inputsId === undefined ? document.inputs : bytesById.get(inputsId)
    const bytes = resultId === undefined ? undefined : bytesById.get(resultId)
    const result = bytes === undefined ? document.result : Buffer.from(bytes).toString()
    return [{ ...document, payload, inputs, result } as Whole<T>]
  })
}

/** The jobs that match, with their payloads and results. */
export async function readWhole(
  context: MongoContext,
  filter: Filter<JobDocument>,
  { count, projection = {} }: { count: number; projection?: Record<string, 0 | 1> },
  deadline: Deadline,
): Promise<Whole<JobDocument>[]> {
  for (let round = 0; round < MAX_ROUNDS; round++) {
    const documents = await run(deadline, (limit) =>
      context.jobs.find(filter, { projection, batchSize: count + 1, ...limit }).toArray(),
    )
    const whole = await withBodies(context, documents, deadline)
    if (whole.length === documents.length) return whole
  }
  throw new StoreUnavailable('the payload or the result of the job is not stored')
}

/** Deletes bodies. If one cannot be deleted now, it becomes an orphan. */
export async function deleteBodies(
  context: MongoContext,
  names: BodyName[],
  deadline: Deadline,
): Promise<void> {
  if (names.length === 0) return
  try {
    await run(deadline, (limit) =>
      context.bodies.deleteMany(atEndpoints(names), { ...BY_ID, ...limit }),
    )
  } catch (error) {
    if (!(error instanceof StoreUnavailable)) throw error
  }
}

export function startOrphanSearch(): OrphanSearch {
  return { after: '', lookedAt: Number.NEGATIVE_INFINITY }
}

/** Reads ids alone, which contain the job and the time: the bodies stay on disk. */
export async function deleteOrphans(context: MongoContext, search: OrphanSearch): Promise<void> {
  if (performance.now() - search.lookedAt < LOOK_EVERY_MS) return
  search.lookedAt = performance.now()
  const deadline = startDeadline()
  const found = await run(deadline, (limit) =>
    context.bodies
      .find(
        { _id: { $gt: search.after } },
        {
          projection: { _id: 1 },
          sort: { _id: 1 },
          limit: BODIES_PER_LOOK,
          batchSize: BODIES_PER_LOOK,
          ...BY_ID,
          ...limit,
        },
      )
      .toArray(),
  )
  search.after = found.length < BODIES_PER_LOOK ? '' : (found.at(-1)?._id ?? '')
  const bornBefore = context.clock.now() - ORPHAN_AFTER_MS
  const old = found.filter(({ _id }) => bodyIdParts(_id).bornAt < bornBefore)
  if (old.length === 0) return
  const jobIds = [...new Set(old.map(({ _id }) => bodyIdParts(_id).jobId))]
  const jobs = await run(deadline, (limit) =>
    context.jobs
      .find(
        { _id: { $in: jobIds } },
        {
          projection: { endpoint: 1, payloadId: 1, inputsId: 1, resultId: 1 },
          batchSize: jobIds.length + 1,
          ...BY_ID,
          ...limit,
        },
      )
      .toArray(),
  )
  const named = new Set(jobs.flatMap(bodiesOf).map(({ _id }) => _id))
  const orphans = old.flatMap(({ _id }) => (named.has(_id) ? [] : [_id]))
  if (orphans.length === 0) return
  await run(deadline, (limit) =>
    context.bodies.deleteMany({ _id: { $in: orphans } }, { ...BY_ID, ...limit }),
  )
}
