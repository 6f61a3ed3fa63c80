// The example of the fair customers: beside a flood, the others wait less with fairness keys, and
// the chart shows each of their jobs.
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { type Deployment, deploy } from '../support/deployment.ts'
import { until } from '../support/until.ts'
import { blocksOf, type Program, startProgram } from './program.ts'

const [start] = blocksOf('fair-customers/README.md') as [string]
/** The flood takes more than a second, and the others come in its first half. */
const LOAD = { FLOOD_JOBS: '600', WORK_MS: '20', SECONDS: '0.5' }
const QUIET_JOBS = 6
const SLOW_MS = 60_000

let posthorn: Deployment
let program: Program | undefined
let folder: string
beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'posthorn-fair-'))
  posthorn = deploy('sqlite')
  await posthorn.startApi()
  await posthorn.startWorker()
}, SLOW_MS)
afterAll(async () => {
  await program?.stop()
  await posthorn?.close()
  rmSync(folder, { recursive: true, force: true })
})

it(
  'beside a flood, the other customers wait less with fairness keys, and the chart has their jobs',
  async () => {
    const path = join(folder, 'waits.svg')
    program = await startProgram(start, { POSTHORN_URL: posthorn.url(), CHART: path, ...LOAD })
    const printed = program.printed
    await until(() => printed().trim().endsWith(path), SLOW_MS)

    const line = new RegExp(
      `fairness keys: of ${QUIET_JOBS} jobs half waited at most (\\S+) s`,
      'g',
    )
    const [without, withKeys] = [...printed().matchAll(line)].map(([, seconds]) => Number(seconds))
    expect(withKeys, printed()).toBeLessThan(without as number)
    const chart = readFileSync(path, 'utf8')
    expect(chart.match(/<circle class="without"/g)).toHaveLength(QUIET_JOBS)
    expect(chart.match(/<circle class="with"/g)).toHaveLength(QUIET_JOBS)
  },
  SLOW_MS,
)
