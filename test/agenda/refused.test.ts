// Documents of Agenda that cannot become a job or a schedule do not stop the others. A dry run
// names the same documents.
import { execFile } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import {
  BSONRegExp,
  BSONSymbol,
  Code,
  DBRef,
  type Document,
  Long,
  MaxKey,
  MinKey,
  MongoClient,
  ObjectId,
  Timestamp,
} from 'mongodb'
import { afterAll, beforeAll, expect, inject, it, vi } from 'vitest'
import { startInterceptingProxy } from '../cli/intercepting-proxy.ts'
import { type Deployment, deploy } from '../support/deployment.ts'
import { databaseUrl } from '../support/mongo.ts'
import { posthornScript } from '../support/process.ts'

const { cli, cache } = posthornScript()
const SLOW_MS = 120_000
const DAY_MS = 86_400_000
const MAX_BODY_BYTES = 20_000
const ALL = 1_000
const SOON = new Date(Date.now() + 30 * DAY_MS)

vi.setConfig({ testTimeout: SLOW_MS, hookTimeout: SLOW_MS })

interface Row {
  name: string
  becomes: string
  count: number
  note: string
  id?: string
}

let posthorn: Deployment
let client: MongoClient
const url = databaseUrl(inject('mongoUrl'), `agenda-${randomBytes(6).toString('hex')}`)

const nested = (levels: number) =>
  JSON.parse(`${'{"a":'.repeat(levels - 1)}{}${'}'.repeat(levels - 1)}`) as Document
const once = (fields: Document) => ({ name: 'mail', data: {}, nextRunAt: SOON, ...fields })
const often = (fields: Document) =>
  once({ name: 'report', type: 'normal', repeatInterval: '0 9 * * 1', ...fields })

const stamp = new Timestamp({ t: 1, i: 2 })
const noForm = (path: string, type: string) => `${path} is a BSON ${type}, which has no JSON form`
const TOO_DEEP = 'the body is nested deeper than 64 levels'
const TOO_LARGE = /MAX_BODY_BYTES|larger than/

/** Each document with the reason in its row. */
const BAD: [Document, string | RegExp][] = [
  [once({ data: nested(64) }), TOO_DEEP],
  [once({ data: nested(90) }), 'is nested deeper than 64 levels'],
  [once({ data: 'x'.repeat(MAX_BODY_BYTES) }), TOO_LARGE],
  [once({ nextRunAt: new Date(Date.now() + 400 * DAY_MS) }), 'at most a year ahead'],
  [once({ nextRunAt: new Date('+020000-01-01T00:00:00Z') }), '/runAt: expected an RFC 3339'],
  [once({ nextRunAt: 'tomorrow' }), 'its nextRunAt is not a valid date'],
  [once({ data: { a: [Number.NaN] } }), '/data/a/0 is NaN, which JSON cannot express'],
  [once({ data: { at: new Date(8.64e15) } }), '/data/at is a date that RFC 3339 cannot write'],
  [once({ data: { at: stamp } }), noForm('/data/at', 'Timestamp')],
  [once({ data: { a: /x/i } }), noForm('/data/a', 'RegExp')],
  // Only PCRE can read this pattern; JavaScript cannot.
  [once({ data: { a: new BSONRegExp('(?i)x') } }), noForm('/data/a', 'RegExp')],
  [once({ data: new Code('x', { a: 1 }) }), noForm('/data', 'Code')],
  [once({ data: { a: new BSONSymbol('x') } }), noForm('/data/a', 'Symbol')],
  [once({ data: { a: new MinKey() } }), noForm('/data/a', 'MinKey')],
  [once({ data: { a: new MaxKey() } }), noForm('/data/a', 'MaxKey')],
  [once({ data: { a: new DBRef('orders', new ObjectId()) } }), noForm('/data/a', 'DBRef')],
  [often({ data: { at: stamp } }), noForm('/data/at', 'Timestamp')],
  [often({ data: nested(64) }), TOO_DEEP],
  [often({ data: 'x'.repeat(MAX_BODY_BYTES) }), TOO_LARGE],
  [often({ repeatTimezone: 'Mars/Olympus' }), '/timezone: expected a time zone'],
  [often({ repeatTimezone: 7 }), '/timezone: '],
  [often({ startDate: SOON, endDate: new Date() }), '/endAt: expected an instant after startAt'],
  [often({ repeatInterval: '1 day', endDate: new Date() }), '/endAt: expected an instant after'],
  [often({ endDate: 'never' }), 'its endDate is not a valid date'],
  [often({ repeatInterval: '61 * * * *' }), '/cron: '],
  [often({ repeatInterval: '0 0 31 2 *' }), 'names a day that never comes'],
  [often({ repeatInterval: '*/10 * * * * *' }), 'field for seconds'],
  [often({ repeatInterval: 'whenever' }), 'is not a valid interval'],
  [often({ repeatInterval: null, repeatAt: 'at noon' }), 'is not a time of day'],
  [often({ skipDays: [0, 6] }), 'skipDays has no counterpart'],
]
const SCHEDULES = 40

beforeAll(async () => {
  posthorn = deploy('sqlite', { MAX_BODY_BYTES: String(MAX_BODY_BYTES) })
  await posthorn.startApi()
  for (const name of ['mail', 'reports', 'numbers']) {
    expect((await posthorn.endpoint(name, 'http://127.0.0.1:3000/')).status).toBe(201)
  }
  client = await new MongoClient(url).connect()
  const bad = BAD.map(([document]) => document)
  const schedules = Array.from({ length: SCHEDULES }, (_, n) => often({ data: { n } }))
  const jobs = Array.from({ length: ALL - SCHEDULES - BAD.length }, (_, n) =>
    once({ data: { n }, priority: 10 }),
  )
  // A document at the limits of the API: depth, size and due time.
  Object.assign(jobs[0] as Document, { data: nested(63) })
  Object.assign(jobs[1] as Document, { data: 'x'.repeat(MAX_BODY_BYTES - 2) })
  Object.assign(jobs[2] as Document, { nextRunAt: new Date(Date.now() + 365 * DAY_MS) })
  const data = { big: Long.MAX_VALUE, small: Long.fromInt(7) }
  Object.assign(jobs[3] as Document, { name: 'numbers', data })
  const good = [...jobs, ...schedules]
  // Invalid documents among valid ones.
  const step = Math.floor(good.length / bad.length)
  const mixed = good.flatMap((one, i) => (i % step === 0 ? [bad[i / step] ?? [], one].flat() : one))
  expect(mixed).toHaveLength(ALL)
  await client.db().collection('agendaJobs').insertMany(mixed)
})

afterAll(async () => {
  await client.db().dropDatabase()
  await client.close()
  await posthorn.close()
})

interface Ended {
  code: number
  complete: boolean
  rows: Row[]
  stderr: string
}

function runImport(...words: string[]): Promise<Ended> {
  return runImportAt(posthorn.url(), ...words)
}

function runImportAt(apiUrl: string, ...words: string[]): Promise<Ended> {
  const maps = ['mail=mail', 'report=reports', 'numbers=numbers'].flatMap((one) => ['--map', one])
  const env = { PATH: process.env.PATH, NODE_COMPILE_CACHE: cache, POSTHORN_URL: apiUrl }
  const all = [cli, 'import', 'agenda', '--from', url, '--json', ...maps, ...words]
  return new Promise((resolve, reject) => {
    execFile(process.execPath, all, { env, timeout: SLOW_MS }, (error, stdout, stderr) => {
      if (stdout === '') reject(new Error(stderr, { cause: error }))
      else resolve({ code: Number(error?.code ?? 0), stderr, ...JSON.parse(stdout) })
    })
  })
}

const refused = (rows: Row[]) => rows.filter(({ becomes }) => becomes === 'refused')
const countOf = (rows: Row[], note: RegExp) =>
  rows.filter((row) => note.test(row.note)).reduce((sum, row) => sum + row.count, 0)
const stored = async () => {
  const { items } = (await posthorn.request('GET', '/endpoints')).body
  const schedules = await posthorn.request('GET', '/schedules?limit=100')
  const queued = items.map(({ counts }: { counts: { queued: number } }) => counts.queued)
  return [queued.reduce((sum: number, one: number) => sum + one), schedules.body.items.length]
}

it('of 1,000 documents the 970 good ones are carried over, and the 30 others named', async () => {
  const dry = await runImport('--dry-run')
  expect(await stored()).toEqual([0, 0])
  const real = await runImport()
  expect(await stored()).toEqual([ALL - SCHEDULES - BAD.length, SCHEDULES])
  expect(countOf(real.rows, /^added/)).toBe(970)
  expect(countOf(dry.rows, /^would be added/)).toBe(970)
  const named = new Map(refused(real.rows).map((row) => [row.id, row]))
  expect(named.size).toBe(30)
  for (const [document, reason] of BAD) {
    const row = named.get(String(document._id))
    expect(row).toMatchObject({ name: document.name, count: 1 })
    expect(row?.note).toMatch(typeof reason === 'string' ? reason.replaceAll('?', '\\?') : reason)
  }
  expect(refused(dry.rows)).toEqual(refused(real.rows))
  expect([dry.code, real.code]).toEqual([1, 1])
  expect([dry.complete, real.complete]).toEqual([true, true])
})

it('a further run, dry or not, finds what the first one has added', async () => {
  for (const { code, rows } of [await runImport('--dry-run'), await runImport()]) {
    expect(countOf(rows, /^already imported$/)).toBe(970)
    expect(refused(rows)).toHaveLength(30)
    expect(code).toBe(1)
  }
  expect(await stored()).toEqual([ALL - SCHEDULES - BAD.length, SCHEDULES])
})

it('what was found before the API failed is said all the same', async () => {
  const failsAtPut = async (method: string) => (method === 'PUT' ? 503 : undefined)
  const proxy = await startInterceptingProxy(posthorn.url, failsAtPut)
  const { complete, code, rows, stderr } = await runImportAt(proxy.url, '--dry-run')
  proxy.close()
  expect([complete, code]).toEqual([false, 1])
  expect(refused(rows).length).toBeGreaterThan(0)
  expect(stderr).toMatch(/Not all documents were read\..*\nthe store is busy/s)
})

it('an id that is no ObjectId names one document in each collection', async () => {
  const others = ['others', 'more'].map((name) => client.db().collection<Document>(name))
  for (const one of others) await one.insertOne({ ...once({ name: 'numbers' }), _id: 7 as never })
  for (const { collectionName } of [...others, ...others]) {
    const { rows } = await runImport('--collection', collectionName)
    expect(rows).toHaveLength(1)
  }
  const { items } = (await posthorn.request('GET', '/jobs?endpoint=numbers')).body
  expect(items).toHaveLength(3)
})

it('an int64 that no number of JavaScript holds becomes a text', async () => {
  const { items } = (await posthorn.request('GET', '/jobs?endpoint=numbers')).body
  const id = items.at(-1).id
  const found = await posthorn.request('GET', `/jobs/${id}`)
  expect(found.body.payload).toEqual({ big: '9223372036854775807', small: 7 })
})
