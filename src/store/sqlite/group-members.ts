// The groups of jobs as enqueue, the finish effects and commands change them: adds, counts, and
// the event by which a group becomes final. Each is a part of the transaction that changes the
// jobs, so the counts always equal what the members are counted as.
import {
  type AddRefusal,
  type CountedGroup,
  closesAt,
  type FinalCounts,
  finishEvent,
  GROUP_LIFECYCLE,
  type Group,
  MAX_FAILURES_NAMED,
  NO_COUNTS,
  roomIn,
} from '../../job/groups.ts'
import type { FailedMember } from '../../job/notice.ts'
import type { FinalState } from '../../job/retention.ts'
import { MAX_COUNT } from '../store.ts'
import type { Database } from './connection.ts'
import { groupGuardOf, groupOfId } from './group-row.ts'
import { failureOf } from './job-row.ts'

export const ADD_MEMBERS = `
update groups set member_count = member_count + $count, left_count = left_count + $count,
  closes_at = $closesAt
where id = $id`
export const COUNT_MEMBERS = `
update groups set left_count = left_count - $count,
  succeeded_count = succeeded_count + $succeeded, dead_count = dead_count + $dead,
  cancelled_count = cancelled_count + $cancelled
where id = $id returning state, left_count, dead_notified`
/** A member is queued again. It belongs to the counts until then. */
export const TAKE_OUT = {
  succeeded: takeOutSql('succeeded_count'),
  dead: takeOutSql('dead_count'),
  cancelled: takeOutSql('cancelled_count'),
} as const satisfies Record<FinalState, string>
export const REOPEN = `
update groups set state = '${GROUP_LIFECYCLE.reopen.to}', finished_at = null
where id = $id and ${groupGuardOf('reopen')}`
export const NOTE_DEAD_NOTIFIED = 'update groups set dead_notified = 1 where id = $id'
export const FINISH_GROUP = { succeed: finishSql('succeed'), fail: finishSql('fail') } as const

export const FAILURES_OF_GROUP = `
select id, endpoint, failure_reason, failure_message, failure_job_id from jobs
where group_id = $id and unsuccessful = 'dead' order by id limit ${MAX_FAILURES_NAMED}`
export const RUNNING_IN_GROUP = `
select count(*) as count from (
  select 1 from jobs where running_in = $id limit ${MAX_COUNT})`

function takeOutSql(column: string): string {
  return `update groups set ${column} = ${column} - 1, left_count = left_count + 1 where id = $id`
}

function finishSql(event: 'succeed' | 'fail'): string {
  return `update groups set state = '${GROUP_LIFECYCLE[event].to}', finished_at = $now,
    finishes = finishes + 1, dead_notified = 0
    where id = $id and ${groupGuardOf(event)}`
}

/** The adds of one transaction. A group is read once, and written once. */
export interface Adds {
  /** Why the group takes no further member; null: it takes one. */
  refusal(groupId: string | null): AddRefusal | null
  added(groupId: string | null): void
  save(): void
}

export function openAdds(database: Database): Adds {
  const { connection, clock } = database
  const opened = new Map<
    string,
    { group: Group | null; room: number | AddRefusal; count: number }
  >()
  const open = (id: string) => {
    const known = opened.get(id)
    if (known !== undefined) return known
    const group = groupOfId(database, id)
    const add = { group, room: roomIn(id, group), count: 0 }
    opened.set(id, add)
    return add
  }
  return {
    refusal(groupId) {
      if (groupId === null) return null
      const { room, count } = open(groupId)
      if (typeof room !== 'number') return room
      return count < room ? null : { kind: 'group_full', groupId }
    },
    added(groupId) {
      if (groupId !== null) open(groupId).count++
    },
    save() {
      for (const [id, { group, count }] of opened) {
        if (group === null || count === 0) continue
        connection.statement(ADD_MEMBERS).run({ id, count, closesAt: closesAt(group, clock.now()) })
      }
    },
  }
}

/** Members that became final and were marked as counted, by group. */
export type Counted = Map<string, FinalCounts>

export function noteCounted(counted: Counted, groupId: string, state: FinalState): void {
  const counts = counted.get(groupId) ?? { ...NO_COUNTS }
  counts[state]++
  counted.set(groupId, counts)
}

/** What follows from the counts of a group. */
export interface GroupEffects {
  groupId: string
  /** A member died, and no notice since the last finish has reported one. */
  isFirstDead: boolean
  /** It may be final now. */
  mayFinish: boolean
}

/** Adds to the counts of the groups. A group that was deleted counts nothing. */
export function countMembers({ connection }: Database, counted: Counted): GroupEffects[] {
  return [...counted].flatMap(([groupId, { succeeded, dead, cancelled }]) => {
    const count = succeeded + dead + cancelled
    const row = connection
      .statement(COUNT_MEMBERS)
      .get({ id: groupId, count, succeeded, dead, cancelled })
    if (row === undefined) return []
    const isFirstDead = dead > 0 && row.dead_notified === 0
    return [{ groupId, isFirstDead, mayFinish: row.state === 'closed' && row.left_count === 0 }]
  })
}

/** Takes a member that is queued again out of the counts. The group is no longer final. */
export function takeOut({ connection }: Database, groupId: string, counted: FinalState): void {
  connection.statement(TAKE_OUT[counted]).run({ id: groupId })
  connection.statement(REOPEN).run({ id: groupId })
}

/** Returns whether the group is final now. */
export function finishGroup(database: Database, id: string): boolean {
  const group = groupOfId(database, id)
  if (group === null) return false
  const { changes } = database.connection
    .statement(FINISH_GROUP[finishEvent(group.counts)])
    .run({ id, now: database.clock.now() })
  return changes === 1
}

export function countedGroupOf(database: Database, id: string): CountedGroup | null {
  const group = groupOfId(database, id)
  if (group === null) return null
  const { count } = database.connection.statement(RUNNING_IN_GROUP).get({ id }) as {
    count: number
  }
  return { ...group, running: count }
}

type FailedRow = Parameters<typeof failureOf>[0] & { id: string; endpoint: string }

export function failuresOf({ connection }: Database, id: string): FailedMember[] {
  const rows = connection.statement(FAILURES_OF_GROUP).all({ id }) as unknown as FailedRow[]
  return rows.map((row) => ({
    jobId: row.id,
    endpoint: row.endpoint,
    failure: failureOf(row),
  }))
}
