// Claim, in three commands whatever the batch, exact by construction: find ids of due jobs; update
// those that are still queued and due, with one fresh random lease id; find by ids and lease id.
// What the last one returns is ours, whatever raced. Were the update's outcome unknown, what it
// took is given back (disown.ts) and never sent.
import type { ClaimedJob } from '../../job/job.ts'
import { type Holder, type Lane, StoreUnavailable } from '../store.ts'
import type { AcceptingEndpoints } from './accepting-endpoints.ts'
import { type Candidate, createPicker, findCandidates, type Picker } from './candidates.ts'
import { randomId } from './changes.ts'
import { type MongoContext, nowOf } from './context.ts'
import type { Disowner } from './disown.ts'
import { AS_TAKEN, claimedJobOf, type TakenDocument } from './documents.ts'
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
  claim(lanes: Lane[], limit: number, holder: Holder): Promise<ClaimedJob[]>
}

export function createClaimer(
  context: MongoContext,
  accepting: AcceptingEndpoints,
  disowner: Disowner,
): Claimer {
  // Several claimers that aim at the head of one lane take most ids from under each other. So a
  // claim that follows a lost one takes a random stretch of a longer list, and only then may it
  // stray from the order of the lane. One alone never does.
  let calmClaims = CALM_AFTER
  return {
    async claim(lanes, limit, holder) {
      const deadline = startDeadline()
      const names = lanes.map(({ endpoint }) => endpoint)
      const accepted = await accepting.among(names, deadline)
      const picker = createPicker(
        lanes.filter(({ endpoint }) => accepted.has(endpoint)),
        limit,
      )
      const claimed: ClaimedJob[] = []
      for (let round = 0; round < MAX_ROUNDS && picker.wantsMore(); round++) {
        const spread = calmClaims < CALM_AFTER ? SPREAD_FACTOR : 1
        try {
          const { taken, lostCount } = await claimRound(
            context,
            picker,
            spread,
            holder,
            disowner,
            deadline,
          )
          claimed.push(...taken)
          calmClaims = lostCount > 0 ? 0 : Math.min(calmClaims + 1, CALM_AFTER)
        } catch (error) {
          // What earlier rounds took is surely ours and can be delivered.
          if (claimed.length > 0 && error instanceof StoreUnavailable) return claimed
          throw error
        }
      }
      return claimed
    },
  }
}

async function claimRound(
  context: MongoContext,
  picker: Picker,
  spread: number,
  holder: Holder,
  disowner: Disowner,
  deadline: Deadline,
): Promise<{ taken: ClaimedJob[]; lostCount: number }> {
  picker.startRound()
  for (let lanes = picker.nextLanes(); lanes.length > 0; lanes = picker.nextLanes()) {
    picker.add(await findCandidates(context, lanes, spread, deadline))
  }
  const candidates = picker.picked()
  const jobs = await take(context, candidates, holder, disowner, deadline)
  const taken = candidates.flatMap(({ _id }) => jobs.get(_id) ?? [])
  picker.count(taken)
  return { taken, lostCount: candidates.length - taken.length }
}

/** Makes them ours, those that still can be, and reads them with their payloads. */
async function take(
  context: MongoContext,
  candidates: Candidate[],
  holder: Holder,
  disowner: Disowner,
  deadline: Deadline,
): Promise<Map<string, ClaimedJob>> {
  if (candidates.length === 0) return new Map()
  const ids = candidates.map(({ _id }) => _id)
  const leaseId = randomId()
  const now = nowOf(context)
  const leaseExpiresAt = new Date(now.getTime() + holder.leaseMs)
  try {
    const { matchedCount } = await run(deadline, (limit) =>
      context.jobs.updateMany(
        { _id: { $in: ids }, ...guardOf('claim', { now }) },
        {
          $set: {
            state: 'running',
            phase: 'sending',
            leaseId,
            leaseWorkerId: holder.workerId,
            leaseExpiresAt,
            claimedAt: now,
          },
          $inc: { fence: 1, attemptCount: 1, attemptsLeft: -1, version: 1 },
          // Sets it once: a smaller one stays.
          $min: { startedAt: now },
        },
        { ...BY_ID, ...limit },
      ),
    )
    if (matchedCount === 0) return new Map()
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
    return new Map(
      documents.map((document) => [document._id, claimedJobOf(document, leaseId, context.box)]),
    )
  } catch (error) {
    disowner.disown(ids, leaseId, holder.leaseMs)
    throw error
  }
}
