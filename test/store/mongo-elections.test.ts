// Elections of a replica set during every command of every method of a store. The calls and their
// documents come from a run of all methods (mongo-verbs.ts). Each command of a call meets each
// fault of election-cases.ts. The call must succeed, or throw StoreUnavailable with all of its work
// done or none. A repeated call must succeed, and nothing may be done twice. A usual run plays one
// fault for each write and for one read in three. RUN_LONG=1 plays all of them, and
// ELECTION_VERB=claim plays those of one method.
import { randomBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { type Db, type Document, MongoClient } from 'mongodb'
import { afterAll, beforeAll, expect, inject, it } from 'vitest'
import { openDatabase } from '../../src/store/mongo/schema.ts'
import { openMongoStore, storeOn } from '../../src/store/mongo/store.ts'
import type { Store, StoreSettings } from '../../src/store/store.ts'
import { StoreUnavailable } from '../../src/store/store-errors.ts'
import { addEndpoint } from '../contract/fixtures.ts'
import { startElectionProxy } from '../support/election-proxy.ts'
import { RUN_LONG } from '../support/engines.ts'
import { databaseUrl } from '../support/mongo.ts'
import { recordCalls, shapeOf } from '../support/recorded-commands.ts'
import { type Documents, readDocuments } from './documents.ts'
import {
  expectedOf,
  FAULTS_OF_READS,
  FAULTS_OF_WRITES,
  type FaultName,
  isWriteCommand,
  type Lane,
  OLD_READ,
  problemOf,
  type Scenario,
  type SentCommand,
} from './election-cases.ts'
import { useEveryVerb, useOutboxVerbs } from './mongo-verbs.ts'

const LISTED = join(import.meta.dirname, 'mongo-commands.txt')
const DAY_MS = 86_400_000
const LANES = 4
const DEADLINE_MS = 3_600_000
const MAX_TRIES = 3
const READS_FOR_ONE_PLAYED = 3

const encryptionKeys = [randomBytes(32)]
const freshUrl = () => databaseUrl(inject('mongoUrl'), `test-${randomBytes(6).toString('hex')}`)

let client: MongoClient
const lanes: Lane[] = []
const databases: Db[] = []
/** For each method and shape of a command, the first call that sends it. */
let scenarios: Scenario[]

beforeAll(async () => {
  client = await MongoClient.connect(inject('mongoUrl'))
  scenarios = await patiently(recordScenarios)
  for (let i = 0; i < LANES; i++) lanes.push(await patiently(openLane))
}, DEADLINE_MS)

afterAll(async () => {
  for (const { proxy, sweeper } of lanes) {
    await sweeper.close()
    await proxy.stop()
  }
  for (const db of databases) await db.dropDatabase()
  await client.close()
})

it(
  'every command of every verb',
  async () => {
    const problems: string[] = []
    const met = new Set(leftOutReads())
    let caseCount = 0
    const waiting = [...scenarios]
    const next = () => waiting.shift()
    const { ELECTION_VERB } = process.env
    await Promise.all(
      lanes.map(async (lane) => {
        for (let scenario = next(); scenario !== undefined; scenario = next()) {
          const { verb } = scenario.call
          if (ELECTION_VERB && verb !== ELECTION_VERB) continue
          if (keysOf(scenario).every((key) => met.has(key))) continue
          const expected = await patiently(() => expectedOf(lane, scenario))
          for (const command of expected.commands) {
            const key = `${verb}\n${command.shape}`
            if (met.has(key)) continue
            met.add(key)
            for (const faults of faultsOf(command, met.size)) {
              caseCount += 1
              const { shape } = command
              const play = () =>
                patiently(() => problemOf(lane, scenario, expected, { shape, faults })).catch(
                  String,
                )
              // On a busy machine a deadline of the store can pass. A real problem occurs again.
              const problem = (await play()) && (await play())
              if (problem !== null) problems.push(`${key}\n  met ${faults}: ${problem}`)
            }
          }
        }
      }),
    )
    expect(caseCount).toBeGreaterThan(0)
    const missed = listedCommands().filter((key) => !met.has(key) && !isWithinAnother(key))
    if (!ELECTION_VERB) expect(missed).toEqual([])
    expect(problems.join('\n\n')).toBe('')
  },
  DEADLINE_MS,
)

/**
 * Runs the work again if a deadline of the store has passed, which can happen on a busy machine.
 */
async function patiently<T>(work: () => Promise<T>): Promise<T> {
  for (let tries = 1; ; tries++) {
    try {
      return await work()
    } catch (error) {
      if (tries === MAX_TRIES || !(error instanceof StoreUnavailable)) throw error
    }
  }
}

/**
 * Commands that the first sweep of a store does not send, but another one like them: later sweeps
 * mostly look for everything except blocked jobs, and they continue a round over the blocked jobs.
 */
function isWithinAnother(key: string): boolean {
  if (key.startsWith('sweep\naggregate')) return !key.includes('$literal: blocked}')
  return key.startsWith('sweep\nfind') && key.includes('recheckAt: {$exists: false}, _id: {$lt')
}

/** Each method and command in mongo-commands.txt. */
function listedCommands(): string[] {
  const [, ...parts] = readFileSync(LISTED, 'utf8').trimEnd().split('\n\n# ')
  return parts.flatMap((part) => {
    const [verb, ...commands] = part.split(/\n(?! )/)
    return commands.map((command) => `${verb}\n${command}`)
  })
}

/** The reads that meet no fault in a usual run: the driver repeats all of them in the same way. */
function leftOutReads(): string[] {
  if (RUN_LONG || process.env.ELECTION_VERB) return []
  const reads = scenarios.flatMap((one) => keysOf(one, (command) => !isWriteCommand(command)))
  return [...new Set(reads)].filter((_, i) => i % READS_FOR_ONE_PLAYED !== 0)
}

function keysOf({ call }: Scenario, isWanted: (command: Document) => boolean = () => true) {
  return call.commands.filter(isWanted).map((command) => `${call.verb}\n${shapeOf(command)}`)
}

function faultsOf({ isWrite, readsItsWrite }: SentCommand, index: number): FaultName[][] {
  const all = [
    ...(isWrite ? FAULTS_OF_WRITES : FAULTS_OF_READS),
    ...(readsItsWrite ? [OLD_READ] : []),
  ]
  return RUN_LONG ? all : [all[index % all.length] as FaultName[]]
}

function settingsFor(db: string): StoreSettings {
  const outbox = { database: db, collection: 'outbox' }
  const retention = { retentionMs: 0, retentionDeadMs: DAY_MS }
  return { ...retention, encryptionKeys, outbox, warn: () => {} }
}

async function recordScenarios(): Promise<Scenario[]> {
  const url = freshUrl()
  const connection = await openDatabase(url)
  const { db } = connection
  databases.push(client.db(db.databaseName))
  const settings = settingsFor(db.databaseName)
  const store = await storeOn(connection, settings)
  const other = await openMongoStore(url, { ...settings, retentionDeadMs: 0 })
  const before: Documents[] = []
  const { store: recorded, calls } = recordCalls(store, connection.client, async () => {
    before.push(await readDocuments(client.db(db.databaseName)))
  })
  await useEveryVerb(recorded, other)
  const endpoint = await addEndpoint(recorded)
  const waiting = client.db(db.databaseName).collection<Document>('outbox')
  await useOutboxVerbs(recorded.outbox as NonNullable<Store['outbox']>, endpoint, (some) =>
    waiting.insertMany(some),
  )
  await store.close()
  await other.close()
  const seen = new Set<string>()
  return calls.flatMap((call, i) => {
    const keys = call.commands.map((command) => `${call.verb} ${shapeOf(command)}`)
    if (keys.every((key) => seen.has(key))) return []
    for (const key of keys) seen.add(key)
    return [{ call, documents: before[i] as Documents }]
  })
}

async function openLane(): Promise<Lane> {
  const [url, oldUrl] = [freshUrl(), freshUrl()]
  const settings = settingsFor(new URL(url).pathname.slice(1))
  const sweeper = await openMongoStore(url, { ...settings, retentionMs: DAY_MS })
  const older = await openMongoStore(oldUrl, { ...settings, outbox: null })
  await older.close()
  const [db, old] = [url, oldUrl].map((one) => client.db(new URL(one).pathname.slice(1))) as [
    Db,
    Db,
  ]
  databases.push(db, old)
  return { proxy: await startElectionProxy(url), db, old, settings, sweeper }
}
