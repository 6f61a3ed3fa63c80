// Claim, in three commands whatever the batch, exact by construction: find ids of due jobs; update
// those that are still queued and due, with one fresh random lease id; find by ids and lease id.
// What the last one returns is ours, whatever raced. Were the update's outcome unknown, what it
// took is given back (disown.ts) and never sent. Jobs of endpoints with limits are taken within
// their gates (gate.ts): two commands before the update, and one at the end.
import { ASK_AGAIN_MS, afterClaim } from '../../endpoint/admission.ts'
import type { ClaimedJob } from '../../job/job.ts'
import { type Claim, type Holder, type Lane, type LimitedLane, StoreUnavailable } from '../store.ts'
import { type Candidate, createPicker, findCandidates, type Picker } from './candidates.ts'
import { randomId } from './changes.ts'
import { AS_TAKEN, claimedJobOf, type TakenDocument } from './claimed-documents.ts'
import { type MongoContext, nowOf } from './context.ts'
import type { Disowner } from './disown.ts'
import type { EligibleEndpoints } from './eligible-endpoints.ts'
import { type Gates, giveBackGates, MAX_GATES, takeGates } from './gate.ts'
import { guardOf } from './guards.ts'
import { BY_ID } from './indexes.ts'
import { type Deadline, run, startDeadline } from './run-command.ts'

/** Ids are lost to other claimers: try again, but not for ever. */
const MAX_ROUNDS = 8
/** With other claimers about, choose from a list this much longer than what is asked for. */
const SPREAD_FACTOR = 4
/** Calm claims until this process believes to be alone again. */
const CALM_AFTER = 20

export interface Claimer {
  context: MongoContext
  eligibleEndpoints: EligibleEndpoints
  disowner: Disowner
  /**
   * Claims since the last one that lost ids to another claimer. Several claimers that aim at the
   * head of one lane take most ids from under each other. So a claim that follows a lost one takes
   * a random stretch of a longer list, and only then may it stray from the order of the lane. One
   * alone never does.
   */
  calmClaims: number
}

/** What one call of claim works with. */
interface ClaimUnderWay {
  context: MongoContext
  disowner: Disowner
  holder: Holder
  picker: Picker
  /** Names of endpoints whose jobs are taken within their gates only. */
  gated: Set<string>
  limited: Map<string, LimitedLane>
  deadline: Deadline
}

export function createClaimer(
  context: MongoContext,
  eligibleEndpoints: EligibleEndpoints,
  disowner: Disowner,
): Claimer {
  return { context, eligibleEndpoints, disowner, calmClaims: CALM_AFTER }
}

export async function claim(
  claimer: Claimer,
  lanes: Lane[],
  limit: number,
  holder: Holder,
): Promise<Claim> {
  const { context, disowner } = claimer
  const deadline = startDeadline(holder.withinMs)
  const names = lanes.map(({ endpoint }) => endpoint)
  const eligible = await claimer.eligibleEndpoints.among(names, context.clock.now(), deadline)
  const gated = new Set(names.filter((name) => eligible.get(name)?.gated))
  const open = lanes.filter(({ endpoint }) => eligible.has(endpoint))
  const picker = createPicker(open, limit)
  const limited = new Map<string, LimitedLane>()
  const underWay = { context, disowner, holder, picker, gated, limited, deadline }
  const claimed: ClaimedJob[] = []
  let leftMs = deadline.leftMs()
  let tookMs = 0
  for (let round = 0; round < MAX_ROUNDS && picker.wantsMore(); round++) {
    // A round that does not end in time would cost the jobs of those before it, too.
    if (claimed.length > 0 && leftMs < tookMs) break
    const spread = claimer.calmClaims < CALM_AFTER ? SPREAD_FACTOR : 1
    try {
      const { taken, lostCount } = await claimRound(underWay, spread)
      claimed.push(...taken)
      claimer.calmClaims = lostCount > 0 ? 0 : Math.min(claimer.calmClaims + 1, CALM_AFTER)
    } catch (error) {
      // What earlier rounds took is surely ours and can be delivered.
      if (claimed.length === 0 || !(error instanceof StoreUnavailable)) throw error
      break
    }
    tookMs = leftMs - deadline.leftMs()
    leftMs -= tookMs
  }
  return { jobs: claimed, limited: [...limited.values()], unfinished: picker.openLanes() }
}

async function claimRound(
  underWay: ClaimUnderWay,
  spread: number,
): Promise<{ taken: ClaimedJob[]; lostCount: number }> {
  const { context, picker, gated, deadline } = underWay
  picker.startRound()
  for (let lanes = picker.nextLanes(); lanes.length > 0; lanes = picker.nextLanes()) {
    picker.add(await findCandidates(context, lanes, spread, deadline))
  }
  const picked = picker.picked()
  const names = [...new Set(picked.map(({ endpoint }) => endpoint))].filter((name) =>
    gated.has(name),
  )
  const { taken, triedCount } =
    names.length === 0
      ? { taken: await take(underWay, picked), triedCount: picked.length }
      : await takeWithinGates(underWay, picked, names.slice(0, MAX_GATES))
  picker.count(taken)
  return { taken, lostCount: triedCount - taken.length }
}

/** Lanes whose gate was not had, or whose limit leaves no more room, are closed for this claim. */
async function takeWithinGates(
  underWay: ClaimUnderWay,
  picked: Candidate[],
  names: string[],
): Promise<{ taken: ClaimedJob[]; triedCount: number }> {
  const { context, disowner, holder, picker, gated, deadline } = underWay
  const gates = await takeGates(context, names, deadline)
  const leftOver = new Set([...gated].filter((name) => !names.includes(name)))
  const { candidates, cut } = withinRooms(picked, gates, gated)
  const taken = await take(underWay, candidates)
  const within = taken.filter(({ endpoint }) => gated.has(endpoint))
  const byEndpoint = Map.groupBy(within, ({ endpoint }) => endpoint)
  const sendable = await giveBackGates(context, gates, byEndpoint, deadline).catch((error) => {
    // Nobody knows whether it was given back: what was claimed through it may not be sent.
    if (error instanceof StoreUnavailable) return false
    throw error
  })
  const now = context.clock.now()
  for (const name of names) underWay.limited.delete(name)
  for (const name of cut) {
    // A gate that was not even tried for, since there were too many, may have its turn next round.
    const isLeftOver = leftOver.has(name)
    const notHadAgainAt = isLeftOver ? now : now + ASK_AGAIN_MS
    const limits = gates.rooms.get(name)?.limits
    const againAt =
      limits === undefined
        ? notHadAgainAt
        : afterClaim(limits, byEndpoint.get(name)?.length ?? 0, now).againAt
    underWay.limited.set(name, { endpoint: name, againAt })
    if (isLeftOver) picker.reopen(name)
    else picker.close(name)
  }
  if (sendable) return { taken, triedCount: candidates.length }
  for (const [leaseId, jobs] of Map.groupBy(within, (job) => job.leaseId)) {
    disowner.disown(
      jobs.map(({ jobId }) => jobId),
      leaseId,
      holder.leaseMs,
    )
  }
  for (const name of gates.rooms.keys()) {
    underWay.limited.set(name, { endpoint: name, againAt: now + ASK_AGAIN_MS })
    picker.close(name)
  }
  const free = taken.filter(({ endpoint }) => !gated.has(endpoint))
  return { taken: free, triedCount: candidates.length - within.length }
}

/** The candidates that there is room for, and the endpoints where there was not for all. */
function withinRooms(picked: Candidate[], gates: Gates, gated: Set<string>) {
  const left = new Map([...gates.rooms].map(([name, { slots }]) => [name, slots]))
  const cut = new Set<string>()
  const candidates = picked.filter(({ endpoint }) => {
    if (!gated.has(endpoint)) return true
    const slots = left.get(endpoint) ?? 0
    left.set(endpoint, slots - 1)
    if (slots <= 0) cut.add(endpoint)
    return slots > 0
  })
  return { candidates, cut }
}

/** Makes them ours, those that still can be, and reads them with their payloads, in order. */
async function take(underWay: ClaimUnderWay, candidates: Candidate[]): Promise<ClaimedJob[]> {
  const { context, holder, disowner, deadline } = underWay
  if (candidates.length === 0) return []
  const ids = candidates.map(({ _id }) => _id)
  const leaseId = randomId()
  try {
    if (!(await mark(context, ids, leaseId, holder, deadline))) return []
    const documents = await run(deadline, (limit) =>
      context.jobs
        .find<TakenDocument>(
          { _id: { $in: ids }, state: 'running', leaseId },
          {
            projection: AS_TAKEN,
            batchSize: ids.length + 1,
            readConcern: 'majority',
            ...BY_ID,
            ...limit,
          },
        )
        .toArray(),
    )
    context.debts.noteClaimed(documents)
    const byId = new Map(
      documents.map((document) => [document._id, claimedJobOf(document, leaseId, context.box)]),
    )
    return ids.flatMap((id) => byId.get(id) ?? [])
  } catch (error) {
    disowner.disown(ids, leaseId, holder.leaseMs)
    throw error
  }
}

/** Whether any was still to be had. */
async function mark(
  context: MongoContext,
  ids: string[],
  leaseId: string,
  holder: Holder,
  deadline: Deadline,
): Promise<boolean> {
  const now = nowOf(context)
  const { matchedCount } = await run(deadline, (limit) =>
    context.jobs.updateMany(
      { _id: { $in: ids }, ...guardOf('claim', { now }) },
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
        // Sets it once: a smaller one stays.
        $min: { startedAt: now },
      },
      { ...BY_ID, ...limit },
    ),
  )
  return matchedCount > 0
}
