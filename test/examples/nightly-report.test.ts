// The example of the nightly report: ticks at two o'clock in a time zone, and reports of the day
// before.
import { execFile } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { type Deployment, deploy } from '../support/deployment.ts'
import { blocksOf, type Program, ROOT, startProgram } from './program.ts'

const [start, runNow] = blocksOf('nightly-report/README.md') as [string, string]
const SLOW_MS = 120_000
const DAY_MS = 86_400_000
/** The difference of Asia/Kolkata from UTC, in winter and in summer. */
const AHEAD_MS = 5.5 * 3_600_000

let posthorn: Deployment
let program: Program
let folder: string
beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'posthorn-report-'))
  posthorn = deploy('sqlite')
  await posthorn.startApi()
  await posthorn.startWorker()
  program = await startReports()
}, SLOW_MS)
afterAll(async () => {
  await program?.stop()
  await posthorn?.close()
  rmSync(folder, { recursive: true, force: true })
})

const startReports = () => startProgram(start, { POSTHORN_URL: posthorn.url(), DATA_DIR: folder })
const yesterday = () => new Date(Date.now() + AHEAD_MS - DAY_MS).toISOString().slice(0, 10)

it('the next five runs are at two at night by the clocks of the time zone', async () => {
  const { body } = await posthorn.request('GET', '/schedules/nightly-report')
  expect(body).toMatchObject({ cron: '0 2 * * *', timezone: 'Asia/Kolkata', paused: false })
  const ticks: number[] = body.nextRuns.map((at: string) => Date.parse(at))
  expect(ticks).toHaveLength(5)
  for (const at of ticks) expect(new Date(at).toISOString()).toMatch(/T20:30:00\.000Z$/)
  expect(ticks).toEqual(ticks.map((_, n) => (ticks[0] as number) + n * DAY_MS))
  expect((ticks[0] as number) - Date.now()).toBeLessThanOrEqual(DAY_MS)
  expect(program.printed()).toContain(`next runs: ${body.nextRuns.join(', ')}`)
})

it('run now, as the page says, is a report of yesterday', async () => {
  const before = yesterday()
  const script = runNow.replaceAll('localhost:8080', posthorn.url())
  const { stdout } = await promisify(execFile)('bash', ['-ec', script], { cwd: ROOT })
  const [job, schedule] = stdout
    .trim()
    .split('\n')
    .map((text) => JSON.parse(text))
  expect(job, program.printed()).toMatchObject({
    state: 'succeeded',
    scheduleName: 'nightly-report',
    // There is one order every three hours.
    result: { orders: 8 },
  })
  expect([before, yesterday()]).toContain(job.result.day)
  expect(schedule.nextRunAt).toMatch(/T20:30:00\.000Z$/)

  const [heading, ...lines] = readFileSync(job.result.file, 'utf8').trim().split('\n')
  expect(heading).toBe('order,createdAt,cents')
  const rows = lines.map((line) => line.split(','))
  const days = rows.map(([, at]) => new Date(Date.parse(at as string) + AHEAD_MS).toISOString())
  expect(new Set(days.map((at) => at.slice(0, 10)))).toEqual(new Set([job.result.day]))
  const cents = rows.reduce((sum, row) => sum + Number(row[2]), 0)
  expect(cents).toBe(job.result.totalCents)
})

it(
  'a start again leaves the next run where it was',
  async () => {
    const { body: before } = await posthorn.request('GET', '/schedules/nightly-report')
    await program.stop()
    program = await startReports()
    const { body: after } = await posthorn.request('GET', '/schedules/nightly-report')
    // The next run differs if it became two o'clock meanwhile.
    const isPast = Date.parse(before.nextRunAt) <= Date.now()
    expect(after.nextRunAt).toBe(before.nextRuns[isPast ? 1 : 0])
  },
  SLOW_MS,
)
