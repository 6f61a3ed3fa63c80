// The worker that does the upkeep is killed with requests in progress, again and again. Another
// worker takes over, and the jobs of the killed one are sent again in time.
import { until } from '../../support/until.ts'
import { doesUpkeep, type Fixture, type Member } from '../fixture.ts'
import { nowMs } from '../history.ts'
import { BOTH, type Round, SLOW_STORE } from '../round.ts'
import type { Reply } from '../work-receiver.ts'

const WORKERS = 3
const JOBS = 8
const REPEATS = { short: 2, long: 10 }
/** The limit of D18. */
const TAKEN_OVER_WITHIN_MS = 3_000
/** The processes share two cores with everything else on the machine. */
const NOISE_MS = 1_000
const DEADLINE_MS = 30_000

const HOLDER_KILLED = 'the worker that did the upkeep was killed'

export const upkeepTakeovers: Round = {
  name: 'upkeep-takeovers',
  title: 'the worker that does the upkeep killed −9, again and again',
  engines: BOTH,
  shortOn: ['sqlite'],
  isAlone: true,
  settings: { leaseMs: 2_000, sweepMs: 250, pollMs: 100 },
  settingsOf: { mongo: SLOW_STORE },
  windows: [HOLDER_KILLED],
  async play(fixture, { isLong }) {
    const workers: Member[] = []
    for (let i = 0; i < WORKERS; i++) workers.push(await fixture.startWorker())
    await until(() => workers.filter(doesUpkeep).length === 1, DEADLINE_MS)
    const repeats = isLong ? REPEATS.long : REPEATS.short
    for (let i = 0; i < repeats; i++) await killHolder(fixture, workers)
    for (const worker of workers) await fixture.terminate(worker)
  },
}

async function killHolder(fixture: Fixture, workers: Member[]): Promise<void> {
  // The first delivery of each job is in progress until the holder is dead.
  const first = Promise.withResolvers<Reply>()
  const seen = new Set<string>()
  fixture.receiver.answerWith(({ jobId }) => {
    if (seen.has(jobId)) return 200
    seen.add(jobId)
    return first.promise
  })
  await fixture.client.enqueueMany(JOBS, () => ({}))
  await until(() => seen.size === JOBS, DEADLINE_MS)
  const [holder] = workers.filter(doesUpkeep)
  if (holder === undefined) throw new Error('no worker does the upkeep')
  const killedAtMs = nowMs()
  await fixture.kill(holder)
  workers.splice(workers.indexOf(holder), 1)
  fixture.hit(HOLDER_KILLED)
  first.resolve(200)
  await until(() => workers.some(doesUpkeep), DEADLINE_MS)
  const tookMs = Math.round(nowMs() - killedAtMs)
  fixture.measure('D18', 'the upkeep was taken over, ms', tookMs)
  if (tookMs > TAKEN_OVER_WITHIN_MS + NOISE_MS) {
    fixture.complain(`the upkeep was taken over only after ${tookMs} ms`)
  }
  await fixture.drained()
  workers.push(await fixture.startWorker())
}
