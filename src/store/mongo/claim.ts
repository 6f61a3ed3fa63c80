// Claim, in three commands whatever the batch, exact by construction: find ids of due jobs; update
// those that are still queued and due, with one new random lease id; find by ids and lease id. The
// last one returns only jobs of this claim, whatever raced. A fourth reads the payloads that are
// stored apart, if there are any. Jobs that the update claimed, or may have claimed, and that are
// not read are released and never sent. Jobs of endpoints with limits are claimed within their
// admission (admission.ts): two commands before the update, and one at the end.
import type { Document } from 'mongodb'
import { ASK_AGAIN_MS, afterClaim, type Refusal, tokensOf } from '../../endpoint/admission.ts'
import type { FairnessKey, KeyRoom } from '../../endpoint/key-limits.ts'
import { type ClaimedJob, DEFAULT_COST } from '../../job/job.ts'
import { ALARM } from '../../job/turns.ts'
import type { Claim, Due, EndpointShare, Holder, LimitedEndpoint } from '../store.ts'
import { StoreUnavailable } from '../store-errors.ts'
import {
  type Admission,
  type Admitted,
  acquireAdmission,
  type EligibleEndpoints,
  MAX_ADMITTED,
  releaseAdmission,
} from './admission.ts'
import { withBodies } from './bodies.ts'
import {
  type Candidate,
  createPicker,
  findCandidates,
  keepTurns,
  newLooks,
  type Picker,
} from './candidates.ts'
import { type Deadline, type MongoContext, nowOf, run, startDeadline } from './connection.ts'
import { guardOf } from './guards.ts'
import type { JobIndex } from './indexes.ts'
import {
  atEndpoints,
  BY_ID,
  CLAIM_PROJECTION,
  type ClaimedDocument,
  type JobDocument,
  openHeaders,
  ownBytes,
  randomId,
  type Whole,
} from './job-document.ts'
import { type FullKey, type Keys, NO_KEYS, openKeys, parkKeys, wakeFreed } from './key-limits.ts'
import type { UnacknowledgedClaims } from './leases.ts'
import { advanceLanes, costOf, giveTurns, type KeyInLane, type LaneLooks, textOf } from './turns.ts'

/** A claim that loses ids to other claimers tries again, but not without end. */
const MAX_ROUNDS = 8
/** While there are other claimers, choose from a list this many times as long as needed. */
const SPREAD_FACTOR = 4
/**
 * How soon to ask again, about, for a shared limit whose admission another claim holds: it does for
 * some milliseconds. An endpoint with two limits needs both at once, and would get them too rarely.
 */
const HELD_AGAIN_MS = 50
/** Keys at their limit can be many more than the jobs that a claim wants. */
const LOOK_AHEAD = 64
/** Claims without a loss until this process assumes that there are no other claimers. */
const CALM_AFTER = 20

interface Claimer {
  context: MongoContext
  eligibleEndpoints: EligibleEndpoints
  unacknowledged: UnacknowledgedClaims
  /**
   * Claims since the last one that lost ids to another claimer. Claimers that all try the first due
   * jobs of an endpoint lose most ids to each other. So after a loss, a claim takes a random part
   * of a longer list. Only then can it deviate from the order of the endpoint's jobs; a single
   * claimer never does.
   */
  calmClaims: number
}

/** The state of one call of claim. */
interface ClaimCall {
  context: MongoContext
  unacknowledged: UnacknowledgedClaims
  holder: Holder
  picker: Picker
  /** Endpoints whose jobs are claimed within their admission only. */
  limitedNames: Set<string>
  /** Endpoints whose jobs may have fairness keys. */
  keyedNames: Set<string>
  /** How many candidates it looks at beyond those it wants: some keys are at their limit. */
  ahead: number
  /** Endpoints whose keys may have limits: their jobs are marked as `held`. */
  heldNames: Set<string>
  /** Endpoints whose keys may have other weights than 1. */
  weightedNames: Set<string>
  /** The fairness keys of the round. */
  keys: Keys
  /** The jobs that this call has claimed and that admit the next one of their key. */
  admitting: KeyInLane[]
  /** Keys whose candidates were not tried, because they are at their limit. */
  full: FullKey[]
  /** Endpoints with keys that wait for room. */
  parkedAt: Set<string>
  limited: Map<string, LimitedEndpoint>
  deadline: Deadline
}

/** Endpoints in one reply to a look for work. More come in further replies. */
const NAMES = { batchSize: 10_000, readConcern: 'local' } as const

export async function due(context: MongoContext, since: number | null): Promise<Due> {
  const deadline = startDeadline()
  const now = nowOf(context)
  // This is one command, because every worker sends it again and again while it is idle.
  if (since !== null) return readDue(context, [...newlyDue(since, now), nextDue(now)], deadline)
  const [endpoints, { nextAt }] = await Promise.all([
    endpointsWith(context, 'queued', deadline),
    readDue(context, [nextDue(now)], deadline),
  ])
  return { endpoints, nextAt }
}

export async function claim(
  claimer: Claimer,
  shares: EndpointShare[],
  limit: number,
  holder: Holder,
): Promise<Claim> {
  const { context, unacknowledged } = claimer
  const deadline = startDeadline(holder.withinMs)
  const names = shares.map(({ endpoint }) => endpoint)
  for (const name of names) {
    if (context.newlyKeyed.delete(name)) claimer.eligibleEndpoints.forget(name)
  }
  const eligible = await claimer.eligibleEndpoints.among(names, context.clock.now(), deadline)
  const limitedNames = new Set(names.filter((name) => eligible.get(name)?.isLimited))
  const keyedNames = new Set(names.filter((name) => eligible.get(name)?.isKeyed))
  const open = shares.filter(({ endpoint }) => eligible.has(endpoint))
  const picker = createPicker(open, limit)
  const limited = new Map<string, LimitedEndpoint>()
  const namesWith = (field: 'hasKeyLimits' | 'hasKeySettings') =>
    new Set(names.filter((name) => eligible.get(name)?.[field]))
  const heldNames = namesWith('hasKeyLimits')
  const call: ClaimCall = {
    ...{ context, unacknowledged, holder, picker, limitedNames, keyedNames, limited, deadline },
    ...{ heldNames, weightedNames: namesWith('hasKeySettings'), keys: NO_KEYS },
    ...{ admitting: [], full: [], parkedAt: new Set(), ahead: 0 },
  }
  await wakeFreed(context, [...heldNames], deadline)
  const claimed: ClaimedJob[] = []
  let leftMs = deadline.leftMs()
  let tookMs = 0
  for (let round = 0; round < MAX_ROUNDS && picker.wantsMore(); round++) {
    // A round past the deadline would make the caller lose the jobs of the rounds before.
    if (claimed.length > 0 && leftMs < tookMs) break
    const spread = claimer.calmClaims < CALM_AFTER ? SPREAD_FACTOR : 1
    try {
      const { taken, lostCount } = await claimRound(call, spread)
      claimed.push(...taken)
      claimer.calmClaims = lostCount > 0 ? 0 : Math.min(claimer.calmClaims + 1, CALM_AFTER)
    } catch (error) {
      // The jobs of earlier rounds are certainly claimed and can be delivered.
      if (claimed.length === 0 || !(error instanceof StoreUnavailable)) throw error
      break
    }
    tookMs = leftMs - deadline.leftMs()
    leftMs -= tookMs
  }
  const againAt = context.clock.now() + ASK_AGAIN_MS
  for (const endpoint of call.parkedAt) {
    if (!limited.has(endpoint)) limited.set(endpoint, { endpoint, againAt, limits: [] })
  }
  return { jobs: claimed, limited: [...limited.values()], unfinished: picker.openEndpoints() }
}

export function createClaimer(
  context: MongoContext,
  eligibleEndpoints: EligibleEndpoints,
  unacknowledged: UnacknowledgedClaims,
): Claimer {
  return { context, eligibleEndpoints, unacknowledged, calmClaims: CALM_AFTER }
}

/**
 * Endpoints that have a job in this state. Reads an index that begins with the name and skips from
 * name to name. `distinct` takes no hint before MongoDB 7.1, and without one it may use an index in
 * which it reads every such job.
 */
export async function endpointsWith(
  context: MongoContext,
  state: keyof typeof NAME_INDEXES,
  deadline: Deadline,
): Promise<string[]> {
  const stages = [{ $match: { endpoint: { $gt: '' }, state } }, { $group: { _id: '$endpoint' } }]
  const hint = NAME_INDEXES[state]
  const found = await run(deadline, (limit) =>
    context.jobs.aggregate<{ _id: string }>(stages, { hint, ...NAMES, ...limit }).toArray(),
  )
  return found.map(({ _id }) => _id)
}

async function claimRound(
  call: ClaimCall,
  spread: number,
): Promise<{ taken: ClaimedJob[]; lostCount: number }> {
  const { context, picker, limitedNames, keyedNames, weightedNames, deadline } = call
  const looks = newLooks()
  const look = { keyedNames, weightedNames, spread, ahead: call.ahead, looks }
  picker.startRound()
  for (let shares = picker.nextShares(); shares.length > 0; shares = picker.nextShares()) {
    picker.add(await findCandidates(context, shares, look, deadline))
  }
  const picked = picker.picked()
  const names = [...new Set(picked.map(({ endpoint }) => endpoint))].filter((name) =>
    limitedNames.has(name),
  )
  const { taken, triedCount } =
    names.length === 0
      ? { taken: await claimCandidates(call, picked), triedCount: picked.length }
      : await claimAdmitted(call, picked, names.slice(0, MAX_ADMITTED), looks)
  for (const endpoint of looks.parkedAt) call.parkedAt.add(endpoint)
  // Their keys get turns, or are parked, before the next round. An endpoint at its limit has no
  // room for them.
  for (const { endpoint } of [...call.admitting, ...call.full, ...looks.aside]) {
    if (!call.limited.has(endpoint)) picker.reopen(endpoint)
  }
  picker.count(taken)
  if (call.full.length > 0) call.ahead = LOOK_AHEAD
  await advance(call, looks, taken).catch((error: unknown) => {
    // The jobs are claimed: an outage here leaves keys to the round of the sweep.
    if (!(error instanceof StoreUnavailable)) throw error
  })
  return { taken, lostCount: triedCount - taken.length }
}

/** Gives turns to the jobs after those that were claimed. Keys at their limit get none. */
async function advance(call: ClaimCall, looks: LaneLooks, taken: ClaimedJob[]): Promise<void> {
  const { context, weightedNames, deadline } = call
  const ids = taken.map(({ jobId }) => jobId)
  const full = new Map(call.full.splice(0).map((key) => [textOf(key), key]))
  const claimed = new Set(ids)
  const ripe = looks.ripe.filter(
    ({ _id, fairnessKey: key, ...lane }) =>
      !claimed.has(_id) && typeof key === 'string' && !full.has(textOf({ ...lane, key })),
  )
  await keepTurns(context, ripe, looks.lanes, (name) => weightedNames.has(name), deadline)
  const keys = await advanceLanes(context, looks, ids, call.admitting.splice(0), deadline)
  const open = keys.flatMap((key) => {
    const room = call.keys.room(key)
    const left = room?.left() ?? Number.POSITIVE_INFINITY
    if (left === 0) {
      full.set(textOf(key), { ...key, cost: DEFAULT_COST, until: room?.freeAt() ?? null })
    }
    return left === 0 ? [] : [{ ...key, most: Math.min(key.most ?? left, left) }]
  })
  await giveTurns(context, open, deadline)
  const parked = await parkKeys(context, [...full.values()], deadline)
  for (const { endpoint } of parked) call.parkedAt.add(endpoint)
}

/** Closes the endpoints without admission or without a free slot, for this claim. */
async function claimAdmitted(
  call: ClaimCall,
  picked: Candidate[],
  names: string[],
  looks: LaneLooks,
): Promise<{ taken: ClaimedJob[]; triedCount: number }> {
  const { context, unacknowledged, holder, picker, limitedNames, deadline } = call
  const admission = await acquireAdmission(context, names, deadline)
  const keyLimits = new Map([...admission.endpoints].filter(([name]) => call.heldNames.has(name)))
  const seen = [...picked, ...picker.spare()]
  call.keys = await openKeys(context, keyLimits, seen.flatMap(keyOf), deadline)
  const untried = new Set([...limitedNames].filter((name) => !names.includes(name)))
  const { candidates, cutShort, full, tokens } = withinLimits(call, picked, admission)
  call.full = full.flatMap(({ candidate, until }) => {
    const { _id, endpoint, fairnessKey: key } = candidate
    const priority = looks.picks.get(_id)?.priority
    return typeof key !== 'string' || priority === undefined
      ? []
      : [{ endpoint, priority, key, cost: costOf(candidate), until }]
  })
  const taken = await claimCandidates(call, candidates)
  const within = taken.filter(({ endpoint }) => limitedNames.has(endpoint))
  const takenIds = new Set(within.map(({ jobId }) => jobId))
  const started = candidates.filter(({ _id }) => takenIds.has(_id))
  const costs = new Map<string, number>()
  for (const job of started) {
    costs.set(job.endpoint, (costs.get(job.endpoint) ?? 0) + costOf(job))
  }
  const keyed = started.flatMap((job) => keyOf(job).map((key) => ({ ...key, cost: costOf(job) })))
  const mayBeSent = await call.keys
    .save(keyed, deadline)
    .then(() => releaseAdmission(context, admission, costs, deadline))
    .catch((error) => {
      // Another claim may have it by now, so the jobs claimed within it must not be sent.
      if (error instanceof StoreUnavailable) return false
      throw error
    })
  const now = context.clock.now()
  for (const name of names) call.limited.delete(name)
  for (const [name, nextCost] of cutShort) {
    // Beyond the limit of one round: this round did not try to acquire their admission.
    const isUntried = untried.has(name)
    const askedAgainAt = isUntried ? now : now + ASK_AGAIN_MS
    const admitted = admission.endpoints.get(name)
    const next = { cost: nextCost, refusal: tokens.get(name)?.refusal ?? null }
    call.limited.set(name, {
      endpoint: name,
      ...(admitted === undefined
        ? { againAt: askedAgainAt, limits: [] }
        : waitOf(admitted, costs.get(name) ?? 0, next, now)),
    })
    if (isUntried) picker.reopen(name)
    else picker.close(name)
  }
  if (mayBeSent) return { taken, triedCount: candidates.length }
  for (const [leaseId, jobs] of Map.groupBy(within, (job) => job.leaseId)) {
    unacknowledged.release(
      jobs.map(({ jobId }) => jobId),
      leaseId,
      holder.leaseMs,
    )
  }
  for (const name of admission.endpoints.keys()) {
    call.limited.set(name, { endpoint: name, againAt: now + ASK_AGAIN_MS, limits: [] })
    picker.close(name)
  }
  const free = taken.filter(({ endpoint }) => !limitedNames.has(endpoint))
  return { taken: free, triedCount: candidates.length - within.length }
}

/** The fairness key of a job, if it has one. */
function keyOf({ endpoint, fairnessKey: key }: Candidate): FairnessKey[] {
  return typeof key === 'string' ? [{ endpoint, key }] : []
}

/** Until when an endpoint waits, and for which shared limits. */
function waitOf(
  { limits, heldLimits }: Admitted,
  cost: number,
  next: { cost: number; refusal: Refusal | null },
  now: number,
): Omit<LimitedEndpoint, 'endpoint'> {
  if (next.refusal !== null && next.refusal.limits.length > 0) return next.refusal
  if (heldLimits.length > 0) {
    return { againAt: now + HELD_AGAIN_MS * (0.5 + Math.random()), limits: heldLimits }
  }
  return { againAt: afterClaim(limits, cost, now, next.cost).againAt, limits: [] }
}

/**
 * The candidates within the limits, the endpoints that have more, with the cost of the next one,
 * and the candidates whose key is at its limit.
 */
function withinLimits(
  { limitedNames, keys, picker }: ClaimCall,
  picked: Candidate[],
  admission: Admission,
) {
  const now = admission.at
  const left = new Map([...admission.endpoints].map(([name, { slots }]) => [name, slots]))
  const tokens = new Map(
    [...admission.endpoints].map(([name, { limits, shared }]) => [
      name,
      tokensOf(name, limits, shared, now),
    ]),
  )
  const cutShort = new Map<string, number>()
  const full: { candidate: Candidate; until: number | null }[] = []
  const atLimit = new Set<KeyRoom>()
  const passedOver = new Map<string, number>()
  const passOver = (endpoint: string, count: number) => {
    passedOver.set(endpoint, (passedOver.get(endpoint) ?? 0) + count)
    return false
  }
  const isWithin = (candidate: Candidate) => {
    const { endpoint, fairnessKey } = candidate
    if (!limitedNames.has(endpoint)) return true
    const cost = costOf(candidate)
    const room = typeof fairnessKey === 'string' ? keys.room({ endpoint, key: fairnessKey }) : null
    // A cheaper job of the key does not pass the one before it.
    if (room !== null && atLimit.has(room)) return passOver(endpoint, 1)
    const slots = left.get(endpoint) ?? 0
    if (slots <= 0 || cutShort.has(endpoint)) {
      if (!cutShort.has(endpoint)) cutShort.set(endpoint, cost)
      return false
    }
    if (room?.canTake(cost) === false) {
      atLimit.add(room)
      full.push({ candidate, until: room.freeAt(cost) })
      return passOver(endpoint, 1)
    }
    // No other job passes the one for which there are not enough tokens.
    if (tokens.get(endpoint)?.take(cost) === false) {
      cutShort.set(endpoint, cost)
      return false
    }
    left.set(endpoint, slots - 1)
    room?.take(cost)
    return true
  }
  const candidates = picked.filter(isWithin)
  const instead = picker.spare().filter((candidate) => {
    const { endpoint } = candidate
    if ((passedOver.get(endpoint) ?? 0) === 0) return false
    passOver(endpoint, -1)
    return isWithin(candidate)
  })
  candidates.push(...instead)
  return { candidates, cutShort, full, tokens }
}

/** Claims the jobs that are still queued and due, and reads them with payloads, in order. */
async function claimCandidates(call: ClaimCall, candidates: Candidate[]): Promise<ClaimedJob[]> {
  const { context, holder, unacknowledged, deadline } = call
  if (candidates.length === 0) return []
  const ids = candidates.map(({ _id }) => _id)
  const leaseId = randomId()
  try {
    const claimedCount = await writeClaim(call, candidates, leaseId)
    if (claimedCount === 0) return []
    const documents = await run(deadline, (limit) =>
      context.jobs
        .find<ClaimedDocument>(
          { ...atEndpoints(candidates), state: 'running', leaseId },
          {
            projection: CLAIM_PROJECTION,
            batchSize: ids.length + 1,
            readConcern: 'majority',
            ...BY_ID,
            ...limit,
          },
        )
        .toArray(),
    )
    context.pendingEffects.noteClaimed(documents)
    for (const { endpoint, priority, fairnessKey: key, admitsNext } of documents) {
      if (key !== undefined && admitsNext) call.admitting.push({ endpoint, priority, key })
    }
    const whole = await withBodies(context, documents, deadline)
    const byId = new Map(
      whole.map((document) => [document._id, claimedJobOf(call, document, leaseId)]),
    )
    for (const { _id: jobId, endpoint } of documents) {
      if (!byId.has(jobId)) context.settings.warn({ jobId, endpoint }, 'payload.missing')
    }
    // After an election, a majority read can miss what this claim has just written (SERVER-53813).
    if (documents.length < claimedCount) {
      const found = new Set(documents.map(({ _id }) => _id))
      unacknowledged.release(
        ids.filter((id) => !found.has(id)),
        leaseId,
        holder.leaseMs,
      )
    }
    return ids.flatMap((id) => byId.get(id) ?? [])
  } catch (error) {
    unacknowledged.release(ids, leaseId, holder.leaseMs)
    throw error
  }
}

/** Returns how many it claimed. */
async function writeClaim(
  { context, holder, heldNames, deadline }: ClaimCall,
  candidates: Candidate[],
  leaseId: string,
): Promise<number> {
  const now = nowOf(context)
  const lease = {
    state: 'running' as const,
    phase: 'sending' as const,
    leaseId,
    leaseWorkerId: holder.workerId,
    leaseExpiresAt: new Date(now.getTime() + holder.leaseMs),
    pulledLeaseMs: holder.pulls ? holder.leaseMs : null,
    claimedAt: now,
    progress: null,
  }
  const claimOf = (jobs: Candidate[], fields: Partial<JobDocument>, unset = {}) => ({
    filter: { ...atEndpoints(jobs), ...guardOf('claim', { now }) },
    update: {
      $set: { ...lease, ...fields },
      $inc: { fence: 1, attemptCount: 1, attemptsLeft: -1, version: 1 },
      // Sets it once: an earlier instant stays.
      $min: { startedAt: now },
      ...unset,
    },
  })
  const keyed = candidates.filter(({ fairnessKey = null }) => fairnessKey !== null)
  if (keyed.length === 0) {
    const { filter, update } = claimOf(candidates, {})
    const { matchedCount } = await run(deadline, (limit) =>
      context.jobs.updateMany(filter, update, { ...BY_ID, ...limit }),
    )
    return matchedCount
  }
  const plain = candidates.filter(({ fairnessKey = null }) => fairnessKey === null)
  const held = keyed.filter(({ endpoint }) => heldNames.has(endpoint))
  const free = keyed.filter(({ endpoint }) => !heldNames.has(endpoint))
  const claims = [
    ...(free.length === 0 ? [] : [claimOf(free, { turn: ALARM })]),
    ...(held.length === 0
      ? []
      : [claimOf(held, { turn: ALARM, held: true }, { $unset: { parkedUntil: '' } })]),
    ...(plain.length === 0 ? [] : [claimOf(plain, {})]),
  ].map((one) => ({ updateMany: { ...one, ...BY_ID } }))
  const { matchedCount } = await run(deadline, (limit) =>
    context.jobs.bulkWrite(claims, { ordered: false, ...limit }),
  )
  return matchedCount
}

function claimedJobOf(
  { context, keys }: ClaimCall,
  document: Whole<ClaimedDocument>,
  leaseId: string,
): ClaimedJob {
  const { endpoint, fairnessKey: key = null } = document
  return {
    jobId: document._id,
    fence: document.fence,
    leaseId,
    endpoint,
    payload: ownBytes(document.payload),
    inputs: document.inputs === undefined ? null : ownBytes(document.inputs),
    attemptNumber: document.attemptCount,
    attemptsLeft: document.attemptsLeft,
    maxAttempts: document.maxAttempts,
    freeAttempts: document.freeAttempts,
    runAt: document.runAt.getTime(),
    firstRunAt: document.firstRunAt.getTime(),
    promotedAt: document.promotedAt?.getTime() ?? null,
    expiresAt: document.expiresAt?.getTime() ?? null,
    timeoutMs: document.timeoutMs,
    retry: document.retry,
    headers: openHeaders(document.headers, document._id, context.box),
    scheduleName: document.scheduleName ?? null,
    trace: document.trace ?? null,
    hops: document.hops,
    fairnessKey: key,
    keyRecovers: key !== null && keys.room({ endpoint, key })?.isRecovering === true,
    claimedAt: document.claimedAt.getTime(),
  }
}

/** For each state, an index that begins with the name of the endpoint. */
const NAME_INDEXES = {
  queued: 'claim',
  waiting: 'outside',
  blocked: 'blocked_of_endpoint',
  running: 'running',
  dead: 'unsuccessful_of_endpoint',
} as const satisfies Record<string, JobIndex>

/** @param pipelines each returns names of endpoints as `_id`, or one `nextAt` */
async function readDue(
  { jobs, names }: MongoContext,
  [first = [], ...others]: Document[][],
  deadline: Deadline,
): Promise<Due> {
  const unions = others.map((pipeline) => ({ $unionWith: { coll: names.jobs, pipeline } }))
  type Found = { _id?: string; nextAt?: Date }
  const found = await run(deadline, (limit) =>
    jobs.aggregate<Found>([...first, ...unions], { ...NAMES, ...limit }).toArray(),
  )
  const nextAt = found.find((one) => one.nextAt !== undefined)?.nextAt?.getTime() ?? null
  return { endpoints: [...new Set(found.flatMap(({ _id = [] }) => _id))], nextAt }
}

/** Endpoints with jobs whose runAt has passed since, or that were freed since. */
function newlyDue(since: number, now: Date): Document[][] {
  const from = new Date(since)
  const came = { state: 'queued', runAt: { $gt: from, $lte: now } }
  const freed = { state: 'queued', freedAt: { $gt: from }, runAt: { $lte: now } }
  return [came, freed].map((match) => [{ $match: match }, { $group: { _id: '$endpoint' } }])
}

/** When the next job becomes due that is not due now. */
function nextDue(now: Date): Document[] {
  const later = { state: 'queued', runAt: { $gt: now } }
  const project = { _id: 0, nextAt: '$runAt' }
  return [{ $match: later }, { $sort: { runAt: 1 } }, { $limit: 1 }, { $project: project }]
}
