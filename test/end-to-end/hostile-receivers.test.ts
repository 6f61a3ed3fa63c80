// The promise against hostile receivers: each of them leads to an outcome, and its slot is free at
// the deadline. None of them can fill the memory or the log of the worker.
import { existsSync, readFileSync } from 'node:fs'
import type { Socket } from 'node:net'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type Deployment, deploy } from '../support/deployment.ts'
import type { Process } from '../support/process.ts'
import { type Receiver, startReceiver } from '../support/receiver.ts'
import { until } from '../support/until.ts'
import { type RawServer, startRawServer } from '../webhook/raw-server.ts'
import { CANARY, HOSTILE_KINDS, type HostileKind, redirectTo } from './hostile-kinds.ts'

const TIMEOUT_MS = 400
/** The timeout of attempts that end by themselves, which is far longer than they take. */
const PATIENT_MS = 10_000
/** A slot must be free within this time after the deadline. */
const TOLERANCE_MS = 500
/** The delay that a busy machine can add. */
const NOISE_MS = 500
const EARLY_MS = 10
const DAY_MS = 86_400_000
const MANY = 300
const EMPTY_ANSWER = 'HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n'

const KINDS = Object.entries(HOSTILE_KINDS)
const HOLDING = KINDS.filter(([, { holds }]) => holds === true)

let posthorn: Deployment
let good: Receiver
const servers = new Map<string, RawServer>()

beforeAll(async () => {
  posthorn = deploy('sqlite')
  await posthorn.startApi()
  good = await startReceiver()
  await posthorn.endpoint('good', good.url)
  for (const [name, kind] of KINDS) await register(name, kind)
})
afterAll(async () => {
  await posthorn.close()
  await good.close()
  for (const server of servers.values()) await server.close()
})

async function register(name: string, { behave, isTls, holds }: HostileKind): Promise<void> {
  const server = await listen(name, (socket) => {
    behave?.(socket)
    // On a reused connection, this runs once for each request.
    socket.on('data', (bytes) => bytes.includes('POST ') && behave?.(socket))
  })
  if (behave === null) await server.close()
  await endpoint(name, isTls ? server.url.replace('http:', 'https:') : server.url, {
    timeout: `${holds ? TIMEOUT_MS : PATIENT_MS}ms`,
  })
}

async function listen(name: string, behave: (socket: Socket) => void): Promise<RawServer> {
  const server = await startRawServer(behave)
  servers.set(name, server)
  return server
}

const endpoint = (name: string, url: string, settings: object = {}) =>
  posthorn.endpoint(name, url, { retry: { maxAttempts: 1 }, circuitBreaker: null, ...settings })

async function post(name: string, more: object = {}): Promise<string> {
  const answer = await posthorn.request('POST', '/jobs', { endpoint: name, payload: 1, ...more })
  expect(answer.status).toBe(201)
  return answer.body.id
}

/** Returns the job once an attempt has ended. */
async function attempted(id: string) {
  let job: Awaited<ReturnType<Deployment['job']>>
  await until(async () => {
    job = await posthorn.job(id, 'queued', 'running', 'succeeded', 'dead')
    return job.attempts.length > 0
  })
  return job
}

describe('with a single slot', () => {
  let worker: Process
  beforeAll(async () => {
    worker = await posthorn.startWorker({ WORKER_CONCURRENCY: '1' })
    // The first delivery of a process takes longer.
    await posthorn.job(await post('good'), 'succeeded')
  })
  afterAll(async () => {
    expect(await worker.stop()).toBe(0)
  })

  it.each(HOLDING)('one that %s has it until its deadline, and not longer', async (name) => {
    const server = servers.get(name) as RawServer
    await post(name)
    await until(() => server.received() !== '')
    const heldAtMs = performance.now()
    const seenCount = good.requests.length
    await post('good')
    await good.waitFor((requests) => requests.length > seenCount)
    const heldMs = (good.requests.at(-1)?.atMs as number) - heldAtMs
    expect(heldMs).toBeLessThan(TIMEOUT_MS + TOLERANCE_MS + NOISE_MS)
    await until(() => server.openCount() === 0)
  })

  it('one that closes an idle connection silently costs the next job nothing', async () => {
    const server = await listen('closes-silently', (socket) => {
      socket.write('HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n')
      setTimeout(() => socket.end(), 10)
    })
    await endpoint('closes-silently', server.url)
    for (let i = 0; i < 3; i++) {
      const job = await posthorn.job(await post('closes-silently'), 'succeeded', 'dead')
      expect(job).toMatchObject({ state: 'succeeded', attemptCount: 1 })
      await until(() => server.openCount() === 0)
    }
  })
})

describe('with many slots', () => {
  let worker: Process
  beforeAll(async () => {
    worker = await posthorn.startWorker({ WORKER_CONCURRENCY: '20' })
  })
  afterAll(async () => {
    expect(await worker.stop()).toBe(0)
  })

  it.each(KINDS)('one that %s is an outcome', async (name, kind) => {
    const payload = name === 'answers-before-it-reads' ? 'x'.repeat(1_000_000) : 1
    const job = await attempted(await post(name, { payload }))
    const { outcome, statusCode, errorCode, holds } = kind
    expect(job.state).toBe(outcome === 'succeeded' ? 'succeeded' : 'dead')
    expect(job.attempts).toMatchObject([{ outcome, statusCode }])
    const [attempt] = job.attempts
    if (errorCode === null) expect(attempt.errorCode).toBeNull()
    else expect(attempt.errorCode).toMatch(errorCode)
    const earliestMs = holds ? TIMEOUT_MS - EARLY_MS : 0
    const latestMs = holds ? TIMEOUT_MS + TOLERANCE_MS + NOISE_MS : PATIENT_MS / 2
    expect(attempt.durationMs).toBeGreaterThanOrEqual(earliestMs)
    expect(attempt.durationMs).toBeLessThan(latestMs)
  })

  it('one that closes kept connections, idle or with a request unread, costs no attempt', async () => {
    let connections = 0
    const server = await listen('closes-unread', (socket) => {
      socket.write(EMPTY_ANSWER)
      // The socket does not read any more. Unread bytes make the end of the connection a reset.
      socket.pause()
      setTimeout(() => socket.destroy(), 8 * (connections++ % 8))
    })
    const { jobs, timesRead, logged } = await deliverMany('closes-unread', server)
    for (const job of jobs) {
      expect(job).toMatchObject({ state: 'succeeded', attemptCount: 1, fence: 1 })
      expect(timesRead(job.id)).toBe(1)
    }
    expect(logged.filter(({ resent }) => resent === true).length).toBeGreaterThan(0)
  })

  it('one that closes kept connections once it has read costs one repeat, of one fence', async () => {
    const server = await listen('closes-read', (socket) => {
      socket.write(EMPTY_ANSWER)
      socket.on('data', (bytes) => bytes.includes('POST ') && socket.destroy())
    })
    const { jobs, timesRead, logged } = await deliverMany('closes-read', server)
    for (const job of jobs) {
      expect(job).toMatchObject({ state: 'succeeded', attemptCount: 1, fence: 1 })
      const isResent = logged.some(({ jobId, resent }) => jobId === job.id && resent === true)
      expect(timesRead(job.id)).toBe(isResent ? 2 : 1)
    }
    const fences = server.received().match(/posthorn-fence: \d+/g)
    expect(new Set(fences)).toEqual(new Set(['posthorn-fence: 1']))
    expect(fences?.length).toBeGreaterThan(jobs.length)
  })

  /** Enqueues jobs with a single attempt, as many at a time as the worker may send at once. */
  async function deliverMany(name: string, server: RawServer) {
    await endpoint(name, server.url)
    const many = Array.from({ length: MANY / 3 }, () => ({ endpoint: name, payload: 1 }))
    const jobs = []
    for (let i = 0; i < 3; i++) {
      const { body } = await posthorn.request('POST', '/jobs/batch', { jobs: many })
      for (const { id } of body.items) jobs.push(await posthorn.job(id, 'succeeded', 'dead'))
    }
    const logged = worker.log.filter(
      ({ msg, endpoint: of }) => msg === 'attempt.finished' && of === name,
    )
    const ids = server.received().match(/(?<=webhook-id: )\S+/g) ?? []
    return { jobs, logged, timesRead: (id: string) => ids.filter((one) => one === id).length }
  }

  it('one that redirects to where only we can reach is not followed', async () => {
    const hidden = await startRawServer((socket) => socket.end())
    servers.set('hidden', hidden)
    const server = await listen('redirects', (socket) => socket.write(redirectTo(hidden.url)))
    await endpoint('redirects', server.url)
    const job = await attempted(await post('redirects'))
    expect(job.attempts).toMatchObject([{ outcome: 'http_error', statusCode: 307 }])
    expect([server.connectionCount(), hidden.connectionCount()]).toEqual([1, 0])
  })

  it.each([
    ['seconds', '7', 7_000, 0],
    ['a date', () => new Date(Date.now() + 60_000).toUTCString(), 60_000, 1_000],
    ['ten years', '315360000', DAY_MS, 0],
    ['a date in ten years', 'Sun, 24 Nov 2137 08:30:00 GMT', DAY_MS, 0],
    ['garbage', `soon ${CANARY}`, 1_000, 0],
    ['no time', '0', 1_000, 0],
    ['a date that is past', 'Fri, 31 Dec 1999 23:59:59 GMT', 1_000, 0],
  ])('one that throttles for %s is left alone so long', async (what, named, waitMs, coarseMs) => {
    const name = `throttles-${what.replaceAll(' ', '-')}`
    const receiver = await startReceiver((_request, index) => {
      if (index > 0) return 200
      return {
        status: 429,
        headers: { 'retry-after': named instanceof Function ? named() : named },
      }
    })
    try {
      await endpoint(name, receiver.url)
      const job = await attempted(await post(name))
      const [attempt] = job.attempts
      expect(attempt).toMatchObject({ outcome: 'throttled', statusCode: 429 })
      if (waitMs <= 1_000) {
        const done = await posthorn.job(job.id, 'succeeded', 'dead')
        expect(done).toMatchObject({ state: 'succeeded', attemptCount: 2 })
        const startedAt = Date.parse(done.attempts[1].startedAt)
        expect(startedAt - Date.parse(attempt.finishedAt)).toBeGreaterThanOrEqual(waitMs)
      } else {
        const plannedMs = Date.parse(job.runAt) - Date.parse(attempt.finishedAt)
        expect(plannedMs).toBeGreaterThanOrEqual(waitMs - coarseMs - NOISE_MS)
        expect(plannedMs).toBeLessThanOrEqual(waitMs)
        const { body } = await posthorn.request('GET', `/endpoints/${name}`)
        expect(body.state).toBe('resting')
      }
    } finally {
      await receiver.close()
    }
  })

  it('one that is gone disables its endpoint', async () => {
    const receiver = await startReceiver(410)
    await endpoint('gone', receiver.url)
    const job = await attempted(await post('gone'))
    await receiver.close()
    expect(job).toMatchObject({ state: 'dead', attempts: [{ outcome: 'rejected' }] })
    const { body } = await posthorn.request('GET', '/endpoints/gone')
    expect(body).toMatchObject({ state: 'disabled', disabledReason: 'gone' })
  })

  it.runIf(existsSync('/proc/self/status'))(
    'a hundred of all kinds take no more than 20 MB of memory',
    async () => {
      await deliverAll('warm-up', 200)
      // The resident memory also grows with the heap, by chance. What the deliveries keep shows in
      // each round.
      const grownMb: number[] = []
      for (let round = 1; round <= 3; round++) {
        const beforeMb = residentMb(worker)
        await deliverAll(`measured-${round}`, 100)
        grownMb.push(residentMb(worker) - beforeMb)
        if (Math.min(...grownMb) < 20) break
      }
      console.log(`the worker grew by ${grownMb.map((mb) => mb.toFixed(1)).join(', ')} MB`)
      expect(Math.min(...grownMb)).toBeLessThan(20)
      await until(() => openCount() === 0)
    },
  )

  it('their responses are in the record of the job, and in no line of the log', async () => {
    const job = await attempted(await post('answers-controls'))
    expect(job.attempts[0].responseBody).toContain(`\x1b[31m\x07\x9b2J\x7f${CANARY}`)
    await until(() => worker.log.some((line) => line.jobId === job.id))
    const text = JSON.stringify(worker.log)
    expect(text).toContain('attempt.finished')
    expect(text).not.toContain(CANARY)
    expect(worker.stderr()).toBe('')
  })
})

/** Enqueues this many jobs for all kinds in turn; resolves when all are final. */
async function deliverAll(tag: string, count: number): Promise<void> {
  const jobs = Array.from({ length: count }, (_, i) => {
    const [name] = KINDS[i % KINDS.length] as (typeof KINDS)[number]
    return { endpoint: name, payload: 'x'.repeat(1_000), tags: [tag] }
  })
  const { body } = await posthorn.request('POST', '/jobs/batch', { jobs })
  expect(body.items.filter(({ status }: { status: number }) => status === 201)).toHaveLength(count)
  await until(async () => {
    const left = await posthorn.request('GET', `/jobs?tag=${tag}&state=queued&state=running`)
    return left.body.items.length === 0 && left.body.nextCursor === null
  })
}

function openCount(): number {
  return [...servers.values()].reduce((sum, server) => sum + server.openCount(), 0)
}

function residentMb({ child }: Process): number {
  const status = readFileSync(`/proc/${child.pid}/status`, 'utf8')
  return Number(/VmRSS:\s+(\d+) kB/.exec(status)?.[1]) / 1_024
}
