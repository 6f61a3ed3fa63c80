// Delivered, pulled and async: three ways to work on a job. All of them have the same promises
// about lease, retry and cancel.
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { type Deployment, deploy } from '../support/deployment.ts'
import { SQLITE_UNLESS_LONG } from '../support/engines.ts'
import type { Process } from '../support/process.ts'
import { type Receiver, type Reply, startReceiver } from '../support/receiver.ts'
import { until } from '../support/until.ts'

const RETRY = { maxAttempts: 3, backoff: { type: 'fixed', delay: '20ms', jitter: 0 } }
const EXPIRY = '1s'

/** A job that a worker or a handler holds. */
interface Work {
  jobId: string
  attempt: number
  succeed(result: unknown): Promise<void>
  fail(): Promise<void>
  /** Stops all reports. Resolves when another attempt has the job. */
  fallSilent(): Promise<void>
  /** Reports success after another attempt got the job. The report must be refused. */
  reportTooLate(): Promise<void>
  /** Resolves when the work has noticed that the job was cancelled. */
  learnOfCancel(): Promise<void>
}

/** One way to work. */
interface Way {
  /** Settings of an endpoint of this way. */
  endpoint: object
  /** Returns the next job of the endpoint, once there is one. */
  take(name: string): Promise<Work>
  /** The outcome of an attempt without further reports. */
  silentOutcome: 'lost' | 'timeout'
}

describe.each(SQLITE_UNLESS_LONG)('on %s', (engine) => {
  let posthorn: Deployment
  let worker: Process
  let receiver: Receiver
  const waiting: {
    jobId: string
    attempt: number
    reply: (reply: Reply) => void
    headers: Record<string, string>
  }[] = []

  beforeAll(async () => {
    posthorn = deploy(engine, {
      LEASE_DURATION: EXPIRY,
      SWEEP_INTERVAL: '50ms',
      POLL_INTERVAL: '50ms',
    })
    await posthorn.startApi()
    worker = await posthorn.startWorker()
    receiver = await startReceiver(({ headers }) => {
      const { promise, resolve } = Promise.withResolvers<Reply>()
      waiting.push({
        jobId: headers['webhook-id'] as string,
        attempt: Number(headers['posthorn-attempt']),
        headers: headers as Record<string, string>,
        reply: resolve,
      })
      return promise
    })
  })
  afterEach(() => {
    for (const { reply } of waiting.splice(0)) reply(500)
  })
  afterAll(async () => {
    await posthorn.close()
    await receiver.close()
  })

  async function nextRequest(name: string) {
    const isNext = ({ headers }: (typeof waiting)[number]) => headers['posthorn-endpoint'] === name
    await until(() => waiting.some(isNext))
    return waiting.splice(waiting.findIndex(isNext), 1)[0] as (typeof waiting)[number]
  }

  async function report(url: string, body: unknown) {
    const { pathname, search } = new URL(url)
    return posthorn.request('POST', pathname + search, body)
  }

  /** The work of a pulled or an async job: both report with the token of the attempt. */
  function tokenWork(
    jobId: string,
    attempt: number,
    urls: Record<'complete' | 'fail' | 'heartbeat', string>,
  ): Work {
    return {
      jobId,
      attempt,
      async succeed(result) {
        const answer = await report(urls.complete, { result })
        expect(answer).toMatchObject({ status: 200, body: { applied: true } })
        const again = await report(urls.complete, { result })
        expect(again).toMatchObject({ status: 200, body: { applied: true } })
      },
      async fail() {
        const answer = await report(urls.fail, { message: 'no luck' })
        expect(answer).toMatchObject({ status: 200, body: { applied: true } })
      },
      async fallSilent() {},
      async reportTooLate() {
        const answer = await report(urls.complete, { result: 'late' })
        expect(answer).toMatchObject({ status: 409, body: { code: 'lease_lost' } })
      },
      async learnOfCancel() {
        const beat = await report(urls.heartbeat, {})
        expect(beat).toMatchObject({
          status: 200,
          body: { leaseExpiresAt: null, cancelRequested: true },
        })
        await this.reportTooLate()
      },
    }
  }

  const ways: Record<string, () => Way> = {
    pushed: () => ({
      endpoint: { url: receiver.url },
      silentOutcome: 'lost',
      async take(name) {
        const { jobId, attempt, reply } = await nextRequest(name)
        const holder = worker
        return {
          jobId,
          attempt,
          succeed: async (result) => reply({ status: 200, body: JSON.stringify(result) }),
          fail: async () => reply(500),
          async fallSilent() {
            holder.kill('SIGSTOP')
            worker = await posthorn.startWorker()
          },
          async reportTooLate() {
            reply({ status: 200, body: '"late"' })
            holder.kill('SIGCONT')
            await until(() =>
              holder.log.some((line) => line.msg === 'attempt.stale' && line.jobId === jobId),
            )
          },
          async learnOfCancel() {
            // The worker aborts the request at the next renewal of its lease.
            await until(() => receiver.openConnectionCount() === 0)
          },
        }
      },
    }),
    'completed later': () => ({
      endpoint: { url: receiver.url, completion: 'async', completionTimeout: EXPIRY },
      silentOutcome: 'timeout',
      async take(name) {
        const { jobId, attempt, reply, headers } = await nextRequest(name)
        reply(202)
        await until(async () => {
          const { body } = await posthorn.request('GET', `/jobs/${jobId}`)
          return body.phase === 'awaiting_completion'
        })
        return tokenWork(jobId, attempt, {
          complete: headers['posthorn-complete-url'] as string,
          fail: headers['posthorn-fail-url'] as string,
          heartbeat: headers['posthorn-heartbeat-url'] as string,
        })
      },
    }),
    pulled: () => ({
      endpoint: { url: null },
      silentOutcome: 'lost',
      async take(name) {
        const claim = { limit: 1, wait: '10s', lease: EXPIRY }
        const { body } = await posthorn.request('POST', `/endpoints/${name}/claim`, claim)
        const [job] = body.jobs
        const urlOf = (verb: string) =>
          `${posthorn.url()}/jobs/${job.id}/${verb}?token=${job.token}`
        return tokenWork(job.id, job.attemptCount, {
          complete: urlOf('complete'),
          fail: urlOf('fail'),
          heartbeat: urlOf('heartbeat'),
        })
      },
    }),
  }

  describe.each(Object.keys(ways))('a job that is %s', (wayName) => {
    let way: Way
    let count = 0
    beforeAll(() => {
      way = (ways[wayName] as () => Way)()
    })

    /** Enqueues a job at an endpoint of its own. */
    async function post(retry: object = RETRY): Promise<{ name: string; id: string }> {
      const name = `${wayName.replaceAll(' ', '-')}-${count++}`
      const put = await posthorn.request('PUT', `/endpoints/${name}`, { ...way.endpoint, retry })
      expect(put.status).toBe(201)
      const posted = await posthorn.request('POST', '/jobs', { endpoint: name, payload: { n: 1 } })
      expect(posted.status).toBe(201)
      return { name, id: posted.body.id }
    }

    it('succeeds with the result of the work', async () => {
      const { name, id } = await post()
      const work = await way.take(name)
      expect(work).toMatchObject({ jobId: id, attempt: 1 })
      await work.succeed({ pages: 3 })
      const job = await posthorn.job(id, 'succeeded')
      expect(job).toMatchObject({ result: { pages: 3 }, attemptCount: 1, lease: null, phase: null })
      expect(job.attempts).toMatchObject([{ number: 1, outcome: 'succeeded' }])
    })

    it('is tried again after a failure, and dead when its attempts are used up', async () => {
      const { name, id } = await post()
      for (const attempt of [1, 2, 3]) {
        const work = await way.take(name)
        expect(work.attempt).toBe(attempt)
        await work.fail()
      }
      const job = await posthorn.job(id, 'dead')
      expect(job.failure.reason).toBe('attempts_exhausted')
      expect(job.attempts).toHaveLength(3)
    })

    it('is given to another when its worker falls silent, whose late result is refused', async () => {
      const { name, id } = await post()
      const first = await way.take(name)
      await first.fallSilent()
      const second = await way.take(name)
      expect(second).toMatchObject({ jobId: id, attempt: 2 })
      await first.reportTooLate()
      expect((await posthorn.request('GET', `/jobs/${id}`)).body.state).toBe('running')
      await second.succeed('in time')
      const job = await posthorn.job(id, 'succeeded')
      expect(job).toMatchObject({ result: 'in time', fence: 2 })
      expect(job.attempts).toMatchObject([{ outcome: way.silentOutcome }, { outcome: 'succeeded' }])
    })

    it('is cancelled at once, and its worker learns of it', async () => {
      const { name, id } = await post()
      const work = await way.take(name)
      const cancelled = await posthorn.request('POST', `/jobs/${id}/cancel`)
      expect(cancelled).toMatchObject({ status: 200, body: { state: 'cancelled', lease: null } })
      await work.learnOfCancel()
      const job = await posthorn.job(id, 'cancelled')
      expect(job.attempts).toMatchObject([{ outcome: 'cancelled' }])
    })

    it('is worked on again after a retry by hand, with a fresh budget', async () => {
      const { name, id } = await post({ ...RETRY, maxAttempts: 1 })
      await (await way.take(name)).fail()
      await posthorn.job(id, 'dead')
      expect((await posthorn.request('POST', `/jobs/${id}/retry`)).status).toBe(200)
      const again = await way.take(name)
      expect(again).toMatchObject({ jobId: id, attempt: 2 })
      await again.succeed('at last')
      const job = await posthorn.job(id, 'succeeded')
      expect(job).toMatchObject({ result: 'at last', failure: null })
    })
  })
})
