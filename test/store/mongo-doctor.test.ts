// `posthorn doctor store` on MongoDB: each check is made to fail once. Afterwards nothing that the
// doctor created is left, whatever its result was.
import { randomBytes } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import { type Db, type Document, MongoClient } from 'mongodb'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, inject, it } from 'vitest'
import { COLLECTIONS } from '../../src/store/collection-names.ts'
import type { Check, StoreReport } from '../../src/store/doctor-report.ts'
import { checkIndexes, engineOf } from '../../src/store/mongo/doctor.ts'
import { DEFINITIONS, differencesOf, migrateDatabase } from '../../src/store/mongo/schema.ts'
import { openMongoStore } from '../../src/store/mongo/store.ts'
import { examineStore } from '../../src/store/open-store.ts'
import { openShell, type Shell } from '../cli/command-line.ts'
import { databaseUrl, type RunningMongo, startOwnMongo } from '../support/mongo.ts'
import { freePort } from '../support/mongo-server.ts'
import {
  type Rewrite,
  type RewritingProxy,
  startRewritingProxy,
} from '../support/rewriting-proxy.ts'
import { until } from '../support/until.ts'

const LONG = { timeout: 180_000 }
const NEVER = new AbortController().signal
const SETTINGS = {
  ...{ retentionMs: 60_000, retentionDeadMs: 60_000, warn: () => {} },
  encryptionKeys: [randomBytes(32)],
}
const isStandIn = inject('mongoEngine') === 'secantusd-rs'

let client: MongoClient
let url: string
let db: Db
const proxies: RewritingProxy[] = []

beforeAll(async () => {
  client = await new MongoClient(inject('mongoUrl'), { writeConcern: { w: 'majority' } }).connect()
})
afterAll(() => client.close())
beforeEach(() => {
  const name = `test-${randomBytes(6).toString('hex')}`
  url = databaseUrl(inject('mongoUrl'), name)
  db = client.db(name)
})
afterEach(async () => {
  await Promise.all(proxies.splice(0).map((proxy) => proxy.stop()))
  await db.dropDatabase()
})

async function through(rewrites: Record<string, Rewrite>): Promise<RewritingProxy> {
  const proxy = await startRewritingProxy(inject('mongoUrl'), rewrites)
  proxies.push(proxy)
  return proxy
}

async function createStore(): Promise<void> {
  await (await openMongoStore(url, SETTINGS)).close()
}

const check = (report: StoreReport, name: string): Check | undefined =>
  report.checks.find((one) => one.name === name)
const verdicts = ({ checks }: StoreReport) =>
  Object.fromEntries(checks.map(({ name, verdict }) => [name, verdict]))
/** A scratch collection of a doctor that began so long ago. */
const scratchOf = (ageMs: number) =>
  `posthorn_doctor_${Math.floor((Date.now() - ageMs) / 1_000).toString(16)}0123abcd_jobs`
const scratch = async () =>
  (await db.listCollections({ name: /^posthorn_doctor_/ }).toArray()).map(({ name }) => name)

/** The index check of a doctor that cannot write, and so goes no further. */
async function indexCheck(): Promise<Check | undefined> {
  const proxy = await through({ insert: () => REFUSAL })
  return check(await examineStore(proxy.url(db.databaseName), NEVER), 'indexes')
}

const changeIndex = (collMod: string, index: Document) => db.command({ collMod, index })

/** The build information of a mongod 8. */
const MONGOD_BUILD = {
  version: '8.0.4',
  versionArray: [8, 0, 4, 0],
  gitVersion: 'bc35ab4305d9920d9d0491c1c9ef9b72383d31f9',
  javascriptEngine: 'mozjs',
  buildEnvironment: { cc: '/opt/mongodbtoolchain/v4/bin/gcc: gcc (GCC) 11.3.0' },
}
const asMongod: Rewrite = ({ secantusVersion, ...reply }) => ({ ...reply, ...MONGOD_BUILD })

/** The reply to the explain of a command that looks up one id. */
const GOOD_PLAN = {
  explainVersion: '1',
  queryPlanner: { namespace: 'a.b', parsedQuery: {}, winningPlan: { stage: 'IDHACK' } },
  executionStats: {
    ...{ nReturned: 1, totalKeysExamined: 1, totalDocsExamined: 1 },
    executionStages: { stage: 'IDHACK', nReturned: 1 },
  },
  ok: 1,
}
/** mongod chose to sort a few documents, although another plan would need no sort. */
const CHOSEN_PLAN = {
  ...GOOD_PLAN,
  queryPlanner: {
    ...GOOD_PLAN.queryPlanner,
    winningPlan: { stage: 'SORT', inputStage: { stage: 'FETCH' } },
    rejectedPlans: [
      { stage: 'FETCH', inputStage: { stage: 'IXSCAN', indexName: 'by_dedupe_key' } },
    ],
  },
}
const BAD_PLAN = {
  ...GOOD_PLAN,
  queryPlanner: { namespace: 'a.b', parsedQuery: {}, winningPlan: { stage: 'COLLSCAN' } },
}
const REFUSAL = { ok: 0, code: 13, codeName: 'Unauthorized', errmsg: 'not authorized' }

it('a good store: no check fails, and the verbs leave nothing', LONG, async () => {
  await createStore()
  const before = (await db.listCollections().toArray()).map(({ name }) => name).sort()
  const report = await examineStore(url, NEVER)
  expect(verdicts(report)).toEqual({
    ...{ engine: isStandIn ? 'unknown' : 'ok', topology: 'warning', url: 'ok', privileges: 'ok' },
    ...{ schema: 'ok', indexes: 'ok', leftovers: 'ok', clock: 'ok', verbs: 'ok' },
    ...{ plans: isStandIn ? 'unknown' : 'ok', latency: expect.stringMatching(/^(ok|warning)$/) },
  })
  expect(report.plans.length).toBeGreaterThan(100)
  expect(report.latencies.find(({ verb }) => verb === 'claim')?.calls).toBeGreaterThan(20)
  expect((await db.listCollections().toArray()).map(({ name }) => name).sort()).toEqual(before)
  for (const name of before.filter((one) => one !== COLLECTIONS.meta)) {
    expect(await db.collection(name).countDocuments()).toBe(0)
  }
})

describe('what the server, its user and the database are', () => {
  it('each fault has a verdict of its own, and says what to do', LONG, async () => {
    await createStore()
    await db.collection(COLLECTIONS.jobs).dropIndex('claim')
    await db.collection(COLLECTIONS.jobs).dropIndex('lease')
    await db.collection(COLLECTIONS.jobs).createIndex({ state: 1 }, { name: 'lease' })
    const meta = db.collection<{ _id: string }>(COLLECTIONS.meta)
    await meta.updateOne({ _id: 'schema' }, { $set: { schema: 99 } })
    const young = scratchOf(60_000)
    await db.createCollection(young)
    const proxy = await through({
      buildInfo: (reply) => ({ ...reply, version: '7.0.0', ferretdb: { version: '2.0.0' } }),
      hello: (reply) => ({
        ...reply,
        hosts: ['a:1', 'b:1'],
        arbiters: ['c:1'],
        localTime: new Date(Date.now() - 300_000),
      }),
      connectionStatus: (reply) => ({
        ...reply,
        authInfo: {
          authenticatedUsers: [{ user: 'app', db: 'admin' }],
          authenticatedUserPrivileges: [
            { resource: { db: db.databaseName, collection: '' }, actions: ['find', 'insert'] },
          ],
        },
      }),
      insert: () => REFUSAL,
    })
    const report = await examineStore(proxy.url(db.databaseName, '&w=1'), NEVER)
    expect(verdicts(report)).toEqual({
      ...{ engine: 'failed', topology: 'warning', url: 'warning', privileges: 'failed' },
      ...{ schema: 'failed', indexes: 'failed', leftovers: 'warning', clock: 'failed' },
      write_concern: 'failed',
    })
    const found = (name: string) => check(report, name)?.found
    expect(found('engine')).toBe('FerretDB (7.0.0): it is not supported.')
    expect(found('topology')).toBe('A replica set. Data members: 2, arbiters: 1.')
    expect(found('url')).toBe('Posthorn replaces these options of STORE_URL: w.')
    expect(found('privileges')).toMatch(/^The user lacks update on the database, remove on /)
    expect(found('schema')).toMatch(/^The database has schema 99; this version of Posthorn uses/)
    expect(found('indexes')).toBe(
      'posthorn_jobs.claim is missing; posthorn_jobs.lease has another definition.',
    )
    expect(found('leftovers')).toContain(young.replace(/jobs$/, '*'))
    expect(found('clock')).toMatch(
      /^The clock of the server is (29|30)\d{4} ms behind that of this mach/,
    )
    expect(found('write_concern')).toMatch(/journal failed: MongoDB requires a user and a password/)
    const silent = report.checks.filter(({ advice }) => advice === null)
    expect(silent).toEqual([])
    expect(await scratch()).toEqual([young])
  })

  it('collections of a doctor that was killed long ago are dropped, others not', LONG, async () => {
    const [old, young, own] = [scratchOf(20 * 60_000), scratchOf(60_000), 'posthorn_doctor_notes']
    for (const name of [old, young, own]) await db.createCollection(name)
    // It cannot write, and so goes no further.
    const proxy = await through({ insert: () => REFUSAL })
    const leftovers = async () =>
      check(await examineStore(proxy.url(db.databaseName), NEVER), 'leftovers')
    const first = await leftovers()
    expect(first).toMatchObject({ verdict: 'warning', advice: expect.stringContaining('15 min') })
    const group = (name: string) => name.replace(/jobs$/, '*')
    expect(first?.found).toMatch(`Dropped those of a killed doctor: ${group(old)}. Another`)
    expect(first?.found).toMatch(`was killed or still runs: ${group(young)}.`)
    expect(await scratch()).toEqual(expect.arrayContaining([young, own]))
    expect(await scratch()).toHaveLength(2)
    await db.collection(young).drop()
    await db.createCollection(old)
    const second = await leftovers()
    expect(second).toMatchObject({ verdict: 'ok', advice: null })
    expect(second?.found).toBe(`Dropped those of a killed doctor: ${group(old)}.`)
    expect(await scratch()).toEqual([own])
  })

  // The stand-in has no hidden indexes.
  it.skipIf(isStandIn)('an index that the planner may not use is a failure', LONG, async () => {
    await createStore()
    await changeIndex(COLLECTIONS.jobs, { name: 'claim', hidden: true })
    expect(await indexCheck()).toEqual({
      name: 'indexes',
      verdict: 'failed',
      found: 'posthorn_jobs.claim is hidden from the query planner.',
      advice: expect.stringMatching(/^Unhide the index: /),
    })
    await changeIndex(COLLECTIONS.jobs, { name: 'claim', hidden: false })
    expect((await indexCheck())?.verdict).toBe('ok')
  })

  it('an index with another time to live is a warning until posthorn migrate', LONG, async () => {
    await createStore()
    const workers = db.collection(COLLECTIONS.workers)
    await workers.dropIndex('seen')
    await workers.createIndex({ seenAt: 1 }, { name: 'seen', expireAfterSeconds: 7 })
    expect(await indexCheck()).toEqual({
      name: 'indexes',
      verdict: 'warning',
      found: 'posthorn_workers.seen has another time to live.',
      advice: 'Run posthorn migrate.',
    })
    await migrateDatabase(url)
    expect((await indexCheck())?.verdict).toBe('ok')
  })

  it('an index of an earlier version is a warning until posthorn migrate', LONG, async () => {
    const retired = { key: { deleting: 1, oldField: 1 }, options: {} } as const
    const later = { ...DEFINITIONS, retired: { endpoints: { old: retired } } }
    await createStore()
    await db.collection(COLLECTIONS.endpoints).createIndex(retired.key, { name: 'old' })
    const compare = async () =>
      checkIndexes(await differencesOf({ client, db, names: COLLECTIONS }, later))
    expect(await compare()).toEqual({
      name: 'indexes',
      verdict: 'warning',
      found: 'posthorn_endpoints.old belongs to an earlier version.',
      advice: 'Run posthorn migrate when all processes have the new version.',
    })
    // One harmless difference does not hide another one.
    await db.collection(COLLECTIONS.jobs).dropIndex('claim')
    expect((await compare()).verdict).toBe('failed')
    await migrateDatabase(url, later)
    expect((await compare()).verdict).toBe('ok')
  })

  it('a pool that the change streams fill is a warning', async () => {
    const proxy = await through({ hello: (reply) => ({ ...reply, isWritablePrimary: false }) })
    const report = await examineStore(proxy.url(db.databaseName, '&maxPoolSize=2'), NEVER)
    expect(check(report, 'url')).toMatchObject({
      verdict: 'warning',
      found: 'maxPoolSize=2 leaves few connections: each change stream keeps one.',
    })
  })

  it.each([
    ['Amazon DocumentDB', {}, 'mongodb://u:p@x.cluster-abc.eu-central-1.docdb.amazonaws.com/'],
    ['Azure Cosmos DB', { _t: 'BuildInfoResponse' }, null],
    ['FerretDB', { ferretdbVersion: 'v1.24.0' }, null],
  ])('%s is named', async (name, fields, host) => {
    const ask = async () => ({ ...MONGOD_BUILD, ...fields })
    const engine = await engineOf(host ?? 'mongodb://db.example/', ask)
    expect(engine).toMatchObject({ name: `${name} (8.0.4)`, isMongod: false })
    expect(engine.problem).not.toBeNull()
  })

  it('a mongod older than 5.0 is refused', async () => {
    const old = { ...MONGOD_BUILD, version: '4.4.29', versionArray: [4, 4, 29, 0] }
    expect((await engineOf('mongodb://db.example/', async () => old)).problem).toMatch(/older/)
  })

  it('a member that is not the primary is refused, and asked for no write', LONG, async () => {
    const proxy = await through({
      hello: (reply) => ({ ...reply, isWritablePrimary: false, secondary: true }),
    })
    const left = scratchOf(20 * 60_000)
    await db.createCollection(left)
    const report = await examineStore(proxy.url(db.databaseName), NEVER)
    expect(check(report, 'topology')).toMatchObject({
      verdict: 'failed',
      advice: expect.stringMatching(/^Remove directConnection=true/),
    })
    expect(verdicts(report)).toMatchObject({ schema: 'ok', clock: 'ok' })
    expect(verdicts(report)).not.toHaveProperty('write_concern')
    expect(await scratch()).toEqual([left])
  })

  it('a server that goes away meanwhile leaves the checks before in the report', LONG, async () => {
    const proxy = await through({
      listCollections: () => ({ ok: 0, code: 91, codeName: 'ShutdownInProgress', errmsg: 'bye' }),
    })
    const report = await examineStore(proxy.url(db.databaseName), NEVER)
    expect(verdicts(report)).toMatchObject({ privileges: 'ok', schema: 'ok', connection: 'failed' })
    expect(verdicts(report)).not.toHaveProperty('verbs')
  })

  it(
    'a name that no database can have ends the doctor, and leaves no connection',
    LONG,
    async () => {
      const shell = openShell({ STORE_URL: databaseUrl(inject('mongoUrl'), 'a.b') })
      try {
        const { code, stdout } = await shell.run(['doctor', 'store'])
        expect(code).toBe(1)
        expect(stdout).toMatch(/STORE_URL cannot be read .*'\.'/)
      } finally {
        await shell.close()
      }
    },
  )

  it('a server that does not answer is one check that failed', async () => {
    const report = await examineStore(`mongodb://127.0.0.1:${await freePort()}/x`, NEVER)
    expect(verdicts(report)).toEqual({ connection: 'failed' })
    expect(report.checks[0]?.found).toMatch(/^MongoDB cannot be reached/)
  })

  describe('of its own', () => {
    const servers: RunningMongo[] = []
    afterEach(async () => {
      await Promise.all(servers.splice(0).map((server) => server.stop()))
    })

    it('a server that runs alone is refused', LONG, async () => {
      const server = await startOwnMongo({ standalone: true, inMemory: true })
      servers.push(server)
      const report = await examineStore(databaseUrl(server.url, 'shop'), NEVER)
      expect(check(report, 'topology')).toMatchObject({ verdict: 'failed' })
    })

    /** Returns the URL of a user of this role. */
    async function startWithUser(
      server: RunningMongo,
      role: { role: string; db: string } | { privileges: Document[] },
    ): Promise<string> {
      const { host } = new URL(server.url)
      const urlOf = (user: string) => `mongodb://${user}:secret@${host}/shop?authSource=admin`
      const first = await new MongoClient(server.url).connect()
      const root = { createUser: 'root', pwd: 'secret', roles: [{ role: 'root', db: 'admin' }] }
      await first.db('admin').command(root)
      await first.close()
      const admin = await new MongoClient(urlOf('root')).connect()
      if ('privileges' in role) {
        await admin.db('admin').command({ createRole: 'own', ...role, roles: [] })
      }
      const roles = ['privileges' in role ? 'own' : role]
      await admin.db('admin').command({ createUser: 'app', pwd: 'secret', roles })
      await admin.close()
      return urlOf('app')
    }

    // The stand-in does not know roles of a user's own.
    it.skipIf(isStandIn)('a role without rights does not hide what it lacks', LONG, async () => {
      const server = await startOwnMongo({ auth: true, inMemory: true })
      servers.push(server)
      const shop = { db: 'shop', collection: '' }
      const url = await startWithUser(server, {
        privileges: [{ resource: shop, actions: ['find', 'insert', 'listIndexes'] }],
      })
      const report = await examineStore(url, NEVER)
      expect(verdicts(report)).toMatchObject({
        ...{ engine: 'ok', privileges: 'failed', schema: 'ok', leftovers: 'failed', clock: 'ok' },
        write_concern: 'failed',
      })
      expect(check(report, 'privileges')?.found).toBe(
        'The user lacks update on the database, remove on the database, createCollection on the ' +
          'database, createIndex on the database, dropIndex on the database, dropCollection on ' +
          'the database, listCollections on the database.',
      )
      const anonymous = await examineStore(databaseUrl(server.url, 'shop'), NEVER)
      expect(check(anonymous, 'privileges')).toMatchObject({
        verdict: 'failed',
        found: 'MongoDB requires a user and a password: add them to STORE_URL.',
      })
    })

    it.skipIf(isStandIn)('the role that mongodb.md lists is enough', LONG, async () => {
      const page = await readFile(fileURLToPath(new URL('../../docs/mongodb.md', import.meta.url)))
      const [, listed = ''] = /needs these actions([^.]*)\.\s`changeStream`/s.exec(`${page}`) ?? []
      const actions = [...listed.matchAll(/`(\w+)`/g)].map(([, action]) => action)
      expect(actions).toContain('dropCollection')
      const shop = { db: 'shop', collection: '' }
      const server = await startOwnMongo({ auth: true, inMemory: true })
      servers.push(server)
      const url = await startWithUser(server, { privileges: [{ resource: shop, actions }] })
      const report = await examineStore(url, NEVER)
      expect(verdicts(report)).toMatchObject({ privileges: 'ok', verbs: 'ok', plans: 'ok' })
      await (await openMongoStore(url, SETTINGS)).close()

      const few = actions.filter((action) => action !== 'changeStream')
      const admin = await new MongoClient(url.replace('//app:', '//root:')).connect()
      const privileges = [{ resource: shop, actions: few }]
      await admin.db('admin').command({ updateRole: 'own', privileges })
      await admin.close()
      const poorer = await examineStore(url, NEVER)
      expect(check(poorer, 'privileges')).toMatchObject({
        verdict: 'warning',
        found: expect.stringContaining('changeStream on posthorn_jobs'),
      })
    })

    it('a user who may only read is refused', LONG, async () => {
      const server = await startOwnMongo({ auth: true, inMemory: true })
      servers.push(server)
      const url = await startWithUser(server, { role: 'read', db: 'shop' })
      const report = await examineStore(url, NEVER)
      // The stand-in does not list the privileges of a user.
      const listed = server.engine === 'secantusd-rs' ? 'unknown' : 'failed'
      expect(check(report, 'privileges')?.verdict).toBe(listed)
      expect(check(report, 'write_concern')?.verdict).toBe('failed')
      expect(JSON.stringify(report)).not.toContain('secret')
    })
  })
})

describe('the verbs', () => {
  it('bad plans and a slow verb are found, command by command', LONG, async () => {
    const explained: Document[] = []
    const proxy = await through({
      buildInfo: asMongod,
      explain: (_, { explain, ...options }) => {
        explained.push({ ...options, command: explain })
        if (explain.filter?.tags !== undefined) return BAD_PLAN
        if (explain.filter?.dedupeKey !== undefined) return CHOSEN_PLAN
        if (explain.find?.endsWith('_schedules')) return { ok: 0, code: 50, errmsg: 'over time' }
        return GOOD_PLAN
      },
      // This changes takeUpkeep, whose record is in the collection of records.
      update: async (reply, { update }) => {
        if (String(update).endsWith('_meta')) await new Promise((done) => setTimeout(done, 1_000))
        return reply
      },
    })
    const report = await examineStore(proxy.url(db.databaseName), NEVER)
    expect(verdicts(report)).toMatchObject({ engine: 'ok', verbs: 'ok', plans: 'failed' })
    const bad = report.plans.filter(({ findings }) => findings.length > 0)
    expect(bad.map(({ findings }) => findings.join())).toEqual(
      expect.arrayContaining([
        'a.b is read from end to end',
        'it could not be explained: over time',
      ]),
    )
    for (const { command } of bad) expect(command).toMatch(/ schedules:|: .*tags/)
    expect(check(report, 'latency')).toMatchObject({ verdict: 'warning' })
    expect(check(report, 'latency')?.found).toContain('takeUpkeep')
    expect(explained.every(({ maxTimeMS }) => maxTimeMS === 1_000)).toBe(true)
    // mongod 6.0.5 crashes when it explains some of these stages.
    expect(JSON.stringify(explained)).not.toContain('$unionWith')
    expect(await scratch()).toEqual([])
  })

  it('the plans of an unknown engine are not explained', LONG, async () => {
    const proxy = await through({
      buildInfo: (reply) => ({ ...reply, javascriptEngine: 'none' }),
      findAndModify: () => REFUSAL,
    })
    const report = await examineStore(proxy.url(db.databaseName), NEVER)
    expect(verdicts(report)).toMatchObject({ engine: 'unknown', plans: 'unknown', verbs: 'failed' })
    // This is the first method that needs the refused command.
    expect(check(report, 'verbs')?.found).toMatch(/^edit failed: /)
    expect(verdicts(report).latency).toMatch(/^(unknown|warning)$/)
    for (const { calls, p95Ms } of report.latencies) {
      expect(calls).toBeGreaterThan(0)
      expect(p95Ms).toBeGreaterThanOrEqual(0)
    }
    expect(proxy.commands.filter(({ explain }) => explain !== undefined)).toEqual([])
    expect(await scratch()).toEqual([])
  })

  it('a build of an index does not wait for a majority under the deadline of a write', async () => {
    const proxy = await through({})
    await (await openMongoStore(proxy.url(db.databaseName), SETTINGS)).close()
    const builds = proxy.commands.filter(({ createIndexes }) => createIndexes !== undefined)
    expect(builds.length).toBeGreaterThan(3)
    for (const { writeConcern } of builds) {
      // 0 is the default: the write waits without a limit.
      expect(writeConcern).toEqual({ w: 'majority', j: true, wtimeout: 0 })
    }
  })
})

describe('posthorn doctor store', () => {
  let shell: Shell
  beforeEach(() => {
    shell = openShell({ STORE_URL: url })
  })
  afterEach(() => shell.close())

  it('interrupted by Ctrl-C it drops its collections, and exits with 1', LONG, async () => {
    const typed = shell.start(['doctor', 'store'])
    await until(async () => (await scratch()).length > 3, 60_000)
    typed.signal('SIGINT')
    expect(await typed.ended()).toBe(1)
    expect(typed.stderr()).toContain('The check was interrupted; its collections are removed.')
    expect(await scratch()).toEqual([])
  })

  it('killed, its collections are found and named by the next', LONG, async () => {
    const killed = shell.start(['doctor', 'store'])
    await until(async () => (await scratch()).length > 3, 60_000)
    killed.signal('SIGKILL')
    await killed.ended()
    const [left = ''] = await scratch()
    const proxy = await through({ insert: () => REFUSAL })
    const env = { STORE_URL: proxy.url(db.databaseName) }
    const { code, stdout } = await shell.run(['doctor', 'store', '--json'], { env })
    expect(code).toBe(1)
    const report = JSON.parse(stdout) as StoreReport
    const prefix = /^posthorn_doctor_[0-9a-f]{16}_/.exec(left)?.[0]
    expect(check(report, 'leftovers')).toMatchObject({ verdict: 'warning' })
    expect(check(report, 'leftovers')?.found).toContain(`${prefix}*`)
    expect(check(report, 'write_concern')?.verdict).toBe('failed')
  })
})
