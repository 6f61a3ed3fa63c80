// How long each page takes until its data is there, with a thousand jobs and with a million.
// Takes minutes and a gigabyte of disk: node test/dashboard/page-load-bench.ts [jobs]
import { randomBytes } from 'node:crypto'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import type { Browser } from 'playwright-core'
import { addEndpoints, enqueueFor, keepFinal } from '../../bench/store-load.ts'
import { openStore } from '../../src/store/open-store.ts'
import { findChromium, startChromium } from '../support/chromium.ts'
import { runPosthorn } from '../support/process.ts'

const FEW = 1_000
const MANY = Number(process.argv[2] ?? 1_000_000)
const ENDPOINTS = 10
/** The share of all jobs that wait, and the share of final jobs that are dead. */
const QUEUED_SHARE = 0.1
const DEAD_EVERY = 50
const LOADS = 5
const DEADLINE_MS = 60_000
const DAY_MS = 86_400_000

interface Filled {
  /** The response time of the API, which has nothing else to do. */
  url: string
  /** A job that is dead. */
  id: string
  close(): Promise<void>
}

const ROWS = 'table.jobs tbody tr'
const PAGES: { name: string; place: (store: Filled) => string; ready: string }[] = [
  {
    name: 'overview, with the last hour',
    place: () => '/',
    ready: 'table.endpoints svg.spark',
  },
  { name: 'jobs', place: () => '/jobs', ready: ROWS },
  { name: 'jobs that are queued', place: () => '/jobs?state=queued', ready: ROWS },
  { name: 'jobs that are dead', place: () => '/jobs?state=dead', ready: ROWS },
  { name: 'jobs of one endpoint', place: () => '/jobs?endpoint=endpoint-0', ready: ROWS },
  { name: 'jobs with a tag that none has', place: () => '/jobs?tag=none', ready: '.empty' },
  { name: 'job', place: ({ id }) => `/jobs/${id}`, ready: 'pre.foreign' },
  { name: 'endpoint', place: () => '/endpoints/endpoint-0', ready: ROWS },
  { name: 'schedules', place: () => '/schedules', ready: '.empty' },
]

const executable = findChromium()
if (executable === null) process.exit(1)
const stores: Filled[] = []
const browser = await startChromium(executable)
try {
  for (const count of [FEW, MANY]) stores.push(await startOn(count))
  console.log(`| page | ${FEW.toLocaleString('en')} jobs | ${MANY.toLocaleString('en')} jobs |`)
  console.log('| --- | ---: | ---: |')
  const [few, many] = stores as [Filled, Filled]
  for (const { name, place, ready } of PAGES) {
    const times: [number[], number[]] = [[], []]
    // The pages are loaded in turn, so that other load of the machine affects both.
    for (let i = 0; i < LOADS; i++) {
      times[0].push(await load(browser, `${few.url}/dashboard#${place(few)}`, ready))
      times[1].push(await load(browser, `${many.url}/dashboard#${place(many)}`, ready))
    }
    console.log(`| ${[name, ...times.map((some) => `${median(some)} ms`)].join(' | ')} |`)
  }
} finally {
  await browser.close()
  for (const store of stores) await store.close()
}

function median(times: number[]): number {
  return Math.round(times.sort((a, b) => a - b)[Math.floor(LOADS / 2)] as number)
}

async function startOn(count: number): Promise<Filled> {
  const folder = mkdtempSync(join(tmpdir(), 'posthorn-million-'))
  const storeUrl = `sqlite:${folder}/posthorn.db`
  const key = randomBytes(32)
  await fill(storeUrl, key, count)
  const env = { STORE_URL: storeUrl, ENCRYPTION_KEY: key.toString('base64'), PORT: '0' }
  const api = runPosthorn(['api'], env)
  const url = (await api.logged('api.listening')).url as string
  const answer = await fetch(`${url}/jobs?state=dead&limit=1`)
  const list = (await answer.json()) as { items: { id: string }[] }
  return {
    url,
    id: list.items[0]?.id ?? '',
    async close() {
      await api.stop('SIGKILL')
      rmSync(folder, { recursive: true })
    },
  }
}

/** The time from the navigation until the expected content is on the page. */
async function load(browser: Browser, url: string, ready: string): Promise<number> {
  const context = await browser.newContext()
  try {
    const page = await context.newPage()
    const startedAt = performance.now()
    await page.goto(url)
    await page.locator(ready).first().waitFor({ timeout: DEADLINE_MS })
    return performance.now() - startedAt
  } finally {
    await context.close()
  }
}

async function fill(url: string, key: Buffer, count: number): Promise<void> {
  const store = await openStore(url, {
    retentionMs: 7 * DAY_MS,
    retentionDeadMs: 30 * DAY_MS,
    encryptionKeys: [key],
    warn: () => {},
  })
  try {
    const queued = count * QUEUED_SHARE
    await keepFinal(store, url, count - queued)
    await enqueueFor(store, await addEndpoints(store, ENDPOINTS), queued)
  } finally {
    await store.close()
  }
  const db = new DatabaseSync(url.slice('sqlite:'.length))
  try {
    db.prepare(
      `update jobs set state = 'dead', unsuccessful = 'dead', failure_reason = 'rejected',
        failure_message = 'it said no'
      where state = 'succeeded' and seq % ? = 0`,
    ).run(DEAD_EVERY)
  } finally {
    db.close()
  }
}
