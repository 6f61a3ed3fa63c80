// /groups: jobs that finish together: create, list, read, wait, close, cancel, retry, delete.
import type { FastifyInstance } from 'fastify'
import { z } from 'zod'
import { AppError } from '../../src/errors.ts'
import {
  GROUP_LIFECYCLE,
  GROUP_STATES,
  type GroupState,
  isFinalGroup,
} from '../../src/job/groups.ts'
import { isGroupId } from '../../src/job/job-id.ts'
import type { GroupResult } from '../../src/store/groups.ts'
import type { Store } from '../../src/store/store.ts'
import { duration, idempotencyKeyHeader, MAX_WAIT_MS } from '../../src/wire/fields.ts'
import {
  type GroupBody,
  groupBody,
  groupListResponse,
  groupName,
  groupResponse,
  groupView,
  listedGroupView,
  newGroupFrom,
  storedGroupOrThrow,
} from '../../src/wire/groups.ts'
import { hopsOf } from '../../src/wire/jobs.ts'
import type { KeyRecheck } from '../http/access.ts'
import { pageFields, readCursor, writeCursor } from '../http/cursor.ts'
import { emptyResponse, noBody, noQuery, UNKNOWN_ENDPOINT } from '../http/route-schema.ts'
import type { JobWaits } from '../jobs/waits.ts'

/** Accepts any text: a text that is not an id gets 404, not 400. */
const groupParams = z.object({ id: z.string() })
const waitQuery = z.strictObject({ wait: duration(0, MAX_WAIT_MS).optional() })
const createHeaders = z.object({ 'idempotency-key': idempotencyKeyHeader })

const groupsQuery = z.strictObject({
  ...pageFields,
  state: z.enum(GROUP_STATES).optional(),
  name: groupName.optional(),
})
type GroupsQuery = z.output<typeof groupsQuery>

interface GroupRoutes {
  store: Store
  /** For groups. */
  waits: JobWaits
  recheckKey: KeyRecheck
}

interface ById {
  Params: { id: string }
}

export function registerGroupRoutes(app: FastifyInstance, parts: GroupRoutes): void {
  registerCreate(app, parts)
  registerList(app, parts)
  registerRead(app, parts)
  registerClose(app, parts)
  registerCommand(app, parts, 'cancel')
  registerCommand(app, parts, 'retry')
  registerDelete(app, parts)
}

function registerCreate(app: FastifyInstance, { store }: GroupRoutes): void {
  app.post<{ Body: GroupBody }>(
    '/groups',
    {
      config: { scope: 'enqueue' },
      schema: {
        summary: 'Create a group of jobs',
        body: groupBody,
        querystring: noQuery,
        headers: createHeaders,
        response: { 201: groupResponse, 200: groupResponse },
        errors: ['idempotency_key_reused', UNKNOWN_ENDPOINT],
        responseHeaders: { 200: ['location'], 201: ['location'] },
      },
    },
    async ({ body, headers }, reply) => {
      const { 'idempotency-key': key } = headers as z.output<typeof createHeaders>
      const made = newGroupFrom(body, key, hopsOf(headers), store.clock.now())
      const { kind, group } = storedGroupOrThrow(await store.createGroup(made))
      const isNew = kind === 'created'
      reply.code(isNew ? 201 : 200).header('location', `/groups/${group.id}`)
      if (isNew) return groupView({ ...group, running: 0 })
      return { ...(await view(store, group.id)), deduplicated: true }
    },
  )
}

function registerList(app: FastifyInstance, { store }: GroupRoutes): void {
  app.get<{ Querystring: GroupsQuery }>(
    '/groups',
    {
      config: { scope: 'enqueue' },
      schema: {
        summary: 'List groups, newest first',
        querystring: groupsQuery,
        response: { 200: groupListResponse },
      },
    },
    async ({ query: { limit, cursor, state, name } }) => {
      const { items, next } = await store.listGroups({
        limit,
        ...(state === undefined ? {} : { state }),
        ...(name === undefined ? {} : { name }),
        ...(cursor === undefined ? {} : { after: readCursor(cursor, isGroupId) }),
      })
      return {
        items: items.map(listedGroupView),
        nextCursor: next === null ? null : writeCursor(next),
      }
    },
  )
}

function registerRead(app: FastifyInstance, { store, waits, recheckKey }: GroupRoutes): void {
  app.get<ById & { Querystring: { wait?: number } }>(
    '/groups/:id',
    {
      config: { scope: 'enqueue' },
      schema: {
        summary: 'Read a group; with ?wait respond as soon as it is final',
        params: groupParams,
        querystring: waitQuery,
        response: { 200: groupResponse },
        errors: ['group_not_found'],
      },
    },
    async (request) => {
      const { id } = request.params
      const found = await view(store, id)
      const waitMs = request.query.wait ?? 0
      if (waitMs === 0 || isFinalGroup(found.state)) return found
      await waits.untilFinal(id, waitMs, request.raw.socket)
      await recheckKey(request)
      return view(store, id)
    },
  )
}

function registerClose(app: FastifyInstance, { store }: GroupRoutes): void {
  app.post<ById>(
    '/groups/:id/close',
    {
      config: { scope: 'enqueue' },
      schema: {
        summary: 'Close a group: it takes no more jobs, and is final once all of its jobs are',
        params: groupParams,
        querystring: noQuery,
        body: noBody,
        response: { 200: groupResponse },
        errors: ['group_not_found'],
      },
    },
    async ({ params: { id } }) => {
      // Closing a closed group changes nothing and is not a conflict.
      if (isGroupId(id)) await store.closeGroup(id)
      return view(store, id)
    },
  )
}

const COMMANDS = {
  cancel: {
    summary: 'Close a group and cancel its queued and running jobs, the oldest first',
    marked: 'cancelling',
  },
  retry: {
    summary: 'Queue the dead and cancelled jobs of a group again, the oldest first',
    marked: 'retrying',
  },
} as const

/** A command on all members: the response comes when the group is marked. */
function registerCommand(
  app: FastifyInstance,
  { store }: GroupRoutes,
  command: keyof typeof COMMANDS,
): void {
  const { summary, marked } = COMMANDS[command]
  app.post<ById>(
    `/groups/:id/${command}`,
    {
      config: { scope: 'enqueue' },
      schema: {
        summary,
        params: groupParams,
        querystring: noQuery,
        body: noBody,
        response: { 202: groupResponse },
        errors: ['group_not_found', 'group_state_conflict'],
      },
    },
    async ({ params: { id } }, reply) => {
      const result = isGroupId(id) ? await store.commandGroup(id, command) : NOT_FOUND
      const isRepeat = result.kind === 'refused' && result.state === marked
      if (!isRepeat) appliedOrThrow(result, id, command)
      reply.code(202)
      return view(store, id)
    },
  )
}

function registerDelete(app: FastifyInstance, { store }: GroupRoutes): void {
  app.delete<ById>(
    '/groups/:id',
    {
      config: { scope: 'enqueue' },
      schema: {
        summary: 'Delete a final group; its jobs stay',
        params: groupParams,
        querystring: noQuery,
        body: noBody,
        response: { 204: emptyResponse('done') },
        errors: ['group_not_found', 'group_state_conflict'],
      },
    },
    async ({ params: { id } }, reply) => {
      const result = isGroupId(id) ? await store.deleteGroup(id) : NOT_FOUND
      if (result.kind === 'depended_on') {
        throw new AppError('group_state_conflict', `job ${result.jobId} waits for the group`)
      }
      appliedOrThrow(result, id, 'delete')
      return reply.code(204).send()
    },
  )
}

const NOT_FOUND: GroupResult = { kind: 'not_found' }

/** @throws AppError group_not_found */
async function view(store: Pick<Store, 'getGroup'>, id: string) {
  const group = isGroupId(id) ? await store.getGroup(id) : null
  if (group === null) throw groupNotFound(id)
  return groupView(group)
}

/** @throws AppError */
function appliedOrThrow(
  result: GroupResult,
  id: string,
  verb: 'cancel' | 'retry' | 'delete',
): void {
  if (result.kind === 'applied') return
  if (result.kind === 'not_found') throw groupNotFound(id)
  const needed: readonly GroupState[] = GROUP_LIFECYCLE[verb].from
  throw new AppError(
    'group_state_conflict',
    `the group is ${result.state}; ${verb} needs one that is ${needed.join(' or ')}`,
  )
}

function groupNotFound(id: string): AppError {
  return new AppError('group_not_found', `no group has the id ${JSON.stringify(id.slice(0, 64))}`)
}
