// Requests about groups, and their results. Types of the port.
import type { Group, GroupState } from '../job/groups.ts'

export type CreateGroupResult =
  | { kind: 'created'; group: Group }
  /** A group has the idempotency key. */
  | { kind: 'existing'; group: Group }
  | { kind: 'key_reused'; groupId: string }
  /** A notice names this endpoint, which does not exist or is being deleted. */
  | { kind: 'unknown_notice_endpoint'; endpoint: string }

export type GroupResult =
  | { kind: 'applied' }
  | { kind: 'refused'; state: GroupState }
  | { kind: 'not_found' }

export type DeleteGroupResult =
  | GroupResult
  /** This job waits for the group. */
  | { kind: 'depended_on'; jobId: string }

export interface GroupQuery {
  state?: GroupState
  name?: string
  /** The id after which the page begins. */
  after?: string
  limit: number
}
