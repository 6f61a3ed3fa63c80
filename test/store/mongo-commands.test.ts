// The commands that each method of a store sends to MongoDB, compared with mongo-commands.txt: a
// review shows any change of the commands. WRITE_COMMANDS=1 writes that file again.
import { randomBytes } from 'node:crypto'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Db, Document } from 'mongodb'
import { afterAll, beforeAll, expect, inject, it } from 'vitest'
import { openDatabase } from '../../src/store/mongo/schema.ts'
import { openMongoStore, storeOn } from '../../src/store/mongo/store.ts'
import type { Store, StoreSettings } from '../../src/store/store.ts'
import { addEndpoint } from '../contract/fixtures.ts'
import { databaseUrl } from '../support/mongo.ts'
import { type RecordedStore, recordCalls, shapeOf } from '../support/recorded-commands.ts'
import { useEveryVerb, useOutboxVerbs } from './mongo-verbs.ts'

const FILE = join(import.meta.dirname, 'mongo-commands.txt')
const HEAD = `The commands that each verb of the store sends to MongoDB, without their values.
To write this file again: WRITE_COMMANDS=1 npx vitest run test/store/mongo-commands.test.ts
`
const DAY_MS = 86_400_000
/** These methods send no command. */
const WITHOUT_COMMANDS = ['correctInstants', 'encryptionKeyIds', 'onEnd', 'onWork', 'close']

/** The fields of each command (mongodb.com/docs/manual/reference/command). */
const COMMAND_FIELDS: Record<string, string> = {
  find:
    'filter sort projection hint skip limit batchSize singleBatch comment maxTimeMS readConcern ' +
    'max min returnKey showRecordId collation allowDiskUse let',
  aggregate:
    'pipeline allowDiskUse cursor maxTimeMS bypassDocumentValidation readConcern collation hint ' +
    'comment writeConcern let',
  insert: 'documents ordered maxTimeMS writeConcern bypassDocumentValidation comment',
  // The first command of a transaction has its read concern.
  update: 'updates ordered maxTimeMS readConcern writeConcern bypassDocumentValidation comment let',
  delete: 'deletes ordered maxTimeMS writeConcern comment let',
  findAndModify:
    'query sort remove update new fields upsert bypassDocumentValidation writeConcern maxTimeMS ' +
    'readConcern ' +
    'collation arrayFilters hint comment let',
  commitTransaction: 'writeConcern comment maxTimeMS',
  abortTransaction: 'writeConcern comment',
}
const STATEMENT_FIELDS: Record<string, string> = {
  // `sort` is missing here: it exists only since MongoDB 8.0.
  updates: 'q u c upsert multi collation arrayFilters hint',
  deletes: 'q limit collation hint',
}
/** From mongodb.com/docs/manual/reference/operator. All of these exist since MongoDB 5.0. */
const OPERATORS = new Set(
  (
    '$eq $ne $in $nin $gt $gte $lt $lte $not $exists $and $or ' +
    '$set $unset $inc $min $max $push $pull $pullAll $each $slice $position $setOnInsert ' +
    '$match $project $sort $limit $group $unionWith $unwind $replaceWith $merge ' +
    '$mergeObjects $literal $sum $add $bsonSize $type $cond $first'
  ).split(' '),
)

let db: Db
let store: Store
let other: Store
let recorded: RecordedStore

beforeAll(async () => {
  const name = `test-${randomBytes(6).toString('hex')}`
  const url = databaseUrl(inject('mongoUrl'), name)
  const connection = await openDatabase(url)
  db = connection.db
  const waiting = db.collection<Document>('outbox')
  const settings: StoreSettings = {
    ...{ retentionMs: 0, retentionDeadMs: DAY_MS, encryptionKeys: [randomBytes(32)] },
    ...{ outbox: { database: name, collection: 'outbox' }, warn: () => {} },
  }
  store = await storeOn(connection, settings)
  other = await openMongoStore(url, { ...settings, retentionDeadMs: 0 })
  recorded = recordCalls(store, connection.client)
  await useEveryVerb(recorded.store, other)
  const endpoint = await addEndpoint(recorded.store)
  await useOutboxVerbs(recorded.store.outbox as NonNullable<Store['outbox']>, endpoint, (some) =>
    waiting.insertMany(some),
  )
})

afterAll(async () => {
  await db.dropDatabase()
  await store.close()
  await other.close()
})

it('every verb is recorded', () => {
  const verbs = Object.entries(store).filter(([, value]) => typeof value === 'function')
  const ownNames = verbs.map(([name]) => name).filter((name) => !WITHOUT_COMMANDS.includes(name))
  const names = new Set(recorded.calls.map(({ verb }) => verb))
  expect(ownNames.filter((name) => !names.has(name))).toEqual([])
})

it('the commands are those of mongo-commands.txt', () => {
  const byVerb = Map.groupBy(recorded.calls, ({ verb }) => verb)
  const parts = [...byVerb].sort().map(([verb, calls]) => {
    const shapes = [...new Set(calls.flatMap(({ commands }) => commands.map(shapeOf)))]
    return [`# ${verb}`, ...(verb === 'sweep' ? whole(shapes) : shapes).sort()].join('\n')
  })
  const text = `${[HEAD.trimEnd(), ...parts].join('\n\n')}\n`
  if (process.env.WRITE_COMMANDS) writeFileSync(FILE, text)
  const listed = readFileSync(FILE, 'utf8')
  // With the stand-in, an enqueue sends additional commands (decision 0024).
  if (inject('mongoEngine') === 'secantusd-rs') expect(linesOf(listed, text)).toEqual([])
  else expect(text).toBe(listed)
})

/**
 * Without the searches that are a part of another one: how many a sweep leaves out, because their
 * round is not due, depends on the time that has passed.
 */
function whole(shapes: string[]): string[] {
  const searches = shapes.filter((shape) => shape.startsWith('aggregate '))
  const isPartOf = (one: string, other: string) =>
    one.length < other.length && linesOf(one, other).length === 0
  return shapes.filter((shape) => !searches.some((search) => isPartOf(shape, search)))
}

/** The lines of the first text that the second does not have. */
function linesOf(one: string, other: string): string[] {
  const lines = new Set(other.split('\n'))
  return one.split('\n').filter((line) => !lines.has(line))
}

it('a command has only fields and operators that MongoDB 5.0 and later document', () => {
  const commands = recorded.calls.flatMap((call) => call.commands)
  const wrong = commands.flatMap((command) => {
    const [[name] = [''], ...fields] = Object.entries(command)
    const allowed = allowedFields(COMMAND_FIELDS[name] ?? '')
    const statements = Object.entries(STATEMENT_FIELDS).flatMap(([list, some]) =>
      ((command[list] ?? []) as Document[]).flatMap((statement) =>
        Object.keys(statement).filter((field) => !allowedFields(some).has(field)),
      ),
    )
    return [...fields.map(([field]) => field).filter((field) => !allowed.has(field)), ...statements]
      .concat(operatorsIn(command).filter((operator) => !OPERATORS.has(operator)))
      .map((field) => `${name}: ${field}`)
  })
  expect([...new Set(wrong)]).toEqual([])
})

/**
 * The fields of a command, and those that the driver adds for a session (see its documentation of
 * runCommand).
 */
function allowedFields(names: string): Set<string> {
  const ofSession = ['lsid', 'txnNumber', 'startTransaction', 'autocommit', '$clusterTime']
  return new Set([...names.split(' '), ...ofSession, '$db'])
}

function operatorsIn(value: unknown): string[] {
  if (Array.isArray(value)) return value.flatMap(operatorsIn)
  if (Object.getPrototypeOf(value ?? 0) !== Object.prototype) return []
  return Object.entries(value as Document).flatMap(([name, inner]) => {
    const isOperator = name.startsWith('$') && name !== '$db' && name !== '$clusterTime'
    return [...(isOperator ? [name] : []), ...operatorsIn(inner)]
  })
}
