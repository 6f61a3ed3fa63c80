// Which jobs a claim tries for: ids of due jobs, lane by lane, within the limits of the claim.
import type { Document } from 'mongodb'
import type { ClaimedJob } from '../../job/job.ts'
import { COLLECTIONS } from '../collection-names.ts'
import type { Lane } from '../store.ts'
import { type MongoContext, nowOf } from './context.ts'
import type { JobDocument } from './documents.ts'
import { guardOf } from './guards.ts'
import { type Deadline, run } from './run-command.ts'

/** Payloads of one claim: what a worker holds in memory at once. */
export const MAX_CLAIM_BYTES = 64 * 1_024 * 1_024
/** Lanes in one command. More make it long, fewer make many. */
const MAX_LANES_PER_COMMAND = 64
/** The first command asks few lanes, for they may hold all that is wanted; the next ask more. */
const FIRST_LANES = 4
const LANES_GROWTH = 4

export type Candidate = Pick<JobDocument, '_id' | 'endpoint' | 'payloadBytes'>

/** A lane with what may still be taken from it. */
interface OpenLane {
  endpoint: string
  left: number
}

/** Chooses within the limits of one claim; a claim that loses ids to others takes more rounds. */
export interface Picker {
  wantsMore(): boolean
  startRound(): void
  /** The lanes to ask next, each with how much may be taken of it; none: the round is complete. */
  nextLanes(): OpenLane[]
  /** What those lanes gave. One that gave all it had is not asked again. */
  add(found: Candidate[][]): void
  picked(): Candidate[]
  /** Nothing more is to be taken of this lane. */
  close(endpoint: string): void
  /** What it gave in this round was not tried for: it is to be asked again. */
  reopen(endpoint: string): void
  /** Those that may have more than was taken of them. */
  openLanes(): string[]
  /** Books what was really taken. */
  count(taken: Pick<ClaimedJob, 'payload' | 'endpoint'>[]): void
}

export function createPicker(lanes: Lane[], limit: number): Picker {
  let open: OpenLane[] = lanes
    .filter((lane) => lane.limit > 0)
    .map((lane) => ({ endpoint: lane.endpoint, left: lane.limit }))
  const exhausted = new Set<string>()
  let wanted = limit
  let bytesLeft = MAX_CLAIM_BYTES
  let takenCount = 0
  let asked: OpenLane[] = []
  let round = newRound()

  /** Whether the claim had room for it. */
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
    nextLanes() {
      const most = round.isFull ? 0 : wanted - round.picked.length
      const next = most === 0 ? [] : open.slice(round.nextLane, round.nextLane + round.lanesAtOnce)
      asked = next.map(({ endpoint, left }) => ({ endpoint, left: Math.min(left, most) }))
      round.nextLane += asked.length
      round.lanesAtOnce = Math.min(round.lanesAtOnce * LANES_GROWTH, MAX_LANES_PER_COMMAND)
      return asked
    },
    add(found) {
      asked.forEach(({ endpoint, left }, i) => {
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
    openLanes: () => open.map(({ endpoint }) => endpoint),
    count(taken) {
      if (round.isFull && round.picked.length < wanted) bytesLeft = 0
      for (const { payload, endpoint } of taken) {
        takenCount += 1
        wanted -= 1
        bytesLeft -= payload.byteLength
        for (const lane of open) if (lane.endpoint === endpoint) lane.left -= 1
      }
      open = open.filter(({ endpoint, left }) => left > 0 && !exhausted.has(endpoint))
    },
  }
}

function newRound() {
  return {
    ...{ lanesAtOnce: FIRST_LANES, nextLane: 0, bytes: 0, isFull: false },
    picked: [] as Candidate[],
  }
}

/** Due jobs of each lane, in its order; with `spread` above 1 a random stretch of a longer list. */
export async function findCandidates(
  context: MongoContext,
  lanes: OpenLane[],
  spread: number,
  deadline: Deadline,
): Promise<Candidate[][]> {
  const pipelines = lanes.map(({ endpoint, left }) =>
    candidatesOfLane(endpoint, left * spread, nowOf(context)),
  )
  const [first, ...others] = pipelines
  if (first === undefined) return []
  const unions = others.map((pipeline) => ({ $unionWith: { coll: COLLECTIONS.jobs, pipeline } }))
  const batchSize = lanes.reduce((sum, { left }) => sum + left * spread, 1)
  const found = await run(deadline, (limit) =>
    context.jobs.aggregate<Candidate>([...first, ...unions], { batchSize, ...limit }).toArray(),
  )
  const byLane = Map.groupBy(found, ({ endpoint }) => endpoint)
  return lanes.map(({ endpoint, left }) => stretchOf(byLane.get(endpoint) ?? [], left))
}

export function candidatesOfLane(endpoint: string, limit: number, now: Date): Document[] {
  return [
    { $match: { endpoint, ...guardOf('claim', { now }) } },
    { $sort: { priority: -1, runAt: 1 } },
    { $limit: limit },
    { $project: { endpoint: 1, payloadBytes: 1 } },
  ]
}

function stretchOf(candidates: Candidate[], length: number): Candidate[] {
  const slack = candidates.length - length
  if (slack <= 0) return candidates
  const start = Math.floor(Math.random() * (slack + 1))
  return candidates.slice(start, start + length)
}
