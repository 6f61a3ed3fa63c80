// Groups: jobs that finish together. Their states, what each event needs and writes, and what
// follows when members become final. Both stores take their guards from this table. No I/O.
import { isFinal, type JobState } from './job.ts'
import type { FinalState } from './retention.ts'

/** `cancelling` and `retrying`: the sweep changes one member after another. */
export const GROUP_STATES = [
  'open',
  'closed',
  'cancelling',
  'retrying',
  'succeeded',
  'failed',
] as const
export type GroupState = (typeof GROUP_STATES)[number]

export const MAX_MEMBERS = 1_000_000
export const MAX_GROUP_NOTICES = 3
/** After the last add. */
export const DEFAULT_CLOSE_AFTER_MS = 7 * 86_400_000
/** How many dead members a notice names, and how long their messages are. */
export const MAX_FAILURES_NAMED = 10
export const MAX_FAILURE_LENGTH = 500

/** Which event of a group enqueues a notice. */
export const NOTICE_EVENTS = ['all_final', 'all_succeeded', 'first_dead'] as const
type NoticeEvent = (typeof NOTICE_EVENTS)[number]

export interface GroupNotice {
  endpoint: string
  when: NoticeEvent
}

/** What a write of a group proves, in the same atomic step. */
export const GROUP_GUARDS = {
  key_unused: 'its idempotency key is unused (unique index)',
  room: `with the new members it has at most ${MAX_MEMBERS.toLocaleString('en')}`,
  idle: 'its closeAfter has passed since the last add',
  all_final: 'every member is counted as final',
  all_succeeded: 'no member is counted as dead or cancelled',
  some_unsuccessful: 'a member is counted as dead or cancelled',
  no_add: 'no add is under way',
  no_effects: 'the notices of its last finish are enqueued',
  uncounted: 'the member is not counted',
  counted: 'the member is counted',
  all_visited: 'the sweep has come to the last member',
  purge_due: 'the retention of a job of its state has passed',
} as const
export type GroupGuard = keyof typeof GROUP_GUARDS

export interface GroupEvent {
  from: readonly GroupState[]
  guards: readonly GroupGuard[]
  /** `same`: the state stays; null: the record is deleted. */
  to: GroupState | 'same' | null
  /** Other changes of the same write. */
  also: string
  by: readonly ('API' | 'worker' | 'sweeper')[]
}

const FINISH = 'finishedAt, finishes + 1; its notices follow'

export const GROUP_LIFECYCLE = {
  create: {
    from: [],
    guards: ['key_unused'],
    to: 'open',
    also: 'closesAt = now + closeAfter',
    by: ['API'],
  },
  add: {
    from: ['open'],
    guards: ['room'],
    to: 'same',
    also: 'members and left + the number of new members, closesAt = now + closeAfter; before the members are stored',
    by: ['API', 'worker'],
  },
  close: {
    from: ['open'],
    guards: [],
    to: 'closed',
    also: 'closedAt, closedBy = request',
    by: ['API'],
  },
  close_idle: {
    from: ['open'],
    guards: ['idle'],
    to: 'closed',
    also: 'closedAt, closedBy = idle',
    by: ['sweeper'],
  },
  count: {
    from: ['open', 'closed', 'cancelling', 'retrying'],
    guards: ['uncounted'],
    to: 'same',
    also: 'the count of its state + 1, left − 1; the member is marked as counted',
    by: ['API', 'worker', 'sweeper'],
  },
  take_out: {
    from: ['open', 'closed', 'cancelling', 'retrying'],
    guards: ['counted'],
    to: 'same',
    also: 'a member is retried: the count of its state − 1, left + 1; the member is queued and not counted',
    by: ['API', 'sweeper'],
  },
  reopen: {
    from: ['failed'],
    guards: ['counted', 'no_effects'],
    to: 'closed',
    also: 'the same, for a group that was final; clears finishedAt',
    by: ['API'],
  },
  succeed: {
    from: ['closed'],
    guards: ['all_final', 'all_succeeded', 'no_add', 'no_effects'],
    to: 'succeeded',
    also: FINISH,
    by: ['API', 'worker', 'sweeper'],
  },
  fail: {
    from: ['closed'],
    guards: ['all_final', 'some_unsuccessful', 'no_add', 'no_effects'],
    to: 'failed',
    also: FINISH,
    by: ['API', 'worker', 'sweeper'],
  },
  cancel: {
    from: ['open', 'closed', 'retrying'],
    guards: [],
    to: 'cancelling',
    also: 'closedAt and closedBy = cancel if it was open',
    by: ['API'],
  },
  end_cancel: {
    from: ['cancelling'],
    guards: ['all_visited', 'no_add'],
    to: 'closed',
    also: '',
    by: ['sweeper'],
  },
  retry: {
    from: ['closed', 'failed'],
    guards: ['no_effects'],
    to: 'retrying',
    also: 'clears finishedAt',
    by: ['API'],
  },
  end_retry: {
    from: ['retrying'],
    guards: ['all_visited'],
    to: 'closed',
    also: '',
    by: ['sweeper'],
  },
  delete: {
    from: ['succeeded', 'failed'],
    guards: ['no_effects'],
    to: null,
    also: 'its jobs stay',
    by: ['API'],
  },
  purge: {
    from: ['succeeded', 'failed'],
    guards: ['purge_due', 'no_effects'],
    to: null,
    also: 'its jobs stay',
    by: ['sweeper'],
  },
} as const satisfies Record<string, GroupEvent>
export type GroupEventName = keyof typeof GROUP_LIFECYCLE

/** Of members that are final, as the finish effects have counted them. */
export type FinalCounts = Record<FinalState, number>

export const NO_COUNTS: Readonly<FinalCounts> = { succeeded: 0, dead: 0, cancelled: 0 }

/** Why the sweep or a client closed it. */
type ClosedBy = 'request' | 'idle' | 'cancel'

/** Instants are epoch milliseconds by the store's clock. */
export interface Group {
  id: string
  name: string | null
  state: GroupState
  metadata: Record<string, string>
  tags: string[]
  /** Of its notices. */
  fairnessKey: string | null
  notices: GroupNotice[]
  /** null: only a request closes it. */
  closeAfterMs: number | null
  idempotencyKey: string | null
  /** All jobs that were added, purged and deleted ones included. */
  memberCount: number
  counts: FinalCounts
  createdAt: number
  /** When the sweep closes it; null: it does not. */
  closesAt: number | null
  closedAt: number | null
  closedBy: ClosedBy | null
  finishedAt: number | null
  /** How often it has become final. */
  finishes: number
  /** How many deliveries led to the request that created it. */
  hops: number
}

export interface NewGroup
  extends Pick<
    Group,
    | 'id'
    | 'name'
    | 'metadata'
    | 'tags'
    | 'fairnessKey'
    | 'notices'
    | 'closeAfterMs'
    | 'createdAt'
    | 'hops'
  > {
  idempotency: { key: string; requestHash: string } | null
}

/** A group with the number of its running members: exact up to MAX_COUNT; then there may be more. */
export interface CountedGroup extends Group {
  running: number
}

/** The record that a new group becomes. */
export function newlyOpen({ idempotency, ...group }: NewGroup): Group {
  return {
    ...group,
    state: 'open',
    idempotencyKey: idempotency?.key ?? null,
    memberCount: 0,
    counts: { ...NO_COUNTS },
    closesAt: closesAt(group, group.createdAt),
    closedAt: null,
    closedBy: null,
    finishedAt: null,
    finishes: 0,
  }
}

/** @param addedAt when the last member was added, or the group was created */
export function closesAt(
  { closeAfterMs }: Pick<Group, 'closeAfterMs'>,
  addedAt: number,
): number | null {
  return closeAfterMs === null ? null : addedAt + closeAfterMs
}

export function isFinalGroup(state: GroupState): boolean {
  return state === 'succeeded' || state === 'failed'
}

export function finalCount({ succeeded, dead, cancelled }: FinalCounts): number {
  return succeeded + dead + cancelled
}

/** The state of a closed group all of whose members are final. An empty one has succeeded. */
export function finishEvent({ dead, cancelled }: FinalCounts): 'succeed' | 'fail' {
  return dead + cancelled === 0 ? 'succeed' : 'fail'
}

/** Percent of its members that are final; 100 only once the group is. */
export function progressOf({ state, memberCount, counts }: Group): number {
  if (isFinalGroup(state)) return 100
  if (memberCount === 0) return 0
  return Math.min(99, Math.floor((100 * finalCount(counts)) / memberCount))
}

/** The members that are neither running nor counted as final. */
export function queuedCount({ memberCount, counts }: Group, running: number): number {
  return Math.max(0, memberCount - finalCount(counts) - running)
}

/** Why a group does not take a member. */
export type AddRefusal =
  | { kind: 'unknown_group'; groupId: string }
  | { kind: 'group_closed'; groupId: string; state: GroupState }
  | { kind: 'group_full'; groupId: string }

/**
 * As a dependency, a group is like a job: it succeeds when it is final and has succeeded. Only an
 * open one is like a queued job, and cannot be depended on.
 */
export function dependencyState(state: GroupState): JobState {
  switch (state) {
    case 'open':
      return 'queued'
    case 'succeeded':
      return state
    case 'failed':
      return 'dead'
    default:
      return 'running'
  }
}

/** How many more members it takes, or why none. @param found null: there is no such group */
export function roomIn(
  groupId: string,
  found: Pick<Group, 'state' | 'memberCount'> | null,
): number | AddRefusal {
  if (found === null) return { kind: 'unknown_group', groupId }
  const { state, memberCount } = found
  if (!isFrom('add', state)) return { kind: 'group_closed', groupId, state }
  const room = MAX_MEMBERS - memberCount
  return room > 0 ? room : { kind: 'group_full', groupId }
}

export function isFrom(event: GroupEventName, state: GroupState): boolean {
  return (GROUP_LIFECYCLE[event].from as readonly GroupState[]).includes(state)
}

/** Whether the death of a member can enqueue a notice. */
export function notifiesFirstDead({ notices }: Pick<Group, 'notices'>): boolean {
  return notices.some(({ when }) => when === 'first_dead')
}

/** A notice that an event of the group enqueues. `entry`: its place in the list of notices. */
export interface DueNotice extends GroupNotice {
  entry: number
}

/**
 * The notices that follow from the state of a group whose effects are pending: of its finish, or of
 * its first dead member since then.
 */
export function dueNotices({ state, notices }: Pick<Group, 'state' | 'notices'>): DueNotice[] {
  return notices.flatMap((notice, entry) =>
    isDue(notice.when, state) ? [{ ...notice, entry }] : [],
  )
}

function isDue(when: NoticeEvent, state: GroupState): boolean {
  if (when === 'first_dead') return !isFinalGroup(state)
  return state === 'succeeded' || (state === 'failed' && when === 'all_final')
}

/** The members that a command changes. A retry leaves those that ended after it was sent. */
export function isChangedBy(
  command: 'cancelling' | 'retrying',
  member: { state: JobState; finishedAt: number | null },
  commandAt: number,
): boolean {
  if (command === 'cancelling') return !isFinal(member.state)
  const isUnsuccessful = member.state === 'dead' || member.state === 'cancelled'
  return isUnsuccessful && (member.finishedAt ?? 0) <= commandAt
}
