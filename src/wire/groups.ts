// Groups in requests and responses.
import { createHash } from 'node:crypto'
import { z } from 'zod'
import { AppError } from '../errors.ts'
import { formatDuration } from '../job/duration.ts'
import {
  type AddRefusal,
  type CountedGroup,
  DEFAULT_CLOSE_AFTER_MS,
  GROUP_STATES,
  type Group,
  MAX_GROUP_NOTICES,
  MAX_MEMBERS,
  type NewGroup,
  NOTICE_EVENTS,
  progressOf,
  queuedCount,
} from '../job/groups.ts'
import { newGroupId } from '../job/job-id.ts'
import type { CreateGroupResult } from '../store/groups.ts'
import { MAX_COUNT } from '../store/store.ts'
import { unknownEndpoint } from './field-errors.ts'
import {
  DAY_MS,
  duration,
  endpointName,
  fairnessKey,
  idempotencyKey,
  instantText,
  metadata,
  responseInstant,
  sortKeys,
  tags,
  text,
} from './fields.ts'

const MIN_CLOSE_AFTER_MS = 1_000
const MAX_CLOSE_AFTER_MS = 366 * DAY_MS

export const groupName = text(1, 200)

const notice = z.strictObject({ endpoint: endpointName, when: z.enum(NOTICE_EVENTS) })

const CLOSE_AFTER_NOTE = { description: 'after the last add; null: only a request closes it' }

const groupSettings = z.strictObject({
  name: groupName.nullable().default(null),
  metadata: metadata.default({}),
  tags: tags.default([]),
  fairnessKey: fairnessKey
    .nullable()
    .default(null)
    .meta({ description: 'the fairness key of its notices' }),
  onFinish: z
    .union([notice, z.array(notice).max(MAX_GROUP_NOTICES)], {
      error: `expected an object with endpoint and when, or a list of at most ${MAX_GROUP_NOTICES}`,
    })
    .transform((given) => (Array.isArray(given) ? given : [given]))
    .default([])
    .meta({ description: 'the endpoints that receive a notice' }),
  closeAfter: duration(MIN_CLOSE_AFTER_MS, MAX_CLOSE_AFTER_MS)
    .nullable()
    .prefault(formatDuration(DEFAULT_CLOSE_AFTER_MS))
    .meta(CLOSE_AFTER_NOTE),
})
const DEFAULTS = groupSettings.parse({})

/** The group of a batch. */
export const batchGroupBody = groupSettings.extend({
  idempotencyKey: idempotencyKey.optional(),
  open: z.boolean().default(true).meta({
    description: 'false: the group is closed if every item was accepted',
  }),
})
export type BatchGroupBody = z.output<typeof batchGroupBody>

/** A request without a body creates a group, too. */
export const groupBody = groupSettings.nullish()
export type GroupBody = z.output<typeof groupBody>

/** @param now epoch milliseconds by the store's clock */
export function newGroupFrom(
  body: GroupBody,
  key: string | undefined,
  hops: number,
  now: number,
): NewGroup {
  const settings = body ?? DEFAULTS
  const { onFinish: notices, closeAfter: closeAfterMs, ...rest } = settings
  const text = JSON.stringify(settings, sortKeys)
  const requestHash = createHash('sha256').update(text).digest('base64')
  return {
    ...rest,
    ...{ notices, closeAfterMs, hops, id: newGroupId(now), createdAt: now },
    idempotency: key === undefined ? null : { key, requestHash },
  }
}

const finalCounts = { succeeded: z.int(), dead: z.int(), cancelled: z.int() }

const FINAL_NOTE = {
  description: 'final members, as far as they are counted; deleted and purged ones stay counted',
}

const groupFields = {
  id: z.string(),
  name: z.string().nullable(),
  state: z.enum(GROUP_STATES),
  members: z.int().meta({ description: 'the jobs that were added' }),
  progress: z
    .int()
    .meta({ description: 'percent of its members that are final; 100: it is final' }),
  metadata: z.record(z.string(), z.string()),
  tags: z.array(z.string()),
  fairnessKey: z.string().nullable(),
  onFinish: z.array(z.object({ endpoint: z.string(), when: z.enum(NOTICE_EVENTS) })),
  closeAfter: z.string().nullable().meta(CLOSE_AFTER_NOTE),
  closesAt: responseInstant.meta({
    description: 'null: it is closed, or only a request closes it',
  }),
  idempotencyKey: z.string().nullable(),
  createdAt: responseInstant,
  closedAt: responseInstant,
  closedBy: z.enum(['request', 'idle', 'cancel']).nullable(),
  finishedAt: responseInstant,
  finishes: z.int().meta({ description: 'how often it has become final' }),
}

export const listedGroupResponse = z.object({
  ...groupFields,
  counts: z.object(finalCounts).meta(FINAL_NOTE),
})

export const groupResponse = z.object({
  ...groupFields,
  counts: z
    .object({
      queued: z.int(),
      running: z.int(),
      ...finalCounts,
      more: z
        .literal(true)
        .optional()
        .meta({
          description: `more than ${MAX_COUNT} are running, and as many fewer are queued`,
        }),
    })
    .meta(FINAL_NOTE),
  deduplicated: z.boolean().optional(),
})

export const groupListResponse = z.object({
  items: z.array(listedGroupResponse),
  nextCursor: z.string().nullable(),
})

export function listedGroupView(group: Group) {
  return {
    id: group.id,
    name: group.name,
    state: group.state,
    members: group.memberCount,
    progress: progressOf(group),
    metadata: group.metadata,
    tags: group.tags,
    fairnessKey: group.fairnessKey,
    onFinish: group.notices,
    closeAfter: group.closeAfterMs === null ? null : formatDuration(group.closeAfterMs),
    closesAt: instantText(group.closesAt),
    idempotencyKey: group.idempotencyKey,
    createdAt: instantText(group.createdAt),
    closedAt: instantText(group.closedAt),
    closedBy: group.closedBy,
    finishedAt: instantText(group.finishedAt),
    finishes: group.finishes,
    counts: group.counts,
  }
}

export function groupView(group: CountedGroup) {
  const { running } = group
  const more = running >= MAX_COUNT ? { more: true } : {}
  const counts = { queued: queuedCount(group, running), running, ...group.counts, ...more }
  return { ...listedGroupView(group), counts }
}

type StoredGroup = Extract<CreateGroupResult, { group: Group }>

/** The group that was stored or found; throws AppError in all other cases. */
export function storedGroupOrThrow(result: CreateGroupResult): StoredGroup {
  switch (result.kind) {
    case 'created':
    case 'existing':
      return result
    case 'key_reused':
      throw new AppError(
        'idempotency_key_reused',
        `this Idempotency-Key was used for group ${result.groupId} with another request`,
      )
    case 'unknown_notice_endpoint':
      throw unknownEndpoint(result.endpoint, '/onFinish')
    default:
      throw new Error(`unknown result ${JSON.stringify(result satisfies never)}`)
  }
}

/** Why a group does not take a job. */
export function groupRefusal(refusal: AddRefusal): AppError {
  const { kind, groupId } = refusal
  switch (kind) {
    case 'unknown_group': {
      const errors = [{ path: '/group', message: `no group has the id ${groupId}` }]
      const detail = `/group: no group has the id ${groupId}`
      return new AppError('group_not_found', detail, { status: 422, errors })
    }
    case 'group_closed':
      return new AppError('group_closed', `group ${groupId} is ${refusal.state}`)
    case 'group_full':
      return new AppError('group_full', `group ${groupId} has ${MAX_MEMBERS} members`)
    default:
      throw new Error(`unknown refusal ${kind satisfies never}`)
  }
}
