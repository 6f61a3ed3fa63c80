// The promise of retries: each attempt is recorded, delays follow the policy, and some outcomes are
// final.
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type Deployment, deploy } from '../support/deployment.ts'
import { SQLITE_UNLESS_LONG } from '../support/engines.ts'
import { type Receiver, type Script, startReceiver } from '../support/receiver.ts'

/** How late a retry may be: a poll of the worker, and the delay of a noisy machine. */
const LATE_MS = 5_000

describe.each(SQLITE_UNLESS_LONG)('on %s', (engine) => {
  let posthorn: Deployment
  const receivers: Receiver[] = []
  beforeAll(async () => {
    posthorn = deploy(engine)
    await posthorn.startApi()
    await posthorn.startWorker()
  })
  afterAll(async () => {
    await posthorn.close()
    for (const receiver of receivers) await receiver.close()
  })

  /**
   * Enqueues a job at an endpoint of its own that responds as the script says. Resolves with the
   * final job.
   */
  async function deliver(name: string, script: Script, retry: object, more: object = {}) {
    const receiver = await startReceiver(script)
    receivers.push(receiver)
    await posthorn.endpoint(name, receiver.url, { retry })
    const posted = await posthorn.request('POST', '/jobs', { endpoint: name, payload: 7, ...more })
    const job = await posthorn.job(posted.body.id, 'succeeded', 'dead')
    return { job, receiver }
  }
  const fixed = (delay: string) => ({ type: 'fixed', delay, jitter: 0 })

  it('500, 500, 200: three attempts with statuses, times and bodies, and the waits between', async () => {
    const { job, receiver } = await deliver(
      'flaky',
      [
        { status: 500, body: 'boom' },
        { status: 503, body: 'still' },
        { status: 200, body: '"ok"' },
      ],
      { maxAttempts: 5, backoff: { type: 'exponential', delay: '200ms', factor: 2, jitter: 0 } },
    )
    expect(job).toMatchObject({ state: 'succeeded', attemptCount: 3, fence: 3, result: 'ok' })
    expect(job.attempts).toMatchObject([
      { number: 1, outcome: 'http_error', statusCode: 500, responseBody: 'boom' },
      { number: 2, outcome: 'http_error', statusCode: 503, responseBody: 'still' },
      { number: 3, outcome: 'succeeded', statusCode: 200, responseBody: '"ok"' },
    ])
    const waitsMs = [1, 2].map(
      (i) => Date.parse(job.attempts[i].startedAt) - Date.parse(job.attempts[i - 1].finishedAt),
    )
    for (const [i, plannedMs] of [200, 400].entries()) {
      expect(waitsMs[i]).toBeGreaterThanOrEqual(plannedMs)
      expect(waitsMs[i]).toBeLessThan(plannedMs + LATE_MS)
    }
    const seen = receiver.requests.map(({ headers }) => [
      headers['webhook-id'],
      headers['posthorn-attempt'],
      headers['posthorn-attempts-left'],
      headers['posthorn-fence'],
    ])
    expect(seen).toEqual([
      [job.id, '1', '4', '1'],
      [job.id, '2', '3', '2'],
      [job.id, '3', '2', '3'],
    ])
    expect(new Set(receiver.requests.map(({ body }) => body.toString()))).toEqual(new Set(['7']))
  })

  it('when the attempts are used up it is dead, and says of what', async () => {
    const { job } = await deliver('down', 500, { maxAttempts: 2, backoff: fixed('10ms') })
    expect(job).toMatchObject({
      state: 'dead',
      attemptCount: 2,
      failure: { reason: 'attempts_exhausted' },
    })
    expect(job.failure.message).toContain('500')
  })

  it('a 422 is dead at once; retried by hand it has a fresh budget', async () => {
    const { job, receiver } = await deliver('picky', [422, 200], {
      maxAttempts: 2,
      backoff: fixed('10ms'),
    })
    expect(job).toMatchObject({
      state: 'dead',
      attemptCount: 1,
      failure: { reason: 'rejected' },
      attempts: [{ outcome: 'rejected', statusCode: 422 }],
    })
    await posthorn.request('POST', `/jobs/${job.id}/retry`)
    const again = await posthorn.job(job.id, 'succeeded')
    expect(again).toMatchObject({ attemptCount: 2, fence: 2 })
    expect(receiver.requests[1]?.headers['posthorn-attempts-left']).toBe('1')
  })

  it('a 429 costs no attempt and waits as long as it asks', async () => {
    const throttled = { status: 429, headers: { 'retry-after': '1' } }
    const { job } = await deliver('busy', [throttled, 200], { maxAttempts: 1 })
    expect(job).toMatchObject({ state: 'succeeded', attemptCount: 2 })
    expect(job.attempts.map((one: { outcome: string }) => one.outcome)).toEqual([
      'throttled',
      'succeeded',
    ])
    const waitMs = Date.parse(job.attempts[1].startedAt) - Date.parse(job.attempts[0].finishedAt)
    expect(waitMs).toBeGreaterThanOrEqual(1_000)
  })

  it('a receiver that hangs is given up at the timeout, and the job goes on', async () => {
    const { job } = await deliver(
      'slow',
      ['hang', 200],
      { maxAttempts: 2, backoff: fixed('10ms') },
      { timeout: '300ms' },
    )
    expect(job).toMatchObject({ state: 'succeeded', attemptCount: 2 })
    expect(job.attempts[0]).toMatchObject({ outcome: 'timeout', statusCode: null })
    expect(job.attempts[0].durationMs).toBeGreaterThanOrEqual(290)
  })

  it('a job that expires before its retry is dead now', async () => {
    const retry = { maxAttempts: 5, backoff: fixed('1h') }
    const { job } = await deliver('late', 500, retry, { expiresIn: '1m' })
    expect(job).toMatchObject({ state: 'dead', failure: { reason: 'expired' }, attemptCount: 1 })
  })

  it('a port without a listener is a connect_error with its code', async () => {
    const receiver = await startReceiver(200)
    await receiver.close()
    await posthorn.endpoint('nobody', receiver.url, { retry: { maxAttempts: 1 } })
    const posted = await posthorn.request('POST', '/jobs', { endpoint: 'nobody', payload: 1 })
    const job = await posthorn.job(posted.body.id, 'dead')
    expect(job.attempts).toMatchObject([
      { outcome: 'connect_error', errorCode: 'ECONNREFUSED', statusCode: null },
    ])
  })
})
