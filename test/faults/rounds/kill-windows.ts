// Workers are killed at the four important moments of an attempt.
import { until } from '../../support/until.ts'
import type { Fixture, Member } from '../fixture.ts'
import { BOTH, type Round } from '../round.ts'
import { openGate } from '../tls-gate.ts'
import type { Accepted } from '../work-client.ts'
import type { Reply } from '../work-receiver.ts'

const JOBS = 20
const SHORT_REPEATS = 1
const LONG_REPEATS = 15

const BEFORE_SEND = 'killed between claim and send'
const BEFORE_ANSWER = 'killed between send and answer'
const BEFORE_RECORD = 'killed between answer and record'
const AFTER_RECORD = 'killed after the record'

export const killWindows: Round = {
  name: 'kill-windows',
  title: 'worker killed at each moment of an attempt',
  engines: BOTH,
  settings: { leaseMs: 1_500, sweepMs: 200, pollMs: 50 },
  windows: [BEFORE_SEND, BEFORE_ANSWER, BEFORE_RECORD, AFTER_RECORD],
  async play(fixture, { isLong }) {
    const gate = await openGate(fixture.receiver.url)
    try {
      await fixture.register('gated', { url: `${gate.url}/gated` })
      const startWorker = () => fixture.startWorker({ EXTRA_CA_CERTS: gate.certificatePath })
      let worker = await startWorker()
      for (let i = 0; i < (isLong ? LONG_REPEATS : SHORT_REPEATS); i++) {
        worker = await beforeSend(fixture, worker, startWorker, gate)
        worker = await beforeAnswer(fixture, worker, startWorker)
        worker = await beforeRecord(fixture, worker, startWorker)
        worker = await afterRecord(fixture, worker, startWorker)
      }
    } finally {
      await gate.close()
    }
  },
}

type StartWorker = () => Promise<Member>

/**
 * The connection to the receiver is open, but its TLS handshake does not end, so nothing was sent.
 */
async function beforeSend(
  fixture: Fixture,
  victim: Member,
  startWorker: StartWorker,
  gate: Awaited<ReturnType<typeof openGate>>,
): Promise<Member> {
  gate.hold()
  const jobs = await fixture.client.enqueueMany(JOBS, () => ({ endpoint: 'gated' }))
  await until(() => gate.heldCount() >= JOBS)
  const next = await startWorker()
  await fixture.kill(victim)
  fixture.hit(BEFORE_SEND, JOBS)
  gate.open()
  await fixture.drained()
  expectDeliveries(fixture, BEFORE_SEND, jobs, 1)
  return next
}

/** The receiver has the request and delays its response. */
async function beforeAnswer(
  fixture: Fixture,
  victim: Member,
  startWorker: StartWorker,
): Promise<Member> {
  const killed = Promise.withResolvers<Reply>()
  const jobs = await enqueueAndHold(fixture, killed.promise)
  const next = await startWorker()
  await fixture.kill(victim)
  killed.resolve('hang')
  fixture.hit(BEFORE_ANSWER, JOBS)
  await fixture.drained()
  expectDeliveries(fixture, BEFORE_ANSWER, jobs, 2)
  return next
}

/** The response was sent, but the worker cannot store it any more. */
async function beforeRecord(
  fixture: Fixture,
  victim: Member,
  startWorker: StartWorker,
): Promise<Member> {
  const cutOff = Promise.withResolvers<Reply>()
  const jobs = await enqueueAndHold(fixture, cutOff.promise)
  const next = await startWorker()
  const restore = await fixture.store.cutOffWorkers()
  await fixture.during('store_cut', 'store', async () => {
    cutOff.resolve(200)
    await until(() => jobs.every((job) => deliveriesOf(fixture, job)[0]?.answeredAtMs !== null))
    await fixture.kill(victim)
    await restore()
  })
  fixture.hit(BEFORE_RECORD, JOBS)
  await fixture.drained()
  expectDeliveries(fixture, BEFORE_RECORD, jobs, 2)
  return next
}

async function afterRecord(
  fixture: Fixture,
  victim: Member,
  startWorker: StartWorker,
): Promise<Member> {
  fixture.receiver.answerWith(() => undefined)
  const jobs = await fixture.client.enqueueMany(JOBS, () => ({}))
  const last = jobs.at(-1) as Accepted
  await until(async () => (await fixture.client.look(last.id))?.body.state === 'succeeded')
  await fixture.drained()
  await fixture.kill(victim)
  fixture.hit(AFTER_RECORD, JOBS)
  const next = await startWorker()
  await fixture.drained()
  expectDeliveries(fixture, AFTER_RECORD, jobs, 1)
  return next
}

/** Resolves when the receiver has the first attempt of each job, and delays its response. */
async function enqueueAndHold({ receiver, client }: Fixture, reply: Promise<Reply>) {
  let heldCount = 0
  receiver.answerWith(({ attempt }) => {
    if (attempt > 1) return undefined
    heldCount += 1
    return reply
  })
  const jobs = await client.enqueueMany(JOBS, () => ({}))
  await until(() => heldCount === JOBS)
  return jobs
}

const deliveriesOf = (fixture: Fixture, { id }: Accepted) =>
  fixture.receiver.deliveries.filter(({ jobId }) => jobId === id)

function expectDeliveries(fixture: Fixture, window: string, jobs: Accepted[], count: number): void {
  for (const job of jobs) {
    const found = deliveriesOf(fixture, job).length
    if (found !== count) {
      fixture.complain(`${window}: ${job.id} was delivered ${found} times and not ${count}`)
    }
  }
}
