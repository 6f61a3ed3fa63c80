// The promise of schedules, between real processes: every tick becomes one job, whichever process
// dies meanwhile.
import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { openStore } from '../../src/store/open-store.ts'
import type { Store } from '../../src/store/store.ts'
import { HOUR_MS, scheduleChange } from '../schedule/fixtures.ts'
import { type Deployment, deploy } from '../support/deployment.ts'
import { SQLITE_UNLESS_LONG } from '../support/engines.ts'
import type { Process } from '../support/process.ts'
import { type Receiver, startReceiver } from '../support/receiver.ts'
import { until } from '../support/until.ts'

const SLOW_MS = 120_000
/**
 * The number of schedules that every run has time for: the stand-in for MongoDB needs about 10 ms
 * for each write. SCHEDULES=10000 tests the promised number.
 */
const [SQLITE_CROWD, MONGO_CROWD] = [3_000, 500]
const CROWD = {
  sqlite: Number(process.env.SCHEDULES ?? SQLITE_CROWD),
  mongo: Number(process.env.SCHEDULES ?? MONGO_CROWD),
}
/** Schedules with a tick each second, and the number of workers killed meanwhile. */
const KILLED = { sqlite: { schedules: 100, kills: 4 }, mongo: { schedules: 30, kills: 5 } }

describe.each(SQLITE_UNLESS_LONG)('on %s', (engine) => {
  let posthorn: Deployment
  let receiver: Receiver
  beforeEach(async () => {
    posthorn = deploy(engine)
    receiver = await startReceiver()
    await posthorn.startApi()
    await posthorn.endpoint('work', receiver.url)
  })
  afterEach(async () => {
    await posthorn.close()
    await receiver.close()
  })

  async function put(name: string, fields: object) {
    const body = { endpoint: 'work', payload: { name }, ...fields }
    const answer = await posthorn.request('PUT', `/schedules/${name}`, body)
    expect(answer.status).toBeLessThan(300)
    return answer.body
  }

  /** Name of the schedule and due time of every stored job. */
  async function allJobs(): Promise<{ scheduleName: string; runAt: string }[]> {
    const jobs: { scheduleName: string; runAt: string }[] = []
    let cursor: string | null = null
    do {
      const more: string = cursor === null ? '' : `&cursor=${cursor}`
      const { body } = await posthorn.request('GET', `/jobs?limit=100${more}`)
      jobs.push(...body.items)
      cursor = body.nextCursor
    } while (cursor !== null)
    return jobs
  }

  it('a schedule of one second delivers each second, with its name and its tick', async () => {
    await posthorn.startWorker()
    await put('pulse', { every: '1s' })
    await receiver.waitFor((requests) => requests.length >= 4, 10_000)
    const due = receiver.requests.map(({ headers, body }) => {
      expect(headers['posthorn-schedule']).toBe('pulse')
      expect(body.toString()).toBe('{"name":"pulse"}')
      return Date.parse(headers['posthorn-scheduled-for'] as string)
    })
    expect(due).toEqual(due.map((_, n) => (due[0] as number) + n * 1_000))
    const { body } = await posthorn.request('GET', '/schedules/pulse')
    expect(body).toMatchObject({ lastError: null })
    expect((await posthorn.job(body.lastJobId, 'succeeded')).scheduleName).toBe('pulse')
  })

  it(
    `${CROWD[engine]} schedules with one tick in common are as many jobs, with three workers`,
    async () => {
      await posthorn.request('POST', '/endpoints/work/pause')
      const names = await fillStore(posthorn, CROWD[engine])
      for (let i = 0; i < 3; i++) await posthorn.startWorker()
      const { length: expected } = names
      await until(async () => {
        const { body } = await posthorn.request('GET', '/endpoints/work')
        return body.counts.queued >= expected
      }, 60_000)
      await until(async () => (await movedOnCount(posthorn)) === expected, 30_000)
      const made = (await allJobs()).map(({ scheduleName }) => scheduleName)
      expect(made.toSorted()).toEqual(names.toSorted())
    },
    SLOW_MS,
  )

  it(
    'workers killed in the middle of ticks neither lose one nor make one twice',
    async () => {
      const { schedules, kills } = KILLED[engine]
      await posthorn.request('POST', '/endpoints/work/pause')
      const names = Array.from({ length: schedules }, (_, n) => `s-${n}`)
      await Promise.all(names.map((name) => put(name, { every: '1s' })))
      const workers: Process[] = [await posthorn.startWorker(), await posthorn.startWorker()]
      for (let kill = 0; kill < kills; kill++) {
        const victim = workers.shift() as Process
        const before = await queuedCount(posthorn)
        // The worker dies when the first jobs of a tick are stored, so mostly before all schedules
        // have advanced.
        await until(async () => (await queuedCount(posthorn)) > before)
        await victim.stop('SIGKILL')
        workers.push(await posthorn.startWorker())
      }
      for (const name of names) await posthorn.request('POST', `/schedules/${name}/pause`)
      const ticksByName = Map.groupBy(await allJobs(), ({ scheduleName }) => scheduleName)
      expect(ticksByName.size).toBe(names.length)
      for (const jobs of ticksByName.values()) {
        const ticks = jobs.map(({ runAt }) => Date.parse(runAt)).toSorted((a, b) => a - b)
        expect(ticks).toEqual(ticks.map((_, n) => (ticks[0] as number) + n * 1_000))
        expect(ticks.length).toBeGreaterThanOrEqual(2)
      }
    },
    SLOW_MS,
  )
})

it('the lines that docs/schedules.md gives do what it says', async () => {
  const guide = readFileSync(join(import.meta.dirname, '../../docs/schedules.md'), 'utf8')
  const lines = [...guide.matchAll(/```sh\n(.*?)```/gs)].map(([, text]) => text).join('')
  const posthorn = deploy('sqlite')
  try {
    await posthorn.startApi()
    const onItsPort = lines.replaceAll('localhost:8080', posthorn.url())
    const answers = execFileSync('bash', ['-c', onItsPort]).toString().trim().split('\n')
    const [endpoint, report, , sync, job, paused, resumed, list] = answers.map((one) =>
      JSON.parse(one),
    )
    expect(endpoint.name).toBe('reports')
    expect(report).toMatchObject({ name: 'morning-report', timezone: 'Europe/Berlin', version: 1 })
    expect(sync.nextRuns).toHaveLength(5)
    expect(job).toMatchObject({ state: 'queued', scheduleName: 'sync' })
    expect([paused.paused, resumed.paused]).toEqual([true, false])
    expect(list.items).toHaveLength(2)
    expect((await posthorn.request('GET', '/schedules/sync')).status).toBe(404)
  } finally {
    await posthorn.close()
  }
})

async function queuedCount(posthorn: Deployment): Promise<number> {
  const { body } = await posthorn.request('GET', '/endpoints/work')
  return body.counts.queued
}

async function movedOnCount(posthorn: Deployment): Promise<number> {
  return withStore(posthorn, async (store) => {
    let count = 0
    let after: string | null = null
    do {
      const page = await store.listSchedules(after, 1_000)
      count += page.items.filter(({ lastJobId }) => lastJobId !== null).length
      after = page.next
    } while (after !== null)
    return count
  })
}

/**
 * Writes schedules whose first tick has just come. It bypasses the API, which would take minutes.
 */
function fillStore(posthorn: Deployment, count: number): Promise<string[]> {
  return withStore(posthorn, async (store) => {
    const nextRunAt = store.clock.now()
    const names = Array.from({ length: count }, (_, n) => `s-${n}`)
    for (let at = 0; at < count; at += 100) {
      const some = names.slice(at, at + 100)
      await Promise.all(
        some.map((name) => store.putSchedule(scheduleChange(name, 'work', nextRunAt), null)),
      )
    }
    return names
  })
}

async function withStore<T>(posthorn: Deployment, work: (store: Store) => Promise<T>): Promise<T> {
  const store = await openStore(posthorn.env.STORE_URL as string, {
    retentionMs: HOUR_MS,
    retentionDeadMs: HOUR_MS,
    encryptionKeys: [Buffer.from(posthorn.env.ENCRYPTION_KEY as string, 'base64')],
    warn: (_, message) => expect.fail(message),
  })
  try {
    return await work(store)
  } finally {
    await store.close()
  }
}
