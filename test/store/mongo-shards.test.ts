// In a sharded cluster, jobs and bodies are distributed by their endpoint. A command that names the
// endpoint goes to the shard that has it; any other goes to every shard, and before MongoDB 7.0 a
// findAndModify without it is refused.
import { randomBytes } from 'node:crypto'
import type { CommandStartedEvent, Document } from 'mongodb'
import { afterAll, beforeAll, expect, inject, test } from 'vitest'
import { COLLECTIONS } from '../../src/store/collection-names.ts'
import { openDatabase } from '../../src/store/mongo/schema.ts'
import { openMongoStore, storeOn } from '../../src/store/mongo/store.ts'
import type { Store, StoreSettings } from '../../src/store/store.ts'
import { databaseUrl } from '../support/mongo.ts'
import { dropDatabase } from '../support/raw-store.ts'
import { useEveryVerb } from './mongo-verbs.ts'

const DAY_MS = 86_400_000

const BY_ID_ALONE = 'a client, a dependency or a finish effect names a job by its id alone'
const ALL_ENDPOINTS =
  'it is about the jobs of all endpoints: the sweep, or a worker that looks for work'
const LIST = 'a list over all endpoints'
const WAITING = 'the jobs that wait for others, or died with them, may be of any endpoint'
const OF_GROUP = 'the members of a group may be of any endpoint'

/** Method, collection and conditions of each command that goes to every shard, and the reason. */
const TO_EVERY_SHARD: Record<string, string> = {
  'aggregate posthorn_jobs: awaitsInputs, needs.jobId, state': WAITING,
  'aggregate posthorn_jobs: effectsPending, finishedAt, hasKey, keptUntil, state': ALL_ENDPOINTS,
  'aggregate posthorn_jobs: effectsPending, state': ALL_ENDPOINTS,
  'aggregate posthorn_jobs: endpoint, state': ALL_ENDPOINTS,
  'aggregate posthorn_jobs: expiresAt, state': ALL_ENDPOINTS,
  'aggregate posthorn_jobs: freedAt, runAt, state': ALL_ENDPOINTS,
  'aggregate posthorn_jobs: group, state': OF_GROUP,
  'aggregate posthorn_jobs: leaseExpiresAt, phase, state': ALL_ENDPOINTS,
  'aggregate posthorn_jobs: recheckAt, state': ALL_ENDPOINTS,
  'aggregate posthorn_jobs: runAt, state': ALL_ENDPOINTS,
  'find posthorn_bodies: _id': ALL_ENDPOINTS,
  'find posthorn_jobs: ': LIST,
  'find posthorn_jobs: _id': BY_ID_ALONE,
  'find posthorn_jobs: _id, effectsPending, state': BY_ID_ALONE,
  'find posthorn_jobs: _id, group': OF_GROUP,
  'find posthorn_jobs: _id, group, state': OF_GROUP,
  'find posthorn_jobs: _id, recheckAt, state': ALL_ENDPOINTS,
  'find posthorn_jobs: _id, state': BY_ID_ALONE,
  'find posthorn_jobs: _id, tags': LIST,
  'find posthorn_jobs: dedupeKey': LIST,
  'find posthorn_jobs: effectsPending, finishedAt, hasKey, keptUntil, state': ALL_ENDPOINTS,
  'find posthorn_jobs: effectsPending, state': ALL_ENDPOINTS,
  'find posthorn_jobs: endpoint, state': ALL_ENDPOINTS,
  'find posthorn_jobs: expiresAt, state': ALL_ENDPOINTS,
  'find posthorn_jobs: failureJobId': WAITING,
  'find posthorn_jobs: failureReason, state': LIST,
  'find posthorn_jobs: group': OF_GROUP,
  'find posthorn_jobs: group, state': OF_GROUP,
  'find posthorn_jobs: leaseExpiresAt, phase, state': ALL_ENDPOINTS,
  'find posthorn_jobs: recheckAt, state': ALL_ENDPOINTS,
  'find posthorn_jobs: state': LIST,
  'find posthorn_jobs: state, waitingFor': WAITING,
  'find posthorn_jobs: tags': LIST,
  // The only writes of keepNeeded and markDependedOn.
  'update posthorn_jobs: _id': BY_ID_ALONE,
  'update posthorn_jobs: _id, state': BY_ID_ALONE,
}

const url = databaseUrl(inject('mongoUrl'), `test-${randomBytes(6).toString('hex')}`)
const sent: Document[] = []
let store: Store
let other: Store

beforeAll(async () => {
  const connection = await openDatabase(url)
  const settings: StoreSettings = {
    ...{ retentionMs: 0, retentionDeadMs: DAY_MS, encryptionKeys: [randomBytes(32)] },
    warn: () => {},
  }
  store = await storeOn(connection, settings)
  other = await openMongoStore(url, { ...settings, retentionDeadMs: 0 })
  connection.client.on('commandStarted', ({ command }: CommandStartedEvent) => {
    sent.push(command)
  })
  await useEveryVerb(store, other)
})

afterAll(async () => {
  await store.close()
  await other.close()
  await dropDatabase(url)
})

interface Sent {
  shape: string
  isWrite: boolean
  namesEndpoint: boolean
}

const WRITES = ['update', 'delete', 'findAndModify']

function filtersOf(command: Document): Document[] {
  const changes: Document[] = [...(command.updates ?? []), ...(command.deletes ?? [])]
  const pipelines = [
    command.pipeline ?? [],
    ...(command.pipeline ?? []).flatMap(({ $unionWith }: Document) =>
      $unionWith?.coll === command.aggregate ? [$unionWith.pipeline] : [],
    ),
  ] as Document[][]
  const matches = pipelines.flatMap(([first]) => first?.$match ?? [])
  return [command.filter ?? [], command.query ?? [], changes.map(({ q }) => q), matches].flat()
}

/** Returns the conditions. Each part of an `$or` is separate. */
function conditionsOf({ $and = [], $or = [], ...own }: Document): Document[] {
  const whole = Object.assign({}, own, ...$and)
  return $or.length === 0 ? [whole] : $or.map((part: Document) => ({ ...whole, ...part }))
}

function isNamed(condition: unknown): boolean {
  return typeof condition === 'string' || Array.isArray((condition as Document | undefined)?.$in)
}

function sentTo(collection: string): Sent[] {
  return sent.flatMap((command) => {
    const [verb = ''] = Object.keys(command)
    if (command[verb] !== collection) return []
    return filtersOf(command)
      .flatMap(conditionsOf)
      .map((conditions) => ({
        shape: `${verb} ${collection}: ${Object.keys(conditions).sort().join(', ')}`,
        isWrite: WRITES.includes(verb),
        namesEndpoint: isNamed(conditions.endpoint),
      }))
  })
}

const everything = () => [COLLECTIONS.jobs, COLLECTIONS.bodies].flatMap(sentTo)

test('every verb has been tried', () => {
  const verbs = new Set(everything().map(({ shape }) => shape.split(':')[0]))
  for (const verb of ['find', 'update', 'delete', 'findAndModify', 'aggregate']) {
    expect(verbs).toContain(`${verb} ${COLLECTIONS.jobs}`)
  }
  for (const verb of ['find', 'delete']) expect(verbs).toContain(`${verb} ${COLLECTIONS.bodies}`)
})

test('the commands that go to every shard are those that are listed', () => {
  const shapes = everything().flatMap(({ namesEndpoint, shape }) => (namesEndpoint ? [] : [shape]))
  expect([...new Set(shapes)].sort()).toEqual(Object.keys(TO_EVERY_SHARD).sort())
})

test('every write of a job names its endpoint, but for the marks of what others wait for', () => {
  const writes = everything().filter(({ isWrite }) => isWrite)
  const others = writes.filter(({ namesEndpoint }) => !namesEndpoint).map(({ shape }) => shape)
  expect(writes.length).toBeGreaterThan(20)
  const marks = ['_id', '_id, state'].map((fields) => `update ${COLLECTIONS.jobs}: ${fields}`)
  expect(new Set(others)).toEqual(new Set(marks))
})
