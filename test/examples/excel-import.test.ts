// The example of the Excel import: whatever happens to its process, each row is in the table once.
import { execFile } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { promisify } from 'node:util'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { newSecret, signedHeaders } from '../client/signed.ts'
import { type Deployment, deploy } from '../support/deployment.ts'
import { until } from '../support/until.ts'
import { INSTALLED_WITHIN_MS, installExamples } from './installed.ts'
import { blocksOf, type Program, ROOT, startProgram } from './program.ts'

const MANY = 50_000
/** The number of rows in tests where the number does not matter. */
const FEWER = 10_000
const SLOW_MS = 90_000
const SECRET = newSecret()
const [, makeWorkbook, start, post] = blocksOf('excel-import/README.md') as string[]

let posthorn: Deployment
const folders: string[] = []
const programs: Program[] = []
const databases: DatabaseSync[] = []
beforeAll(async () => {
  await installExamples()
  // The deadline of a handler is never shorter than the lease of the worker before it.
  posthorn = deploy('sqlite', { LEASE_DURATION: '3s', SWEEP_INTERVAL: '100ms' })
  await posthorn.startApi()
  await posthorn.startWorker()
}, INSTALLED_WITHIN_MS)
afterEach(async () => {
  await Promise.all(programs.splice(0).map((program) => program.stop()))
  for (const db of databases.splice(0)) db.close()
})
afterAll(async () => {
  await posthorn?.close()
  for (const folder of folders) rmSync(folder, { recursive: true, force: true })
})

/** A folder with a workbook that has this many rows. */
async function folderWithWorkbook(rows: number): Promise<string> {
  const folder = mkdtempSync(join(tmpdir(), 'posthorn-excel-'))
  folders.push(folder)
  await bash(makeWorkbook as string, { DATA_DIR: folder, ROWS: String(rows) })
  return folder
}

/**
 * Starts an importer that rests between its transactions, so that a test can stop it in the middle.
 */
async function startImporter(folder: string, pauseMs: number): Promise<Program> {
  const program = await startProgram(start as string, {
    POSTHORN_URL: posthorn.url(),
    POSTHORN_SECRET: SECRET,
    DATA_DIR: folder,
    // A process that is killed leaves the sheets that it had unpacked.
    TMPDIR: folder,
    COMPLETION_TIMEOUT: '4s',
    RETRY_DELAY: '50ms',
    PAUSE_MS: String(pauseMs),
  })
  programs.push(program)
  return program
}

function databaseOf(folder: string): DatabaseSync {
  const db = new DatabaseSync(join(folder, 'items.db'))
  databases.push(db)
  return db
}

async function bash(block: string, more: Record<string, string> = {}): Promise<string> {
  const { PATH, HOME } = process.env
  const env = { PATH, HOME, ...more } as NodeJS.ProcessEnv
  const settings = { cwd: ROOT, timeout: 80_000, env }
  return (await promisify(execFile)('bash', ['-ec', block], settings)).stdout
}

/** Returns the only job that is not final, once it has made progress. */
async function jobInTheMiddle(): Promise<string> {
  let id = ''
  await until(async () => {
    const { body } = await posthorn.request('GET', '/jobs?state=running')
    id = body.items[0]?.id
    return id !== undefined && body.items[0].progress !== null
  }, 30_000)
  return id
}

/**
 * Returns the job once it is final. A deadline must pass first, and then the importer has much to
 * read.
 */
async function finished(id: string) {
  await until(async () => {
    const { body } = await posthorn.request('GET', `/jobs/${id}`)
    return body.state !== 'queued' && body.state !== 'running'
  }, 60_000)
  return (await posthorn.request('GET', `/jobs/${id}`)).body
}

const rowsByFence = (db: DatabaseSync, jobId: string) =>
  db
    .prepare('select fence, count(*) as rows from items where job_id = ? group by fence')
    .all(jobId) as { fence: number; rows: number }[]

/** Each row of the workbook is in the table. The key of the table prevents duplicates. */
function expectAllRows(db: DatabaseSync, jobId: string, rows: number): void {
  const all = 'select count(*) as n, min(row) as first, max(row) as last, sum(price_cents) as cents'
  expect(db.prepare(`${all} from items where job_id = ?`).get(jobId)).toEqual({
    n: rows,
    first: 2,
    last: rows + 1,
    cents: (3 * rows * (rows + 1)) / 2,
  })
}

describe('an import', () => {
  it(
    'of 50,000 rows, as the page posts it, goes on where its process was killed',
    async () => {
      const folder = await folderWithWorkbook(MANY)
      const victim = await startImporter(folder, 200)
      const printed = bash((post as string).replaceAll('localhost:8080', posthorn.url()))
      const id = await jobInTheMiddle()
      await victim.stop('SIGKILL')
      const db = databaseOf(folder)
      const before = rowsByFence(db, id)
      expect(before).toEqual([{ fence: 1, rows: expect.any(Number) }])
      expect(before[0]?.rows).toBeLessThan(MANY)

      const next = await startImporter(folder, 0)
      const job = JSON.parse(await printed)
      expect(job, next.printed()).toMatchObject({ id, state: 'succeeded', result: { rows: MANY } })
      expect(job.attempts[0].outcome).toBe('timeout')
      expectAllRows(db, id, MANY)
      // The rows of the first attempt were kept, not written again.
      expect(rowsByFence(db, id)[0]).toEqual(before[0])

      const late = (fence: number) => {
        const body = JSON.stringify(job.payload)
        const headers = signedHeaders(SECRET, body, { id })
        Object.assign(headers, { 'posthorn-fence': String(fence) })
        return fetch(next.url, { method: 'POST', headers, body })
      }
      expect((await late(1)).status).toBe(409)
      const repeated = await late(job.fence)
      expect([repeated.status, await repeated.json()]).toEqual([200, { rows: MANY }])
      expectAllRows(db, id, MANY)
    },
    SLOW_MS,
  )

  it(
    'takes no row from a process that was frozen while another took over',
    async () => {
      const folder = await folderWithWorkbook(FEWER)
      const frozen = await startImporter(folder, 500)
      const payload = { file: 'items.xlsx', rows: FEWER }
      await posthorn.request('POST', '/jobs', { endpoint: 'excel-import', payload })
      const id = await jobInTheMiddle()
      const db = databaseOf(folder)
      await freezeOutsideOfWrites(frozen, db)
      const other = await startImporter(folder, 0)
      const job = await finished(id)
      expect(job, other.printed()).toMatchObject({ state: 'succeeded', result: { rows: FEWER } })
      const rows = rowsByFence(db, id)
      expect(rows[0]?.fence).toBe(1)
      expect(rows.length).toBeGreaterThan(1)

      frozen.signal('SIGCONT')
      // The database refuses the write, or Posthorn does, if the process was frozen while it waited
      // for a response.
      const refused = /attempt 1: .*(a newer attempt|lease_lost)/
      await until(() => refused.test(frozen.printed()), 40_000)
      expect(rowsByFence(db, id)).toEqual(rows)
      expectAllRows(db, id, FEWER)
      expect(await finished(id)).toMatchObject({ state: 'succeeded', fence: job.fence })
    },
    SLOW_MS,
  )
})

/**
 * Freezes the process. If it were frozen within a transaction, it would keep the lock of the
 * database, and the test would block.
 */
async function freezeOutsideOfWrites(program: Program, db: DatabaseSync): Promise<void> {
  await until(() => {
    program.signal('SIGSTOP')
    try {
      db.exec('begin immediate; rollback')
      return true
    } catch {
      program.signal('SIGCONT')
      return false
    }
  })
}
