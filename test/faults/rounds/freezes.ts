// Workers are frozen for longer than their leases, and then continue.
import { until } from '../../support/until.ts'
import { type Fixture, requestsUnderWay } from '../fixture.ts'
import { BOTH, type Round } from '../round.ts'
import type { Accepted } from '../work-client.ts'

const JOBS = 20
const LONG_REPEATS = 10
const LEASE_MS = 1_500

const WITH_REQUEST = 'frozen while the answer was on its way'
const WITH_RESULT = 'frozen with the result in hand, not yet stored'

export const freezes: Round = {
  name: 'freezes',
  title: 'worker SIGSTOP for 3 leases, then SIGCONT',
  engines: BOTH,
  settings: { leaseMs: LEASE_MS, sweepMs: 200, pollMs: 50 },
  windows: [WITH_REQUEST, WITH_RESULT],
  async play(fixture, { isLong }) {
    for (let i = 0; i < (isLong ? LONG_REPEATS : 1); i++) {
      await freeze(fixture, WITH_REQUEST, false)
      await freeze(fixture, WITH_RESULT, true)
    }
  },
}

/** @param isStored false: the worker receives the response, but cannot store the outcome */
async function freeze(fixture: Fixture, window: string, cutsOff: boolean): Promise<void> {
  const frozen = await fixture.startWorker()
  const release = Promise.withResolvers<200>()
  let heldCount = 0
  fixture.receiver.answerWith(({ attempt }) => {
    if (attempt > 1) return undefined
    heldCount += 1
    return release.promise
  })
  const jobs = await fixture.client.enqueueMany(JOBS, () => ({}))
  await until(() => heldCount === JOBS)
  const other = await fixture.startWorker()
  const staleBefore = await frozen.metric('posthorn_stale_results_total')

  await fixture.during('freeze', frozen.name, async () => {
    const restore = cutsOff ? await fixture.store.cutOffWorkers() : null
    if (!cutsOff) frozen.process.kill('SIGSTOP')
    release.resolve(200)
    await until(() => jobs.every((job) => firstDelivery(fixture, job)?.answeredAtMs !== null))
    // A metric of the worker shows when it has the outcomes.
    if (cutsOff) await until(async () => (await requestsUnderWay(frozen)) === 0)
    if (cutsOff) frozen.process.kill('SIGSTOP')
    await restore?.()
    await fixture.drained()
    await until(async () => {
      const last = await fixture.client.look((jobs.at(-1) as Accepted).id)
      return last?.body.state === 'succeeded'
    })
    frozen.process.kill('SIGCONT')
    // When the worker claims jobs again, it is awake and has finished its old work.
    await other.process.stop()
    fixture.receiver.answerWith(() => undefined)
    await fixture.client.enqueueMany(1, () => ({}))
    await fixture.drained()
  })
  fixture.hit(window, JOBS)
  const refused = (await frozen.metric('posthorn_stale_results_total')) - staleBefore
  fixture.measure('D5', `stale results refused, of ${JOBS} ${window}`, refused)
  if (cutsOff && refused !== JOBS) {
    fixture.complain(`${window}: ${refused} of ${JOBS} stale results were counted as refused`)
  }
  await fixture.terminate(frozen)
}

const firstDelivery = (fixture: Fixture, { id }: Accepted) =>
  fixture.receiver.deliveries.find(({ jobId }) => jobId === id)
