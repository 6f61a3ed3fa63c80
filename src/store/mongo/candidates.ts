// The candidates of a claim: the first due jobs of its endpoints, and which of them it tries within
// its limits. Those of an endpoint with fairness keys are in turn (src/job/turns.ts).
import type { Document } from 'mongodb'
import { DEFAULT_WEIGHT, MAX_WEIGHT } from '../../endpoint/key-limits.ts'
import type { ClaimedJob } from '../../job/job.ts'
import {
  ALARM,
  type Lane,
  NEW_LANE,
  NO_TURN,
  PARKED,
  takeInTurn,
  turnLength,
} from '../../job/turns.ts'
import type { EndpointShare } from '../store.ts'
import { type Deadline, type MongoContext, nowOf, run } from './connection.ts'
import { weightsOf } from './fairness-keys.ts'
import { guardOf } from './guards.ts'
import { atEndpoints, BY_ID, type JobDocument } from './job-document.ts'
import {
  costOf,
  type JobWrite,
  type LaneCandidate,
  type LaneLooks,
  type Lanes,
  type LanesOfEndpoint,
  laneName,
  lanesOfAll,
  PLACE_FIELDS,
} from './turns.ts'

/** Limit of the payloads of one claim, which a worker holds in memory together. */
export const MAX_CLAIM_BYTES = 64 * 1_024 * 1_024
/** Limit of shares in one command: more make a long command, fewer make many commands. */
const MAX_SHARES_PER_COMMAND = 64
/** The first command reads few shares, because they may have enough; the next ones read more. */
const FIRST_SHARES = 4
const SHARES_GROWTH = 4

export type Candidate = Pick<JobDocument, '_id' | 'endpoint' | 'payloadBytes'> & {
  fairnessKey?: string | null
  cost?: number | null
}

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
  /** Those that come next at their endpoints. One may be taken for each that is passed over. */
  spare(): Candidate[]
  /** Takes nothing more from this endpoint. */
  close(endpoint: string): void
  /** Reads the endpoint again, because its candidates of this round were not tried. */
  reopen(endpoint: string): void
  /** The endpoints that may have more due jobs. */
  openEndpoints(): string[]
  /** Counts the jobs that were claimed. */
  count(taken: Pick<ClaimedJob, 'payload' | 'endpoint'>[]): void
}

/** More than the shares of one command can have. */
const MAX_CANDIDATES = 100_000
/** Keys whose alarm one claim sees. */
const ALARMS_PER_CLAIM = 1_000
/** Turns that one claim stores for keys with an alarm, and for parked keys. The others come later. */
const TURNS_KEPT = 64

interface Look {
  /** Endpoints whose jobs may have fairness keys. */
  keyedNames: Set<string>
  /** Those of them whose keys may have other weights than 1. */
  weightedNames: Set<string>
  spread: number
  /** How many more candidates it returns of an endpoint with keys. */
  ahead: number
  /** Learns what is found about their lanes. */
  looks: LaneLooks
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
        if (isAll) round.spare.push(...own.slice(left))
      })
    },
    picked: () => round.picked,
    spare: () => firstWithin(bytesLeft - round.bytes, round.spare),
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

/** Those that fit after the jobs of the round. */
function firstWithin(bytes: number, candidates: Candidate[]): Candidate[] {
  let left = bytes
  return candidates.filter(({ payloadBytes }) => {
    left -= payloadBytes
    return left >= 0
  })
}

function newRound() {
  return {
    ...{ sharesAtOnce: FIRST_SHARES, nextShare: 0, bytes: 0, isFull: false },
    picked: [] as Candidate[],
    spare: [] as Candidate[],
  }
}

/**
 * Due jobs of each share, in order, and those that come next; with `spread` above 1, a random
 * stretch of a longer list. The index `claim` has every field that this asks for or returns, so
 * that it reads no document.
 */
export async function findCandidates(
  context: MongoContext,
  shares: OpenShare[],
  { keyedNames, weightedNames, spread, ahead, looks }: Look,
  deadline: Deadline,
): Promise<Candidate[][]> {
  const now = nowOf(context)
  const pipelines = shares.flatMap(({ endpoint, left }) => {
    const match = { endpoint, ...guardOf('claim', { now }) }
    const limit = left * spread
    return keyedNames.has(endpoint)
      ? lanePipelines(match, limit + ahead, now)
      : [plainPipeline(match, limit)]
  })
  const [first, ...others] = pipelines
  if (first === undefined) return []
  const unions = others.map((pipeline) => ({ $unionWith: { coll: context.names.jobs, pipeline } }))
  const keyed = shares.flatMap(({ endpoint }) => (keyedNames.has(endpoint) ? [endpoint] : []))
  const stages = [...first, ...unions, ...(keyed.length === 0 ? [] : [lanesOfAll(context, keyed)])]
  // The newest state: the guard of the update proves it, and a majority read can be older.
  const options = { batchSize: MAX_CANDIDATES, readConcern: 'local' } as const
  const found = await run(deadline, (limit) =>
    context.jobs
      .aggregate<LaneCandidate & Partial<LanesOfEndpoint> & { isParked?: true }>(stages, {
        ...options,
        ...limit,
      })
      .toArray(),
  )
  const byEndpoint = Map.groupBy(found, ({ endpoint }) => endpoint)
  return shares.map(({ endpoint, left }) => {
    const own = byEndpoint.get(endpoint) ?? []
    if (!keyedNames.has(endpoint)) return randomStretch(own, left)
    const lanes = own.find((one) => one.isEndpoint)?.lanes ?? {}
    const jobs = own.filter((one) => !(one.isEndpoint || one.isParked))
    if (own.some((one) => one.isParked)) looks.parkedAt.add(endpoint)
    const maxWeight = weightedNames.has(endpoint) ? MAX_WEIGHT : DEFAULT_WEIGHT
    const ordered = orderInTurn(jobs, lanes, left * spread + ahead, looks, maxWeight)
    return spreadInTurn(ordered, left + ahead, looks)
  })
}

/**
 * Of an endpoint that is not known to have keys. If it has some by now, their jobs come last until
 * the process reads the endpoint again.
 */
function plainPipeline(match: Document, limit: number): Document[] {
  return [
    { $match: match },
    { $sort: { priority: -1, turn: 1, runAt: 1 } },
    { $limit: limit },
    { $project: { endpoint: 1, payloadBytes: 1, fairnessKey: 1, cost: 1 } },
  ]
}

/**
 * A random stretch of each priority, after the first job of each key that may start now. So a claim
 * passes over no key, and other claimers try few of the same jobs.
 */
function spreadInTurn(jobs: LaneCandidate[], length: number, looks: LaneLooks): LaneCandidate[] {
  if (jobs.length <= length) return jobs
  const chosen: LaneCandidate[] = []
  for (const some of Map.groupBy(jobs, ({ priority }) => priority).values()) {
    const left = length - chosen.length
    const seen = new Set<string | null>()
    const isNext = (job: LaneCandidate) => {
      const { fairnessKey = null } = job
      const isFirst = !seen.has(fairnessKey)
      seen.add(fairnessKey)
      return isFirst && mayStart(job, looks)
    }
    const next = some.filter(isNext).slice(0, left)
    const others = some.filter((job) => !next.includes(job))
    chosen.push(...next, ...randomStretch(others, left - next.length))
  }
  return chosen
}

function mayStart(job: LaneCandidate, { picks, lanes }: LaneLooks): boolean {
  const tag = picks.get(job._id)?.pick.tag ?? 0
  const { virtualTime } = lanes.get(laneName(job.endpoint, job.priority)) ?? NEW_LANE
  return tag - turnLength(costOf(job)) <= virtualTime
}

function randomStretch<T>(candidates: T[], length: number): T[] {
  const slack = candidates.length - length
  if (slack <= 0) return candidates
  const start = Math.floor(Math.random() * (slack + 1))
  return candidates.slice(start, start + length)
}

/**
 * The candidates with a turn, with an alarm that is due, of parked keys that may have room, and
 * without a key: one pipeline each. The last one returns a parked job, if there is one.
 */
function lanePipelines(match: Document, limit: number, now: Date): Document[][] {
  const fields = { endpoint: 1, payloadBytes: 1, admitsNext: 1, runAt: 1, ...PLACE_FIELDS }
  const part = (turn: Document | number, order: Record<string, 1 | -1>, most: number) => [
    { $match: { ...match, turn } },
    { $sort: { priority: -1, ...order } },
    { $limit: most },
    { $project: fields },
  ]
  const { endpoint } = match
  return [
    part({ $gt: NO_TURN, $lt: PARKED }, { turn: 1 }, limit),
    part(ALARM, { runAt: 1 }, ALARMS_PER_CLAIM),
    [
      { $match: { ...match, turn: PARKED, parkedUntil: { $lte: now } } },
      // Only the index `parked` has this order: the index `claim` would return all parked jobs.
      { $sort: { priority: -1, parkedUntil: 1 } },
      { $limit: ALARMS_PER_CLAIM },
      { $project: fields },
    ],
    part(NO_TURN, { runAt: 1 }, limit),
    [
      { $match: { endpoint, state: 'queued', turn: PARKED, parkedUntil: { $gt: now } } },
      { $limit: 1 },
      { $project: { _id: 0, endpoint: 1, isParked: { $literal: true } } },
    ],
  ]
}

export function newLooks(): LaneLooks {
  return {
    ...{ picks: new Map(), lanes: new Map() },
    ...{ isPlainFull: new Set(), plainCounts: new Map(), parkedAt: new Set() },
    ...{ aside: [], ripe: [] },
  }
}

/** The order of these candidates of one endpoint, which are in the order of their pipelines. */
function orderInTurn(
  found: LaneCandidate[],
  lanes: Lanes,
  limit: number,
  looks: LaneLooks,
  maxWeight: number,
): LaneCandidate[] {
  const asideBefore = looks.aside.length
  const byPriority = Map.groupBy(found, ({ priority }) => priority)
  const jobs: LaneCandidate[] = []
  for (const [priority, some] of [...byPriority].sort(([a], [b]) => b - a)) {
    const left = limit - jobs.length
    if (left <= 0) break
    const endpoint = (some[0] as LaneCandidate).endpoint
    const lane = lanes[priority] ?? NEW_LANE
    const name = laneName(endpoint, priority)
    const plain = some
      .filter(({ turn }) => turn === NO_TURN)
      .map((job) => ({ cost: costOf(job), job }))
    const { picks, isCut } = takeInTurn(turnsOf(some, lane, looks), plain, lane, left, maxWeight)
    looks.lanes.set(name, lane)
    looks.plainCounts.set(name, plain.length)
    if (plain.length >= left) looks.isPlainFull.add(name)
    for (const pick of picks) {
      const { job } = pick.turn ?? pick.plain
      looks.picks.set(job._id, { pick, endpoint, priority })
      jobs.push(job)
    }
    // Jobs of this priority that have no turn yet come before those of the next one.
    const isMore = isCut || picks.some(({ turn }) => turn?.admitsNext === true)
    if (isMore || looks.aside.length > asideBefore) break
  }
  return jobs
}

/**
 * By tag, then by runAt. The first alarm of a key that has no turn begins at the virtual time, as a
 * new job does. All other alarms are set aside: their jobs come after the turns of their keys.
 */
function turnsOf(found: LaneCandidate[], { virtualTime }: Lane, looks: LaneLooks) {
  const inLine = new Map<string, LaneCandidate>()
  const turns: { tag: number; key: string; job: LaneCandidate }[] = []
  const later = new Set<string>()
  const isLater = ({ turn }: LaneCandidate) => Number(turn === ALARM || turn === PARKED)
  // Alarms and parked jobs come after all turns.
  for (const job of found.toSorted((a, b) => isLater(a) - isLater(b))) {
    const { turn, fairnessKey: key = null } = job
    if (turn === NO_TURN || key === null) continue
    if (isLater(job) === 0) {
      turns.push({ tag: turn, key, job })
    } else if (inLine.has(key)) {
      looks.aside.push(job)
      later.add(key)
    } else {
      looks.ripe.push(job)
      turns.push({ tag: virtualTime + turnLength(costOf(job)), key, job })
    }
    inLine.set(key, job)
  }
  return turns
    .map((turn) => ({ ...turn, admitsNext: turn.job.admitsNext === true || later.has(turn.key) }))
    .sort((a, b) => a.tag - b.tag || a.job.runAt.getTime() - b.job.runAt.getTime())
}

/**
 * These first jobs of their keys were not claimed. They get the turns that they had in this look:
 * in each later one they would begin at a later virtual time, and others would always come first.
 *
 * @param jobs in the order in which they became due, or may have room
 * @param isWeighted whether keys of the endpoint may have other weights than 1
 */
export async function keepTurns(
  context: MongoContext,
  jobs: LaneCandidate[],
  lanes: LaneLooks['lanes'],
  isWeighted: (endpoint: string) => boolean,
  deadline: Deadline,
): Promise<void> {
  if (jobs.length === 0) return
  const first = [ALARM, PARKED].flatMap((place) =>
    jobs.filter(({ turn }) => turn === place).slice(0, TURNS_KEPT),
  )
  const keyed = first.flatMap((job) =>
    typeof job.fairnessKey === 'string' ? [{ job, key: job.fairnessKey }] : [],
  )
  const keys = keyed.map(({ job, key }) => ({ endpoint: job.endpoint, key }))
  const weightOf = await weightsOf(context, keys, isWeighted, deadline)
  const placed = keyed.map(({ job, key }) => {
    const { endpoint, priority } = job
    const { virtualTime } = lanes.get(laneName(endpoint, priority)) ?? NEW_LANE
    return { job, tag: virtualTime + turnLength(costOf(job), weightOf({ endpoint, key })) }
  })
  const now = nowOf(context)
  const writes = [...Map.groupBy(placed, ({ tag }) => tag)].map(([turn, some]): JobWrite => {
    const filter = {
      ...atEndpoints(some.map(({ job }) => job)),
      ...{ state: 'queued' as const, turn: { $in: [ALARM, PARKED] }, runAt: { $lte: now } },
    }
    const update = { $set: { turn }, $unset: { parkedUntil: '' as const } }
    return { updateMany: { filter, update, ...BY_ID } }
  })
  await run(deadline, (limit) => context.jobs.bulkWrite(writes, { ordered: false, ...limit }))
}
