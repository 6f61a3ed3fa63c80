// Claim, in three commands whatever the batch, exact by construction: find ids of due jobs; update
// those that are still queued and due, with one new random lease id; find by ids and lease id. The
// last one returns only jobs of this claim, whatever raced. A fourth reads the payloads that are
// stored apart, if there are any. Jobs that the update claimed, or may have claimed, and that are
// not read are released and never sent. Jobs of endpoints with limits are claimed within their
// admission (admission.ts): two commands before the update, and one at the end. Over 500 lines,
// because the choice of candidates and the release of unacknowledged claims have no other reader.
import type { Document } from 'mongodb'
import { ASK_AGAIN_MS, afterClaim } from '../../endpoint/admission.ts'
import type { ClaimedJob } from '../../job/job.ts'
import type { Claim, Due, EndpointShare, Holder, LimitedEndpoint } from '../store.ts'
import { StoreUnavailable } from '../store-errors.ts'
import {
  type Admission,
  acquireAdmission,
  type EligibleEndpoints,
  MAX_ADMITTED,
  releaseAdmission,
} from './admission.ts'
import { withBodies } from './bodies.ts'
import { type Deadline, type MongoContext, nowOf, run, startDeadline } from './connection.ts'
import { guardOf } from './guards.ts'
import {
  atEndpoints,
  BY_ID,
  CLAIM_PROJECTION,
  type ClaimedDocument,
  claimedJobOf,
  type JobDocument,
  randomId,
  releaseOf,
} from './job-document.ts'
import type { JobIndex } from './schema.ts'

/** A claim that loses ids to other claimers tries again, but not without end. */
const MAX_ROUNDS = 8
/** While there are other claimers, choose from a list this many times as long as needed. */
const SPREAD_FACTOR = 4
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
  limited: Map<string, LimitedEndpoint>
  deadline: Deadline
}

/** Limit of the payloads of one claim, which a worker holds in memory together. */
export const MAX_CLAIM_BYTES = 64 * 1_024 * 1_024
/** Limit of shares in one command: more make a long command, fewer make many commands. */
const MAX_SHARES_PER_COMMAND = 64
/** The first command reads few shares, because they may have enough; the next ones read more. */
const FIRST_SHARES = 4
const SHARES_GROWTH = 4

type Candidate = Pick<JobDocument, '_id' | 'endpoint' | 'payloadBytes'>

/** An endpoint, and how many more of its jobs the claim may take. */
interface OpenShare {
  endpoint: string
  left: number
}

/** Chooses jobs within the limits of one claim, which needs more rounds if it loses ids. */
export interface Picker {
  wantsMore(): boolean
  startRound(): void
  /** The shares to read next, each with its limit; none: the round is complete. */
  nextShares(): OpenShare[]
  /** The candidates of those shares. An endpoint without further ones is not read again. */
  add(found: Candidate[][]): void
  picked(): Candidate[]
  /** Takes nothing more from this endpoint. */
  close(endpoint: string): void
  /** Reads the endpoint again, because its candidates of this round were not tried. */
  reopen(endpoint: string): void
  /** The endpoints that may have more due jobs. */
  openEndpoints(): string[]
  /** Counts the jobs that were claimed. */
  count(taken: Pick<ClaimedJob, 'payload' | 'endpoint'>[]): void
}

const FIRST_WAIT_MS = 100
/** An election of some seconds must not use up the lease. */
const MAX_WAIT_MS = 1_000
/** Further claims are left to the sweep, which finds their expired leases. */
const MAX_UNACKNOWLEDGED = 100

export interface UnacknowledgedClaims {
  release(ids: string[], leaseId: string, leaseMs: number): void
  stop(): void
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
  const eligible = await claimer.eligibleEndpoints.among(names, context.clock.now(), deadline)
  const limitedNames = new Set(names.filter((name) => eligible.get(name)?.isLimited))
  const open = shares.filter(({ endpoint }) => eligible.has(endpoint))
  const picker = createPicker(open, limit)
  const limited = new Map<string, LimitedEndpoint>()
  const call = { context, unacknowledged, holder, picker, limitedNames, limited, deadline }
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
  return { jobs: claimed, limited: [...limited.values()], unfinished: picker.openEndpoints() }
}

export function createClaimer(
  context: MongoContext,
  eligibleEndpoints: EligibleEndpoints,
  unacknowledged: UnacknowledgedClaims,
): Claimer {
  return { context, eligibleEndpoints, unacknowledged, calmClaims: CALM_AFTER }
}

export function trackUnacknowledgedClaims(context: MongoContext): UnacknowledgedClaims {
  const timers = new Set<NodeJS.Timeout>()
  let count = 0
  let stopped = false

  const tryAgain = (claim: UnacknowledgedClaim, waitMs: number) => {
    if (stopped || performance.now() > claim.endsAt) {
      count -= 1
      return
    }
    const timer = setTimeout(async () => {
      timers.delete(timer)
      const isMore = await releaseUnacknowledged(context, claim)
      tryAgain(claim, isMore ? FIRST_WAIT_MS : Math.min(waitMs * 2, MAX_WAIT_MS))
    }, waitMs)
    timer.unref()
    timers.add(timer)
  }

  return {
    release(ids, leaseId, leaseMs) {
      if (count === MAX_UNACKNOWLEDGED) return
      count += 1
      const endsAt = performance.now() + leaseMs
      tryAgain({ ids, leaseId, endsAt, most: ids.length }, FIRST_WAIT_MS)
    },
    stop() {
      stopped = true
      for (const timer of timers) clearTimeout(timer)
    },
  }
}

export function createPicker(shares: EndpointShare[], limit: number): Picker {
  let open: OpenShare[] = shares
    .filter((share) => share.limit > 0)
    .map((share) => ({ endpoint: share.endpoint, left: share.limit }))
  const exhausted = new Set<string>()
  let wanted = limit
  let bytesLeft = MAX_CLAIM_BYTES
  let takenCount = 0
  let lastShares: OpenShare[] = []
  let round = newRound()

  /** Whether the candidate fitted into the claim. */
  const pick = (candidate: Candidate) => {
    const bytes = round.bytes + candidate.payloadBytes
    // One job alone always fits, whatever its size.
    const fits = bytes <= bytesLeft || round.picked.length + takenCount === 0
    if (!fits || round.picked.length === wanted) round.isFull = true
    if (!round.isFull) {
      round.picked.push(candidate)
      round.bytes = bytes
    }
    return !round.isFull
  }

  return {
    wantsMore: () => wanted > 0 && open.length > 0 && bytesLeft > 0,
    startRound() {
      round = newRound()
    },
    nextShares() {
      const most = round.isFull ? 0 : wanted - round.picked.length
      const next =
        most === 0 ? [] : open.slice(round.nextShare, round.nextShare + round.sharesAtOnce)
      lastShares = next.map(({ endpoint, left }) => ({ endpoint, left: Math.min(left, most) }))
      round.nextShare += lastShares.length
      round.sharesAtOnce = Math.min(round.sharesAtOnce * SHARES_GROWTH, MAX_SHARES_PER_COMMAND)
      return lastShares
    },
    add(found) {
      lastShares.forEach(({ endpoint, left }, i) => {
        const own = found[i] ?? []
        const isAll = own.slice(0, left).every(pick)
        if (isAll && own.length < left) exhausted.add(endpoint)
      })
    },
    picked: () => round.picked,
    close(endpoint) {
      exhausted.add(endpoint)
    },
    reopen(endpoint) {
      exhausted.delete(endpoint)
    },
    openEndpoints: () => open.map(({ endpoint }) => endpoint),
    count(taken) {
      if (round.isFull && round.picked.length < wanted) bytesLeft = 0
      for (const { payload, endpoint } of taken) {
        takenCount += 1
        wanted -= 1
        bytesLeft -= payload.byteLength
        for (const share of open) if (share.endpoint === endpoint) share.left -= 1
      }
      open = open.filter(({ endpoint, left }) => left > 0 && !exhausted.has(endpoint))
    },
  }
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
  const { context, picker, limitedNames, deadline } = call
  picker.startRound()
  for (let shares = picker.nextShares(); shares.length > 0; shares = picker.nextShares()) {
    picker.add(await findCandidates(context, shares, spread, deadline))
  }
  const picked = picker.picked()
  const names = [...new Set(picked.map(({ endpoint }) => endpoint))].filter((name) =>
    limitedNames.has(name),
  )
  const { taken, triedCount } =
    names.length === 0
      ? { taken: await claimCandidates(call, picked), triedCount: picked.length }
      : await claimAdmitted(call, picked, names.slice(0, MAX_ADMITTED))
  picker.count(taken)
  return { taken, lostCount: triedCount - taken.length }
}

/** Closes the endpoints without admission or without a free slot, for this claim. */
async function claimAdmitted(
  call: ClaimCall,
  picked: Candidate[],
  names: string[],
): Promise<{ taken: ClaimedJob[]; triedCount: number }> {
  const { context, unacknowledged, holder, picker, limitedNames, deadline } = call
  const admission = await acquireAdmission(context, names, deadline)
  const untried = new Set([...limitedNames].filter((name) => !names.includes(name)))
  const { candidates, cutShort } = withinSlots(picked, admission, limitedNames)
  const taken = await claimCandidates(call, candidates)
  const within = taken.filter(({ endpoint }) => limitedNames.has(endpoint))
  const byEndpoint = Map.groupBy(within, ({ endpoint }) => endpoint)
  const mayBeSent = await releaseAdmission(context, admission, byEndpoint, deadline).catch(
    (error) => {
      // Another claim may have it by now, so the jobs claimed within it must not be sent.
      if (error instanceof StoreUnavailable) return false
      throw error
    },
  )
  const now = context.clock.now()
  for (const name of names) call.limited.delete(name)
  for (const name of cutShort) {
    // Beyond the limit of one round: this round did not try to acquire their admission.
    const isUntried = untried.has(name)
    const notAcquiredAgainAt = isUntried ? now : now + ASK_AGAIN_MS
    const limits = admission.endpoints.get(name)?.limits
    const againAt =
      limits === undefined
        ? notAcquiredAgainAt
        : afterClaim(limits, byEndpoint.get(name)?.length ?? 0, now).againAt
    call.limited.set(name, { endpoint: name, againAt })
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
    call.limited.set(name, { endpoint: name, againAt: now + ASK_AGAIN_MS })
    picker.close(name)
  }
  const free = taken.filter(({ endpoint }) => !limitedNames.has(endpoint))
  return { taken: free, triedCount: candidates.length - within.length }
}

/** The candidates within the free slots, and the endpoints that have more candidates than slots. */
function withinSlots(picked: Candidate[], admission: Admission, limitedNames: Set<string>) {
  const left = new Map([...admission.endpoints].map(([name, { slots }]) => [name, slots]))
  const cutShort = new Set<string>()
  const candidates = picked.filter(({ endpoint }) => {
    if (!limitedNames.has(endpoint)) return true
    const slots = left.get(endpoint) ?? 0
    left.set(endpoint, slots - 1)
    if (slots <= 0) cutShort.add(endpoint)
    return slots > 0
  })
  return { candidates, cutShort }
}

/** Claims the jobs that are still queued and due, and reads them with payloads, in order. */
async function claimCandidates(call: ClaimCall, candidates: Candidate[]): Promise<ClaimedJob[]> {
  const { context, holder, unacknowledged, deadline } = call
  if (candidates.length === 0) return []
  const ids = candidates.map(({ _id }) => _id)
  const leaseId = randomId()
  try {
    const claimedCount = await writeClaim(context, candidates, leaseId, holder, deadline)
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
    const whole = await withBodies(context, documents, deadline)
    const byId = new Map(
      whole.map((document) => [document._id, claimedJobOf(document, leaseId, context.box)]),
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
  context: MongoContext,
  candidates: Candidate[],
  leaseId: string,
  holder: Holder,
  deadline: Deadline,
): Promise<number> {
  const now = nowOf(context)
  const { matchedCount } = await run(deadline, (limit) =>
    context.jobs.updateMany(
      { ...atEndpoints(candidates), ...guardOf('claim', { now }) },
      {
        $set: {
          state: 'running',
          phase: 'sending',
          leaseId,
          leaseWorkerId: holder.workerId,
          leaseExpiresAt: new Date(now.getTime() + holder.leaseMs),
          pulledLeaseMs: holder.pulls ? holder.leaseMs : null,
          claimedAt: now,
          progress: null,
        },
        $inc: { fence: 1, attemptCount: 1, attemptsLeft: -1, version: 1 },
        // Sets it once: an earlier instant stays.
        $min: { startedAt: now },
      },
      { ...BY_ID, ...limit },
    ),
  )
  return matchedCount
}

function newRound() {
  return {
    ...{ sharesAtOnce: FIRST_SHARES, nextShare: 0, bytes: 0, isFull: false },
    picked: [] as Candidate[],
  }
}

/**
 * Due jobs of each share, in order; with `spread` above 1, a random stretch of a longer list. The
 * index `claim` has every field that this asks for or returns, so that it reads no document.
 */
async function findCandidates(
  context: MongoContext,
  shares: OpenShare[],
  spread: number,
  deadline: Deadline,
): Promise<Candidate[][]> {
  const pipelines = shares.map(({ endpoint, left }) =>
    candidatesOf(endpoint, left * spread, nowOf(context)),
  )
  const [first, ...others] = pipelines
  if (first === undefined) return []
  const unions = others.map((pipeline) => ({ $unionWith: { coll: context.names.jobs, pipeline } }))
  const batchSize = shares.reduce((sum, { left }) => sum + left * spread, 1)
  // The newest state: the guard of the update proves it, and a majority read can be older.
  const options = { batchSize, readConcern: 'local' } as const
  const found = await run(deadline, (limit) =>
    context.jobs.aggregate<Candidate>([...first, ...unions], { ...options, ...limit }).toArray(),
  )
  const byEndpoint = Map.groupBy(found, ({ endpoint }) => endpoint)
  return shares.map(({ endpoint, left }) => randomStretch(byEndpoint.get(endpoint) ?? [], left))
}

function candidatesOf(endpoint: string, limit: number, now: Date): Document[] {
  return [
    { $match: { endpoint, ...guardOf('claim', { now }) } },
    { $sort: { priority: -1, runAt: 1 } },
    { $limit: limit },
    { $project: { endpoint: 1, payloadBytes: 1 } },
  ]
}

function randomStretch(candidates: Candidate[], length: number): Candidate[] {
  const slack = candidates.length - length
  if (slack <= 0) return candidates
  const start = Math.floor(Math.random() * (slack + 1))
  return candidates.slice(start, start + length)
}

interface UnacknowledgedClaim {
  ids: string[]
  leaseId: string
  /** By the monotonic clock. */
  endsAt: number
  /** Jobs that one write releases: fewer after each write that the store did not finish in time. */
  most: number
}

/** Whether there may be more to release. */
async function releaseUnacknowledged(
  context: MongoContext,
  claim: UnacknowledgedClaim,
): Promise<boolean> {
  const { ids, leaseId } = claim
  try {
    const found = await run(startDeadline(), (limit) =>
      context.jobs
        .find(
          { _id: { $in: ids }, state: 'running', leaseId },
          {
            projection: { endpoint: 1, superseded: 1, attemptCount: 1 },
            batchSize: ids.length + 1,
            ...BY_ID,
            ...limit,
          },
        )
        .toArray(),
    )
    // Usually the update claimed nothing: this saves a slow store updates that match nothing.
    if (found.length === 0) return false
    const now = nowOf(context)
    const updates = found
      .slice(0, claim.most)
      .map(({ _id, endpoint, superseded, attemptCount }) => {
        const isSuperseded = superseded === true
        const event = isSuperseded ? 'withdraw' : 'release'
        // The lease id is random and belongs to this claim alone, so that the guard needs no fence.
        const filter = { _id, endpoint, state: 'running' as const, leaseId }
        return releaseOf(
          { ...filter, superseded: isSuperseded ? true : { $ne: true } },
          { attemptCount },
          { event, writeId: randomId(), now },
        )
      })
    const { matchedCount } = await run(startDeadline(), (limit) =>
      context.jobs.bulkWrite(updates, { ordered: false, ...limit }),
    )
    if (matchedCount > 0) context.notifyWork()
    return found.length > claim.most
  } catch {
    // The store is still away, or too slow for so many jobs: the next try releases fewer.
    claim.most = Math.max(1, Math.floor(claim.most / 2))
    return false
  }
}

/** For each state, an index that begins with the name of the endpoint. */
const NAME_INDEXES = {
  queued: 'claim',
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
