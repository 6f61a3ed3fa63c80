// A worker has outcomes to store while the store is away for longer than the deadline of a write.
// No outcome is lost.
import { until } from '../../support/until.ts'
import { type Fixture, type Member, requestsUnderWay } from '../fixture.ts'
import { nowMs } from '../history.ts'
import { BOTH, type Round } from '../round.ts'
import type { Accepted } from '../work-client.ts'
import type { Reply } from '../work-receiver.ts'

const JOBS = 16
const LONG_REPEATS = 8
/**
 * Longer than a timestamp counts as fresh: a later attempt that has the signature of the first one
 * is found.
 */
const LEAST_OUTAGE_MS = 5_300
/** A write fails after less than three seconds, but renewals in progress are awaited before it. */
const FAILED_DEADLINE_MS = 9_000
/**
 * A worker renews its leases after a third of this time, so a lease from before the outage lasts
 * longer than it.
 */
const LEASE_MS = 15_000

/**
 * The delay of every other job, so that the worker that claims the jobs without delay does not
 * claim these, too.
 */
const DELAY_MS = 800

const IN_HAND = 'results in hand while the store was away'

export const resultsInHand: Round = {
  name: 'results-in-hand',
  title: 'store away while answers come in',
  engines: BOTH,
  shortOn: ['sqlite'],
  settings: { leaseMs: LEASE_MS, sweepMs: 250, pollMs: 50 },
  windows: [IN_HAND],
  async play(fixture, { isLong }) {
    const worker = await fixture.startWorker()
    for (let i = 0; i < (isLong ? LONG_REPEATS : 1); i++) {
      const answers = new Map<string, PromiseWithResolvers<Reply>>()
      fixture.receiver.answerWith(({ jobId }) => {
        if (answers.has(jobId)) return undefined
        const answer = Promise.withResolvers<Reply>()
        answers.set(jobId, answer)
        return answer.promise
      })
      const jobs = await fixture.client.enqueueMany(JOBS, (i) => ({ delayMs: (i % 2) * DELAY_MS }))
      await until(() => answers.size === JOBS)
      const [succeeding, failing] = [jobs.slice(0, JOBS / 2), jobs.slice(JOBS / 2)]
      const kind = fixture.engine === 'sqlite' ? 'store_locked' : 'store_cut'
      await fixture.during(kind, 'store', async () => {
        const awayFromMs = nowMs()
        const restore = await fixture.store.cutOffWorkers()
        const failedBefore = failedWrites(worker)
        for (const { id } of succeeding) answers.get(id)?.resolve(200)
        // The first write that fails holds outcomes of these jobs alone.
        await until(() => failedWrites(worker) > failedBefore, FAILED_DEADLINE_MS)
        for (const { id } of failing) answers.get(id)?.resolve(500)
        await until(async () => (await requestsUnderWay(worker)) === 0)
        fixture.hit(IN_HAND, JOBS)
        await until(() => nowMs() > awayFromMs + LEAST_OUTAGE_MS)
        await restore()
      })
      await fixture.drained()
      expectDeliveries(fixture, succeeding, 1)
      expectDeliveries(fixture, failing, 2)
    }
  },
}

/** How many writes of outcomes the store has not taken so far. */
function failedWrites({ process: { log } }: Member): number {
  return log.filter(({ msg }) => msg === 'settle.failed').length
}

function expectDeliveries({ receiver, complain }: Fixture, jobs: Accepted[], count: number): void {
  for (const { id } of jobs) {
    const { length } = receiver.deliveries.filter(({ jobId }) => jobId === id)
    if (length !== count) complain(`${id} was delivered ${length} times and not ${count}`)
  }
}
