// The checks of `posthorn doctor store` on MongoDB: what the server is, what its user may do, the
// indexes, and what every verb of the store costs. The verbs run on scratch collections, which are
// dropped in any case; nothing else is written. If a doctor is killed, a later one drops them.
import { randomBytes } from 'node:crypto'
import type { Db, Document, MongoClient } from 'mongodb'
import { COLLECTIONS, collectionNames } from '../collection-names.ts'
import {
  type Check,
  type CommandPlan,
  failed,
  latencyOf,
  ok,
  type StoreReport,
  unknown,
  type VerbLatency,
  warning,
} from '../doctor-report.ts'
import { useEveryVerb } from '../every-verb.ts'
import type { Store } from '../store.ts'
import { StoreUnavailable } from '../store-errors.ts'
import { type Connection, open, refusalOf, run, startDeadline } from './connection.ts'
import { startError } from './errors.ts'
import { differenceText, type IndexDifference, REPAIR_BY_HAND } from './indexes.ts'
import { type CommandExplainer, explainCommands } from './plan.ts'
import { differencesOf, MIGRATIONS, openDatabase, readRecord } from './schema.ts'
import { storeOn } from './store.ts'

const SCRATCH = 'posthorn_doctor_'
/** Stands for any collection in `allows`. */
const ANY = '*'
/** The start of the doctor in seconds of the server's clock, then a random number, both in hex. */
const SCRATCH_NAME = /^posthorn_doctor_([0-9a-f]{8})[0-9a-f]{8}_/
/** The verbs stop after this time. They take some seconds; a slow server can take minutes. */
const TRIAL_DEADLINE_MS = 5 * 60_000
/** No doctor that began earlier still runs: this is much more than its deadline and its checks. */
const LEFTOVER_AGE_MS = 3 * TRIAL_DEADLINE_MS
const CLOCK_SAMPLES = 5
/** Handlers refuse signatures that are 5 minutes off. */
const MAX_CLOCK_OFFSET_MS = 60_000
const NOTABLE_CLOCK_OFFSET_MS = 2_000
/** A third of the deadline of each verb (STORE_DEADLINE_MS). */
const SLOW_VERB_MS = 900
/** Actions that the role readWrite includes (mongodb.com/docs/manual/reference/built-in-roles). */
const ACTIONS = ['find', 'insert', 'update', 'remove', 'createCollection', 'createIndex'].concat([
  ...['dropIndex', 'listIndexes'],
])
/** Only on the whole database, because the names of the scratch collections are random. */
const DATABASE_ACTIONS = [...ACTIONS, 'dropCollection', 'listCollections']
/** Two change streams, and three connections that an idle process uses at the same time. */
const LEAST_POOL_SIZE = 5
/** Options that connection.ts sets, whatever the URL says. */
const OVERRIDDEN = ['w', 'journal', 'wtimeoutMS', 'retryWrites', 'readPreference'].concat([
  ...['readConcernLevel', 'socketTimeoutMS', 'connectTimeoutMS', 'serverSelectionTimeoutMS'],
])

interface Facts {
  client: MongoClient
  db: Db
  url: string
  hello: Document
  engine: Engine
}

type Report = Pick<StoreReport, 'engine' | 'checks' | 'plans' | 'latencies'>

/**
 * @param signal ends the checks between two verbs; the scratch collections are dropped then, too
 * @throws the reason of the signal
 */
export async function examineMongoStore(url: string, signal: AbortSignal): Promise<Report> {
  let opened: { client: MongoClient; db: Db }
  try {
    opened = await open(url, { retryWrites: true })
  } catch (error) {
    return { engine: 'unknown', checks: [notConnected(url, error)], plans: [], latencies: [] }
  }
  const { client, db } = opened
  try {
    const hello = await ask(client, { hello: 1 })
    const engine = await engineOf(url, (command) => ask(client, command))
    return await examineServer({ client, db, url, hello, engine }, signal)
  } catch (error) {
    if (signal.aborted) throw signal.reason
    const checks = [notConnected(url, error)]
    return { engine: 'unknown', checks, plans: [], latencies: [] }
  } finally {
    await client.close()
  }
}

/** A check that the server refuses has failed, and does not hide the others. */
async function examineServer(facts: Facts, signal: AbortSignal): Promise<Report> {
  const { client, url, engine } = facts
  const checks = [checkEngine(engine), checkTopology(facts), checkUrl(url)]
  const report = { engine: engine.name, checks, plans: [], latencies: [] }
  const furtherChecks: [string, () => Promise<Check[]>][] = [
    ['privileges', async () => [await checkPrivileges(facts)]],
    ['schema', () => checkSchema(facts)],
    ['leftovers', async () => [await clearLeftovers(facts)]],
    ['clock', async () => [await checkClock(client)]],
  ]
  for (const [name, further] of furtherChecks) {
    signal.throwIfAborted()
    try {
      checks.push(...(await further()))
    } catch (error) {
      if (refusalOf((error as Error).cause ?? error) === null) {
        return { ...report, checks: [...checks, notConnected(url, error)] }
      }
      checks.push(failed(name, sentenceOf(url, error), 'See the check of the privileges.'))
    }
  }
  if (!isWritable(facts)) return report
  const trial = await tryVerbs(facts, signal)
  return { ...report, ...trial, checks: [...checks, ...trial.checks] }
}

function ask(client: MongoClient, command: Document): Promise<Document> {
  return run(startDeadline(), () => client.db('admin').command(command))
}

function notConnected(url: string, error: unknown): Check {
  return failed('connection', sentenceOf(url, error), 'Correct STORE_URL, or start the server.')
}

function sentenceOf(url: string, error: unknown): string {
  const { message } = startError(url, error) as Error
  return message.endsWith('.') ? message : `${message}.`
}

/**
 * Which server the URL leads to. Several databases speak the protocol of MongoDB, but do not
 * have the guarantees, or the commands, that Posthorn relies on.
 */
export interface Engine {
  /** The name of the server, with its version. */
  name: string
  /** Only a mongod (or mongos) explains its queries in a way that can be checked. */
  isMongod: boolean
  /** Why Posthorn does not support this server; null: it does, or the server is unknown. */
  problem: string | null
}

const OLDEST = 5

/** Host names that only one service has. */
const SERVICES: [RegExp, string][] = [
  [/docdb(-elastic)?\.amazonaws\.com/i, 'Amazon DocumentDB'],
  [/\.cosmos\.azure\.com/i, 'Azure Cosmos DB'],
  [/\.firestore\.goog/i, 'Google Firestore'],
]

/** Fields of buildInfo that only one server has. */
const FIELDS: Record<string, string> = {
  _t: 'Azure Cosmos DB',
  ferretdb: 'FerretDB',
  ferretdbVersion: 'FerretDB',
  dataLake: 'Atlas Data Federation',
}

/** @param ask runs a command on the database admin */
export async function engineOf(
  url: string,
  ask: (command: Document) => Promise<Document>,
): Promise<Engine> {
  const buildInfo = await ask({ buildInfo: 1 })
  const version = String(buildInfo.version ?? 'of an unknown version')
  const service =
    SERVICES.find(([host]) => host.test(hostsOf(url)))?.[1] ??
    Object.entries(FIELDS).find(([field]) => field in buildInfo)?.[1] ??
    ((await isDocumentDbExtension(ask)) ? 'DocumentDB on PostgreSQL' : undefined)
  if (service !== undefined) {
    return { name: `${service} (${version})`, isMongod: false, problem: 'it is not supported.' }
  }
  if (!hasTheBuildOfMongod(buildInfo)) {
    return { name: `a server like MongoDB ${version}`, isMongod: false, problem: null }
  }
  const [major = 0] = (buildInfo.versionArray ?? []) as number[]
  const problem = major < OLDEST ? 'it is older than 5.0.' : null
  return { name: `MongoDB ${version}`, isMongod: problem === null, problem }
}

function hostsOf(url: string): string {
  return /^[^/]*\/\/(?:.*@)?([^/?]*)/.exec(url)?.[1] ?? ''
}

async function isDocumentDbExtension(ask: (command: Document) => Promise<Document>) {
  try {
    await ask({ getParameter: 1, noSuchParameter: 1 })
    return false
  } catch (error) {
    const { cause = error } = error as Error
    return /documentdb_api/.test((cause as Error).message)
  }
}

/** Whether it names a compiler, a JavaScript engine and the commit that it was built from. */
function hasTheBuildOfMongod({
  gitVersion,
  javascriptEngine,
  buildEnvironment,
}: Document): boolean {
  return (
    /^[0-9a-f]{40}$/.test(String(gitVersion)) &&
    /[1-9a-f]/.test(String(gitVersion)) &&
    javascriptEngine === 'mozjs' &&
    typeof buildEnvironment?.cc === 'string'
  )
}

function checkEngine({ name, problem, isMongod }: Engine): Check {
  if (problem !== null) {
    return failed('engine', `${name}: ${problem}`, 'Use MongoDB 5.0 or later: mongod or Atlas.')
  }
  if (isMongod) return ok('engine', `${name}.`)
  return unknown(
    'engine',
    `${name} does not identify itself as mongod: its query plans cannot be checked.`,
    'Posthorn is made for MongoDB 5.0 or later. The other checks of this report were made on this server.',
  )
}

function checkTopology({ hello, url }: Facts): Check {
  const name = 'topology'
  if (hello.msg === 'isdbgrid') {
    return ok(name, 'A sharded cluster; the replica set of each shard cannot be seen from here.')
  }
  if (hello.setName === undefined) {
    const direct = /[?&]directConnection=true(&|$)/i.test(url)
    return failed(
      name,
      `The server runs alone, not in a replica set${direct ? '; directConnection=true allows it' : ''}.`,
      'Start it with --replSet and run rs.initiate() once: alone, it can lose acknowledged jobs.',
    )
  }
  if (!isWritable({ hello })) {
    // Without directConnection the driver asks the primary.
    return failed(
      name,
      'The server is not the primary of its replica set, and directConnection=true uses no other.',
      'Remove directConnection=true from STORE_URL, and name the set: replicaSet=…',
    )
  }
  const members = [...(hello.hosts ?? []), ...(hello.passives ?? [])].length
  const arbiters = (hello.arbiters ?? []).length
  const found = `A replica set. Data members: ${members}, arbiters: ${arbiters}.`
  if (members >= 3) return ok(name, found)
  return warning(
    name,
    found,
    members === 1
      ? 'With one member, a lost disk loses every job: use three data members in production.'
      : 'If one data member fails, no majority can store a job: use three data members.',
  )
}

function isWritable({ hello }: Pick<Facts, 'hello'>): boolean {
  return hello.isWritablePrimary !== false
}

function checkUrl(url: string): Check {
  const query = url.slice(url.indexOf('?') + 1)
  const given = [...new URLSearchParams(url.includes('?') ? query : '')]
  const givenFor = (option: string) =>
    given.find(([name]) => name.toLowerCase() === option.toLowerCase())?.[1]
  const ignored = OVERRIDDEN.filter((option) => givenFor(option) !== undefined)
  const poolSize = Number(givenFor('maxPoolSize') ?? 0)
  // 0: no limit.
  if (poolSize > 0 && poolSize < LEAST_POOL_SIZE) {
    return warning(
      'url',
      `maxPoolSize=${poolSize} leaves few connections: each change stream keeps one.`,
      'Remove maxPoolSize, or set it to 20.',
    )
  }
  if (ignored.length === 0) return ok('url', 'STORE_URL has no option that Posthorn replaces.')
  return warning(
    'url',
    `Posthorn replaces these options of STORE_URL: ${ignored.join(', ')}.`,
    'Remove them. Every write is acknowledged by a majority, with its journal.',
  )
}

async function checkPrivileges({ client, db }: Facts): Promise<Check> {
  const name = 'privileges'
  const { authInfo } = await ask(client, { connectionStatus: 1, showPrivileges: true })
  if ((authInfo?.authenticatedUsers ?? []).length === 0) {
    // A server that requires a user refuses this.
    await readRecord({ client, db, names: COLLECTIONS }, 'local')
    return ok(name, 'STORE_URL has no user: the server requires none.')
  }
  const privileges: Document[] = authInfo.authenticatedUserPrivileges ?? []
  if (privileges.length === 0) {
    return unknown(name, 'The server does not list the privileges of the user.')
  }
  const lacks = (action: string, collection: string) =>
    !privileges.some((one) => allows(one, db.databaseName, collection, action))
  const ours = Object.values(COLLECTIONS)
  const missing = DATABASE_ACTIONS.flatMap((action) => {
    if (!lacks(action, ANY)) return []
    const lacking = ours.filter((collection) => lacks(action, collection))
    const isAll = lacking.length === ours.length || !ACTIONS.includes(action)
    if (isAll) return [`${action} on the database`]
    return [...lacking, `${SCRATCH}*`].map((collection) => `${action} on ${collection}`)
  })
  if (missing.length > 0) {
    const more = missing.length > 10 ? ` and ${missing.length - 10} more` : ''
    return failed(
      name,
      `The user lacks ${missing.slice(0, 10).join(', ')}${more}.`,
      `Grant the role readWrite on the database ${db.databaseName}.`,
    )
  }
  if (lacks('changeStream', COLLECTIONS.jobs)) {
    return warning(
      name,
      `The user lacks changeStream on ${COLLECTIONS.jobs}: workers find new jobs by polling.`,
      `Grant the role readWrite on the database ${db.databaseName}, or set CHANGE_STREAM=off.`,
    )
  }
  return ok(name, 'The user has every privilege that Posthorn needs.')
}

/** @param collection ANY: one whose name is not known; only the whole database covers it */
function allows(
  { resource, actions }: Document,
  database: string,
  collection: string,
  action: string,
): boolean {
  if (!actions?.includes(action)) return false
  if (resource?.anyResource === true) return true
  const isDatabase = resource?.db === database || resource?.db === ''
  return isDatabase && (resource?.collection === '' || resource?.collection === collection)
}

async function checkSchema({ client, db }: Facts): Promise<Check[]> {
  const connection: Connection = { client, db, names: COLLECTIONS }
  const record = await readRecord(connection, 'majority')
  if (record === null) {
    const found = 'Posthorn has not created its collections in this database yet.'
    return [ok('schema', found)]
  }
  if (record.product !== 'posthorn') {
    const found = `The collection ${COLLECTIONS.meta} does not belong to Posthorn.`
    return [failed('schema', found, 'Name another database in STORE_URL.')]
  }
  const newest = MIGRATIONS.at(-1)?.number as number
  const indexes = checkIndexes(await differencesOf(connection))
  if (record.schema === newest) return [ok('schema', `Schema ${newest}.`), indexes]
  const found = `The database has schema ${record.schema}; this version of Posthorn uses ${newest}.`
  const advice =
    record.schema < newest ? 'Run posthorn migrate.' : 'Use the version that wrote the database.'
  return [failed('schema', found, advice), indexes]
}

const INDEX_ADVICE: Record<IndexDifference['kind'], string> = {
  missing: 'Start the API or run posthorn migrate: both create missing indexes.',
  ...REPAIR_BY_HAND,
  ttl: 'Run posthorn migrate.',
  retired: 'Run posthorn migrate when all processes have the new version.',
}

export function checkIndexes(differences: IndexDifference[]): Check {
  if (differences.length === 0) return ok('indexes', 'Every index is as this version defines it.')
  const texts = differences.map(differenceText)
  const advice = [...new Set(differences.map(({ kind }) => INDEX_ADVICE[kind]))].join(' ')
  const isHarmless = differences.every(({ kind }) => kind === 'retired' || kind === 'ttl')
  const found = `${texts.join('; ')}.`
  return isHarmless ? warning('indexes', found, advice) : failed('indexes', found, advice)
}

/** Drops the collections of doctors that were killed. Those of one that may still run are named. */
async function clearLeftovers(facts: Facts): Promise<Check> {
  const { db } = facts
  const names = await scratchCollections(db)
  const isLeft = (name: string) => isWritable(facts) && isAbandoned(name, facts)
  const left = names.filter(isLeft)
  for (const name of left) await run(startDeadline(), () => db.collection(name).drop())
  const dropped = left.length === 0 ? [] : [`Dropped those of a killed doctor: ${groups(left)}.`]
  const others = names.filter((name) => !isLeft(name))
  if (others.length > 0) {
    return warning(
      'leftovers',
      [...dropped, `Another doctor was killed or still runs: ${groups(others)}.`].join(' '),
      `If it was killed, a doctor that starts ${LEFTOVER_AGE_MS / 60_000} minutes later drops them.`,
    )
  }
  return ok('leftovers', dropped[0] ?? 'No earlier doctor has left collections here.')
}

function isAbandoned(name: string, { hello }: Facts): boolean {
  const [, seconds = ''] = SCRATCH_NAME.exec(name) ?? []
  return hello.localTime.getTime() - Number.parseInt(seconds, 16) * 1_000 > LEFTOVER_AGE_MS
}

/** The prefixes of the names, one for each doctor. */
function groups(names: string[]): string {
  const prefixes = new Set(names.map((name) => `${SCRATCH_NAME.exec(name)?.[0]}*`))
  return [...prefixes].join(', ')
}

function scratchPrefix({ hello }: Facts): string {
  const seconds = Math.floor(hello.localTime.getTime() / 1_000)
  return `${SCRATCH}${seconds.toString(16).padStart(8, '0')}${randomBytes(4).toString('hex')}_`
}

async function scratchCollections(db: Db, prefix = SCRATCH_NAME): Promise<string[]> {
  const listed = await run(startDeadline(), () =>
    db.listCollections({ name: prefix }, { nameOnly: true }).toArray(),
  )
  return listed.map(({ name }) => name).sort()
}

/** Instants of jobs and leases are the server's; signatures carry the time of this machine. */
async function checkClock(client: MongoClient): Promise<Check> {
  let best = { offsetMs: 0, tripMs: Number.POSITIVE_INFINITY }
  for (let i = 0; i < CLOCK_SAMPLES; i++) {
    const sentAt = Date.now()
    const hello = await ask(client, { hello: 1 })
    const tripMs = Date.now() - sentAt
    const offsetMs = (hello.localTime as Date).getTime() - sentAt - tripMs / 2
    if (tripMs < best.tripMs) best = { offsetMs, tripMs }
  }
  const offsetMs = Math.round(best.offsetMs)
  const found = `The clock of the server is ${Math.abs(offsetMs)} ms ${
    offsetMs < 0 ? 'behind' : 'ahead of'
  } that of this machine; a round trip takes ${best.tripMs} ms.`
  const advice = 'Synchronize both clocks, for example by NTP.'
  if (Math.abs(offsetMs) > MAX_CLOCK_OFFSET_MS) return failed('clock', found, advice)
  if (Math.abs(offsetMs) > NOTABLE_CLOCK_OFFSET_MS) return warning('clock', found, advice)
  return ok('clock', found)
}

type Trial = Pick<StoreReport, 'checks' | 'plans' | 'latencies'>

/** Calls every verb on scratch collections, which are dropped whatever happens. */
async function tryVerbs(facts: Facts, signal: AbortSignal): Promise<Trial> {
  const { url, db, engine } = facts
  const prefix = scratchPrefix(facts)
  const watched = explainCommands(db, prefix, engine.isMongod)
  const trial: Run = { prefix, signal, watched, samples: new Map(), failedVerb: null }
  const { samples } = trial
  let outcome: Check
  try {
    const write = await tryMajorityWrite(facts, `${prefix}meta`)
    if (write !== null) return { checks: [write], plans: [], latencies: [] }
    await runVerbs(facts, trial)
    outcome = ok('verbs', `All ${samples.size} verbs of the store worked on scratch collections.`)
  } catch (error) {
    if (signal.aborted) throw signal.reason
    const { failedVerb } = trial
    const where = samples.size === 0 && failedVerb === null ? 'The store could not be opened' : null
    const what = failedVerb === null ? where : `${failedVerb} failed`
    const found = [what, sentenceOf(url, error)].filter((text) => text !== null).join(': ')
    outcome = failed('verbs', found, 'See the other checks; if they pass, send this report.')
  } finally {
    await dropScratch(db, prefix)
  }
  const plans = watched.plans()
  const latencies = [...samples].map(([verb, times]) => latencyOf(verb, times))
  const isComplete = outcome.verdict === 'ok'
  const checks = [
    outcome,
    checkPlans(engine, plans, isComplete),
    checkLatencies(latencies, isComplete),
  ]
  return { checks, plans, latencies }
}

/** Returns null if a majority acknowledged the write with its journal. */
async function tryMajorityWrite({ db, url }: Facts, collection: string): Promise<Check | null> {
  try {
    const document = { _id: 'doctor' as never }
    await run(startDeadline(), () => db.collection(collection).insertOne(document))
    // openDatabase takes documents without a record of Posthorn for those of an application.
    await run(startDeadline(), () => db.collection(collection).drop())
    return null
  } catch (error) {
    return failed(
      'write_concern',
      `A write that a majority acknowledges with its journal failed: ${sentenceOf(url, error)}`,
      'Check the privileges of the user, and that a majority of the data members is up.',
    )
  }
}

interface Run {
  prefix: string
  signal: AbortSignal
  watched: CommandExplainer
  samples: Map<string, number[]>
  /** The first one that failed. */
  failedVerb: string | null
}

async function runVerbs({ url }: Facts, trial: Run): Promise<void> {
  const { prefix, signal, watched } = trial
  const deadline = startDeadline(TRIAL_DEADLINE_MS)
  const connection = await openDatabase(url, 'online', { names: collectionNames(prefix) })
  connection.client.on('commandStarted', watched.note)
  const store = await storeOn(connection, {
    ...{ retentionMs: 0, retentionDeadMs: 86_400_000, warn: () => {} },
    encryptionKeys: [randomBytes(32)],
  })
  try {
    await useEveryVerb(
      timed(store, trial, async () => {
        await watched.explainNew()
        signal.throwIfAborted()
        if (deadline.leftMs() <= 0) {
          throw new StoreUnavailable('the verbs took longer than 5 minutes')
        }
      }),
    )
  } finally {
    await store.close()
  }
}

/** The store, with the time of each verb noted, and `after` awaited behind each. */
function timed(store: Store, trial: Run, after: () => Promise<void>): Store {
  return new Proxy(store, {
    get(target, name) {
      const value = Reflect.get(target, name)
      if (typeof value !== 'function') return value
      return (...given: unknown[]) => {
        const startedAt = performance.now()
        const returned: unknown = value.apply(target, given)
        if (!(returned instanceof Promise)) return returned
        const verb = String(name)
        const noted = async (result: unknown) => {
          const times = trial.samples.get(verb) ?? []
          trial.samples.set(verb, [...times, performance.now() - startedAt])
          await after()
          return result
        }
        return returned.then(noted, (error) => {
          trial.failedVerb ??= verb
          throw error
        })
      }
    },
  })
}

/**
 * Drops the scratch collections, even after a failure. If one cannot be dropped, the next doctor
 * finds it.
 */
async function dropScratch(db: Db, prefix: string): Promise<void> {
  const names = await scratchCollections(db, new RegExp(`^${prefix}`)).catch(() => [])
  for (const name of names) {
    await run(startDeadline(), () => db.collection(name).drop()).catch(() => {})
  }
}

/** @param isComplete every verb was tried */
function checkPlans({ isMongod, name }: Engine, plans: CommandPlan[], isComplete: boolean): Check {
  if (!isMongod) {
    const found = `The ${plans.length} kinds of commands were not explained, because ${name} does not identify itself as mongod.`
    return unknown('plans', found, 'Run the doctor on a mongod.')
  }
  const bad = plans.filter(({ findings }) => findings.length > 0)
  if (bad.length === 0) {
    if (!isComplete) return unknown('plans', 'Not all commands were explained: a verb failed.')
    return ok(
      'plans',
      `The plans of all ${plans.length} kinds of commands read only what they need.`,
    )
  }
  const texts = bad.map(({ command, findings }) => `${command}: ${findings.join(', ')}`)
  return failed(
    'plans',
    `${bad.length} of ${plans.length} kinds of commands read too much: ${texts.join('; ')}.`,
    'Send the report (posthorn doctor store --json) to the authors of Posthorn.',
  )
}

function checkLatencies(latencies: VerbLatency[], isComplete: boolean): Check {
  const slow = latencies.filter(({ p95Ms }) => p95Ms > SLOW_VERB_MS)
  const worst = latencies.reduce((most, { p95Ms }) => Math.max(most, p95Ms), 0)
  if (slow.length === 0 && !isComplete) {
    return unknown('latency', 'Not all verbs were measured: one failed.')
  }
  if (slow.length === 0) return ok('latency', `The slowest verb takes ${worst} ms (p95).`)
  return warning(
    'latency',
    `Slow: ${slow.map(({ verb, p95Ms }) => `${verb} ${p95Ms} ms`).join(', ')} (p95).`,
    'Each verb fails after 2.7 s. Run Posthorn closer to the primary, or on faster disks.',
  )
}
