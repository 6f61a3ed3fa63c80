// Moving from Agenda to Posthorn: work that Agenda itself has stored is imported once, and
// delivered.
import { execFile } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { MongoBackend } from '@agendajs/mongo-backend'
import { Agenda } from 'agenda'
import { Decimal128, MongoClient, ObjectId } from 'mongodb'
import { afterAll, beforeAll, expect, inject, it, vi } from 'vitest'
import { type Deployment, deploy } from '../support/deployment.ts'
import { databaseUrl } from '../support/mongo.ts'
import { posthornScript } from '../support/process.ts'
import { type Receiver, startReceiver } from '../support/receiver.ts'

const ROOT = join(import.meta.dirname, '../..')
const { cli, cache } = posthornScript()
const ENV = { PATH: process.env.PATH, NODE_COMPILE_CACHE: cache }
const SLOW_MS = 60_000
const FAR = new Date(Date.now() + 30 * 86_400_000)

vi.setConfig({ testTimeout: SLOW_MS })

let posthorn: Deployment
let receiver: Receiver
let client: MongoClient
let agenda: Agenda
const url = databaseUrl(inject('mongoUrl'), `agenda-${randomBytes(6).toString('hex')}`)

interface Row {
  name: string
  becomes: string
  count: number
  note: string
}

beforeAll(async () => {
  posthorn = deploy('sqlite')
  receiver = await startReceiver()
  await posthorn.startApi()
  await posthorn.startWorker()
  await posthorn.endpoint('email', receiver.url)
  await posthorn.endpoint('reports', receiver.url)
  client = await new MongoClient(url).connect()
  agenda = new Agenda({ backend: new MongoBackend({ mongo: client.db() }) })
  for (const name of ['send email', 'report', 'forgotten']) agenda.define(name, async () => {})
  await agenda.ready
  await writeWithAgenda()
  await writeOthers()
}, SLOW_MS)

afterAll(async () => {
  await agenda?.stop()
  await client.db().dropDatabase()
  await client.close()
  await posthorn.close()
  await receiver.close()
})

/** Writes documents with Agenda, as an application does that has ended since. */
async function writeWithAgenda(): Promise<void> {
  await agenda.now('send email', { to: 'a@example.com' })
  await agenda.schedule(FAR, 'send email', { to: 'b@example.com' })
  await agenda
    .create('send email', { to: 'c@example.com' })
    .priority('highest')
    .schedule(FAR)
    .save()
  await agenda.every('3 minutes', 'report', { kind: 'short' })
  const zone = { timezone: 'Europe/Berlin', skipImmediate: true }
  const weekly = agenda.create('report', { kind: 'weekly' })
  await weekly.repeatEvery('0 9 * * 1', zone).save()
  const paused = agenda.create('report', { kind: 'paused' })
  await paused.repeatEvery('0 0 1 * *', zone).disable().save()
  await agenda.now('forgotten', {})
}

/** Writes documents as a running Agenda leaves them, and as other versions wrote them. */
async function writeOthers(): Promise<void> {
  const plain = { name: 'send email', data: {}, type: 'normal', priority: 0 }
  await client
    .db()
    .collection('agendaJobs')
    .insertMany([
      { ...plain, nextRunAt: null, lastFinishedAt: new Date() },
      { ...plain, nextRunAt: null, failedAt: new Date(), failCount: 3, failReason: 'x' },
      { ...plain, nextRunAt: new Date(), lockedAt: new Date() },
      { ...plain, nextRunAt: FAR, disabled: true },
      {
        ...plain,
        ...{ nextRunAt: FAR, lockedAt: null, repeatTimezone: null, lastModifiedBy: 'v4' },
        data: { id: new ObjectId('6b078efd9eae0ed217d8c1a3'), sum: Decimal128.fromString('1.50') },
      },
    ])
}

async function runImport(...words: string[]): Promise<Row[]> {
  const from = words.includes('--from') ? [] : ['--from', url]
  const all = ['import', 'agenda', ...from, '--json', ...words]
  const maps = ['--map', 'send email=email', '--map', 'report=reports']
  const { stdout } = await promisify(execFile)(process.execPath, [cli, ...all, ...maps], {
    env: { ...ENV, POSTHORN_URL: posthorn.url() },
    timeout: SLOW_MS,
  })
  return JSON.parse(stdout).rows
}

const idOf = async (kind: string) =>
  (await client.db().collection('agendaJobs').findOne({ 'data.kind': kind }))?._id.toHexString()

async function all(path: string) {
  return (await posthorn.request('GET', `${path}?limit=100`)).body.items
}

it('a dry run says what would happen, and does nothing', async () => {
  const rows = await runImport('--dry-run')
  expect(rows).toContainEqual({
    ...{ name: 'send email', becomes: 'job of email', count: 4 },
    note: 'would be added',
  })
  expect(await all('/jobs')).toEqual([])
  expect(await all('/schedules')).toEqual([])
})

it('waiting jobs become jobs, repeating ones schedules, and the rest is left with a reason', async () => {
  const before = await client.db().collection('agendaJobs').find().toArray()
  const rows = await runImport()
  expect(rows).toEqual(
    expect.arrayContaining([
      { name: 'send email', becomes: 'job of email', count: 4, note: 'added' },
      expect.objectContaining({ becomes: `schedule report-${await idOf('short')}`, count: 1 }),
      expect.objectContaining({ note: 'added: 0 9 * * 1, Europe/Berlin' }),
      expect.objectContaining({ note: 'added: 0 0 1 * *, Europe/Berlin, paused' }),
      expect.objectContaining({ name: 'forgotten', becomes: 'skipped', count: 1 }),
      expect.objectContaining({ note: expect.stringMatching(/^running now/), count: 1 }),
      expect.objectContaining({ note: expect.stringMatching(/^disabled/), count: 1 }),
      { name: '(all)', becomes: 'skipped', count: 2, note: 'neither due nor repeating' },
    ]),
  )
  expect(rows).toHaveLength(8)
  // The import changes nothing in the collection of Agenda.
  expect(await client.db().collection('agendaJobs').find().toArray()).toEqual(before)
  await receiver.waitFor(
    (requests) => requests.some(({ body }) => String(body) === '{"to":"a@example.com"}'),
    SLOW_MS,
  )
  const waiting = (await posthorn.request('GET', '/jobs?endpoint=email&state=queued')).body.items
  expect(
    waiting.map(({ runAt, priority }: Row & { runAt: string; priority: number }) => [
      runAt,
      priority,
    ]),
  ).toEqual(
    expect.arrayContaining([
      [FAR.toISOString(), 5],
      [FAR.toISOString(), 9],
    ]),
  )
  const payloads = await Promise.all(
    waiting.map(
      async ({ id }: { id: string }) => (await posthorn.request('GET', `/jobs/${id}`)).body.payload,
    ),
  )
  expect(payloads).toContainEqual({ id: '6b078efd9eae0ed217d8c1a3', sum: '1.50' })
})

it('a schedule ticks as it did in Agenda', async () => {
  const schedule = async (kind: string) =>
    (await posthorn.request('GET', `/schedules/report-${await idOf(kind)}`)).body
  expect(await schedule('short')).toMatchObject({
    ...{ every: '3m', endpoint: 'reports', payload: { kind: 'short' }, paused: false },
  })
  const weekly = await schedule('weekly')
  expect(weekly).toMatchObject({ cron: '0 9 * * 1', timezone: 'Europe/Berlin' })
  const stored = await client.db().collection('agendaJobs').findOne({ 'data.kind': 'weekly' })
  expect(weekly.nextRunAt).toBe(stored?.nextRunAt.toISOString())
  expect(await schedule('paused')).toMatchObject({ paused: true, nextRunAt: null })
})

it('a second run adds nothing', async () => {
  const before = { jobs: (await all('/jobs')).length, schedules: await all('/schedules') }
  // A job whose next run Agenda has moved since then is the same job.
  await client
    .db()
    .collection('agendaJobs')
    .updateOne({ 'data.to': 'b@example.com' }, { $set: { nextRunAt: new Date() } })
  const rows = await runImport()
  expect(rows).toContainEqual({
    ...{ name: 'send email', becomes: 'job of email', count: 4, note: 'already imported' },
  })
  expect(rows.filter(({ note }) => note.startsWith('added'))).toEqual([])
  const jobsOf = (await posthorn.request('GET', '/jobs?endpoint=email&limit=100')).body.items
  expect(jobsOf).toHaveLength(4)
  expect((await all('/schedules')).length).toBe(before.schedules.length)
})

it('its example in the help, and the lines of the guide, work as they are printed', async () => {
  const guide = readFileSync(join(ROOT, 'docs/moving/from-agenda.md'), 'utf8')
  const printed = [...guide.matchAll(/^\$ (posthorn import .*)$/gm)].map(
    ([, line]) => line as string,
  )
  const { command } = await import('../../cli/commands/import.ts')
  const examples = 'verbs' in command ? Object.values(command.verbs) : []
  const lines = [...printed, ...examples.flatMap((verb) => verb.examples)]
  expect(lines).toHaveLength(3)
  const head = `posthorn() { ${process.execPath} ${cli} "$@"; }\n`
  const env = { ...ENV, POSTHORN_URL: posthorn.url() }
  for (const line of lines) {
    const script = head + line.replace('mongodb://localhost:27017/agenda', url)
    const { stdout } = await promisify(execFile)('bash', ['-ec', script], { env, timeout: SLOW_MS })
    expect(stdout).toMatch(/send email +job of email +4 /)
  }
})

it.each([
  [['--map', 'other=nowhere'], 1, /There is no endpoint "nowhere"/],
  [['--map', 'report=email'], 2, /--map names "report" twice/],
  [['--map', 'send email'], 2, /--map is "send email"; expected NAME=ENDPOINT/],
  [['--from', 'http://x/y'], 2, /--from needs a MongoDB URL/],
  [['--collection', 'posthorn_jobs'], 2, /--collection is "posthorn_jobs", which holds data of P/],
  [['--from', 'mongodb://127.0.0.1:1/agenda'], 3, /The MongoDB of --from failed/],
])('a wrong word ends with a sentence: %j', async (words, code, sentence) => {
  await expect(runImport(...words)).rejects.toMatchObject({
    code,
    stderr: expect.stringMatching(sentence),
  })
})
