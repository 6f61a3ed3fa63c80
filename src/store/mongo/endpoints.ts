// Endpoints: their settings, pause and resume, their secrets, the counts of their jobs, and the
// health that attempts report. Headers and secrets are encrypted. Every write is guarded by the
// version, or the health, that was read.
import { isDeepStrictEqual } from 'node:util'
import type { Document, Filter, UpdateFilter } from 'mongodb'
import {
  type DeleteEndpointResult,
  type Endpoint,
  type EndpointCounts,
  type EndpointSettings,
  type PutEndpointResult,
  rotatedSecrets,
  startsDeliveries,
} from '../../endpoint/endpoint.ts'
import { type Health, type HealthReport, healthAfter } from '../../endpoint/health.ts'
import { underNewLimit } from '../../endpoint/rate-bucket.ts'
import { type IfVersion, isMet, type OtherVersion, otherVersion } from '../precondition.ts'
import { MAX_COUNT, type Page } from '../store.ts'
import { decrypted, StoreUnavailable } from '../store-errors.ts'
import {
  type Deadline,
  isDuplicateKey,
  type MongoContext,
  NEWEST,
  nowOf,
  run,
  startDeadline,
} from './connection.ts'
import {
  type EndpointDocument,
  endpointOf,
  restOf,
  type SealedSecret,
  settingsFields,
  validSecrets,
} from './endpoint-document.ts'
import { forgetKeys } from './fairness-keys.ts'
import { guardOf } from './guards.ts'
import { BY_ID, dateOrNull, QUEUED_STATES, randomId, type StoredState } from './job-document.ts'
import { applyKeyLimits } from './key-limits.ts'
import { endRests } from './key-rests.ts'
import { schedulesIn } from './schedules.ts'
import { refusedLimit } from './shared-limits.ts'

/**
 * The most tries of a change. More changes by others within 3 s mean that two deployments overwrite
 * each other.
 */
const MAX_ROUNDS = 10

/** Limit of names in one command of counts, with three pipelines each. */
const NAMES_PER_COUNT = 20
/** One pipeline each, because each has its own index. */
const COUNTED_STATES = [...QUEUED_STATES, 'running'] as const

/** The first due job is at the beginning of its part of the index `claim`. */
const CLAIM_ORDER = { sort: { priority: -1, turn: 1, runAt: 1 }, hint: 'claim' } as const

type Secrets = { given: string | null; fresh: string }

type Changed = Promise<Endpoint | OtherVersion | null>

/** If several workers report at once, one of them succeeds in each round. */
const MAX_REPORT_ROUNDS = 20

const HEALTH_FIELDS = {
  version: 1,
  circuitBreaker: 1,
  disabledReason: 1,
  restingUntil: 1,
  restCause: 1,
  throttleStreak: 1,
  failureCount: 1,
  ramp: 1,
  healthId: 1,
} as const

type SeenHealth = Pick<EndpointDocument, '_id' | keyof typeof HEALTH_FIELDS>

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
    const limits = { before: stored?.limits ?? [], after: settings.limits }
    const refusal = await refusedLimit(context, limits, deadline)
    if (refusal !== null) return refusal
    if (stored !== null && secrets.given === null) decrypted(shown(context, stored))
    const written =
      stored === null
        ? await insertEndpoint(context, settings, secrets, deadline)
        : await replaceEndpoint(context, settings, secrets, stored, deadline)
    if (written === null) continue
    if (stored !== null && !isDeepStrictEqual(stored.perKey, settings.perKey)) {
      await applyKeyLimits(context, settings.name, deadline)
    }
    if (stored !== null && settings.url === null) await endRests(context, settings.name)
    if (startsDeliveries(stored, settings)) await noteFreed(context, settings.name, deadline)
    const endpoint = shown(context, written)
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

export async function countJobs(context: MongoContext, names: string[]): Promise<EndpointCounts[]> {
  const deadline = startDeadline()
  const counts = new Map<string, number>()
  for (let i = 0; i < names.length; i += NAMES_PER_COUNT) {
    const pipelines = names
      .slice(i, i + NAMES_PER_COUNT)
      .flatMap((name) => COUNTED_STATES.map((state) => countOf(name, state)))
    const [first = [], ...others] = pipelines
    const unions = others.map((pipeline) => ({
      $unionWith: { coll: context.names.jobs, pipeline },
    }))
    const found = await run(deadline, (limit) =>
      context.jobs
        .aggregate<{ _id: { endpoint: string; state: string }; count: number }>(
          [...first, ...unions],
          { batchSize: pipelines.length + 1, ...NEWEST, ...limit },
        )
        .toArray(),
    )
    for (const { _id, count } of found) counts.set(`${_id.endpoint} ${_id.state}`, count)
  }
  return names.map((name) => {
    const countIn = (state: StoredState) => counts.get(`${name} ${state}`) ?? 0
    const queued = QUEUED_STATES.reduce((sum, state) => sum + countIn(state), 0)
    const running = countIn('running')
    return {
      queued: Math.min(queued, MAX_COUNT),
      running: Math.min(running, MAX_COUNT),
      more: queued > MAX_COUNT || running > MAX_COUNT,
    }
  })
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
      if (await markDeleting(context, asRead, deadline)) return { kind: 'deleting' }
      continue
    }
    const use = await useOf(context, name, deadline)
    if (use !== null) return use
    // The sweep abandons a job that is enqueued between the count and this.
    const { deletedCount } = await run(deadline, (limit) =>
      context.endpoints.deleteOne(asRead, limit),
    )
    if (deletedCount === 1) {
      await forgetKeys(context, name, deadline)
      return { kind: 'deleted' }
    }
  }
  throw new StoreUnavailable('the endpoint changed each time it was read')
}

export function pauseEndpoint(
  context: MongoContext,
  name: string,
  ifVersion: number | null = null,
): Changed {
  return changeEndpoint(context, name, ifVersion, { paused: true }, { $not: ['$paused'] })
}

export async function resumeEndpoint(
  context: MongoContext,
  name: string,
  ifVersion: number | null = null,
): Changed {
  const fields = {
    paused: false,
    disabledReason: null,
    restingUntil: null,
    restCause: null,
    throttleStreak: 0,
    failureCount: 0,
    ramp: null,
    // A report that read the health before must be computed again.
    healthId: randomId(),
  }
  // The other fields are counts, which do not change the version.
  const isStopped = {
    $or: ['$paused', { $ne: ['$disabledReason', null] }, { $ne: ['$restingUntil', null] }],
  }
  const resumed = await changeEndpoint(context, name, ifVersion, fields, isStopped)
  if (resumed !== null && 'name' in resumed) await endRests(context, name)
  return resumed
}

export function rotateSecret(
  context: MongoContext,
  name: string,
  secret: string,
  overlapMs: number,
  ifVersion: number | null = null,
): Promise<Endpoint | OtherVersion | { fullUntil: number } | null> {
  return updateAsRead(context, name, ifVersion, (stored) => {
    const now = context.clock.now()
    const valid = validSecrets(stored, now).map(({ sealed, until }) => ({
      sealed,
      until: until?.getTime() ?? null,
    }))
    const sealed = context.box.seal(secret, name)
    const rotated = rotatedSecrets(valid, { sealed, until: null }, overlapMs, now)
    if ('fullUntil' in rotated) return { refusal: rotated }
    const secrets = rotated.map((one) => ({ ...one, until: dateOrNull(one.until) }))
    return { update: { $set: { secrets, updatedAt: new Date(now) }, $inc: { version: 1 } } }
  })
}

export async function reportHealth(context: MongoContext, reports: HealthReport[]): Promise<void> {
  const deadline = startDeadline()
  let open = reports
  for (let round = 0; open.length > 0; round++) {
    if (round === MAX_REPORT_ROUNDS) {
      throw new StoreUnavailable('the endpoints changed each time they were read')
    }
    const seen = await readHealth(context, open, deadline)
    const writes = open.flatMap((report) => {
      const endpoint = seen.get(report.endpoint)
      if (endpoint === undefined) return []
      const update = changeBy(endpoint, report, context.clock.now())
      return update === null ? [] : [{ report, endpoint, update }]
    })
    open = await writeHealth(context, writes, deadline)
  }
}

/** Counts in the index alone, up to one more than is reported. */
function countOf(endpoint: string, state: StoredState): Document[] {
  return [
    { $match: { endpoint, state } },
    { $limit: MAX_COUNT + 1 },
    { $group: { _id: { endpoint: '$endpoint', state: '$state' }, count: { $sum: 1 } } },
  ]
}

/** The reason why the endpoint cannot be deleted; null: it can. */
async function useOf(
  context: MongoContext,
  name: string,
  deadline: Deadline,
): Promise<Extract<DeleteEndpointResult, { kind: 'in_use' }> | null> {
  const [counts = { queued: 0, running: 0, more: false }] = await countJobs(context, [name])
  const schedule = await run(deadline, (limit) =>
    schedulesIn(context).findOne(
      { endpoint: name },
      { projection: { _id: 1 }, ...NEWEST, ...limit },
    ),
  )
  if (counts.queued + counts.running === 0 && schedule === null) return null
  return { kind: 'in_use', counts, scheduleName: schedule?._id ?? null }
}

/** Marks the endpoint: from now on it accepts no jobs, and the sweep does the rest. */
async function markDeleting(
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

function findEndpoint(
  context: MongoContext,
  name: string,
  deadline: Deadline,
): Promise<EndpointDocument | null> {
  return run(deadline, (limit) => context.endpoints.findOne({ _id: name }, { ...limit }))
}

/** Returns null if another process created it meanwhile. */
async function insertEndpoint(
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
    admissionHolder: null,
    admissionUntil: null,
    secrets: [newSecret(context, settings.name, secrets.given ?? secrets.fresh)],
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

/** Returns null if it changed since it was read. The endpoint stays paused, disabled or resting. */
async function replaceEndpoint(
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
    ...healthReset(settings, stored),
    ...bucketAfter(settings, stored, now.getTime()),
  }
  // Do not overwrite tokens that a claim takes meanwhile.
  const asRead = 'rateFullAt' in fields ? { rateFullAt } : {}
  return run(deadline, (limit) =>
    context.endpoints.findOneAndUpdate(
      { _id, version, deleting: false, ...asRead },
      { $set: fields, $inc: { version: 1 } },
      { returnDocument: 'after', ...limit },
    ),
  )
}

/**
 * Notes on one due job that it is free now, so that workers look at the endpoint. If that fails,
 * they find its jobs with their next full look.
 */
async function noteFreed(context: MongoContext, name: string, deadline: Deadline): Promise<void> {
  const now = nowOf(context)
  const guard = { endpoint: name, ...guardOf('claim', { now }) }
  try {
    const due = await run(deadline, (limit) =>
      context.jobs.findOne(guard, { projection: { _id: 1 }, ...CLAIM_ORDER, ...NEWEST, ...limit }),
    )
    if (due === null) return
    await run(deadline, (limit) =>
      context.jobs.updateOne(
        { _id: due._id, ...guard },
        { $set: { freedAt: now } },
        { ...BY_ID, ...limit },
      ),
    )
    context.notifyWork()
  } catch (error) {
    if (!(error instanceof StoreUnavailable)) throw error
  }
}

/** A PUT that repeats the current secret does not end an overlap. */
function secretsAfter(
  context: MongoContext,
  stored: EndpointDocument,
  given: string | null,
  now: number,
): SealedSecret[] {
  const before = validSecrets(stored, now)
  if (given === null) return before
  // A given secret also replaces one that no key decrypts.
  const isRepeated = shown(context, stored).secrets[0] === given
  return isRepeated ? before : [newSecret(context, stored._id, given)]
}

const NO_REST = { restingUntil: null, restCause: null, ramp: null }

/** A pulled endpoint gets no requests, so that nothing would end its rest. */
function healthReset(
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

function bucketAfter(
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

function newSecret(context: MongoContext, name: string, secret: string): SealedSecret {
  return { sealed: context.box.seal(secret, name), until: null }
}

/** @param isChanged an expression over the stored document: whether its version increases */
function changeEndpoint(
  context: MongoContext,
  name: string,
  ifVersion: number | null,
  fields: Partial<EndpointDocument>,
  isChanged: object,
): Changed {
  const updatedAt = { $cond: [isChanged, nowOf(context), '$updatedAt'] }
  const version = { $add: ['$version', { $cond: [isChanged, 1, 0] }] }
  const update = [{ $set: { ...fields, updatedAt, version } }]
  return updateAsRead(context, name, ifVersion, () => ({ update }))
}

/** Updates the version that was read, and reads again if another write came in between. */
async function updateAsRead<Refusal = never>(
  context: MongoContext,
  name: string,
  ifVersion: number | null,
  decide: (
    stored: EndpointDocument,
  ) => { update: UpdateFilter<EndpointDocument> | Document[] } | { refusal: Refusal },
): Promise<Endpoint | OtherVersion | Refusal | null> {
  const deadline = startDeadline()
  for (let round = 0; round < MAX_ROUNDS; round++) {
    const stored = await findEndpoint(context, name, deadline)
    const other = otherVersion(stored, ifVersion)
    if (other !== null) return other
    if (stored === null) return null
    const endpoint = shown(context, stored)
    // An endpoint that is being deleted does not change.
    if (stored.deleting) return endpoint
    // Decrypts before the write: a failure after it would hide that the write was made.
    decrypted(endpoint)
    const decision = decide(stored)
    if ('refusal' in decision) return decision.refusal
    const written = await run(deadline, (limit) =>
      context.endpoints.findOneAndUpdate(
        { _id: name, deleting: false, version: stored.version },
        decision.update,
        { returnDocument: 'after', ...limit },
      ),
    )
    if (written !== null) return shown(context, written)
  }
  throw new StoreUnavailable('the endpoint changed each time it was read')
}

function shown(context: MongoContext, document: EndpointDocument): Endpoint {
  return endpointOf(document, context.box, context.clock.now())
}

async function readHealth(context: MongoContext, reports: HealthReport[], deadline: Deadline) {
  const names = reports.map(({ endpoint }) => endpoint)
  const found = await run(deadline, (limit) =>
    context.endpoints
      .find<SeenHealth>(
        { _id: { $in: names } },
        { projection: HEALTH_FIELDS, batchSize: names.length + 1, ...NEWEST, ...limit },
      )
      .toArray(),
  )
  return new Map(found.map((endpoint) => [endpoint._id, endpoint]))
}

interface HealthWrite {
  report: HealthReport
  endpoint: SeenHealth
  update: UpdateFilter<EndpointDocument>
}

/** Returns the reports whose endpoint changed since it was read. */
async function writeHealth(
  context: MongoContext,
  writes: HealthWrite[],
  deadline: Deadline,
): Promise<HealthReport[]> {
  if (writes.length === 0) return []
  const healthId = randomId()
  const updates = writes.map(({ endpoint, update: { $set = {}, ...rest } }) => ({
    updateOne: {
      filter: {
        _id: endpoint._id,
        version: endpoint.version,
        healthId: endpoint.healthId,
      },
      update: { ...rest, $set: { ...$set, healthId } },
    },
  })) as Parameters<typeof context.endpoints.bulkWrite>[0]
  const { matchedCount } = await run(deadline, (limit) =>
    context.endpoints.bulkWrite(updates, { ordered: false, ...limit }),
  )
  if (matchedCount === writes.length) return []
  const now = await readHealth(
    context,
    writes.map(({ report }) => report),
    deadline,
  )
  return writes.flatMap(({ report }) =>
    now.get(report.endpoint)?.healthId === healthId ? [] : [report],
  )
}

/** Returns null if the report changes nothing, such as a success of a healthy endpoint. */
function changeBy(
  seen: SeenHealth,
  report: HealthReport,
  now: number,
): UpdateFilter<EndpointDocument> | null {
  const before: Health = {
    version: seen.version,
    ...restOf(seen),
    restCause: seen.restCause,
    throttleStreak: seen.throttleStreak,
    failureCount: seen.failureCount,
    isGone: false,
  }
  const after = healthAfter(before, report, seen.circuitBreaker, now)
  if (JSON.stringify(after) === JSON.stringify(before)) return null
  const { restingUntil, restCause, throttleStreak, failureCount, ramp, isGone } = after
  return {
    $set: {
      restingUntil: restingUntil === null ? null : new Date(restingUntil),
      restCause,
      throttleStreak,
      failureCount,
      ramp: ramp && { ...ramp, endsAt: new Date(ramp.endsAt) },
      ...(isGone ? { disabledReason: 'gone' as const, updatedAt: new Date(now) } : {}),
    },
    ...(isGone ? { $inc: { version: 1 } } : {}),
  }
}
