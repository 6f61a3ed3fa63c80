// Workers killed at the four moments of an attempt that matter, each met on purpose.
import { until } from '../../support/until.ts'
import type { Ground, Member } from '../ground.ts'
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
  async play(ground, { isLong }) {
    const gate = await openGate(ground.receiver.url)
    try {
      await ground.register('gated', { url: `${gate.url}/gated` })
      const startWorker = () => ground.startWorker({ EXTRA_CA_CERTS: gate.certificatePath })
      let worker = await startWorker()
      for (let i = 0; i < (isLong ? LONG_REPEATS : SHORT_REPEATS); i++) {
        worker = await beforeSend(ground, worker, startWorker, gate)
        worker = await beforeAnswer(ground, worker, startWorker)
        worker = await beforeRecord(ground, worker, startWorker)
        worker = await afterRecord(ground, worker, startWorker)
      }
    } finally {
      await gate.close()
    }
  },
}

type StartWorker = () => Promise<Member>

/** The line to the receiver is there, but its TLS handshake does not end: nothing was sent. */
async function beforeSend(
  ground: Ground,
  victim: Member,
  startWorker: StartWorker,
  gate: Awaited<ReturnType<typeof openGate>>,
): Promise<Member> {
  gate.hold()
  const jobs = await ground.client.enqueueMany(JOBS, () => ({ endpoint: 'gated' }))
  await until(() => gate.heldCount() >= JOBS)
  const next = await startWorker()
  await ground.kill(victim)
  ground.hit(BEFORE_SEND, JOBS)
  gate.open()
  await ground.drained()
  expectDeliveries(ground, BEFORE_SEND, jobs, 1)
  return next
}

/** The receiver has the request and holds the answer. */
async function beforeAnswer(
  ground: Ground,
  victim: Member,
  startWorker: StartWorker,
): Promise<Member> {
  const killed = Promise.withResolvers<Reply>()
  const jobs = await enqueueAndHold(ground, killed.promise)
  const next = await startWorker()
  await ground.kill(victim)
  killed.resolve('hang')
  ground.hit(BEFORE_ANSWER, JOBS)
  await ground.drained()
  expectDeliveries(ground, BEFORE_ANSWER, jobs, 2)
  return next
}

/** The answer was given, but the worker can not store it any more. */
async function beforeRecord(
  ground: Ground,
  victim: Member,
  startWorker: StartWorker,
): Promise<Member> {
  const cutOff = Promise.withResolvers<Reply>()
  const jobs = await enqueueAndHold(ground, cutOff.promise)
  const next = await startWorker()
  const mend = await ground.store.cutOffWorkers()
  await ground.during('store_cut', 'store', async () => {
    cutOff.resolve(200)
    await until(() => jobs.every((job) => deliveriesOf(ground, job)[0]?.answeredAtMs !== null))
    await ground.kill(victim)
    await mend()
  })
  ground.hit(BEFORE_RECORD, JOBS)
  await ground.drained()
  expectDeliveries(ground, BEFORE_RECORD, jobs, 2)
  return next
}

async function afterRecord(
  ground: Ground,
  victim: Member,
  startWorker: StartWorker,
): Promise<Member> {
  ground.receiver.answerWith(() => undefined)
  const jobs = await ground.client.enqueueMany(JOBS, () => ({}))
  const last = jobs.at(-1) as Accepted
  await until(async () => (await ground.client.look(last.id))?.body.state === 'succeeded')
  await ground.drained()
  await ground.kill(victim)
  ground.hit(AFTER_RECORD, JOBS)
  const next = await startWorker()
  await ground.drained()
  expectDeliveries(ground, AFTER_RECORD, jobs, 1)
  return next
}

/** Resolves when the receiver has the first attempt of each, and holds its answer. */
async function enqueueAndHold({ receiver, client }: Ground, reply: Promise<Reply>) {
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

const deliveriesOf = (ground: Ground, { id }: Accepted) =>
  ground.receiver.deliveries.filter(({ jobId }) => jobId === id)

function expectDeliveries(ground: Ground, window: string, jobs: Accepted[], count: number): void {
  for (const job of jobs) {
    const found = deliveriesOf(ground, job).length
    if (found !== count) {
      ground.complain(`${window}: ${job.id} was delivered ${found} times and not ${count}`)
    }
  }
}
