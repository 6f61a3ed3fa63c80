// Endpoints as stored: headers and secrets are sealed; every write names the version it replaces.
import type { Filter } from 'mongodb'
import type { Endpoint, EndpointSettings } from '../../endpoint/endpoint.ts'
import {
  type DeleteEndpointResult,
  type Page,
  type PutEndpointResult,
  StoreUnavailable,
} from '../store.ts'
import { type MongoContext, nowOf } from './context.ts'
import { type EndpointDocument, endpointOf } from './documents.ts'
import { countJobs } from './jobs.ts'
import { type Deadline, isDuplicateKey, run, startDeadline } from './run-command.ts'

/** An endpoint that is replaced this often within 3 s is fought over by two deployments. */
const MAX_ROUNDS = 10

type Secrets = { given: string | null; fresh: string }

export async function putEndpoint(
  context: MongoContext,
  settings: EndpointSettings,
  secrets: Secrets,
  ifVersion: number | null,
): Promise<PutEndpointResult> {
  const deadline = startDeadline()
  for (let round = 0; round < MAX_ROUNDS; round++) {
    const stored = await find(context, settings.name, deadline)
    if (stored === null && ifVersion !== null) return { kind: 'stale', version: null }
    if (stored?.deleting) return { kind: 'being_deleted' }
    if (stored !== null && ifVersion !== null && stored.version !== ifVersion) {
      return { kind: 'stale', version: stored.version }
    }
    const document = documentOf(context, settings, secrets, stored)
    const written =
      stored === null
        ? await insert(context, document, deadline)
        : await replace(context, document, stored.version, deadline)
    if (!written) continue
    const endpoint = endpointOf(document, context.box)
    return { kind: stored === null ? 'created' : 'replaced', endpoint }
  }
  throw new StoreUnavailable('the endpoint changed as often as it was read')
}

export async function endpointsNamed(context: MongoContext, names: string[]): Promise<Endpoint[]> {
  if (names.length === 0) return []
  const found = await run(startDeadline(), (limit) =>
    context.endpoints
      .find({ _id: { $in: names } }, { batchSize: names.length + 1, ...limit })
      .toArray(),
  )
  return found.map((document) => endpointOf(document, context.box))
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
  const items = found.slice(0, limit).map((document) => endpointOf(document, context.box))
  return { items, next: found.length > limit ? (items.at(-1)?.name ?? null) : null }
}

export async function deleteEndpoint(
  context: MongoContext,
  name: string,
  options: { force: boolean; ifVersion: number | null },
): Promise<DeleteEndpointResult> {
  const deadline = startDeadline()
  for (let round = 0; round < MAX_ROUNDS; round++) {
    const stored = await find(context, name, deadline)
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
    const [counts] = await countJobs(context, [name])
    if (counts !== undefined && counts.queued + counts.running > 0)
      return { kind: 'in_use', counts }
    // A job that is enqueued between the count and this is abandoned by the sweeper.
    const { deletedCount } = await run(deadline, (limit) =>
      context.endpoints.deleteOne(asRead, limit),
    )
    if (deletedCount === 1) return { kind: 'deleted' }
  }
  throw new StoreUnavailable('the endpoint changed as often as it was read')
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

function find(
  context: MongoContext,
  name: string,
  deadline: Deadline,
): Promise<EndpointDocument | null> {
  return run(deadline, (limit) => context.endpoints.findOne({ _id: name }, { ...limit }))
}

function documentOf(
  context: MongoContext,
  settings: EndpointSettings,
  secrets: Secrets,
  stored: EndpointDocument | null,
): EndpointDocument {
  const { box } = context
  const { name } = settings
  const now = nowOf(context)
  const keptSecrets = stored === null || secrets.given !== null ? null : stored.secrets
  return {
    _id: name,
    url: settings.url,
    description: settings.description,
    headers: box.seal(JSON.stringify(settings.headers), name),
    timeoutMs: settings.timeoutMs,
    retry: settings.retry,
    deleting: false,
    deletingSince: null,
    secrets: keptSecrets ?? [box.seal(secrets.given ?? secrets.fresh, name)],
    createdAt: stored?.createdAt ?? now,
    updatedAt: now,
    version: (stored?.version ?? 0) + 1,
  }
}

async function insert(
  context: MongoContext,
  document: EndpointDocument,
  deadline: Deadline,
): Promise<boolean> {
  try {
    await run(deadline, (limit) => context.endpoints.insertOne(document, { ...limit }))
    return true
  } catch (error) {
    if (isDuplicateKey(error)) return false
    throw error
  }
}

async function replace(
  context: MongoContext,
  document: EndpointDocument,
  version: number,
  deadline: Deadline,
): Promise<boolean> {
  const { _id, ...fields } = document
  const { matchedCount } = await run(deadline, (limit) =>
    context.endpoints.updateOne({ _id, version, deleting: false }, { $set: fields }, limit),
  )
  return matchedCount === 1
}
