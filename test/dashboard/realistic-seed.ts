// A realistic deployment: endpoints that work, rest, are paused and fail, with statistics of an
// hour. SQL writes that hour into the file, because a test cannot wait that long.
import { randomBytes } from 'node:crypto'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { newJobId } from '../../src/job/job-id.ts'
import { type Process, runPosthorn } from '../support/process.ts'
import { type ReceivedRequest, type Receiver, startReceiver } from '../support/receiver.ts'
import { until } from '../support/until.ts'

const MINUTE_MS = 60_000
const DEADLINE_MS = 60_000

export interface SeededDeployment {
  url: string
  ids: { dead: string; running: string; retrying: string; succeeded: string; group: string }
  close(): Promise<void>
}

const STACK = [
  '{"error":"template_failed","detail":"font \\"Noto Serif\\" is not installed",',
  '"trace":["at loadFont (/srv/pdf/fonts.js:41:11)","at layout (/srv/pdf/layout.js:212:7)",',
  '"at renderInvoice (/srv/pdf/invoice.js:88:20)","at async handle (/srv/pdf/server.js:31:16)"]}',
].join('')

type Ask = (method: string, path: string, body?: object, headers?: object) => Promise<Json>
// biome-ignore lint/suspicious/noExplicitAny: a response read as JSON
type Json = any

export async function startRealisticDeployment(): Promise<SeededDeployment> {
  const folder = mkdtempSync(join(tmpdir(), 'posthorn-pictures-'))
  const file = join(folder, 'posthorn.db')
  const env = {
    STORE_URL: `sqlite:${file}`,
    ENCRYPTION_KEY: randomBytes(32).toString('base64'),
    PORT: '0',
    WORKER_ID: 'worker-7c9f-1',
  }
  const processes: Process[] = []
  const receiver = await startReceiver(answer)
  const close = async () => {
    await Promise.all(processes.map((one) => one.stop('SIGKILL')))
    await receiver.close()
    rmSync(folder, { recursive: true })
  }
  try {
    const api = runPosthorn(['api'], env)
    processes.push(api)
    const url = (await api.logged('api.listening')).url as string
    const ask: Ask = async (method, path, body, headers = {}) => {
      const json = body === undefined ? {} : { 'content-type': 'application/json' }
      const sent = body === undefined ? {} : { body: JSON.stringify(body) }
      const reply = await fetch(url + path, { method, headers: { ...json, ...headers }, ...sent })
      const found = await reply.json()
      if (!reply.ok) throw new Error(`${method} ${path}: ${JSON.stringify(found)}`)
      return found
    }
    await register(ask, receiver.url)
    const worker = runPosthorn(['worker'], env)
    processes.push(worker)
    await worker.logged('worker.started')
    const ids = await live(ask, receiver)
    writeHour(file)
    return { url, ids, close }
  } catch (error) {
    await close()
    throw error
  }
}

function answer({ path, headers, body }: ReceivedRequest) {
  switch (path) {
    case '/invoice-pdf':
      return { body: '{"pages":3,"file":"invoices/2026/11/48113.pdf"}', delayMs: 40 }
    case '/broken-template':
      return { status: 500, body: STACK, delayMs: 120 }
    case '/e-invoice':
      return { status: 202, body: '' }
    case '/mail':
      return { status: 502, body: '<html><body><h1>502 Bad Gateway</h1></body></html>' }
    case '/rows': {
      const { row } = JSON.parse(body.toString())
      return row % 37 === 5
        ? { status: 422, body: `line ${row}: "amount" is not a number`, delayMs: 20 }
        : { status: 200, body: '', delayMs: 60 }
    }
    case '/crm':
      return Number(headers['posthorn-attempt']) < 3 ? { status: 503, body: 'busy' } : 200
    default:
      return 200
  }
}

async function register(ask: Ask, base: string): Promise<void> {
  const put = (name: string, path: string, more: object = {}) =>
    ask('PUT', `/endpoints/${name}`, { url: base + path, ...more })
  const quick = (...delays: string[]) => ({
    maxAttempts: delays.length + 1,
    backoff: { type: 'schedule', delays, jitter: 0 },
  })
  await put('invoice-pdf', '/invoice-pdf', {
    description: 'Renders the PDF of an invoice; billing team',
    concurrency: 20,
    rateLimit: { count: 600, per: '1m' },
    headers: { 'x-tenant': 'acme-production' },
  })
  await put('invoice-archive', '/broken-template', { retry: quick('500ms', '1s', '2s') })
  await put('e-invoice', '/e-invoice', { completion: 'async', completionTimeout: '1h' })
  await put('send-email', '/mail', {
    retry: quick('10m', '30m', '1h'),
    circuitBreaker: { failures: 20, cooldown: '15m' },
  })
  await put('accounting-sync', '/ok')
  await put('import-rows', '/rows', { concurrency: 2 })
  await put('crm-contacts', '/crm', { retry: quick('5s', '2m', '1h') })
  await ask('PUT', '/endpoints/video-frames', { url: null, description: 'Pulled by the GPU hosts' })
  await ask('POST', '/endpoints/accounting-sync/pause')
  await ask('PUT', '/schedules/nightly-report', {
    cron: '30 1 * * *',
    timezone: 'Asia/Kolkata',
    endpoint: 'invoice-pdf',
    payload: { report: 'sales', of: 'yesterday' },
    overlap: 'skip',
  })
  await ask('PUT', '/schedules/contact-sync', {
    every: '15m',
    endpoint: 'invoice-pdf',
    payload: { full: false },
  })
  await ask('PUT', '/schedules/month-end', {
    cron: '0 6 1 * *',
    timezone: 'America/New_York',
    endpoint: 'accounting-sync',
    payload: { close: true },
    paused: true,
  })
}

async function live(ask: Ask, receiver: Receiver): Promise<SeededDeployment['ids']> {
  const enqueue = async (endpoint: string, payload: object, more: object = {}) =>
    (await ask('POST', '/jobs', { endpoint, payload, ...more })).id as string
  const order = { invoice: 48_113, customer: 'Hôtel du Lac', total: '1204.50', currency: 'EUR' }
  const dead = await enqueue(
    'invoice-archive',
    {
      ...order,
      lines: [
        { sku: 'A-100', count: 2 },
        { sku: 'B-7', count: 1 },
      ],
    },
    { tags: ['billing', 'november'], metadata: { requestedBy: 'checkout' } },
  )
  const running = await enqueue('e-invoice', order, { tags: ['billing'] })
  const retrying = await enqueue('crm-contacts', { contact: 9_120, change: 'address' })
  const some: string[] = []
  for (let i = 0; i < 34; i++)
    some.push(await enqueue('invoice-pdf', { ...order, invoice: 48_000 + i }))
  for (let i = 0; i < 24; i++) await enqueue('send-email', { to: `customer-${i}@example.com` })
  for (let i = 0; i < 6; i++) await enqueue('accounting-sync', { entry: 7_000 + i })
  for (let i = 0; i < 3; i++) await enqueue('video-frames', { video: i })
  for (const name of ['nightly-report', 'contact-sync']) await ask('POST', `/schedules/${name}/run`)

  const job = (id: string) => ask('GET', `/jobs/${id}`)
  await until(async () => (await job(running)).phase === 'awaiting_completion', DEADLINE_MS)
  const request = receiver.requests.find(({ path }) => path === '/e-invoice')
  const heartbeat = new URL(request?.headers['posthorn-heartbeat-url'] as string)
  await ask('POST', heartbeat.pathname + heartbeat.search, {
    progress: 62,
    message: 'waiting for the tax office',
  })
  await until(async () => (await job(dead)).state === 'dead', DEADLINE_MS)
  await until(async () => (await job(retrying)).attempts.length === 2, DEADLINE_MS)
  const resting = async () => (await ask('GET', '/endpoints/send-email')).state === 'resting'
  await until(resting, DEADLINE_MS)
  const succeeded = some[7] as string
  await until(async () => (await job(succeeded)).state === 'succeeded', DEADLINE_MS)
  const group = await startImport(ask)
  return { dead, running, retrying, succeeded, group }
}

/** A group of which a third is done. */
async function startImport(ask: Ask): Promise<string> {
  const { id } = await ask('POST', '/groups', {
    name: 'price list, November',
    metadata: { file: 'prices-2026-11.xlsx', customer: 'acme' },
    onFinish: [{ endpoint: 'send-email', when: 'all_final' }],
  })
  const jobs = Array.from({ length: 900 }, (_, row) => ({
    ...{ endpoint: 'import-rows', payload: { row }, group: id },
  }))
  await ask('POST', '/jobs/batch', { jobs })
  await ask('POST', `/groups/${id}/close`)
  await until(async () => (await ask('GET', `/groups/${id}`)).progress >= 33, DEADLINE_MS)
  return id
}

/** Writes what the workers of an hour would have written, and jobs that have waited since then. */
function writeHour(file: string): void {
  const db = new DatabaseSync(file)
  try {
    db.exec('pragma busy_timeout = 5000')
    const add = db.prepare(
      `insert into minute_stats (minute, endpoint, succeeded, failed, durations)
      values (?, ?, ?, ?, ?) on conflict do nothing`,
    )
    const newest = Math.floor(Date.now() / MINUTE_MS) * MINUTE_MS
    for (let ago = 1; ago < 60; ago++) {
      const minute = newest - ago * MINUTE_MS
      const wave = Math.round(14 + 9 * Math.sin(ago / 6) + ((ago * 7) % 5))
      const spread = [0, 2, wave, 9, 4, 2, 1, 0, 0, 0, 0, 0]
      add.run(minute, 'invoice-pdf', wave + 16, ago % 13 === 0 ? 2 : 0, JSON.stringify(spread))
      add.run(minute, 'crm-contacts', 3 + (ago % 4), ago % 5, JSON.stringify(spread))
      add.run(minute, 'e-invoice', ago % 3, 0, '[0,0,0,0,1,3,5,9,4,1,0,0]')
      if (ago > 14) add.run(minute, 'send-email', 6 + (ago % 5), 0, '[0,0,1,4,9,3,0,0,0,0,0,0]')
      else add.run(minute, 'send-email', 0, 5 + (ago % 4), '[0,6,3,0,0,0,0,0,0,0,0,0]')
    }
    const due = db.prepare(
      `select id, created_at from jobs where endpoint = ? and state = 'queued' and run_at <= ?`,
    )
    const earlier = db.prepare(
      `update jobs set id = :newId, run_at = run_at - :ms, first_run_at = first_run_at - :ms,
      created_at = created_at - :ms where id = :id`,
    )
    for (const [endpoint, minutes] of [
      ['send-email', 14],
      ['accounting-sync', 47],
    ] as const) {
      const ms = minutes * MINUTE_MS
      for (const { id, created_at } of due.all(endpoint, Date.now())) {
        // A list finds a job by the time at the beginning of its id.
        const newId = newJobId((created_at as number) - ms)
        earlier.run({ newId, id: id as string, ms })
      }
    }
  } finally {
    db.close()
  }
}
