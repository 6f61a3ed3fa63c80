// How groups are stored in SQLite: the columns, and the guards of src/job/groups.ts as SQL.
import {
  GROUP_LIFECYCLE,
  type Group,
  type GroupEventName,
  type GroupGuard,
  type GroupState,
} from '../../job/groups.ts'
import type { Database } from './connection.ts'
import { parsed } from './job-row.ts'

const GROUP_COLUMNS = `id, name, state, metadata, tags, fairness_key, notices, close_after_ms,
  idempotency_key, member_count, succeeded_count, dead_count, cancelled_count, created_at,
  closes_at, closed_at, closed_by, finished_at, finishes, hops`

export interface GroupRow {
  id: string
  name: string | null
  state: GroupState
  metadata: string | null
  tags: string | null
  fairness_key: string | null
  notices: string | null
  close_after_ms: number | null
  idempotency_key: string | null
  member_count: number
  succeeded_count: number
  dead_count: number
  cancelled_count: number
  created_at: number
  closes_at: number | null
  closed_at: number | null
  closed_by: Group['closedBy']
  finished_at: number | null
  finishes: number
  hops: number
}

const GUARD_SQL = {
  /** By the unique index groups_idempotency. */
  key_unused: 'true',
  /** Read in the same transaction. */
  room: 'true',
  idle: 'closes_at <= $now',
  all_final: 'left_count = 0',
  all_succeeded: 'dead_count + cancelled_count = 0',
  some_unsuccessful: 'dead_count + cancelled_count > 0',
  // An add and the notices of a finish are a part of one transaction.
  no_add: 'true',
  no_effects: 'true',
  uncounted: 'true',
  counted: 'true',
  all_visited: 'true',
  purge_due: `(state = 'failed') = $isDead and (idempotency_key is not null) = $isKeyed
    and finished_at <= $finishedBy`,
} satisfies Record<GroupGuard, string>

/** The condition of an event of a group. */
export function groupGuardOf(event: GroupEventName): string {
  const { from, guards } = GROUP_LIFECYCLE[event]
  const states = from.map((state) => `'${state}'`).join(', ')
  return [`state in (${states})`, ...guards.map((guard) => GUARD_SQL[guard])].join(' and ')
}

export const GROUP_OF_ID = `select ${GROUP_COLUMNS} from groups where id = $id`
export const STATE_OF_GROUP = 'select state from groups where id = $id'
export const GROUP_ROWS = `select ${GROUP_COLUMNS} from groups`
export function groupOfId({ connection }: Database, id: string): Group | null {
  const row = connection.statement(GROUP_OF_ID).get({ id })
  return row === undefined ? null : toGroup(row as unknown as GroupRow)
}

export function toGroup(row: GroupRow): Group {
  return {
    id: row.id,
    name: row.name,
    state: row.state,
    metadata: parsed(row.metadata, {}),
    tags: parsed(row.tags, []),
    fairnessKey: row.fairness_key,
    notices: parsed(row.notices, []),
    closeAfterMs: row.close_after_ms,
    idempotencyKey: row.idempotency_key,
    memberCount: row.member_count,
    counts: {
      succeeded: row.succeeded_count,
      dead: row.dead_count,
      cancelled: row.cancelled_count,
    },
    createdAt: row.created_at,
    closesAt: row.closes_at,
    closedAt: row.closed_at,
    closedBy: row.closed_by,
    finishedAt: row.finished_at,
    finishes: row.finishes,
    hops: row.hops,
  }
}
