// Types of groups in requests and responses. Shapes only.

export type GroupState = 'open' | 'closed' | 'cancelling' | 'retrying' | 'succeeded' | 'failed'

/** An endpoint that receives a notice of a group, and of which event. */
export interface GroupNotice {
  endpoint: string
  /** `first_dead`: at most once between two finishes. */
  when: 'all_final' | 'all_succeeded' | 'first_dead'
}

export interface GroupSettings {
  name?: string | null | undefined
  metadata?: Record<string, string> | undefined
  tags?: string[] | undefined
  /** The fairness key of its notices. */
  fairnessKey?: string | null | undefined
  /** One, or a list of at most 3. */
  onFinish?: GroupNotice | GroupNotice[] | undefined
  /** A duration after the last add; null: only `close` closes it. Default: `7d`. */
  closeAfter?: string | null | undefined
}

/** A new group to create. */
export type NewGroup = GroupSettings & {
  /** 1–255 visible ASCII characters. Default: a new key for each call. */
  idempotencyKey?: string | undefined
}

/** A group as a list shows it. */
export interface ListedGroup {
  id: string
  name: string | null
  state: GroupState
  /** The jobs that were added. */
  members: number
  /** Percent of them that are final. 100: the group is final. */
  progress: number
  /** Final members, as far as they are counted. Deleted and purged ones stay counted. */
  counts: { succeeded: number; dead: number; cancelled: number }
  metadata: Record<string, string>
  tags: string[]
  fairnessKey: string | null
  onFinish: GroupNotice[]
  closeAfter: string | null
  closesAt: string | null
  idempotencyKey: string | null
  createdAt: string
  closedAt: string | null
  closedBy: 'request' | 'idle' | 'cancel' | null
  finishedAt: string | null
  /** How often it has become final. */
  finishes: number
}

export interface Group extends ListedGroup {
  /** `more`: more than 10,000 are running, and as many fewer are queued. */
  counts: ListedGroup['counts'] & { queued: number; running: number; more?: true }
}

export type FinalGroup = Group & { state: 'succeeded' | 'failed'; finishedAt: string }

/** `deduplicated`: the group already existed, by its idempotency key. */
export type CreatedGroup = Group & { deduplicated: boolean }

export interface GroupQuery {
  state?: GroupState | undefined
  name?: string | undefined
  /** Groups per page, 1–100. */
  limit?: number | undefined
}

export function isFinalGroup(group: Group): group is FinalGroup {
  return group.state === 'succeeded' || group.state === 'failed'
}
