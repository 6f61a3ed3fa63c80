// Endpoints as stored: headers and secrets are sealed; every write names the version it replaces.
import type { Filter } from 'mongodb'
import type { Endpoint, EndpointSettings } from '../../endpoint/endpoint.ts'
import { underNewLimit } from '../../endpoint/rate-bucket.ts'
import type { DeleteEndpointResult, PutEndpointResult } from '../endpoint-results.ts'
import { type IfVersion, isMet } from '../precondition.ts'
import { type Page, StoreUnavailable } from '../store.ts'
import { randomId } from './changes.ts'
import { type MongoContext, nowOf } from './context.ts'
import {
  type EndpointDocument,
  endpointOf,
  type SealedSecret,
  settingsFields,
  validSecrets,
} from './endpoint-documents.ts'
import { countJobs } from './jobs.ts'
import { type Deadline, isDuplicateKey, run, startDeadline } from './run-command.ts'
import { schedulesIn } from './schedules.ts'

/** An endpoint that is replaced this often within 3 s is fought over by two deployments. */
export const MAX_ROUNDS = 10

type Secrets = { given: string | null; fresh: string }

export async function putEndpoint(
  context: MongoContext,
  settings: EndpointSettings,
  secrets: Secrets,
  ifVersion: IfVersion,
): Promise<PutEndpointResult> {
  const deadline = startDeadline()
  for (let round = 0; round < MAX_ROUNDS; round++) {
    const stored = await findEndpoint(context, settings.name, deadline)
    if (stored?.deleting) return { kind: 'being_deleted' }
    const version = stored?.version ?? null
    if (!isMet(ifVersion, version)) return { kind: 'stale', version }
    const written =
      stored === null
        ? await insert(context, settings, secrets, deadline)
        : await replace(context, settings, secrets, stored, deadline)
    if (written === null) continue
    const endpoint = endpointOf(written, context.box, context.clock.now())
    return { kind: stored === null ? 'created' : 'replaced', endpoint }
  }
  throw new StoreUnavailable('the endpoint changed each time it was read')
}

export async function endpointsNamed(context: MongoContext, names: string[]): Promise<Endpoint[]> {
  if (names.length === 0) return []
  const found = await run(startDeadline(), (limit) =>
    context.endpoints
      .find({ _id: { $in: names } }, { batchSize: names.length + 1, ...limit })
      .toArray(),
  )
  const now = context.clock.now()
  return found.map((document) => endpointOf(document, context.box, now))
}

export async function listEndpoints(
  context: MongoContext,
  after: string | null,
  limit: number,
): Promise<Page<Endpoint>> {
  const found = await run(startDeadline(), (commandLimit) =>
    context.endpoints
      .find(after === null ? {} : { _id: { $gt: after } }, {
        sort: { _id: 1 },
        limit: limit + 1,
        batchSize: limit + 1,
        ...commandLimit,
      })
      .toArray(),
  )
  const now = context.clock.now()
  const items = found.slice(0, limit).map((document) => endpointOf(document, context.box, now))
  return { items, next: found.length > limit ? (items.at(-1)?.name ?? null) : null }
}

export async function deleteEndpoint(
  context: MongoContext,
  name: string,
  options: { force: boolean; ifVersion: number | null },
): Promise<DeleteEndpointResult> {
  const deadline = startDeadline()
  for (let round = 0; round < MAX_ROUNDS; round++) {
    const stored = await findEndpoint(context, name, deadline)
    if (stored === null) return { kind: 'not_found' }
    if (options.ifVersion !== null && stored.version !== options.ifVersion) {
      return { kind: 'stale', version: stored.version }
    }
    if (stored.deleting) return { kind: 'deleting' }
    const asRead = { _id: name, version: stored.version, deleting: false }
    if (options.force) {
      if (await mark(context, asRead, deadline)) return { kind: 'deleting' }
      continue
    }
    const use = await useOf(context, name, deadline)
    if (use !== null) return use
    // A job that is enqueued between the count and this is abandoned by the sweeper.
    const { deletedCount } = await run(deadline, (limit) =>
      context.endpoints.deleteOne(asRead, limit),
    )
    if (deletedCount === 1) return { kind: 'deleted' }
  }
  throw new StoreUnavailable('the endpoint changed each time it was read')
}

/** What stands in the way of deleting it; null: nothing. */
async function useOf(
  context: MongoContext,
  name: string,
  deadline: Deadline,
): Promise<Extract<DeleteEndpointResult, { kind: 'in_use' }> | null> {
  const [counts = { queued: 0, running: 0, more: false }] = await countJobs(context, [name])
  const schedule = await run(deadline, (limit) =>
    schedulesIn(context).findOne({ endpoint: name }, { projection: { _id: 1 }, ...limit }),
  )
  if (counts.queued + counts.running === 0 && schedule === null) return null
  return { kind: 'in_use', counts, scheduleName: schedule?._id ?? null }
}

/** From here it takes no job; the sweeper does the rest. */
async function mark(
  context: MongoContext,
  asRead: Filter<EndpointDocument>,
  deadline: Deadline,
): Promise<boolean> {
  const now = nowOf(context)
  const { matchedCount } = await run(deadline, (limit) =>
    context.endpoints.updateOne(
      asRead,
      { $set: { deleting: true, deletingSince: now, updatedAt: now }, $inc: { version: 1 } },
      limit,
    ),
  )
  return matchedCount === 1
}

export function findEndpoint(
  context: MongoContext,
  name: string,
  deadline: Deadline,
): Promise<EndpointDocument | null> {
  return run(deadline, (limit) => context.endpoints.findOne({ _id: name }, { ...limit }))
}

/** null: there is one by now. */
async function insert(
  context: MongoContext,
  settings: EndpointSettings,
  secrets: Secrets,
  deadline: Deadline,
): Promise<EndpointDocument | null> {
  const now = nowOf(context)
  const document: EndpointDocument = {
    _id: settings.name,
    ...settingsFields(settings, context.box),
    deleting: false,
    deletingSince: null,
    paused: false,
    disabledReason: null,
    ...NO_REST,
    throttleStreak: 0,
    failureCount: 0,
    healthId: null,
    rateFullAt: null,
    gateHolder: null,
    gateUntil: null,
    secrets: [newest(context, settings.name, secrets.given ?? secrets.fresh)],
    createdAt: now,
    updatedAt: now,
    version: 1,
  }
  try {
    await run(deadline, (limit) => context.endpoints.insertOne(document, { ...limit }))
    return document
  } catch (error) {
    if (isDuplicateKey(error)) return null
    throw error
  }
}

/** null: it is no longer what was read. What paused, disabled or rests it stays. */
async function replace(
  context: MongoContext,
  settings: EndpointSettings,
  secrets: Secrets,
  stored: EndpointDocument,
  deadline: Deadline,
): Promise<EndpointDocument | null> {
  const now = nowOf(context)
  const { _id, version, rateFullAt } = stored
  const fields: Partial<EndpointDocument> = {
    ...settingsFields(settings, context.box),
    secrets: secretsAfter(context, stored, secrets.given, now.getTime()),
    updatedAt: now,
    ...healthKept(settings, stored),
    ...bucketUnder(settings, stored, now.getTime()),
  }
  // Tokens that a claim takes meanwhile are not to be written over.
  const asRead = 'rateFullAt' in fields ? { rateFullAt } : {}
  return run(deadline, (limit) =>
    context.endpoints.findOneAndUpdate(
      { _id, version, deleting: false, ...asRead },
      { $set: fields, $inc: { version: 1 } },
      { returnDocument: 'after', ...limit },
    ),
  )
}

/** A PUT that repeats the present secret ends no overlap. */
function secretsAfter(
  context: MongoContext,
  stored: EndpointDocument,
  given: string | null,
  now: number,
): SealedSecret[] {
  const before = validSecrets(stored, now)
  const [present] = before
  const isKept =
    given === null || (present && context.box.open(present.sealed, stored._id) === given)
  return isKept ? before : [newest(context, stored._id, given)]
}

const NO_REST = { restingUntil: null, restCause: null, ramp: null }

/** Nothing is sent to one that is pulled, so nothing would end its rest. */
function healthKept(
  { url, circuitBreaker }: EndpointSettings,
  { restCause }: EndpointDocument,
): Partial<EndpointDocument> {
  if (url !== null && circuitBreaker !== null) return {}
  const isOver = url === null || restCause === 'breaker'
  return {
    failureCount: 0,
    healthId: randomId(),
    ...(url === null ? { throttleStreak: 0 } : {}),
    ...(isOver ? NO_REST : {}),
  }
}

function bucketUnder(
  settings: EndpointSettings,
  stored: EndpointDocument,
  now: number,
): Partial<EndpointDocument> {
  const { rateLimit: after } = settings
  const { rateLimit: before, rateFullAt } = stored
  if (after?.count === before?.count && after?.perMs === before?.perMs) return {}
  if (after === null || before === null) return { rateFullAt: null }
  return { rateFullAt: underNewLimit(before, after, rateFullAt, now) }
}

function newest(context: MongoContext, name: string, secret: string): SealedSecret {
  return { sealed: context.box.seal(secret, name), until: null }
}
