// The tab of the fair keys is as fast with 10,000 keys as with 10: it sends one request for a page,
// and SQLite takes as many steps for the response. Both are counted. How many index entries MongoDB
// reads for a page: test/store/mongo-fairness-keys.test.ts.
import { execFileSync, spawnSync } from 'node:child_process'
import { StatementSync } from 'node:sqlite'
import { afterEach, describe, expect, it, vi } from 'vitest'
import type { SendRequest } from '../support/request.ts'
import { useServedApp } from '../support/served-app.ts'
import { CHROMIUM, useFixture } from './fixture.ts'

const FEW = 10
const MANY = 10_000
const BATCH = 1_000
/** Rows of a page of the tab. */
const PAGE = 50
const HAS_PYTHON = spawnSync('python3', ['--version']).status === 0
/**
 * Prints how many steps of the virtual machine of SQLite some statements take. Node.js cannot count
 * them: https://docs.python.org/3/library/sqlite3.html#sqlite3.Connection.set_progress_handler
 */
const COUNT_STEPS = `
import itertools, json, sqlite3, sys
steps = itertools.count()
db = sqlite3.connect('file:' + sys.argv[1] + '?mode=ro', uri=True)
db.set_progress_handler(lambda: next(steps) < 0, 1)
for sql, values in json.load(sys.stdin):
    db.execute(sql, values).fetchall()
print(next(steps))
`

async function addKeys(request: SendRequest, endpoint: string, count: number): Promise<void> {
  await request('PUT', `/endpoints/${endpoint}`, { url: null })
  for (let from = 0; from < count; from += BATCH) {
    const jobs = Array.from({ length: Math.min(BATCH, count - from) }, (_, i) => ({
      ...{ endpoint, payload: 1, fairnessKey: `tenant ${String(from + i).padStart(5, '0')}` },
    }))
    expect((await request('POST', '/jobs/batch', { jobs })).status).toBe(200)
  }
}

describe.skipIf(CHROMIUM === null)('the tab of the fair keys', () => {
  const fixture = useFixture({}, false)

  it.each([FEW, MANY])('sends one request for a page, with %i keys', async (count) => {
    const { posthorn, open } = fixture
    const path = `/endpoints/with-${count}/keys`
    await addKeys(posthorn.request, `with-${count}`, count)
    const page = await open(`/endpoints/with-${count}`)
    const rows = Math.min(count, PAGE)
    const link = page.getByRole('link', { name: 'Fair keys' })
    await link.waitFor()
    const asked: string[] = []
    page.on('request', (request) => void asked.push(new URL(request.url()).pathname))
    const response = page.waitForResponse((one) => one.url().includes(path))
    await link.click()
    expect((await (await response).json()).items).toHaveLength(rows)
    await page.getByRole('row', { name: /tenant 00009/ }).waitFor()
    expect(await page.getByRole('row').count()).toBe(rows + 1)
    const ofApi = asked.filter((one) => !one.startsWith('/dashboard'))
    // The page repeats its request every three seconds.
    expect(new Set(ofApi)).toEqual(new Set([path]))
  })
})

describe.skipIf(!HAS_PYTHON)('GET /endpoints/:name/keys on SQLite', () => {
  const served = useServedApp()
  afterEach(() => vi.restoreAllMocks())

  it('takes as many steps with 10,000 keys as with 10', async () => {
    const steps: number[] = []
    for (const count of [FEW, MANY]) {
      await addKeys(served.request, `with-${count}`, count)
      steps.push(await stepsOf(`/endpoints/with-${count}/keys?limit=${FEW}`))
    }
    const [ofFew = 0, ofMany = 0] = steps
    expect(ofFew).toBeGreaterThan(FEW * 10)
    expect(ofMany).toBeLessThanOrEqual(ofFew * 1.02)
  })

  /** Repeats the reads of a request and counts their steps. */
  async function stepsOf(path: string): Promise<number> {
    const reads: [sql: string, values: unknown][] = []
    for (const method of ['get', 'all'] as const) {
      const original = StatementSync.prototype[method] as (...values: unknown[]) => unknown
      vi.spyOn(StatementSync.prototype, method).mockImplementation(function (
        this: StatementSync,
        ...values: unknown[]
      ) {
        if (/^\s*(select|with)\b/.test(this.sourceSQL)) {
          reads.push([this.sourceSQL, typeof values[0] === 'object' ? values[0] : values])
        }
        return original.apply(this, values)
      } as never)
    }
    const { status, body } = await served.request('GET', path)
    vi.restoreAllMocks()
    expect([status, body.items.length]).toEqual([200, FEW])
    const input = JSON.stringify(reads)
    return Number(execFileSync('python3', ['-c', COUNT_STEPS, served.filePath], { input }))
  }
})
