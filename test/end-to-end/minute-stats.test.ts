// The promise of the figures: each number is what a receiver and a client counted. This holds for
// every outcome of attempts that are sent, completed later or pulled, over several workers, through
// a stop and a kill. The figures that a kill loses are known exactly.
import { createServer, type Server } from 'node:net'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type Deployment, deploy } from '../support/deployment.ts'
import { SQLITE_UNLESS_LONG } from '../support/engines.ts'
import { freePort } from '../support/mongo-server.ts'
import type { Process } from '../support/process.ts'
import { type Receiver, type Reply, startReceiver } from '../support/receiver.ts'
import { until } from '../support/until.ts'

const LEASE_MS = 15_000
const DEADLINE_MS = 60_000
const TEST_MS = 180_000
/** A process reports its minute statistics this often. */
const REPORT_MS = 5_000
const JOBS = 5
const MAX_READS = 10

const SETTINGS = {
  LEASE_DURATION: `${LEASE_MS}ms`,
  SWEEP_INTERVAL: '200ms',
  POLL_INTERVAL: '100ms',
  SHUTDOWN_GRACE: '100ms',
  WORKER_PORT: '0',
}
const ONCE = { retry: { maxAttempts: 1 }, circuitBreaker: null }
const TWICE = { retry: { maxAttempts: 2, backoff: { type: 'fixed', delay: '10ms' } } }
const SHORT = { ...ONCE, completion: 'async', completionTimeout: '1s' }

/** Counts by endpoint and outcome, as `endpoint outcome`. */
type Counts = Record<string, number>

function countsOf(keys: string[]): Counts {
  const counts: Counts = {}
  for (const key of keys.toSorted()) counts[key] = (counts[key] ?? 0) + 1
  return counts
}

function sumOf(some: Counts[]): Counts {
  return countsOf(
    some.flatMap((counts) => Object.entries(counts).flatMap(([key, n]) => Array(n).fill(key))),
  )
}

function loggedIn(process: Process): Counts {
  const lines = process.log.filter(({ msg }) => msg === 'attempt.finished')
  return countsOf(lines.map(({ endpoint, outcome }) => `${endpoint} ${outcome}`))
}

/** One metric of a process, by two of its labels. */
async function metric(url: string, name: string, ...labels: string[]): Promise<Counts> {
  const text = await (await fetch(`${url}/metrics`)).text()
  const lines = [...text.matchAll(new RegExp(`^${name}\\{(.*)\\} (.+)$`, 'gm'))]
  return sumOf(
    lines.map(([, given = '', value]) => {
      const values = labels.map((label) => new RegExp(`${label}="([^"]*)"`).exec(given)?.[1])
      return { [values.join(' ')]: Number(value) }
    }),
  )
}

const FAILED = new Set([
  ...['http_error', 'rejected', 'connect_error', 'dns_error', 'tls_error', 'protocol_error'],
  ...['timeout', 'blocked', 'lost', 'failed'],
])

// These tests take twenty seconds each.
describe.each(SQLITE_UNLESS_LONG)('on %s', (engine) => {
  let posthorn: Deployment
  let receiver: Receiver
  let garbage: Server
  let garbageCount = 0
  let api: Process
  const workers: (Process & { port: string })[] = []
  /** The receiver's responses, the client's reports, and the attempts that both saw aborted. */
  let seen: Counts = {}
  const held = new Map<string, (reply: Reply) => void>()

  async function startWorker(id: string) {
    const worker = await posthorn.startWorker({ WORKER_ID: id })
    const port = (await worker.logged('worker_port.listening')).url as string
    workers.push(Object.assign(worker, { port }))
    return workers.at(-1) as Process & { port: string }
  }

  /** Repeats a request, because a store under load may refuse a read. */
  async function ask(method: string, path: string, body?: unknown) {
    for (let tries = 1; ; tries++) {
      const answer = await posthorn.request(method, path, body)
      if (answer.status < 300) return answer.body
      const isBusyRead = answer.status === 503 && method === 'GET' && tries < MAX_READS
      if (!isBusyRead) throw new Error(`${method} ${path}: ${JSON.stringify(answer)}`)
    }
  }
  async function endpoint(name: string, settings: object): Promise<void> {
    const { status, body } = await posthorn.request('PUT', `/endpoints/${name}`, settings)
    expect([status, body.errors]).toEqual([201, undefined])
  }
  async function enqueue(name: string, count = JOBS): Promise<string[]> {
    const jobs = Array.from({ length: count }, () => ({ endpoint: name, payload: 1 }))
    const { items } = await ask('POST', '/jobs/batch', { jobs })
    return items.map(({ id }: { id: string }) => id)
  }
  const jobs = (ids: string[]) => Promise.all(ids.map((id) => ask('GET', `/jobs/${id}`)))
  async function inStates(ids: string[], ...states: string[]): Promise<void> {
    const others = async () => (await jobs(ids)).filter(({ state }) => !states.includes(state))
    await until(async () => (await others()).length === 0, DEADLINE_MS).catch(() => {})
    expect((await others()).map((job) => [job.endpoint, job.state, job.attempts])).toEqual([])
  }
  const saw = (key: string, count = 1) => {
    seen = sumOf([seen, { [key]: count }])
  }
  /**
   * One request for each attempt: a request whose connection broke is sent again in the same
   * attempt (docs/deliveries.md).
   */
  const requestsAt = (name: string) => {
    const requests = receiver.requests.filter(({ path }) => path === `/${name}`)
    const keyOf = ({ headers }: (typeof requests)[number]) =>
      `${headers['webhook-id']} ${headers['posthorn-attempt']}`
    return [...new Map(requests.map((one) => [keyOf(one), one])).values()]
  }
  async function claim(name: string, count: number, lease = '1m') {
    const claimed = await ask('POST', `/endpoints/${name}/claim`, {
      limit: count,
      lease,
      wait: '5s',
    })
    expect(claimed.jobs).toHaveLength(count)
    return claimed.jobs as { id: string; token: string }[]
  }
  const report = (id: string, verb: string, token: string, body: object) =>
    posthorn.request('POST', `/jobs/${id}/${verb}?token=${token}`, body)

  async function minutes(name: string): Promise<{ succeeded: number; failed: number }> {
    const stats = await ask('GET', `/stats?window=1h&endpoint=${name}`)
    const sum = { succeeded: 0, failed: 0 }
    for (const { succeeded, failed, durations } of stats.minutes) {
      expect(durations.reduce((a: number, b: number) => a + b, 0)).toBe(succeeded + failed)
      sum.succeeded += succeeded
      sum.failed += failed
    }
    return sum
  }

  async function list(filter: string) {
    const items = []
    let cursor = ''
    do {
      const page = await ask('GET', `/jobs?limit=100${filter}${cursor}`)
      items.push(...page.items)
      cursor = page.nextCursor === null ? '' : `&cursor=${page.nextCursor}`
    } while (cursor !== '')
    return items
  }

  /** The attempts of all jobs, as the API shows them. */
  async function recorded(): Promise<Counts> {
    const items = await list('')
    const all = await jobs(items.map(({ id }: { id: string }) => id))
    return countsOf(
      all.flatMap(({ endpoint: name, attempts }) =>
        attempts.map(({ outcome }: { outcome: string }) => `${name} ${outcome}`),
      ),
    )
  }

  const minutesBy = (counts: Counts, name: string) => {
    const sum = { succeeded: 0, failed: 0 }
    for (const [key, count] of Object.entries(counts)) {
      const [of, outcome] = key.split(' ') as [string, string]
      if (of !== name) continue
      if (outcome === 'succeeded') sum.succeeded += count
      if (FAILED.has(outcome)) sum.failed += count
    }
    return sum
  }
  const names = (counts: Counts) => [
    ...new Set(Object.keys(counts).map((key) => key.split(' ')[0] as string)),
  ]

  beforeAll(async () => {
    receiver = await startReceiver((request) => {
      const id = request.headers['webhook-id'] as string
      const isFirst = request.headers['posthorn-attempt'] === '1'
      switch (request.path) {
        case '/http-error':
          return 500
        case '/rejected':
          return 422
        case '/throttled':
          return isFirst ? { status: 429, headers: { 'retry-after': '1' } } : 200
        case '/slow':
        case '/cancelled':
          return 'hang'
        case '/held':
        case '/parted':
          return isFirst ? new Promise<Reply>((resolve) => held.set(id, resolve)) : 200
        default:
          return request.path.startsWith('/async') ? 202 : 200
      }
    })
    garbage = createServer((socket) => {
      socket.on('error', () => {})
      socket.once('data', () => {
        garbageCount++
        socket.end('nonsense\r\n\r\n')
      })
    })
    await new Promise<void>((resolve) => garbage.listen(0, '127.0.0.1', resolve))
    posthorn = deploy(engine, SETTINGS)
    api = await posthorn.startApi()
    await startWorker('worker-a')
    await startWorker('worker-b')
  })
  afterAll(async () => {
    await posthorn.close()
    await receiver.close()
    garbage.close()
  })

  it(
    'every attempt is counted once, by its outcome, wherever it ended',
    async () => {
      const at = (name: string) => `${receiver.url}/${name}`
      const port = (garbage.address() as { port: number }).port
      await endpoint('succeeded', { url: at('succeeded') })
      await endpoint('http-error', { url: at('http-error'), ...ONCE, ...TWICE })
      await endpoint('rejected', { url: at('rejected'), ...ONCE })
      await endpoint('throttled', { url: at('throttled'), ...ONCE })
      await endpoint('slow', { url: at('slow'), ...ONCE, timeout: '1s' })
      await endpoint('cancelled', { url: at('cancelled'), ...ONCE })
      await endpoint('protocol-error', { url: `http://127.0.0.1:${port}/`, ...ONCE })
      await endpoint('connect-error', { url: `http://127.0.0.1:${await freePort()}/`, ...ONCE })
      await endpoint('dns-error', { url: 'http://no-such-host.invalid/', ...ONCE })
      await endpoint('tls-error', { url: receiver.url.replace('http', 'https'), ...ONCE })
      for (const how of ['complete', 'fail', 'cancel']) {
        const settings = { ...ONCE, completion: 'async', completionTimeout: '1h' }
        await endpoint(`async-${how}`, { url: at(`async-${how}`), ...settings })
      }
      await endpoint('async-overdue', { url: at('async-overdue'), ...SHORT })
      for (const how of ['complete', 'fail', 'cancel', 'expire']) {
        await endpoint(`pulled-${how}`, { url: null, ...ONCE })
      }

      const sent = ['succeeded', 'http-error', 'rejected', 'throttled', 'slow']
      const unsent = ['protocol-error', 'connect-error', 'dns-error', 'tls-error']
      const ended: string[] = []
      for (const name of [...sent, ...unsent, 'async-overdue']) ended.push(...(await enqueue(name)))

      const cancelled = await enqueue('cancelled')
      await receiver.waitFor(() => requestsAt('cancelled').length === JOBS, DEADLINE_MS)
      for (const id of cancelled) await ask('POST', `/jobs/${id}/cancel`)
      saw('cancelled cancelled', requestsAt('cancelled').length)

      for (const how of ['complete', 'fail', 'cancel'] as const) {
        const ids = await enqueue(`async-${how}`)
        await until(
          async () => (await jobs(ids)).every(({ phase }) => phase === 'awaiting_completion'),
          DEADLINE_MS,
        )
        for (const { headers } of requestsAt(`async-${how}`)) {
          const id = headers['webhook-id'] as string
          const token = new URL(headers['posthorn-complete-url'] as string).searchParams.get(
            'token',
          )
          await reportEnd(how, id, token as string, `async-${how}`)
        }
        ended.push(...ids)
      }
      for (const how of ['complete', 'fail', 'cancel'] as const) {
        ended.push(...(await enqueue(`pulled-${how}`)))
        for (const { id, token } of await claim(`pulled-${how}`, JOBS)) {
          await reportEnd(how, id, token, `pulled-${how}`)
        }
      }
      ended.push(...(await enqueue('pulled-expire')))
      saw('pulled-expire lost', (await claim('pulled-expire', JOBS, '1s')).length)
      await inStates([...ended, ...cancelled], 'succeeded', 'dead', 'cancelled')

      const ofFirst = (name: string) =>
        requestsAt(name).filter(({ headers }) => headers['posthorn-attempt'] === '1').length
      saw('succeeded succeeded', requestsAt('succeeded').length)
      saw('http-error http_error', requestsAt('http-error').length)
      saw('rejected rejected', requestsAt('rejected').length)
      saw('throttled throttled', ofFirst('throttled'))
      saw('throttled succeeded', requestsAt('throttled').length - ofFirst('throttled'))
      saw('slow timeout', requestsAt('slow').length)
      saw('async-overdue timeout', requestsAt('async-overdue').length)
      saw('protocol-error protocol_error', garbageCount)
      // No request is compared for these outcomes. Each job had one attempt.
      saw('connect-error connect_error', JOBS)
      saw('dns-error dns_error', JOBS)
      saw('tls-error tls_error', JOBS)
      await expectCounts()
      expect(seen['http-error http_error']).toBe(2 * JOBS)
      expect(
        sumOf(
          await Promise.all(
            workers.map(({ port }) => metric(port, 'posthorn_accepted_attempts_total', 'endpoint')),
          ),
        ),
      ).toEqual(
        countsOf(
          ['complete', 'fail', 'cancel', 'overdue'].flatMap((how) =>
            requestsAt(`async-${how}`).map(() => `async-${how}`),
          ),
        ),
      )
    },
    TEST_MS,
  )

  async function reportEnd(
    how: 'complete' | 'fail' | 'cancel',
    id: string,
    token: string,
    name: string,
  ) {
    if (how === 'cancel') {
      expect((await ask('POST', `/jobs/${id}/cancel`)).state).toBe('cancelled')
      expect((await report(id, 'complete', token, {})).status).toBe(409)
      saw(`${name} cancelled`)
      return
    }
    const body = how === 'complete' ? {} : { message: 'no luck', retryable: false }
    // A report that is repeated is not counted again.
    for (let i = 0; i < 2; i++) expect((await report(id, how, token, body)).status).toBe(200)
    saw(`${name} ${how === 'complete' ? 'succeeded' : 'failed'}`)
  }

  /**
   * Compares every place that shows attempts and deaths with what the receiver and the client saw.
   */
  async function expectCounts(): Promise<void> {
    const processes = [api, ...workers]
    const urls = [posthorn.url(), ...workers.map(({ port }) => port)]
    const all = async (name: string, ...labels: string[]) =>
      sumOf(await Promise.all(urls.map((url) => metric(url, name, ...labels))))
    const logged = () => sumOf(processes.map(loggedIn))
    // A result is counted a moment after it is stored.
    await until(async () => JSON.stringify(logged()) === JSON.stringify(seen), DEADLINE_MS).catch(
      () => {},
    )
    // All figures are compared together: if one of them differs, the others help to find the cause.
    expect({
      logged: logged(),
      recorded: await recorded(),
      counted: await all('posthorn_attempts_total', 'endpoint', 'outcome'),
    }).toEqual({ logged: seen, recorded: seen, counted: seen })
    const resent = processes.flatMap(({ log }) => log.filter((line) => line.resent === true))
    const paths = new Set(receiver.requests.map(({ path }) => path.slice(1)))
    const attemptCount = [...paths].reduce((sum, path) => sum + requestsAt(path).length, 0)
    // The receiver may have seen only the second request of an attempt that was sent again.
    expect(receiver.requests.length - attemptCount).toBeLessThanOrEqual(resent.length)
    const byName = countsOf(
      Object.entries(seen).flatMap(([key, n]) => Array(n).fill(key.split(' ')[0])),
    )
    expect(await all('posthorn_attempt_duration_seconds_count', 'endpoint')).toEqual(byName)
    const startCounts = await all('posthorn_start_delay_seconds_count')
    expect(startCounts['']).toBe(Object.values(seen).reduce((a, b) => a + b))
    for (const name of names(seen)) {
      const expected = minutesBy(seen, name)
      await until(
        async () => JSON.stringify(await minutes(name)) === JSON.stringify(expected),
        DEADLINE_MS,
      ).catch(() => {})
      expect([name, await minutes(name)]).toEqual([name, expected])
    }
    const items = await list('&state=dead')
    const deaths = items.map((job: { endpoint: string; failure: { reason: string } }) => {
      return `${job.endpoint} ${job.failure.reason}`
    })
    expect(await all('posthorn_jobs_dead_total', 'endpoint', 'reason')).toEqual(countsOf(deaths))
  }

  it(
    'a stop and a kill cost what the page says, and nothing else',
    async () => {
      const [a, b] = workers as [Process & { port: string }, Process & { port: string }]
      await endpoint('parted', { url: `${receiver.url}/parted` })
      await endpoint('held', { url: `${receiver.url}/held` })
      await endpoint('quick', { url: `${receiver.url}/quick` })
      const release = (ids: string[]) => {
        for (const id of ids) held.get(id)?.(200)
      }

      // A worker that is stopped releases its jobs, logs the release, and reports its counts.
      const parted = await enqueue('parted', 8)
      await receiver.waitFor(() => requestsAt('parted').length === 8, DEADLINE_MS)
      const ofB = (await jobs(parted)).filter(({ lease }) => lease.workerId === 'worker-b').length
      await b.stop()
      release(parted)
      await inStates(parted, 'succeeded')
      expect(loggedIn(b)['parted interrupted'] ?? 0).toBe(ofB)
      expect(requestsAt('parted')).toHaveLength(8 + ofB)
      await until(() => loggedIn(a)['parted succeeded'] === 8, DEADLINE_MS)
      await until(async () => (await minutes('parted')).succeeded === 8, DEADLINE_MS)
      expect((await minutes('parted')).failed).toBe(0)

      // Now one worker works alone. Attempts that it ends just before it is killed are in its log
      // and in the jobs, but not yet in the minute statistics.
      const heldIds = await enqueue('held', 4)
      await receiver.waitFor(() => requestsAt('held').length === 4, DEADLINE_MS)
      const [marker] = await enqueue('quick', 1)
      await until(async () => (await minutes('quick')).succeeded === 1, DEADLINE_MS)
      const reportedAtMs = performance.now()
      const quick = await enqueue('quick', JOBS)
      await inStates([...quick, marker as string], 'succeeded')
      await until(() => loggedIn(a)['quick succeeded'] === 1 + JOBS, DEADLINE_MS)
      await a.stop('SIGKILL')
      const isUnreported = performance.now() - reportedAtMs < REPORT_MS - 500
      const c = await startWorker('worker-c')
      await inStates(heldIds, 'succeeded')
      await until(async () => {
        const { succeeded, failed } = await minutes('held')
        return succeeded === 4 && failed === 4
      }, DEADLINE_MS)

      // Four attempts were aborted: they are lost, and each is counted once by the worker that
      // found it.
      expect(requestsAt('held')).toHaveLength(8)
      await until(() => loggedIn(c)['held succeeded'] === 4, DEADLINE_MS)
      expect(loggedIn(c)).toEqual({ 'held lost': 4, 'held succeeded': 4 })
      expect(await metric(c.port, 'posthorn_attempts_total', 'endpoint', 'outcome')).toEqual({
        'held lost': 4,
        'held succeeded': 4,
      })
      expect(await recorded()).toMatchObject({ 'held lost': 4, 'held succeeded': 4 })
      expect(requestsAt('quick')).toHaveLength(1 + JOBS)
      expect(await recorded()).toMatchObject({ 'quick succeeded': 1 + JOBS })
      const { succeeded } = await minutes('quick')
      if (isUnreported) expect(succeeded).toBe(1)
      expect(succeeded).toBeLessThanOrEqual(1 + JOBS)
      // Counts that had been reported before are unchanged.
      expect(await minutes('http-error')).toEqual(minutesBy(seen, 'http-error'))
    },
    TEST_MS,
  )
})
