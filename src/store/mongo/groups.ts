// Groups as records: what clients create, read, close, cancel, retry and delete, and what the sweep
// does with them. Their members are in group-members.ts.
import type { Filter, UpdateFilter } from 'mongodb'
import {
  type CountedGroup,
  GROUP_LIFECYCLE,
  GROUP_STATES,
  type Group,
  isChangedBy,
  type NewGroup,
  newlyOpen,
} from '../../job/groups.ts'
import { purgeClasses } from '../../job/retention.ts'
import type { CreateGroupResult, DeleteGroupResult, GroupQuery, GroupResult } from '../groups.ts'
import type { Page } from '../store.ts'
import { waitingForAny } from './blocked-jobs.ts'
import { acceptingEndpoints, cancel, retry } from './commands.ts'
import {
  type Deadline,
  isDuplicateKey,
  type MongoContext,
  NEWEST,
  nowOf,
  run,
  startDeadline,
} from './connection.ts'
import { settleGroups } from './finish-effects.ts'
import {
  findGroups,
  type GroupDocument,
  groupGuardOf,
  groupOf,
  groupsIn,
} from './group-document.ts'
import { countRunning, storedOf, takeTicketBack } from './group-members.ts'
import { BY_ID, type JobDocument, stateOf } from './job-document.ts'

/** By then every insert of an add has ended or failed: its verb has a deadline of 2.7 s. */
const TICKET_LIFE_MS = 10_000
const FINAL_GROUP_STATES = ['succeeded', 'failed'] as const

export async function createGroup(
  context: MongoContext,
  group: NewGroup,
): Promise<CreateGroupResult> {
  const deadline = startDeadline()
  const known = await knownGroup(context, group, deadline)
  if (known !== null) return known
  const named = [...new Set(group.notices.map(({ endpoint }) => endpoint))]
  const there =
    named.length === 0 ? new Set<string>() : await acceptingEndpoints(context, named, deadline)
  const endpoint = named.find((name) => !there.has(name))
  if (endpoint !== undefined) return { kind: 'unknown_notice_endpoint', endpoint }
  const document = newGroupDocument(group)
  try {
    await run(deadline, (limit) => groupsIn(context).insertOne(document, limit))
    return { kind: 'created', group: groupOf(document) }
  } catch (error) {
    if (!isDuplicateKey(error)) throw error
    const raced = await knownGroup(context, group, deadline)
    // The driver repeats an insert without a response: then it is refused, but stored.
    return raced ?? { kind: 'created', group: groupOf(document) }
  }
}

async function knownGroup(
  context: MongoContext,
  { idempotency }: NewGroup,
  deadline: Deadline,
): Promise<CreateGroupResult | null> {
  if (idempotency === null) return null
  const found = await run(deadline, (limit) =>
    groupsIn(context).findOne({ idempotencyKey: idempotency.key }, { ...NEWEST, ...limit }),
  )
  if (found === null) return null
  return found.requestHash === idempotency.requestHash
    ? { kind: 'existing', group: groupOf(found) }
    : { kind: 'key_reused', groupId: found._id }
}

function newGroupDocument(group: NewGroup): GroupDocument {
  const { name, idempotency } = group
  const createdAt = new Date(group.createdAt)
  const { closesAt } = newlyOpen(group)
  return {
    _id: group.id,
    state: 'open',
    ...(name === null ? {} : { name }),
    metadata: JSON.stringify(group.metadata),
    tags: group.tags,
    fairnessKey: group.fairnessKey,
    notices: group.notices,
    closeAfterMs: group.closeAfterMs,
    ...(idempotency === null
      ? {}
      : { idempotencyKey: idempotency.key, requestHash: idempotency.requestHash }),
    hasKey: idempotency !== null,
    ...{ memberCount: 0, left: 0, succeeded: 0, dead: 0, cancelled: 0 },
    ...{ adds: [], finishes: 0, createdAt, addedAt: createdAt },
    ...(closesAt === null ? {} : { idleAt: new Date(closesAt) }),
    hops: group.hops,
  }
}

export async function getGroup(context: MongoContext, id: string): Promise<CountedGroup | null> {
  const deadline = startDeadline()
  const document = await run(deadline, (limit) => groupsIn(context).findOne({ _id: id }, limit))
  return document === null ? null : countRunning(context, document, deadline)
}

export async function listGroups(
  context: MongoContext,
  { state, name, after, limit }: GroupQuery,
): Promise<Page<Group>> {
  // With all states, the index of names is read in the order of the ids, one part for each state.
  const states = state === undefined ? GROUP_STATES : [state]
  const filter: Filter<GroupDocument> = {
    ...(name === undefined ? {} : { name }),
    ...(name === undefined && state === undefined ? {} : { state: { $in: [...states] } }),
    ...(after === undefined ? {} : { _id: { $lt: after } }),
  }
  const listed = state === undefined ? '_id_' : 'by_state'
  const found = await run(startDeadline(), (commandLimit) =>
    groupsIn(context)
      .find(filter, {
        ...{ sort: { _id: -1 }, limit: limit + 1, batchSize: limit + 1 },
        hint: name === undefined ? listed : 'by_name',
        ...commandLimit,
      })
      .toArray(),
  )
  const items = found.slice(0, limit).map(groupOf)
  return { items, next: found.length > limit ? (items.at(-1)?.id ?? null) : null }
}

export async function finalGroupsAmong(context: MongoContext, ids: string[]): Promise<string[]> {
  const deadline = startDeadline()
  const final = await withoutAlive(context, ids, {}, deadline)
  // A majority read can be older than the group, or than its retry.
  return withoutAlive(context, final, NEWEST, deadline)
}

async function withoutAlive(
  context: MongoContext,
  ids: string[],
  concern: Partial<typeof NEWEST>,
  deadline: Deadline,
): Promise<string[]> {
  if (ids.length === 0) return []
  const alive = await run(deadline, (limit) =>
    groupsIn(context)
      .find(
        { _id: { $in: ids }, state: { $nin: [...FINAL_GROUP_STATES] } },
        { projection: { _id: 1 }, batchSize: ids.length + 1, ...BY_ID, ...concern, ...limit },
      )
      .toArray(),
  )
  const aliveIds = new Set(alive.map(({ _id }) => _id))
  return ids.filter((id) => !aliveIds.has(id))
}

export async function closeGroup(context: MongoContext, id: string): Promise<GroupResult> {
  const result = await change(context, id, groupGuardOf('close'), {
    $set: {
      state: GROUP_LIFECYCLE.close.to,
      ...{ closedAt: nowOf(context), closedBy: 'request' as const },
    },
    $unset: { idleAt: '' },
  })
  if (result.kind === 'applied') await settleGroups(context, [id])
  return result
}

export async function commandGroup(
  context: MongoContext,
  id: string,
  command: 'cancel' | 'retry',
): Promise<GroupResult> {
  const now = nowOf(context)
  const marks = { commandAt: now, commandAfter: '' }
  if (command === 'retry') {
    return change(context, id, groupGuardOf('retry'), {
      $set: { state: GROUP_LIFECYCLE.retry.to, ...marks },
      $unset: { finishedAt: '' },
    })
  }
  const cancelled = { $set: { state: GROUP_LIFECYCLE.cancel.to, ...marks } }
  // An open group is closed by the same write.
  const opened = await change(
    context,
    id,
    { $and: [groupGuardOf('cancel'), { state: 'open' }] },
    {
      $set: { ...cancelled.$set, closedAt: now, closedBy: 'cancel' },
      $unset: { idleAt: '' },
    },
  )
  if (opened.kind !== 'refused') return opened
  return change(context, id, groupGuardOf('cancel'), cancelled)
}

export async function deleteGroup(context: MongoContext, id: string): Promise<DeleteGroupResult> {
  // The notices of its last finish come first.
  await settleGroups(context, [id])
  const deadline = startDeadline()
  const [waiting] = await waitingForAny(context, [id], 1, deadline)
  if (waiting !== undefined) return { kind: 'depended_on', jobId: waiting._id }
  const { deletedCount } = await run(deadline, (limit) =>
    groupsIn(context).deleteOne({ _id: id, ...groupGuardOf('delete') }, limit),
  )
  return deletedCount === 1 ? { kind: 'applied' } : refusedOf(context, id, deadline)
}

async function change(
  context: MongoContext,
  id: string,
  guard: Filter<GroupDocument>,
  update: UpdateFilter<GroupDocument>,
): Promise<GroupResult> {
  const deadline = startDeadline()
  const { matchedCount } = await run(deadline, (limit) =>
    groupsIn(context).updateOne({ _id: id, ...guard }, update, limit),
  )
  return matchedCount === 1 ? { kind: 'applied' } : refusedOf(context, id, deadline)
}

async function refusedOf(
  context: MongoContext,
  id: string,
  deadline: Deadline,
): Promise<GroupResult> {
  const [found] = await findGroups(context, [id], deadline)
  return found === undefined ? { kind: 'not_found' } : { kind: 'refused', state: found.state }
}

export type GroupFinding =
  | 'group_adds'
  | 'group_idle'
  | 'group_unfinished'
  | 'group_effects'
  | 'group_commands'
  | 'group_purgeable'

/**
 * The kinds of work that a sweep can find, each with its filter, except for the purge. The sort
 * chooses the index.
 */
export function groupSearches(
  context: MongoContext,
): Record<Exclude<GroupFinding, 'group_purgeable'>, Search> {
  const now = nowOf(context)
  const before = new Date(now.getTime() - TICKET_LIFE_MS)
  // A range of `left`, so that a sort by it chooses the index.
  const unfinished = { state: 'closed', left: { $lte: 0 }, 'adds.0': { $exists: false } } as const
  return {
    group_adds: { filter: { 'adds.at': { $lte: before } }, sort: {} },
    group_idle: { filter: { idleAt: { $lte: now } }, sort: { idleAt: 1 } },
    group_unfinished: { filter: unfinished, sort: { left: 1 } },
    group_effects: { filter: { effectsPending: true }, sort: {} },
    group_commands: { filter: { commandAt: { $lte: now } }, sort: { commandAt: 1 } },
  }
}

interface Search {
  filter: Filter<GroupDocument>
  sort: Record<string, 1>
}

/** The part of a sweep about groups. @param found the searches that found some */
export async function sweepGroups(
  context: MongoContext,
  found: ReadonlySet<GroupFinding | string>,
  limit: number,
): Promise<{ groups: number; membersVisited: number }> {
  const searches = groupSearches(context)
  const idsOf = (kind: keyof typeof searches) => idsMatching(context, searches[kind], limit)
  const settled = found.has('group_adds') ? await settleAdds(context, limit) : 0
  const membersVisited = found.has('group_commands') ? await goOnWithCommands(context, limit) : 0
  const closed = found.has('group_idle') ? await closeIdle(context, limit) : 0
  const left = [
    ...(found.has('group_effects') ? await idsOf('group_effects') : []),
    ...(found.has('group_unfinished') || settled > 0 ? await idsOf('group_unfinished') : []),
  ]
  await settleGroups(context, left)
  const purged = found.has('group_purgeable') ? await purgeGroups(context, limit) : 0
  return { groups: settled + closed + left.length + purged, membersVisited }
}

async function idsMatching(
  context: MongoContext,
  { filter, sort }: Search,
  limit: number,
): Promise<string[]> {
  const found = await run(startDeadline(), (commandLimit) =>
    groupsIn(context)
      .find(filter, { projection: { _id: 1 }, sort, limit, batchSize: limit, ...commandLimit })
      .toArray(),
  )
  return found.map(({ _id }) => _id)
}

/** Ends the adds whose process did not. Returns their number. */
async function settleAdds(context: MongoContext, limit: number): Promise<number> {
  const deadline = startDeadline()
  const before = new Date(context.clock.now() - TICKET_LIFE_MS)
  const found = await run(deadline, (commandLimit) =>
    groupsIn(context)
      .find(
        { 'adds.at': { $lte: before } },
        { projection: { adds: 1 }, limit, batchSize: limit, ...NEWEST, ...commandLimit },
      )
      .toArray(),
  )
  let settled = 0
  for (const { _id, adds } of found) {
    for (const ticket of adds) {
      if (ticket.at > before) continue
      const stored = await storedOf(context, ticket, deadline)
      const voided = ticket.jobIds.filter((id) => !stored.has(id))
      const write = { unused: voided.length, voided }
      if (await takeTicketBack(context, _id, ticket.id, write, deadline)) settled++
    }
  }
  return settled
}

/** Closes groups that had no add for long. Others are looked at later. */
async function closeIdle(context: MongoContext, limit: number): Promise<number> {
  const deadline = startDeadline()
  const now = nowOf(context)
  const found = await run(deadline, (commandLimit) =>
    groupsIn(context)
      .find(
        { idleAt: { $lte: now } },
        { projection: { addedAt: 1, closeAfterMs: 1 }, limit, batchSize: limit, ...commandLimit },
      )
      .toArray(),
  )
  const updates = found.map(({ _id, addedAt, closeAfterMs }) => {
    const idleAt = new Date(addedAt.getTime() + (closeAfterMs ?? 0))
    const isIdle = idleAt <= now
    return {
      updateOne: {
        filter: { _id, ...groupGuardOf('close_idle', { now, addedAt }) },
        update: isIdle
          ? {
              $set: {
                state: GROUP_LIFECYCLE.close_idle.to,
                ...{ closedAt: now, closedBy: 'idle' as const },
              },
              $unset: { idleAt: '' as const },
            }
          : { $set: { idleAt } },
      },
    }
  })
  await run(deadline, (commandLimit) =>
    groupsIn(context).bulkWrite(updates, { ordered: false, ...commandLimit }),
  )
  await settleGroups(
    context,
    found.map(({ _id }) => _id),
  )
  return found.length
}

type Commanded = Required<Pick<GroupDocument, '_id' | 'commandAt' | 'commandAfter' | 'adds'>> & {
  state: 'cancelling' | 'retrying'
}

type Member = Pick<JobDocument, '_id' | 'state' | 'finishedAt'>

/** The members of one command: they are changed one by one, all within its deadline. */
const MAX_CHANGED = 50

/** The command that was sent first comes first. Each step can be repeated after a crash. */
async function goOnWithCommands(context: MongoContext, limit: number): Promise<number> {
  const groups = await run(startDeadline(), (commandLimit) =>
    groupsIn(context)
      .find<Commanded>(
        { commandAt: { $lte: nowOf(context) } },
        {
          projection: { state: 1, commandAt: 1, commandAfter: 1, adds: 1 },
          ...{ sort: { commandAt: 1 }, limit, batchSize: limit },
          ...NEWEST,
          ...commandLimit,
        },
      )
      .toArray(),
  )
  let visited = 0
  for (const group of groups) {
    const left = limit - visited
    if (left <= 0) break
    visited += await visitMembers(context, group, left)
  }
  return visited
}

async function visitMembers(
  context: MongoContext,
  group: Commanded,
  limit: number,
): Promise<number> {
  const { _id, state, commandAt } = group
  // An add that was registered before the close may still insert a member.
  if (group.adds.length > 0) return 0
  const members = await membersAfter(context, group, limit)
  const ids = members
    .filter((member) => {
      const finishedAt = member.finishedAt?.getTime() ?? null
      const seen = { state: stateOf(member.state), finishedAt }
      return isChangedBy(state, seen, commandAt.getTime())
    })
    .map((member) => member._id)
  for (let from = 0; from < ids.length; from += MAX_CHANGED) {
    const some = ids.slice(from, from + MAX_CHANGED)
    if (state === 'cancelling') await cancel(context, some)
    else await retry(context, some, { waives: false })
  }
  const isLast = members.length < limit
  const end = state === 'cancelling' ? 'end_cancel' : 'end_retry'
  const update: UpdateFilter<GroupDocument> = isLast
    ? {
        $set: { state: GROUP_LIFECYCLE[end].to },
        $unset: { commandAt: '', commandAfter: '' },
      }
    : { $set: { commandAfter: members.at(-1)?._id ?? '' } }
  await run(startDeadline(), (commandLimit) =>
    groupsIn(context).updateOne({ _id, commandAt, ...groupGuardOf(end) }, update, commandLimit),
  )
  if (isLast) await settleGroups(context, [_id])
  return members.length
}

/** The oldest members behind the last one that was visited. */
function membersAfter(
  context: MongoContext,
  { _id, state, commandAfter }: Commanded,
  limit: number,
): Promise<Member[]> {
  const isRetry = state === 'retrying'
  return run(startDeadline(), (commandLimit) =>
    context.jobs
      .find<Member>(
        {
          group: _id,
          ...(isRetry ? { state: { $in: ['cancelled', 'dead'] } } : {}),
          _id: { $gt: commandAfter },
        },
        {
          projection: { state: 1, finishedAt: 1 },
          ...{ sort: { _id: 1 }, limit, batchSize: limit },
          hint: isRetry ? 'unsuccessful_of_group' : 'of_group',
          ...NEWEST,
          ...commandLimit,
        },
      )
      .toArray(),
  )
}

/** One guard for each class of retention. */
export function groupPurges({ settings, clock }: MongoContext): Search[] {
  return purgeClasses(settings, clock.now()).map(({ isDead, isKeyed, finishedBy }) => {
    const kept = { isKeyed, finishedBy, state: isDead ? 'failed' : 'succeeded' } as const
    return { filter: groupGuardOf('purge', { kept }), sort: { finishedAt: 1 } }
  })
}

async function purgeGroups(context: MongoContext, limit: number): Promise<number> {
  let purged = 0
  for (const purge of groupPurges(context)) {
    const ids = await idsMatching(context, purge, limit)
    if (ids.length === 0) continue
    const { deletedCount } = await run(startDeadline(), (commandLimit) =>
      groupsIn(context).deleteMany(
        { _id: { $in: ids }, ...purge.filter },
        { ...BY_ID, ...commandLimit },
      ),
    )
    purged += deletedCount
  }
  return purged
}
