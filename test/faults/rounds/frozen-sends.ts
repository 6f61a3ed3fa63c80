// Workers that stand still between their claim and their send, until another has done their jobs.
// When they go on, their leases have ended and nothing of theirs may leave.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { until } from '../../support/until.ts'
import type { Ground, Member } from '../ground.ts'
import { BOTH, type Round } from '../round.ts'
import { openGate, type TlsGate } from '../tls-gate.ts'
import type { Accepted } from '../work-client.ts'

const JOBS = 20
const LONG_REPEATS = { sqlite: 10, mongo: 3 }
const LEASE_MS = 1_500
/** So long the receiver answers for a connection of its own for each job to be needed. */
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
  async play(ground, { isLong }) {
    const gate = await openGate(ground.receiver.url)
    try {
      await ground.register('gated', { url: `${gate.url}/gated` })
      await ground.register('stopped')
      for (let i = 0; i < (isLong ? LONG_REPEATS[ground.engine] : 1); i++) {
        await onNewConnections(ground, gate)
        await onKeptConnections(ground, gate)
      }
    } finally {
      await gate.close()
    }
  },
}

/** The TLS handshakes end while the worker stands still: it goes on with connections ready. */
async function onNewConnections(ground: Ground, gate: TlsGate): Promise<void> {
  const env = { EXTRA_CA_CERTS: gate.certificatePath }
  gate.hold()
  const frozen = await ground.startWorker({ ...env, NODE_OPTIONS: `--import ${STOPPER}` })
  const jobs = await ground.client.enqueueMany(JOBS, () => ({ endpoint: 'gated' }))
  await until(() => gate.heldCount() === JOBS)
  const other = await ground.startWorker(env)
  await ground.during('freeze', frozen.name, async () => {
    frozen.process.kill('SIGWINCH')
    await until(() => isStopped(frozen))
    ground.hit(NEW, await unsentCount(ground, jobs))
    gate.letThrough()
    await goOnWhenDone(ground, frozen, other, 'gated')
    measureLate(ground, NEW, jobs)
  })
  await ground.terminate(frozen)
}

/** The worker has as many connections to the receiver as it gets jobs, and stops at the first. */
async function onKeptConnections(ground: Ground, gate: TlsGate): Promise<void> {
  const env = { EXTRA_CA_CERTS: gate.certificatePath }
  const stopping = { NODE_OPTIONS: `--import ${STOPPER}`, STOP_AT_PATH: '/stopped' }
  const frozen = await ground.startWorker({ ...env, ...stopping })
  await ground.client.enqueueMany(JOBS, () => ({ answerAfterMs: WARM_UP_ANSWER_MS }))
  await ground.drained()
  await ground.during('freeze', frozen.name, async () => {
    const jobs = await ground.client.enqueueMany(JOBS, () => ({ endpoint: 'stopped' }))
    await until(() => isStopped(frozen))
    ground.hit(KEPT, await unsentCount(ground, jobs))
    const other = await ground.startWorker(env)
    await goOnWhenDone(ground, frozen, other, 'stopped')
    measureLate(ground, KEPT, jobs)
  })
  await ground.terminate(frozen)
}

/** Those that are claimed and have not come to the receiver. */
async function unsentCount(ground: Ground, jobs: Accepted[]): Promise<number> {
  const sent = new Set(ground.receiver.deliveries.map(({ jobId }) => jobId))
  const answers = await Promise.all(jobs.map(({ id }) => ground.client.look(id)))
  return answers.filter((answer) => answer?.body.state === 'running' && !sent.has(answer.body.id))
    .length
}

async function goOnWhenDone(
  ground: Ground,
  frozen: Member,
  other: Member,
  endpoint: string,
): Promise<void> {
  await ground.drained()
  await other.process.stop()
  frozen.process.kill('SIGCONT')
  // It is through with what it had in hand when it has done something new.
  await ground.client.enqueueMany(1, () => ({ endpoint }))
  await ground.drained()
}

/** Deliveries stand in the order in which they came. */
function measureLate(ground: Ground, window: string, jobs: Accepted[]): void {
  const greatest = new Map(jobs.map(({ id }) => [id, 0]))
  let lateCount = 0
  for (const { jobId, fence } of ground.receiver.deliveries) {
    const before = greatest.get(jobId)
    if (before === undefined) continue
    if (fence < before) lateCount += 1
    greatest.set(jobId, Math.max(before, fence))
  }
  ground.measure('D16', `late sends, of ${jobs.length} ${window}`, lateCount)
}

function isStopped({ process: { child } }: Member): boolean {
  // The state stands behind the name of the program, which is in brackets.
  return /\) T /.test(readFileSync(`/proc/${child.pid}/stat`, 'latin1'))
}
