// A cancel races the claim, the request and the record of its job. Whichever comes first, the
// response to the cancel is true.
import { setTimeout as sleep } from 'node:timers/promises'
import { until } from '../../../support/until.ts'
import type { Fixture } from '../../fixture.ts'
import { nowMs } from '../../history.ts'
import type { Accepted, Answer } from '../../work-client.ts'
import type { Check, Stage } from './race-fixture.ts'

const ENDPOINT = 'cancels'
/** Few clients, because a cancel that waits behind many requests is late for any race. */
const CLIENTS = 4
/** With this delay a job becomes due while its cancel is in flight. */
const DELAY_MS = 200
/** Ranges around the instant at which the job is due, sent or answered. */
const AT_CLAIM_MS = [-150, 50] as const
const AT_RECORD_MS = [-40, 10] as const
/**
 * Some are longer than the back-off: the cancelled attempt then still runs when the next one
 * begins.
 */
const HANDLER_MS = [20, 400] as const
const CANCEL_DEADLINE_MS = 120_000
const AIMS = ['claim', 'send', 'record'] as const

const WHILE_QUEUED = 'cancelled while queued'
const WHILE_RUNNING = 'cancelled while running'
const TOO_LATE = 'the cancel came too late'
const RETRIED = 'cancelled while running and retried while that handler was at work'
/** Only chance meets this moment: the response was sent, but the cancel was stored first. */
const BEFORE_RECORD = 'cancelled between the answer and its record'

export const CANCEL_WINDOWS = [WHILE_QUEUED, WHILE_RUNNING, TOO_LATE, RETRIED]

interface Cancelled {
  job: Accepted
  answer: Answer | null
  endedAtMs: number
  retry: Answer | null
}

export async function raceCancels({ fixture, scripts }: Stage, jobCount: number): Promise<Check> {
  const { client, random } = fixture
  const cancelled: Cancelled[] = []
  await fixture.register(ENDPOINT)

  async function cancel(job: Accepted, isRetried: boolean): Promise<void> {
    const answer = await client.command('cancel', job)
    const endedAtMs = nowMs()
    const retry = isRetried && answer?.status === 200 ? await client.command('retry', job) : null
    cancelled.push({ job, answer, endedAtMs, retry })
  }

  const seen = new Set<string>()
  scripts.set(ENDPOINT, async ({ jobId: id, workNumber }) => {
    const aim = aimOf(workNumber)
    if (seen.has(id) || aim === 'claim') return undefined
    seen.add(id)
    const job = { id, workNumber }
    if (aim === 'send') {
      void cancel(job, random.chance(0.5))
      await sleep(random.between(...HANDLER_MS))
      return 200
    }
    const cancelAfterMs = random.between(...AT_RECORD_MS)
    void sleep(Math.max(0, cancelAfterMs)).then(() => cancel(job, false))
    await sleep(Math.max(0, -cancelAfterMs))
    return 200
  })

  let leftCount = jobCount
  async function oneClient(): Promise<void> {
    while (leftCount-- > 0) {
      const job = await client.enqueue({ endpoint: ENDPOINT, delayMs: DELAY_MS })
      if (aimOf(job.workNumber) !== 'claim') continue
      await sleep(DELAY_MS + random.between(...AT_CLAIM_MS))
      await cancel(job, false)
    }
  }
  await Promise.all(Array.from({ length: CLIENTS }, oneClient))
  await until(() => cancelled.length === jobCount, CANCEL_DEADLINE_MS)
  return async () => {
    for (const one of cancelled) await check(fixture, one)
  }
}

const aimOf = (workNumber: number) => AIMS[workNumber % AIMS.length]

async function check(
  fixture: Fixture,
  { job, answer, endedAtMs, retry }: Cancelled,
): Promise<void> {
  const state = (await fixture.client.look(job.id))?.body.state
  const summary = `${job.id}: a cancel got ${answer?.status}`
  if (retry !== null) {
    fixture.hit(RETRIED)
    if (retry.status !== 200 || state !== 'succeeded') {
      fixture.complain(`${summary}, its retry by ${retry.status}; it is ${state}`)
    }
    return
  }
  if (answer?.status === 200) {
    const { attemptCount } = answer.body
    fixture.hit(attemptCount === 0 ? WHILE_QUEUED : WHILE_RUNNING)
    if (answer.body.state !== 'cancelled' || state !== 'cancelled') {
      fixture.complain(`${summary} as ${answer.body.state}; it is ${state}`)
    }
    const isAnswered = fixture.receiver.deliveries.some(
      ({ jobId, answeredAtMs }) =>
        jobId === job.id && answeredAtMs !== null && answeredAtMs < endedAtMs,
    )
    if (isAnswered) fixture.hit(BEFORE_RECORD)
  } else if (answer?.status === 409) {
    fixture.hit(TOO_LATE)
    if (answer.body.code !== 'job_state_conflict' || state !== 'succeeded') {
      fixture.complain(`${summary} (${answer.body.code}); it is ${state}`)
    }
  } else {
    fixture.complain(summary)
  }
}
