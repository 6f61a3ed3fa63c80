// A clock was ahead for a moment: jobs that were stored meanwhile run at the right time. On MongoDB
// the clocks of workers and API must have no effect.
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { type Deployment, deploy } from '../support/deployment.ts'
import { ENGINES } from '../support/engines.ts'
import { FAKETIME, fakeClock } from '../support/fake-clock.ts'
import { type Receiver, startReceiver } from '../support/receiver.ts'
import { until } from '../support/until.ts'

if (FAKETIME === null) console.log('clock-ahead: skipped, libfaketime is not installed')

const SLOW_MS = 120_000
/**
 * The timeout of an attempt, less than the time that a test waits for a job. On an overloaded
 * machine an attempt may reach it.
 */
const TIMEOUT = '3s'
const RETRY = { maxAttempts: 5, backoff: { type: 'fixed', delay: '1s', jitter: 0 } }

describe.skipIf(FAKETIME === null).each(ENGINES)('on %s', (engine) => {
  let posthorn: Deployment
  let receiver: Receiver
  let broken: Receiver
  let clock: ReturnType<typeof fakeClock>
  beforeEach(async () => {
    clock = fakeClock()
    posthorn = deploy(engine)
    receiver = await startReceiver()
    broken = await startReceiver()
    await posthorn.startApi(clock.env)
    await posthorn.startWorker(clock.env)
    await posthorn.endpoint('work', receiver.url)
    await posthorn.endpoint('broken', broken.url, {
      timeout: TIMEOUT,
      retry: RETRY,
      circuitBreaker: { failures: 1, cooldown: '1s' },
    })
  })
  afterEach(async () => {
    await posthorn.close()
    await receiver.close()
    await broken.close()
    clock.remove()
  })

  const isFarAhead = (instant: string) => Date.parse(instant) > Date.now() + 30 * 60_000
  const schedule = async (name = 'often') =>
    (await posthorn.request('GET', `/schedules/${name}`)).body
  const post = async (fields: object) =>
    (await posthorn.request('POST', '/jobs', { payload: 1, ...fields })).body

  it.each(['+400d', '+1h'])(
    '%s for a moment: schedules, retries, rests and delays go on at their own time',
    async (offset) => {
      const isFooled = engine === 'sqlite'
      const often = { endpoint: 'work', every: '2s', payload: 1, misfire: 'skip' }
      await posthorn.request('PUT', '/schedules/often', often)
      await until(async () => (await schedule()).lastJobId !== null)

      clock.set(offset)
      broken.answerWith([500])
      await until(async () => isFarAhead((await schedule()).nextRunAt) === isFooled)
      const { body: made } = await posthorn.request('PUT', '/schedules/made-ahead', often)
      expect(isFarAhead(made.nextRunAt)).toBe(isFooled)
      const failing = await post({ endpoint: 'broken' })
      await until(() => broken.requests.length === 1)
      await until(async () => {
        const { body } = await posthorn.request('GET', '/endpoints/broken')
        return body.restingUntil !== null && isFarAhead(body.restingUntil) === isFooled
      })
      await posthorn.job(failing.id, 'queued')
      clock.set('+0')

      broken.answerWith([200])
      await posthorn.job(failing.id, 'succeeded')
      for (const name of ['often', 'made-ahead']) {
        await until(async () => !isFarAhead((await schedule(name)).nextRunAt))
        const before = (await schedule(name)).lastJobId
        await until(async () => (await schedule(name)).lastJobId !== before)
      }
      const plain = await post({ endpoint: 'work' })
      await posthorn.job(plain.id, 'succeeded')
    },
    SLOW_MS,
  )
})
