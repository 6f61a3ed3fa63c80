// Groups as records: what clients create, read, close, cancel, retry and delete, and what the sweep
// does with them. Their members are in group-members.ts.
import {
  type CountedGroup,
  GROUP_LIFECYCLE,
  GROUP_STATES,
  type Group,
  type GroupState,
  isChangedBy,
  isFinalGroup,
  type NewGroup,
  newlyOpen,
} from '../../job/groups.ts'
import type { JobState } from '../../job/job.ts'
import { purgeClasses } from '../../job/retention.ts'
import type { CreateGroupResult, DeleteGroupResult, GroupQuery, GroupResult } from '../groups.ts'
import { MAX_ENTRIES_PER_PAGE, type Page } from '../store.ts'
import { cancel, retry } from './commands.ts'
import type { Database } from './connection.ts'
import { NOTICE_BUDGET, runGroupEffects } from './finish-effects.ts'
import { countedGroupOf } from './group-members.ts'
import {
  GROUP_ROWS,
  type GroupRow,
  groupGuardOf,
  groupOfId,
  STATE_OF_GROUP,
  toGroup,
} from './group-row.ts'
import { listText, mapText } from './job-row.ts'

export const GROUP_OF_KEY = `
select id, request_hash from groups where idempotency_key = $key`
export const INSERT_GROUP = `
insert into groups (id, name, metadata, tags, fairness_key, notices, close_after_ms, closes_at,
  created_at, hops, idempotency_key, request_hash)
values ($id, $name, $metadata, $tags, $fairnessKey, $notices, $closeAfterMs, $closesAt, $createdAt,
  $hops, $key, $requestHash)`
export const GROUPS = `${GROUP_ROWS} where id < $below order by id desc limit +$limit`
export const GROUPS_IN_STATE = `
${GROUP_ROWS} where state = $state and id < $below order by id desc limit +$limit`
export const GROUPS_OF_NAME = `
${GROUP_ROWS} where name = $name and state = $state and id < $below
order by id desc limit +$limit`

const CLOSE_SETS = 'closed_at = coalesce(closed_at, $now), closes_at = null'
export const CLOSE = {
  close: closeSql('close', 'request'),
  close_idle: closeSql('close_idle', 'idle'),
} as const
export const COMMAND = {
  cancel: `update groups set state = '${GROUP_LIFECYCLE.cancel.to}', ${CLOSE_SETS},
    closed_by = coalesce(closed_by, 'cancel'), command_at = $now, command_after = ''
    where id = $id and ${groupGuardOf('cancel')}`,
  retry: `update groups set state = '${GROUP_LIFECYCLE.retry.to}', finished_at = null,
    command_at = $now, command_after = ''
    where id = $id and ${groupGuardOf('retry')}`,
} as const
export const END_COMMAND = {
  cancelling: endSql('end_cancel'),
  retrying: endSql('end_retry'),
} as const
export const WAITING_FOR_GROUP = `
select jobs.id from dependencies cross join jobs on jobs.id = dependencies.dependent
where dependencies.dependency = $id and jobs.blocked = 1 limit 1`
export const DELETE_GROUP = `delete from groups where id = $id and ${groupGuardOf('delete')}`

export const IDLE_GROUPS = `
select id from groups where closes_at <= $now order by closes_at limit +$limit`
export const COMMANDED_GROUPS = `
select id, state, command_at, command_after from groups
where command_at is not null order by command_at limit +$limit`
export const MEMBERS_AFTER = `
select id, state, finished_at from jobs where group_id = $id and id > $after
order by id limit +$limit`
export const UNSUCCESSFUL_MEMBERS_AFTER = `
select id, state, finished_at from jobs
where group_id = $id and unsuccessful = $state and id > $after order by id limit +$limit`
export const MOVE_COMMAND = `
update groups set command_after = $after
where id = $id and state = $state and command_at = $commandAt`
export const PURGEABLE_GROUPS = `
select id from groups
where state = $state and (idempotency_key is not null) = $isKeyed and finished_at <= $finishedBy
  and finished_at is not null
order by finished_at limit +$limit`
export const PURGE_GROUP = `delete from groups where id = $id and ${groupGuardOf('purge')}`

/** Greater than every id. */
const ABOVE_ALL = '~'

function closeSql(event: 'close' | 'close_idle', closedBy: string): string {
  return `update groups set state = '${GROUP_LIFECYCLE[event].to}', ${CLOSE_SETS},
    closed_by = '${closedBy}'
    where id = $id and ${groupGuardOf(event)}`
}

function endSql(event: 'end_cancel' | 'end_retry'): string {
  return `update groups set state = '${GROUP_LIFECYCLE[event].to}', command_at = null,
    command_after = null
    where id = $id and command_at = $commandAt and ${groupGuardOf(event)}`
}

export function createGroup(database: Database, group: NewGroup): Promise<CreateGroupResult> {
  const { connection } = database
  return connection.write('full', () => {
    const { idempotency, ...fields } = group
    const known =
      idempotency === null
        ? undefined
        : connection.statement(GROUP_OF_KEY).get({ key: idempotency.key })
    if (known !== undefined) {
      const id = known.id as string
      if (known.request_hash !== idempotency?.requestHash) {
        return { kind: 'key_reused', groupId: id }
      }
      return { kind: 'existing', group: groupOfId(database, id) as Group }
    }
    for (const { endpoint } of group.notices) {
      if (connection.statement(NOTICE_BUDGET).get({ endpoint }) === undefined) {
        return { kind: 'unknown_notice_endpoint', endpoint }
      }
    }
    const { notices, tags, metadata, ...plain } = fields
    const opened = newlyOpen(group)
    connection.statement(INSERT_GROUP).run({
      ...{ ...plain, closesAt: opened.closesAt },
      ...{ key: idempotency?.key ?? null, requestHash: idempotency?.requestHash ?? null },
      notices: notices.length === 0 ? null : JSON.stringify(notices),
      ...{ tags: listText(tags), metadata: mapText(metadata) },
    })
    return { kind: 'created', group: opened }
  })
}

export function getGroup(database: Database, id: string): Promise<CountedGroup | null> {
  return database.connection.read(() => countedGroupOf(database, id))
}

export function listGroups(
  { connection }: Database,
  { state, name, after, limit }: GroupQuery,
): Promise<Page<Group>> {
  const page = { below: after ?? ABOVE_ALL, limit: limit + 1 }
  return connection.read(() => {
    const states = state === undefined ? GROUP_STATES : [state]
    const rows =
      name === undefined && state === undefined
        ? connection.statement(GROUPS).all(page)
        : states.flatMap((one) =>
            name === undefined
              ? connection.statement(GROUPS_IN_STATE).all({ ...page, state: one })
              : connection.statement(GROUPS_OF_NAME).all({ ...page, name, state: one }),
          )
    const found = (rows as unknown as GroupRow[])
      .map(toGroup)
      .sort((a, b) => (a.id > b.id ? -1 : 1))
    const items = found.slice(0, limit)
    return { items, next: found.length > limit ? (items.at(-1)?.id ?? null) : null }
  })
}

export function finalGroupsAmong(database: Database, ids: string[]): Promise<string[]> {
  return database.connection.read(() =>
    ids.filter((id) => {
      const state = stateOfGroup(database, id)
      return state === null || isFinalGroup(state)
    }),
  )
}

export function closeGroup(database: Database, id: string): Promise<GroupResult> {
  const { connection, clock } = database
  return connection.write('full', () => {
    const { changes } = connection.statement(CLOSE.close).run({ id, now: clock.now() })
    if (changes === 0) return refusedOf(database, id)
    runGroupEffects(database, [{ groupId: id, isFirstDead: false, mayFinish: true }])
    return { kind: 'applied' }
  })
}

export function commandGroup(
  database: Database,
  id: string,
  command: 'cancel' | 'retry',
): Promise<GroupResult> {
  const { connection, clock } = database
  return connection.write('full', () => {
    const { changes } = connection.statement(COMMAND[command]).run({ id, now: clock.now() })
    return changes === 1 ? { kind: 'applied' } : refusedOf(database, id)
  })
}

export function deleteGroup(database: Database, id: string): Promise<DeleteGroupResult> {
  const { connection } = database
  return connection.write('full', () => {
    const waiting = connection.statement(WAITING_FOR_GROUP).get({ id })
    if (waiting !== undefined) return { kind: 'depended_on', jobId: waiting.id as string }
    const { changes } = connection.statement(DELETE_GROUP).run({ id })
    return changes === 1 ? { kind: 'applied' } : refusedOf(database, id)
  })
}

/** The part of a sweep about groups. */
export async function sweepGroups(
  database: Database,
  limit: number,
): Promise<{ groups: number; membersVisited: number }> {
  const membersVisited = await goOnWithCommands(database, limit)
  const closed = await closeIdle(database, limit)
  return { groups: closed + (await purgeGroups(database, limit)), membersVisited }
}

async function closeIdle(database: Database, limit: number): Promise<number> {
  const { connection, clock } = database
  const found = await connection.read(() =>
    connection.statement(IDLE_GROUPS).all({ now: clock.now(), limit }),
  )
  if (found.length === 0) return 0
  return connection.write('normal', () => {
    const now = clock.now()
    const closed = (found as { id: string }[]).filter(
      ({ id }) => connection.statement(CLOSE.close_idle).run({ id, now }).changes === 1,
    )
    runGroupEffects(
      database,
      closed.map(({ id }) => ({ groupId: id, isFirstDead: false, mayFinish: true })),
    )
    return closed.length
  })
}

interface CommandedRow {
  id: string
  state: 'cancelling' | 'retrying'
  command_at: number
  command_after: string
}

interface MemberRow {
  id: string
  state: JobState
  finished_at: number | null
}

/** The command that was sent first comes first. Each step can be repeated after a crash. */
async function goOnWithCommands(database: Database, limit: number): Promise<number> {
  const { connection } = database
  const groups = (await connection.read(() =>
    connection.statement(COMMANDED_GROUPS).all({ limit }),
  )) as unknown as CommandedRow[]
  let visited = 0
  for (const group of groups) {
    const left = limit - visited
    if (left <= 0) break
    const members = await connection.read(() => membersAfter(database, group, left))
    const ids = members
      .filter(({ state, finished_at: finishedAt }) =>
        isChangedBy(group.state, { state, finishedAt }, group.command_at),
      )
      .map(({ id }) => id)
    if (group.state === 'cancelling') await cancel(database, ids)
    else await retry(database, ids, { waives: false })
    visited += members.length
    const { id, state, command_at: commandAt } = group
    await connection.write('normal', () => {
      const after = members.at(-1)?.id
      if (members.length === left) {
        connection.statement(MOVE_COMMAND).run({ id, state, commandAt, after: after as string })
        return
      }
      connection.statement(END_COMMAND[state]).run({ id, commandAt })
      runGroupEffects(database, [{ groupId: id, isFirstDead: false, mayFinish: true }])
    })
  }
  return visited
}

/** The oldest members behind the last one that was visited. */
function membersAfter(
  { connection }: Database,
  { id, state, command_after: after }: CommandedRow,
  limit: number,
): MemberRow[] {
  const range = { id, after, limit: Math.min(limit, MAX_ENTRIES_PER_PAGE) }
  const rows =
    state === 'cancelling'
      ? connection.statement(MEMBERS_AFTER).all(range)
      : ['dead', 'cancelled'].flatMap((one) =>
          connection.statement(UNSUCCESSFUL_MEMBERS_AFTER).all({ ...range, state: one }),
        )
  return (rows as unknown as MemberRow[]).sort((a, b) => (a.id < b.id ? -1 : 1)).slice(0, limit)
}

async function purgeGroups({ connection, clock, settings }: Database, limit: number) {
  const found = await connection.read(() =>
    purgeClasses(settings, clock.now()).flatMap(({ isDead, isKeyed, finishedBy }) => {
      const proof = { isKeyed: isKeyed ? 1 : 0, finishedBy }
      const state = isDead ? 'failed' : 'succeeded'
      const rows = connection.statement(PURGEABLE_GROUPS).all({ ...proof, state, limit })
      return rows.map(({ id }) => ({ id: id as string, isDead: isDead ? 1 : 0, ...proof }))
    }),
  )
  if (found.length === 0) return 0
  return connection.write('normal', () =>
    found.reduce((sum, one) => sum + Number(connection.statement(PURGE_GROUP).run(one).changes), 0),
  )
}

function stateOfGroup({ connection }: Database, id: string): GroupState | null {
  const row = connection.statement(STATE_OF_GROUP).get({ id })
  return row === undefined ? null : (row.state as GroupState)
}

function refusedOf(database: Database, id: string): GroupResult {
  const state = stateOfGroup(database, id)
  return state === null ? { kind: 'not_found' } : { kind: 'refused', state }
}
