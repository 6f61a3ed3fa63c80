// How groups are stored in MongoDB: the fields, the indexes, and the guards of
// src/job/groups.ts as filters.
import type { Collection, Filter } from 'mongodb'
import {
  closesAt,
  GROUP_LIFECYCLE,
  type Group,
  type GroupEventName,
  type GroupGuard,
  type GroupNotice,
  type GroupState,
} from '../../job/groups.ts'
import { type Deadline, type MongoContext, NEWEST, run } from './connection.ts'
import type { IndexDefinition } from './indexes.ts'

export interface GroupDocument {
  _id: string
  state: GroupState
  // The fields that may be absent are in indexes of those that have them.
  name?: string
  /** JSON. */
  metadata: string
  tags: string[]
  fairnessKey: string | null
  notices: GroupNotice[]
  closeAfterMs: number | null
  idempotencyKey?: string
  requestHash?: string
  hasKey: boolean
  memberCount: number
  /** Members that are not counted as final. */
  left: number
  succeeded: number
  dead: number
  cancelled: number
  /** Adds that are registered and not confirmed. */
  adds: Ticket[]
  /** Jobs whose add was settled without them: if they are inserted later, they count nowhere. */
  voided?: string[]
  finishes: number
  /** The notices of the first dead member since the last finish are enqueued. */
  deadNotified?: true
  /** Notices are due. */
  effectsPending?: true
  /** While a cancel or a retry goes on: since when, and the last member that was visited. */
  commandAt?: Date
  commandAfter?: string
  createdAt: Date
  addedAt: Date
  /** While it is open: when a sweep looks whether it is idle. */
  idleAt?: Date
  closedAt?: Date
  closedBy?: NonNullable<Group['closedBy']>
  finishedAt?: Date
  hops: number
}

/** An add that is registered: its id is in each job that it inserts. */
export interface Ticket {
  id: string
  at: Date
  /** Those that may be stored and are not counted. */
  jobIds: string[]
}

export const GROUP_INDEXES = {
  /** createGroup. */
  idempotency: {
    key: { idempotencyKey: 1 },
    options: { unique: true, partialFilterExpression: { idempotencyKey: { $exists: true } } },
  },
  /** listGroups. */
  by_state: { key: { state: 1, _id: -1 }, options: {} },
  by_name: {
    key: { name: 1, state: 1, _id: -1 },
    options: { partialFilterExpression: { name: { $exists: true } } },
  },
  /** sweep: groups that may be idle, that may be final, and whose adds were not confirmed. */
  idle: {
    key: { idleAt: 1 },
    options: { partialFilterExpression: { idleAt: { $exists: true } } },
  },
  unfinished: {
    key: { state: 1, left: 1 },
    options: { partialFilterExpression: { state: 'closed' } },
  },
  adds: {
    key: { 'adds.at': 1 },
    options: { partialFilterExpression: { 'adds.at': { $exists: true } } },
  },
  /** sweep: groups whose notices are due, and those that a command marked. */
  effects_pending: {
    key: { effectsPending: 1 },
    options: { partialFilterExpression: { effectsPending: true } },
  },
  commanded: {
    key: { commandAt: 1 },
    options: { partialFilterExpression: { commandAt: { $exists: true } } },
  },
  /** sweep: groups past their retention. */
  purge: {
    key: { state: 1, hasKey: 1, finishedAt: 1 },
    options: { partialFilterExpression: { finishedAt: { $exists: true } } },
  },
} as const satisfies Record<string, IndexDefinition>

type GroupFilter = Filter<GroupDocument>

/** What the writer knows, and a guard compares with the group. */
interface Proof {
  now?: Date
  addedAt?: Date
  kept?: { isKeyed: boolean; finishedBy: number; state: GroupState }
}

const FILTERS = {
  // A unique index enforces it.
  key_unused: () => ({}),
  // register compares the number.
  room: () => ({}),
  idle: ({ addedAt = missing(), now = missing() }) => ({ addedAt, idleAt: { $lte: now } }),
  all_final: () => ({ left: 0 }),
  all_succeeded: () => ({ dead: 0, cancelled: 0 }),
  some_unsuccessful: () => ({ $or: [{ dead: { $gt: 0 } }, { cancelled: { $gt: 0 } }] }),
  no_add: () => ({ 'adds.0': { $exists: false } }),
  no_effects: () => ({ effectsPending: { $ne: true as const } }),
  // The transaction proves these two with the member.
  uncounted: () => ({}),
  counted: () => ({}),
  // The sweep read it.
  all_visited: () => ({}),
  purge_due: ({ kept = missing() }) => ({
    state: kept.state,
    hasKey: kept.isKeyed,
    finishedAt: { $lte: new Date(kept.finishedBy) },
  }),
} satisfies Record<GroupGuard, (proof: Proof) => GroupFilter>

/** The filter that a write of this event must have, in addition to the id of the group. */
export function groupGuardOf(event: GroupEventName, proof: Proof = {}): GroupFilter {
  const { from, guards } = GROUP_LIFECYCLE[event]
  const filter: GroupFilter = { state: { $in: [...from] } }
  for (const guard of guards) Object.assign(filter, FILTERS[guard](proof))
  return filter
}

/** Without this, a guard whose proof is missing would match any group. */
function missing(): never {
  throw new Error('a guard needs a proof that its writer did not give')
}

export function groupsIn({ db, names }: MongoContext): Collection<GroupDocument> {
  return db.collection<GroupDocument>(names.groups)
}

export function findGroups(
  context: MongoContext,
  ids: string[],
  deadline: Deadline,
): Promise<GroupDocument[]> {
  return run(deadline, (limit) =>
    groupsIn(context)
      .find({ _id: { $in: ids } }, { batchSize: ids.length + 1, ...NEWEST, ...limit })
      .toArray(),
  )
}

export function groupOf(document: GroupDocument): Group {
  const { succeeded, dead, cancelled } = document
  const group = {
    id: document._id,
    name: document.name ?? null,
    state: document.state,
    metadata: JSON.parse(document.metadata) as Record<string, string>,
    tags: document.tags,
    fairnessKey: document.fairnessKey,
    notices: document.notices,
    closeAfterMs: document.closeAfterMs,
    idempotencyKey: document.idempotencyKey ?? null,
    memberCount: document.memberCount,
    counts: { succeeded, dead, cancelled },
    createdAt: document.createdAt.getTime(),
    closedAt: document.closedAt?.getTime() ?? null,
    closedBy: document.closedBy ?? null,
    finishedAt: document.finishedAt?.getTime() ?? null,
    finishes: document.finishes,
    hops: document.hops,
  }
  const isOpen = document.state === 'open'
  return { ...group, closesAt: isOpen ? closesAt(group, document.addedAt.getTime()) : null }
}
