// Sweep: everything that time alone causes: expired leases, expired jobs, jobs that await
// completion past their deadline, final jobs past their retention. Any number of processes may
// sweep at once, because each write is guarded.
import type { Document, Filter } from 'mongodb'
import { EXPIRED, LEASE_LOST } from '../../job/attempt.ts'
import { NO_EFFECTS, sumEffects } from '../../job/finish-effects.ts'
import { FINAL_STATES, purgeClasses } from '../../job/retention.ts'
import type { SettleResult } from '../store.ts'
import type { OverdueEnd, OverdueJob, SweepCounts, SweepOptions } from '../sweep.ts'
import {
  type BlockedRound,
  type Checked,
  checkMarked,
  checkNextOfRound,
  endRound,
  isRoundDue,
  NOTHING_CHECKED,
  startBlockedRound,
  UNMARKED,
} from './blocked-jobs.ts'
import {
  bodiesOf,
  deleteBodies,
  deleteOrphans,
  type OrphanSearch,
  startOrphanSearch,
} from './bodies.ts'
import {
  type Deadline,
  type MongoContext,
  NEWEST,
  nowOf,
  run,
  startDeadline,
} from './connection.ts'
import {
  type DeletedEndpoints,
  type EndedJobs,
  endJobsOfDeletedEndpoints,
  NO_JOBS,
  trackDeletedEndpoints,
} from './deleted-endpoints.ts'
import { EFFECTS_PENDING, runPendingEffects, tryFinishEffects } from './finish-effects.ts'
import { type GroupFinding, groupPurges, groupSearches, sweepGroups } from './groups.ts'
import { guardOf, reportDeaths, reportEndedAttempts } from './guards.ts'
import { neededBy } from './inputs.ts'
import {
  atEndpoints,
  attemptDocument,
  BY_ID,
  endedAttempt,
  failureFields,
  type JobDocument,
  leaseOf,
  pushAttempt,
  RUNNING_FIELDS,
  type RunningJob,
  randomId,
  toFinal,
  toQueued,
} from './job-document.ts'
import {
  checkKeys,
  HELD_FIELDS,
  isKeyRoundDue,
  type KeyRound,
  startKeyRound,
  wakeBeforeDelete,
} from './key-limits.ts'
import { type SettlementWrite, withdrawal, writeSettlements } from './settle.ts'
import { closeGaps, PLACE_FIELDS, type PlacedJob } from './turns.ts'

const EPOCH = new Date(0)
/** By then, a write with an earlier expiry has ended or failed: it has a deadline of 3 s. */
const LATE_WRITES_MS = 10_000
const WIDEN_EVERY_MS = 30_000
const LOOK_AT_NEEDED_AFTER_MS = 60_000

const OVERDUE = {
  ...RUNNING_FIELDS,
  runAt: 1,
  attemptsLeft: 1,
  maxAttempts: 1,
  freeAttempts: 1,
  firstRunAt: 1,
  promotedAt: 1,
  expiresAt: 1,
  retry: 1,
} as const

type Overdue = RunningJob & Pick<JobDocument, keyof typeof OVERDUE>

/** The memory of a process between its sweeps. */
export interface SweepMemory {
  deleted: DeletedEndpoints
  orphans: OrphanSearch
  round: BlockedRound
  keys: KeyRound
  /**
   * The last sweep found no lease that had expired before. The next one begins there: MongoDB keeps
   * deleted index entries for minutes, and a search from the beginning of an index reads them all.
   * Expired jobs have no such bound: a job of a late tick can be stored long after its expiry.
   */
  leasesFrom: Date
  /** By the monotonic clock: when a sweep searches from the beginning again. */
  widensAtMs: number
}

export function startSweepMemory(
  context: MongoContext,
  forgetEndpoint: (name: string) => void,
): SweepMemory {
  return {
    deleted: trackDeletedEndpoints(context, forgetEndpoint),
    orphans: startOrphanSearch(),
    round: startBlockedRound(),
    keys: startKeyRound(),
    leasesFrom: EPOCH,
    widensAtMs: Number.NEGATIVE_INFINITY,
  }
}

type Finding =
  | 'purgeable'
  | 'effects_pending'
  | 'marked'
  | 'blocked'
  | 'deleting'
  | 'sending'
  | 'awaiting'
  | 'expired_queued'
  | 'expired_waiting'
  | 'expired_blocked'
  | 'waiting'
  | GroupFinding

/** An idle sweep is one command: only what it finds is read and written after it. */
export async function sweep(
  context: MongoContext,
  memory: SweepMemory,
  options: SweepOptions,
): Promise<SweepCounts> {
  const { limit } = options
  const found = await look(context, memory)
  // The purge comes first, so that jobs that this sweep ends can be read until the next one.
  const purged = found.has('purgeable') ? await purge(context, limit) : 0
  await deleteOrphans(context, memory.orphans)
  // This comes before the sweep ends jobs itself, so that it counts only the effects that others
  // left undone.
  const left = found.has('effects_pending') ? await runPendingEffects(context, limit) : NO_EFFECTS
  const marked = found.has('marked') ? await checkMarked(context) : NOTHING_CHECKED
  const next = await checkRound(context, memory.round, found)
  const failed = [...marked.failed, ...next.failed]
  const afterBlocked = await tryFinishEffects(context, failed)
  // This comes before the expired leases: a job of a deleted endpoint must not be queued again.
  const deleted = await endJobsOfDeletedEndpoints(memory.deleted, {
    limit,
    isAnyDeleting: found.has('deleting'),
  })
  const leases =
    options.reclaim && found.has('sending')
      ? await endExpiredLeases(context, limit)
      : { reclaimed: 0, buriedLost: 0, after: NO_EFFECTS }
  // All of them before their effects: a dependent that has expired too is expired, not failed.
  const expired = [
    ...(found.has('expired_queued') ? await endExpiredJobs(context, 'queued', limit) : []),
    ...(found.has('expired_waiting') ? await endExpiredJobs(context, 'waiting', limit) : []),
    ...(found.has('expired_blocked') ? await endExpiredJobs(context, 'blocked', limit) : []),
  ]
  const afterExpired = await tryFinishEffects(context, expired)
  const groups = await sweepGroups(context, found, limit)
  await checkKeyRound(context, memory.keys, found)
  if (leases.reclaimed > 0) context.notifyWork()
  const after = sumEffects([...[leases.after, deleted.after, afterBlocked, left, afterExpired]])
  return {
    reclaimed: leases.reclaimed,
    buriedLost: leases.buriedLost,
    expired: expired.length,
    abandoned: deleted.abandoned,
    evicted: deleted.evicted,
    promoted: marked.promotedCount + next.promotedCount + after.promoted,
    dependentsFailed: failed.length + after.dependentsFailed,
    // Only the effects that others left undone are counted.
    effectsDone: left.effectsDone,
    ...groups,
    purged,
    overdue: found.has('awaiting') ? 1 : 0,
  }
}

/** Finds the work for a sweep in one command: each search ends at its first job. */
async function look(context: MongoContext, memory: SweepMemory): Promise<Set<Finding>> {
  const now = nowOf(context)
  const nowMs = performance.now()
  if (nowMs >= memory.widensAtMs) {
    memory.leasesFrom = EPOCH
    memory.widensAtMs = nowMs + WIDEN_EVERY_MS
  }
  const [first = [], ...others] = searchesOf(context, memory, now)
  const unions = others.map((pipeline) => ({ $unionWith: { coll: context.names.jobs, pipeline } }))
  const deleting = search('deleting', { deleting: true }, {})
  const stages = [
    ...first,
    ...unions,
    { $unionWith: { coll: context.names.endpoints, pipeline: deleting } },
    ...groupSearchesOf(context).map((pipeline) => ({
      $unionWith: { coll: context.names.groups, pipeline },
    })),
  ]
  const seen = await run(startDeadline(), (limit) =>
    context.jobs
      .aggregate<{ finding: Finding }>(stages, { batchSize: stages.length + 1, ...limit })
      .toArray(),
  )
  const found = new Set(seen.map(({ finding }) => finding))
  if (!found.has('sending') && !found.has('awaiting')) {
    memory.leasesFrom = new Date(now.getTime() - LATE_WRITES_MS)
  }
  return found
}

/** @param sort chooses the index, even while the collection shows no difference between several */
function search(finding: Finding, match: Document, sort: Record<string, 1 | -1>): Document[] {
  return [
    { $match: match },
    ...(Object.keys(sort).length === 0 ? [] : [{ $sort: sort }]),
    { $limit: 1 },
    { $project: { _id: 0, finding: { $literal: finding } } },
  ]
}

function searchesOf(
  context: MongoContext,
  { leasesFrom, round, keys }: SweepMemory,
  now: Date,
): Document[][] {
  const lease = { state: 'running', leaseExpiresAt: { $gt: leasesFrom, $lte: now } }
  const byLease = { leaseExpiresAt: 1 } as const
  const expired = (state: 'queued' | 'waiting' | 'blocked') => ({
    ...guardOf('expire', { now }),
    state,
  })
  return [
    ...purgeProofs(context, now).map((proof) =>
      search('purgeable', guardOf('purge', proof), { finishedAt: 1 }),
    ),
    search('effects_pending', EFFECTS_PENDING, {}),
    search('marked', { state: 'blocked', recheckAt: { $lte: now } }, { recheckAt: 1 }),
    ...(isRoundDue(round) ? [search('blocked', UNMARKED, { _id: -1 })] : []),
    search('sending', { ...lease, phase: 'sending' }, byLease),
    search('awaiting', { ...lease, phase: 'awaiting_completion' }, byLease),
    search('expired_queued', expired('queued'), { expiresAt: 1 }),
    search('expired_waiting', expired('waiting'), { expiresAt: 1 }),
    search('expired_blocked', expired('blocked'), { expiresAt: 1 }),
    ...(isKeyRoundDue(keys) ? [search('waiting', WAITING, { endpoint: 1 })] : []),
  ]
}

function groupSearchesOf(context: MongoContext): Document[][] {
  const work = Object.entries(groupSearches(context))
  return [
    ...work.map(([kind, { filter, sort }]) => search(kind as GroupFinding, filter, sort)),
    ...groupPurges(context).map(({ filter, sort }) => search('group_purgeable', filter, sort)),
  ]
}

/** With a bound for the first field of the index. */
const WAITING = { endpoint: { $gt: '' }, state: 'waiting' }

async function checkKeyRound(
  context: MongoContext,
  round: KeyRound,
  found: Set<Finding>,
): Promise<void> {
  if (!isKeyRoundDue(round)) return
  if (found.has('waiting')) await checkKeys(context, round)
  else Object.assign(round, { after: null, beganAtMs: performance.now() })
}

async function checkRound(
  context: MongoContext,
  round: BlockedRound,
  found: Set<Finding>,
): Promise<Checked> {
  if (!isRoundDue(round)) return NOTHING_CHECKED
  if (found.has('blocked')) return checkNextOfRound(context, round)
  endRound(round)
  return NOTHING_CHECKED
}

export async function overdue(context: MongoContext, limit: number): Promise<OverdueJob[]> {
  const found = await run(startDeadline(), (commandLimit) =>
    context.jobs
      .find<Overdue>(
        {
          state: 'running',
          leaseExpiresAt: { $lte: nowOf(context) },
          phase: 'awaiting_completion',
        },
        {
          projection: OVERDUE,
          sort: { leaseExpiresAt: 1 },
          limit,
          batchSize: limit,
          ...commandLimit,
        },
      )
      .toArray(),
  )
  return found.map((job) => ({
    jobId: job._id,
    fence: job.fence,
    leaseId: job.leaseId,
    endpoint: job.endpoint,
    leaseExpiresAt: job.leaseExpiresAt.getTime(),
    claimedAt: job.claimedAt.getTime(),
    workerId: job.leaseWorkerId,
    attemptNumber: job.attemptCount,
    attemptsLeft: job.attemptsLeft,
    maxAttempts: job.maxAttempts,
    freeAttempts: job.freeAttempts,
    firstRunAt: job.firstRunAt.getTime(),
    promotedAt: job.promotedAt?.getTime() ?? null,
    expiresAt: job.expiresAt?.getTime() ?? null,
    retry: job.retry,
  }))
}

export async function endOverdue(
  context: MongoContext,
  ends: OverdueEnd[],
): Promise<SettleResult[]> {
  if (ends.length === 0) return []
  const now = nowOf(context)
  const writeId = randomId()
  const writes = ends.map((end) => writeOf(end, writeId))
  const { results, finished, withdrawn } = await writeSettlements(context, writes, {
    writeId,
    now,
    isRepeat: false,
  })
  ends.forEach((end, i) => {
    if (results[i] !== 'applied') return
    const { jobId, endpoint, attempt } = end
    const isDead = end.event === 'bury_timed_out' && !withdrawn.includes(jobId)
    context.ends.emit({ jobId, endpoint, attempt, deathReason: isDead ? end.failure.reason : null })
  })
  context.notifyWork()
  await tryFinishEffects(context, finished)
  return results
}

const PURGE_FIELDS = {
  ...{ endpoint: 1, state: 1, payloadId: 1, inputsId: 1, resultId: 1, neededCount: 1 },
  ...PLACE_FIELDS,
  ...HELD_FIELDS,
} as const

type PurgedJob = PlacedJob &
  Pick<
    JobDocument,
    'payloadId' | 'inputsId' | 'resultId' | 'neededCount' | keyof typeof HELD_FIELDS
  >

type ExpiredLease = RunningJob & Pick<JobDocument, 'attemptsLeft' | 'superseded'>
type LeaseEvent = 'reclaim' | 'bury_lost' | 'withdraw_lost'

/**
 * Ends expired leases of jobs in the phase `sending`. Jobs that await completion past their
 * deadline are overdue.
 */
async function endExpiredLeases(context: MongoContext, limit: number) {
  const now = nowOf(context)
  const seen = await run(startDeadline(), (commandLimit) =>
    context.jobs
      .find<ExpiredLease>(
        { state: 'running', leaseExpiresAt: { $lte: now }, phase: 'sending' },
        {
          projection: { ...RUNNING_FIELDS, attemptsLeft: 1, superseded: 1 },
          sort: { leaseExpiresAt: 1 },
          limit,
          batchSize: limit,
          ...commandLimit,
        },
      )
      .toArray(),
  )
  const byEvent = Map.groupBy(seen, eventOf)
  const write = (event: LeaseEvent) => writeExpired(context, event, byEvent.get(event) ?? [], now)
  const reclaimed = await write('reclaim')
  const buried = await write('bury_lost')
  const withdrawn = await write('withdraw_lost')
  return {
    reclaimed: reclaimed.count,
    buriedLost: buried.count + withdrawn.count,
    after: sumEffects([buried.after, withdrawn.after]),
  }
}

function eventOf({ superseded, attemptsLeft }: ExpiredLease): LeaseEvent {
  if (superseded === true) return 'withdraw_lost'
  return attemptsLeft > 0 ? 'reclaim' : 'bury_lost'
}

async function writeExpired(
  context: MongoContext,
  event: LeaseEvent,
  jobs: ExpiredLease[],
  now: Date,
): Promise<EndedJobs> {
  if (jobs.length === 0) return NO_JOBS
  const deadline = startDeadline()
  const writeId = randomId()
  const ends = jobs.map((job) => ({
    job,
    attempt: endedAttempt(job, now, 'lease_expired', { event, writeId }),
  }))
  const updates = ends.map(({ job, attempt }) => {
    const { _id, endpoint } = job
    const filter = { _id, endpoint, ...guardOf(event, { now, lease: leaseOf(job) }) }
    const update = { ...changeOf(event, now), ...pushAttempt(attempt) }
    return { updateOne: { filter, update, ...BY_ID } }
  })
  const { modifiedCount: count } = await run(deadline, (commandLimit) =>
    context.jobs.bulkWrite(updates, { ordered: false, ...commandLimit }),
  )
  const deathReason = event === 'bury_lost' ? LEASE_LOST.reason : null
  const ended = await reportEndedAttempts(context, ends, deathReason, { writeId, count }, deadline)
  if (event === 'reclaim') return { count, after: NO_EFFECTS }
  return {
    count,
    after: await tryFinishEffects(
      context,
      ended.map(({ _id }) => _id),
    ),
  }
}

function changeOf(event: LeaseEvent, now: Date) {
  switch (event) {
    case 'reclaim':
      return toQueued(now)
    case 'bury_lost':
      return toFinal('dead', now, failureFields(LEASE_LOST))
    case 'withdraw_lost':
      return toFinal('cancelled', now, {})
    default:
      throw new Error(`unknown event ${event satisfies never}`)
  }
}

/** Returns the ids of the jobs. One state at a time, because each has its own index. */
async function endExpiredJobs(
  context: MongoContext,
  state: 'queued' | 'waiting' | 'blocked',
  limit: number,
): Promise<string[]> {
  const deadline = startDeadline()
  const now = nowOf(context)
  const guard = { ...guardOf('expire', { now }), state }
  const jobs = await firstBy('expiresAt', context, guard, limit, deadline)
  if (jobs.length === 0) return []
  const writeId = randomId()
  const { modifiedCount: count } = await run(deadline, (commandLimit) =>
    context.jobs.updateMany(
      { $and: [atEndpoints(jobs), guard] },
      toFinal('dead', now, { ...failureFields(EXPIRED), writeId }),
      { ...BY_ID, ...commandLimit },
    ),
  )
  const ended = await reportDeaths(context, jobs, EXPIRED.reason, { writeId, count }, deadline)
  await closeGaps(context, ended)
  return ended.map(({ _id }) => _id)
}

/** Purges class by class. If one class fills the limit, the next sweep follows at once. */
async function purge(context: MongoContext, limit: number): Promise<number> {
  let purged = 0
  for (const proof of purgeProofs(context, nowOf(context))) {
    const deadline = startDeadline()
    const guard = guardOf('purge', proof)
    const due = await firstBy('finishedAt', context, guard, limit - purged, deadline)
    const found = await withoutNeeded(context, due, deadline)
    if (found.length === 0) continue
    await wakeBeforeDelete(context, found, deadline)
    const deletedCount = await deletePurged(context, found, proof, deadline)
    // If a job was retried in between, its bodies are in use.
    const gone = deletedCount === found.length ? found : await goneAmong(context, found, deadline)
    await deleteBodies(context, gone.flatMap(bodiesOf), deadline)
    purged += deletedCount
    if (purged >= limit) break
  }
  return purged
}

/** The jobs that are no longer stored. */
async function goneAmong(
  { jobs }: MongoContext,
  purged: PurgedJob[],
  deadline: Deadline,
): Promise<PurgedJob[]> {
  const left = await run(deadline, (limit) =>
    jobs
      .find(atEndpoints(purged), {
        projection: { _id: 1 },
        batchSize: purged.length + 1,
        ...NEWEST,
        ...BY_ID,
        ...limit,
      })
      .toArray(),
  )
  const leftIds = new Set(left.map(({ _id }) => _id))
  return purged.filter(({ _id }) => !leftIds.has(_id))
}

/** Those whose result a waiting job needs are kept, and the next sweeps do not find them. */
async function withoutNeeded(
  context: MongoContext,
  due: PurgedJob[],
  deadline: Deadline,
): Promise<PurgedJob[]> {
  const needed = await neededBy(context, due, deadline)
  if (needed.size === 0) return due
  const kept = due.filter(({ _id }) => needed.has(_id))
  const keptUntil = new Date(context.clock.now() + LOOK_AT_NEEDED_AFTER_MS)
  await run(deadline, (limit) =>
    context.jobs.updateMany(atEndpoints(kept), { $set: { keptUntil } }, { ...BY_ID, ...limit }),
  )
  return due.filter(({ _id }) => !needed.has(_id))
}

/** Returns how many were deleted. */
async function deletePurged(
  { jobs }: MongoContext,
  found: PurgedJob[],
  proof: ReturnType<typeof purgeProofs>[number],
  deadline: Deadline,
): Promise<number> {
  const counts = Map.groupBy(found, ({ neededCount = null }) => neededCount)
  let deleted = 0
  for (const [neededCount, some] of counts) {
    const guard = guardOf('purge', { ...proof, neededCount })
    const { deletedCount } = await run(deadline, (limit) =>
      jobs.deleteMany({ $and: [atEndpoints(some), guard] }, { ...BY_ID, ...limit }),
    )
    deleted += deletedCount
  }
  return deleted
}

/** There is one for each class and state, because the index begins with the state. */
function purgeProofs({ settings }: MongoContext, now: Date) {
  return purgeClasses(settings, now.getTime()).flatMap((one) =>
    FINAL_STATES.filter((state) => (state === 'dead') === one.isDead).map((state) => ({
      now,
      kept: { ...one, state },
    })),
  )
}

/** The jobs that match the guard, the earliest first. */
async function firstBy(
  instant: 'expiresAt' | 'finishedAt',
  { jobs }: MongoContext,
  guard: Filter<JobDocument>,
  limit: number,
  deadline: Deadline,
): Promise<PurgedJob[]> {
  return run(deadline, (commandLimit) =>
    jobs
      .find(guard, {
        projection: PURGE_FIELDS,
        sort: { [instant]: 1 },
        limit,
        batchSize: limit,
        ...commandLimit,
      })
      .toArray(),
  )
}

function writeOf(end: OverdueEnd, writeId: string): SettlementWrite {
  const attempt = attemptDocument(end.attempt, { ...end, writeId })
  const change =
    end.event === 'time_out'
      ? toQueued(new Date(end.runAt))
      : toFinal('dead', attempt.finishedAt, failureFields(end.failure))
  return {
    jobId: end.jobId,
    endpoint: end.endpoint,
    fence: end.fence,
    leaseId: end.leaseId,
    leaseExpiresAt: new Date(end.leaseExpiresAt),
    event: end.event,
    outcome: end.attempt.outcome,
    update: { ...change, ...pushAttempt(attempt) },
    instead: withdrawal(attempt),
  }
}
