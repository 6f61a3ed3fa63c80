// Workers are frozen between their claim and their request until other workers have done their
// jobs. When they continue, their leases have expired and they must not send.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { until } from '../../support/until.ts'
import type { Fixture, Member } from '../fixture.ts'
import { BOTH, type Round } from '../round.ts'
import { openGate, type TlsGate } from '../tls-gate.ts'
import type { Accepted } from '../work-client.ts'

const JOBS = 20
const LONG_REPEATS = { sqlite: 10, mongo: 3 }
const LEASE_MS = 1_500
/**
 * The receiver waits this long before it responds, so that each job needs a connection of its own.
 */
const WARM_UP_ANSWER_MS = 150
const STOPPER = join(import.meta.dirname, '../stop-before-send.ts')

const NEW = 'frozen between claim and send, its connection new'
const KEPT = 'frozen between claim and send, its connection kept'

export const frozenSends: Round = {
  name: 'frozen-sends',
  title: 'worker SIGSTOP between claim and send, SIGCONT when another has delivered',
  engines: BOTH,
  settings: { leaseMs: LEASE_MS, sweepMs: 200, pollMs: 50 },
  windows: [NEW, KEPT],
  async play(fixture, { isLong }) {
    const gate = await openGate(fixture.receiver.url)
    try {
      await fixture.register('gated', { url: `${gate.url}/gated` })
      await fixture.register('stopped')
      for (let i = 0; i < (isLong ? LONG_REPEATS[fixture.engine] : 1); i++) {
        await onNewConnections(fixture, gate)
        await onKeptConnections(fixture, gate)
      }
    } finally {
      await gate.close()
    }
  },
}

/**
 * The TLS handshakes end while the worker is frozen, so it continues with connections that are
 * ready.
 */
async function onNewConnections(fixture: Fixture, gate: TlsGate): Promise<void> {
  const env = { EXTRA_CA_CERTS: gate.certificatePath }
  gate.hold()
  const frozen = await fixture.startWorker({ ...env, NODE_OPTIONS: `--import ${STOPPER}` })
  const jobs = await fixture.client.enqueueMany(JOBS, () => ({ endpoint: 'gated' }))
  await until(() => gate.heldCount() === JOBS)
  const other = await fixture.startWorker(env)
  await fixture.during('freeze', frozen.name, async () => {
    frozen.process.kill('SIGWINCH')
    await until(() => isStopped(frozen))
    fixture.hit(NEW, await unsentCount(fixture, jobs))
    gate.letThrough()
    await goOnWhenDone(fixture, frozen, other, 'gated')
    measureLate(fixture, NEW, jobs)
  })
  await fixture.terminate(frozen)
}

/**
 * The worker has as many connections to the receiver as it gets jobs, and stops at the first
 * request.
 */
async function onKeptConnections(fixture: Fixture, gate: TlsGate): Promise<void> {
  const env = { EXTRA_CA_CERTS: gate.certificatePath }
  const stopping = { NODE_OPTIONS: `--import ${STOPPER}`, STOP_AT_PATH: '/stopped' }
  const frozen = await fixture.startWorker({ ...env, ...stopping })
  await fixture.client.enqueueMany(JOBS, () => ({ answerAfterMs: WARM_UP_ANSWER_MS }))
  await fixture.drained()
  await fixture.during('freeze', frozen.name, async () => {
    const jobs = await fixture.client.enqueueMany(JOBS, () => ({ endpoint: 'stopped' }))
    await until(() => isStopped(frozen))
    fixture.hit(KEPT, await unsentCount(fixture, jobs))
    const other = await fixture.startWorker(env)
    await goOnWhenDone(fixture, frozen, other, 'stopped')
    measureLate(fixture, KEPT, jobs)
  })
  await fixture.terminate(frozen)
}

/** The number of jobs that are claimed but did not reach the receiver. */
async function unsentCount(fixture: Fixture, jobs: Accepted[]): Promise<number> {
  const sent = new Set(fixture.receiver.deliveries.map(({ jobId }) => jobId))
  const answers = await Promise.all(jobs.map(({ id }) => fixture.client.look(id)))
  return answers.filter((answer) => answer?.body.state === 'running' && !sent.has(answer.body.id))
    .length
}

async function goOnWhenDone(
  fixture: Fixture,
  frozen: Member,
  other: Member,
  endpoint: string,
): Promise<void> {
  await fixture.drained()
  await other.process.stop()
  frozen.process.kill('SIGCONT')
  // When the worker has done a new job, it has finished its old work.
  await fixture.client.enqueueMany(1, () => ({ endpoint }))
  await fixture.drained()
}

/** Measures late deliveries. Deliveries are in the order of their arrival. */
function measureLate(fixture: Fixture, window: string, jobs: Accepted[]): void {
  const greatest = new Map(jobs.map(({ id }) => [id, 0]))
  let lateCount = 0
  for (const { jobId, fence } of fixture.receiver.deliveries) {
    const before = greatest.get(jobId)
    if (before === undefined) continue
    if (fence < before) lateCount += 1
    greatest.set(jobId, Math.max(before, fence))
  }
  fixture.measure('D16', `late sends, of ${jobs.length} ${window}`, lateCount)
}

function isStopped({ process: { child } }: Member): boolean {
  // The state follows the name of the program, which is in parentheses.
  return /\) T /.test(readFileSync(`/proc/${child.pid}/stat`, 'latin1'))
}
