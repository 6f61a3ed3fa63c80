// The groups of jobs as enqueue, the finish effects and commands change them: adds, counts, and
// the event by which a group becomes final. An add is registered before its jobs are inserted, and
// a transaction counts members, so that a crash at any point leaves a mark that a sweep settles
// (docs/decisions/0040-a-group-waits-for-every-add.md).
import { setTimeout as delay } from 'node:timers/promises'
import { type ClientSession, MongoError, type UpdateFilter } from 'mongodb'
import {
  type AddRefusal,
  type CountedGroup,
  finishEvent,
  GROUP_LIFECYCLE,
  isFinalGroup,
  MAX_FAILURES_NAMED,
  MAX_MEMBERS,
  NO_COUNTS,
  notifiesFirstDead,
  roomIn,
} from '../../job/groups.ts'
import type { NewJob } from '../../job/job.ts'
import type { FailedMember } from '../../job/notice.ts'
import type { FinalState } from '../../job/retention.ts'
import { MAX_COUNT } from '../store.ts'
import { StoreUnavailable } from '../store-errors.ts'
import {
  type CountResult,
  type Deadline,
  type FinalMember,
  type GroupEffects,
  type MemberCounter,
  type MongoContext,
  NEWEST,
  nowOf,
  run,
  startDeadline,
} from './connection.ts'
import {
  findGroups,
  type GroupDocument,
  groupGuardOf,
  groupOf,
  groupsIn,
  type Ticket,
} from './group-document.ts'
import { BY_ID, failureOf, type JobDocument, randomId } from './job-document.ts'

/** Limit of jobs whose late inserts a group remembers as void. */
const MAX_VOIDED = 10_000
/** The most tries of a change. */
const MAX_ROUNDS = 10
/** The most tries of a transaction that another one refuses. Then its work is left to the sweep. */
const MAX_TRIES = 4
const MAX_PAUSE_MS = 30

/** The adds of one enqueue, by index of the job. */
export interface Adds {
  /** Why its group does not take the job; null: it does, or the job has none. */
  refusal(index: number): AddRefusal | null
  /** The ticket of the job; undefined: it has no group, or is refused. */
  ticketOf(index: number): string | undefined
  /**
   * Takes the tickets back, and those jobs with them that were not stored by them. Must come before
   * the response: an add that was settled by a sweep meanwhile has failed.
   */
  confirm(isStored: (index: number) => boolean): Promise<void>
}

const NO_ADDS: Adds = {
  refusal: () => null,
  ticketOf: () => undefined,
  confirm: async () => {},
}

/** Registers the members of a batch with their groups, before they are inserted. */
export async function registerAdds(
  context: MongoContext,
  jobs: NewJob[],
  deadline: Deadline,
): Promise<Adds> {
  if (jobs.every(({ group }) => group === null)) return NO_ADDS
  const refusals = new Map<number, AddRefusal>()
  const tickets = new Map<number, string>()
  const registered: { groupId: string; ticket: string; indexes: number[] }[] = []
  const byGroup = Map.groupBy(jobs.keys(), (index) => jobs[index]?.group ?? null)
  for (const [groupId, all] of byGroup) {
    if (groupId === null) continue
    const ids = all.map((index) => (jobs[index] as NewJob).id)
    const { ticket, count, refusal } = await register(context, groupId, ids, deadline)
    const indexes = all.slice(0, count)
    for (const index of indexes) tickets.set(index, ticket)
    if (count > 0) registered.push({ groupId, ticket, indexes })
    if (refusal !== null) for (const index of all.slice(count)) refusals.set(index, refusal)
  }
  return {
    refusal: (index) => refusals.get(index) ?? null,
    ticketOf: (index) => tickets.get(index),
    async confirm(isStored) {
      for (const { groupId, ticket, indexes } of registered) {
        const unused = indexes.filter((index) => !isStored(index)).length
        const isKept = await takeTicketBack(context, groupId, ticket, { unused }, deadline)
        if (!isKept) throw new StoreUnavailable('the add to the group took too long')
      }
    },
  }
}

/** Registers as many of these jobs as the group takes. `refusal`: of the others. */
async function register(
  context: MongoContext,
  groupId: string,
  ids: string[],
  deadline: Deadline,
): Promise<{ ticket: string; count: number; refusal: AddRefusal | null }> {
  const ticket = randomId()
  let count = ids.length
  for (let round = 0; round < MAX_ROUNDS; round++) {
    const at = nowOf(context)
    const { matchedCount } = await run(deadline, (limit) =>
      groupsIn(context).updateOne(
        { _id: groupId, ...groupGuardOf('add'), memberCount: { $lte: MAX_MEMBERS - count } },
        {
          $inc: { memberCount: count, left: count },
          $push: { adds: { id: ticket, at, jobIds: ids.slice(0, count) } },
          $max: { addedAt: at },
        },
        limit,
      ),
    )
    if (matchedCount === 1) {
      const refusal: AddRefusal | null = count < ids.length ? { kind: 'group_full', groupId } : null
      return { ticket, count, refusal }
    }
    const [found = null] = await findGroups(context, [groupId], deadline)
    const room = roomIn(groupId, found)
    if (typeof room !== 'number') return { ticket, count: 0, refusal: room }
    count = Math.min(count, room)
  }
  throw new StoreUnavailable('the group changed each time it was read')
}

/** Returns false if it was taken back already. */
export async function takeTicketBack(
  context: MongoContext,
  groupId: string,
  ticket: string,
  { unused, voided = [] }: { unused: number; voided?: string[] },
  deadline: Deadline,
): Promise<boolean> {
  const note =
    voided.length === 0 ? {} : { $push: { voided: { $each: voided, $slice: -MAX_VOIDED } } }
  const { matchedCount } = await run(deadline, (limit) =>
    groupsIn(context).updateOne(
      { _id: groupId, 'adds.id': ticket },
      {
        $pull: { adds: { id: ticket } },
        ...(unused === 0 ? {} : { $inc: { memberCount: -unused, left: -unused } }),
        ...note,
      },
      limit,
    ),
  )
  return matchedCount === 1
}

/** The members of a transaction. */
const MAX_COUNTED = 500

export function createMemberCounter(context: () => MongoContext): MemberCounter {
  const waiting: {
    members: FinalMember[]
    resolve: (result: CountResult) => void
    reject: (error: unknown) => void
  }[] = []
  let isBusy = false

  async function countAll(): Promise<void> {
    isBusy = true
    while (waiting.length > 0) {
      const some = [waiting.shift() as (typeof waiting)[number]]
      let size = some[0]?.members.length ?? 0
      while (size + (waiting[0]?.members.length ?? MAX_COUNTED) <= MAX_COUNTED) {
        const next = waiting.shift() as (typeof waiting)[number]
        size += next.members.length
        some.push(next)
      }
      try {
        const members = some.flatMap((one) => one.members)
        const result = await countMembers(context(), members)
        // One of the callers does what follows.
        some.forEach(({ resolve }, i) => void resolve(i === 0 || result === 'left' ? result : []))
      } catch (error) {
        for (const { reject } of some) reject(error)
      }
    }
    isBusy = false
  }

  return {
    count(members) {
      if (members.length === 0) return Promise.resolve([])
      return new Promise((resolve, reject) => {
        waiting.push({ members, resolve, reject })
        if (!isBusy) void countAll()
      })
    },
  }
}

/**
 * Marks the members as counted, removes the marks of their effects, and adds them to the counts of
 * their groups, in one transaction. The groups come first: if another transaction has written one
 * of them, this one is refused at once, and is tried again after a pause.
 */
async function countMembers(context: MongoContext, members: FinalMember[]): Promise<CountResult> {
  if (members.length === 0) return []
  const counted = await inTransaction(context, (session, deadline) =>
    countIn(context, members, session, deadline),
  )
  if (counted !== 'unknown_group') return counted
  const rest = await withoutStrangers(context, members)
  return rest.length === members.length ? 'left' : countMembers(context, rest)
}

async function countIn(
  context: MongoContext,
  members: FinalMember[],
  session: InSession,
  deadline: Deadline,
): Promise<CountResult | 'unknown_group'> {
  const effects: GroupEffects[] = []
  const byGroup = Map.groupBy(members, ({ group }) => group)
  // In one order, so that two transactions with the same groups meet at the first one.
  for (const [groupId, own] of [...byGroup].sort(([a], [b]) => (a < b ? -1 : 1))) {
    const ids = own.map(({ _id }) => _id)
    const counts = { ...NO_COUNTS }
    for (const { state } of own) counts[state]++
    const group = await run(deadline, (limit) =>
      groupsIn(context).findOneAndUpdate(
        { _id: groupId, ...groupGuardOf('count'), voided: { $nin: ids } },
        {
          $inc: { ...counts, left: -own.length },
          // What is counted is stored: a settlement of the add must not take it for missing.
          $pullAll: { 'adds.$[].jobIds': ids },
        } as UpdateFilter<GroupDocument>,
        { returnDocument: 'after', projection: AFTER_COUNT, ...session, ...limit },
      ),
    )
    if (group === null) return 'unknown_group'
    const isFirstDead = counts.dead > 0 && group.deadNotified !== true && notifiesFirstDead(group)
    if (isFirstDead) {
      await run(deadline, (limit) =>
        groupsIn(context).updateOne(
          { _id: groupId },
          { $set: { effectsPending: true } },
          { ...session, ...limit },
        ),
      )
    }
    effects.push({ groupId, isFirstDead, mayFinish: group.state === 'closed' && group.left === 0 })
  }
  const updates = members.map(({ _id, endpoint, state, finishes }) => ({
    updateOne: {
      filter: {
        ...{ _id, endpoint, state, finishes, effectsPending: true as const },
        counted: { $exists: false },
      },
      update: { $set: { counted: state }, $unset: { effectsPending: '' as const } },
      ...BY_ID,
    },
  }))
  const { matchedCount } = await run(deadline, (limit) =>
    context.jobs.bulkWrite(updates, { ...session, ...limit }),
  )
  return matchedCount === members.length ? effects : 'left'
}

const AFTER_COUNT = { state: 1, left: 1, notices: 1, deadNotified: 1 } as const

/** Without those that no group counts: their add was settled without them, or the group is gone. */
async function withoutStrangers(
  context: MongoContext,
  members: FinalMember[],
): Promise<FinalMember[]> {
  const deadline = startDeadline()
  const groups = await findGroups(
    context,
    [...new Set(members.map(({ group }) => group))],
    deadline,
  )
  const voided = new Set(groups.flatMap((group) => group.voided ?? []))
  const known = new Set(groups.map(({ _id }) => _id))
  const strangers = members.filter(({ _id, group }) => voided.has(_id) || !known.has(group))
  if (strangers.length > 0) {
    const updates = strangers.map(({ _id, endpoint, finishes, group }) => ({
      updateOne: {
        filter: { _id, endpoint, finishes, effectsPending: true as const },
        update: {
          $unset: {
            effectsPending: '' as const,
            ...(known.has(group) ? { group: '' as const, groupAdd: '' as const } : {}),
          },
        },
        ...BY_ID,
      },
    }))
    await run(deadline, (limit) => context.jobs.bulkWrite(updates, { ordered: false, ...limit }))
  }
  return members.filter((member) => !strangers.includes(member))
}

/** The option of a command that belongs to a transaction. */
export type InSession = { session?: ClientSession }

/** Why a member was not taken out. */
type NotTakenOut = 'gone' | 'effects_pending' | 'changed'

/**
 * Queues a member again by this write, and takes it out of the counts of its group, which is no
 * longer final. The same transaction does both, so that no claim finds the member counted.
 */
export async function takeOut(
  context: MongoContext,
  { group: groupId, counted }: { group: string; counted: FinalState },
  queueAgain: (session: InSession, deadline: Deadline) => Promise<boolean>,
): Promise<'done' | NotTakenOut> {
  const result = await inTransaction(context, async (session, deadline) => {
    const write = async (event: 'take_out' | 'reopen', more: UpdateFilter<GroupDocument>) => {
      const { matchedCount } = await run(deadline, (limit) =>
        groupsIn(context).updateOne(
          { _id: groupId, ...groupGuardOf(event) },
          { $inc: { [counted]: -1, left: 1 }, ...more },
          { ...session, ...limit },
        ),
      )
      return matchedCount === 1
    }
    const reopened = {
      $set: { state: GROUP_LIFECYCLE.reopen.to },
      $unset: { finishedAt: '' as const },
    }
    const isTaken = (await write('take_out', {})) || (await write('reopen', reopened))
    if (!isTaken) return 'refused'
    return (await queueAgain(session, deadline)) ? ('done' as const) : ('changed' as const)
  })
  if (result === 'left') return 'changed'
  if (result !== 'refused') return result
  const [group] = await findGroups(context, [groupId], startDeadline())
  if (group === undefined) return 'gone'
  return isFinalGroup(group.state) ? 'effects_pending' : 'changed'
}

/**
 * Runs `work` in a transaction, and commits it if the result is a list or `done`. A transaction
 * that meets another one is tried again after a short pause, and then given up as `left`: no caller
 * may wait for a group that many write to.
 */
async function inTransaction<T>(
  context: MongoContext,
  work: (session: InSession, deadline: Deadline) => Promise<T>,
): Promise<T | 'left'> {
  const deadline = startDeadline()
  const { client } = context.db
  // A server that runs alone has no transactions, as it cannot keep a write safe anyway.
  if (client.options.retryWrites === false) return work({}, deadline)
  for (let tries = 0; ; tries++) {
    const session = client.startSession()
    try {
      session.startTransaction({ readConcern: { level: 'local' } })
      const result = await work({ session }, deadline)
      if (Array.isArray(result) || result === 'done') {
        await commit(session, deadline)
      } else await session.abortTransaction()
      return result
    } catch (error) {
      await session.abortTransaction().catch(() => {})
      if (!isRefusedTransaction(error)) throw error
      if (tries + 1 >= MAX_TRIES) return 'left'
      await delay(Math.random() * MAX_PAUSE_MS)
    } finally {
      await session.endSession()
    }
  }
}

/**
 * A commit without a response is repeated: a transaction that stays open keeps others from its
 * documents for a minute.
 */
async function commit(session: ClientSession, deadline: Deadline): Promise<void> {
  for (let tries = 1; ; tries++) {
    try {
      await run(deadline, () => session.commitTransaction())
      return
    } catch (error) {
      if (tries === MAX_TRIES || !hasLabel(error, 'UnknownTransactionCommitResult')) throw error
    }
  }
}

/** Another transaction wrote to the same document: nothing of this one is stored. */
function isRefusedTransaction(error: unknown): boolean {
  return hasLabel(error, 'TransientTransactionError')
}

function hasLabel(error: unknown, label: string): boolean {
  if (!(error instanceof StoreUnavailable)) return false
  const { cause } = error
  return cause instanceof MongoError && cause.hasErrorLabel(label)
}

/** Returns how many of these groups are final now. Their notices are due. */
export async function finishGroups(context: MongoContext, ids: string[]): Promise<number> {
  if (ids.length === 0) return 0
  const events = [finishEvent(NO_COUNTS), finishEvent({ ...NO_COUNTS, dead: 1 })]
  const updates = ids.flatMap((_id) =>
    events.map((event) => ({
      updateOne: {
        filter: { _id, ...groupGuardOf(event) },
        update: {
          $set: {
            ...{ state: GROUP_LIFECYCLE[event].to, finishedAt: nowOf(context) },
            effectsPending: true as const,
          },
          $unset: { deadNotified: '' as const },
          $inc: { finishes: 1 },
        },
      },
    })),
  )
  const { modifiedCount } = await run(startDeadline(), (limit) =>
    groupsIn(context).bulkWrite(updates, { ordered: false, ...limit }),
  )
  return modifiedCount
}

export async function countRunning(
  context: MongoContext,
  document: GroupDocument,
  deadline: Deadline,
): Promise<CountedGroup> {
  const running = await run(deadline, (limit) =>
    context.jobs.countDocuments(
      { group: document._id, state: 'running' },
      { limit: MAX_COUNT, hint: 'running_of_group', ...NEWEST, ...limit },
    ),
  )
  return { ...groupOf(document), running }
}

export async function failuresOf(
  context: MongoContext,
  groupId: string,
  deadline: Deadline,
): Promise<FailedMember[]> {
  const found = await run(deadline, (limit) =>
    context.jobs
      .find<Pick<JobDocument, '_id' | 'endpoint'> & Parameters<typeof failureOf>[0]>(
        { group: groupId, state: 'dead' },
        {
          projection: { endpoint: 1, failureReason: 1, failureMessage: 1, failureJobId: 1 },
          sort: { _id: 1 },
          limit: MAX_FAILURES_NAMED,
          hint: 'unsuccessful_of_group',
          ...NEWEST,
          ...limit,
        },
      )
      .toArray(),
  )
  return found.map((job) => ({
    jobId: job._id,
    endpoint: job.endpoint,
    failure: failureOf(job),
  }))
}

/** The jobs of a ticket that are stored. */
export async function storedOf(
  context: MongoContext,
  { id, jobIds }: Ticket,
  deadline: Deadline,
): Promise<Set<string>> {
  const found = await run(deadline, (limit) =>
    context.jobs
      .find(
        { _id: { $in: jobIds }, groupAdd: id },
        { projection: { _id: 1 }, batchSize: jobIds.length + 1, ...BY_ID, ...limit },
      )
      .toArray(),
  )
  return new Set(found.map(({ _id }) => _id))
}
