// All workers killed at once: how soon that is to be seen from outside, and that it goes away
// again.
import { until } from '../../support/until.ts'
import type { Ground, Member } from '../ground.ts'
import { nowMs } from '../history.ts'
import { BOTH, type Round } from '../round.ts'
import type { Accepted } from '../work-client.ts'

const WORKERS = 2
const JOBS = 5
const LONG_REPEATS = 5
/** D14. */
const SHOWN_WITHIN_MS = 10_000
/** The API, the receiver and this round share two cores with whatever else runs there. */
const NOISE_MS = 500
const LOOK_DEADLINE_MS = 30_000
/**
 * Times of a snapshot and of an age are told in whole milliseconds, and read one after the other.
 */
const AGE_NOISE_MS = 100

const ALL_KILLED = 'all workers killed with work due'

export const deadWorkers: Round = {
  name: 'dead-workers',
  title: 'all workers killed −9: what is seen of it, and when',
  engines: BOTH,
  shortOn: [],
  settings: { pollMs: 100 },
  windows: [ALL_KILLED],
  async play(ground, { isLong }) {
    for (let i = 0; i < (isLong ? LONG_REPEATS : 1); i++) await killAll(ground)
  },
}

async function killAll(ground: Ground): Promise<void> {
  const { client } = ground
  const workers: Member[] = []
  for (let i = 0; i < WORKERS; i++) workers.push(await ground.startWorker())
  await client.enqueueMany(JOBS, () => ({}))
  await ground.drained()
  // A snapshot is taken here, as by whoever keeps looking: the next one comes when it is too old.
  await until(async () => (await stats(ground)).liveWorkers === WORKERS, LOOK_DEADLINE_MS)

  await Promise.all(workers.map((worker) => ground.kill(worker)))
  const deadAtMs = nowMs()
  const jobs = await client.enqueueMany(JOBS, () => ({}))
  ground.hit(ALL_KILLED)
  const names = workers.map(({ name }) => name)
  await Promise.all([
    shown(ground, deadAtMs, 'live workers 0 in GET /stats', () => statsTell(ground, jobs)),
    shown(ground, deadAtMs, 'live workers 0 in the metrics', () => metricsTell(ground)),
    shown(ground, deadAtMs, 'isLive false in GET /workers', () => workersTell(ground, names)),
    shown(ground, deadAtMs, 'no_live_worker in explain', () => explainTells(ground, jobs)),
    // Its own readiness is asked at its own port.
    shown(ground, deadAtMs, 'no worker ready', async () => {
      const answers = await Promise.allSettled(workers.map((one) => one.metric('up')))
      return answers.every(({ status }) => status === 'rejected')
    }),
  ])

  const startedAtMs = nowMs()
  const worker = await ground.startWorker()
  const told = new Set<string>()
  const what = 'a new worker in GET /stats, all done'
  const tookMs = await shown(ground, startedAtMs, what, async () => {
    const { asOf, liveWorkers, endpoints } = await stats(ground)
    told.add(JSON.stringify({ asOf, liveWorkers, ...endpoints[0] }))
    return liveWorkers === 1 && endpoints[0].oldestDueAge === null
  })
  if (tookMs > SHOWN_WITHIN_MS) ground.complain(`GET /stats told ${[...told].join(' ')}`)
  await ground.drained()
  await ground.terminate(worker)
}

/** Measures how long it takes from then on until the look is true. */
async function shown(
  ground: Ground,
  sinceMs: number,
  what: string,
  look: () => Promise<boolean>,
): Promise<number> {
  await until(look, LOOK_DEADLINE_MS)
  const tookMs = Math.round(nowMs() - sinceMs)
  ground.measure('D14', `${what}, ms`, tookMs)
  if (tookMs > SHOWN_WITHIN_MS + NOISE_MS) ground.complain(`${what}: only after ${tookMs} ms`)
  return tookMs
}

async function stats({ client }: Ground) {
  const answer = await client.request('GET', '/stats')
  if (answer?.status !== 200) throw new Error(`GET /stats was answered by ${answer?.status}`)
  return answer.body
}

async function statsTell(ground: Ground, jobs: Accepted[]): Promise<boolean> {
  const { asOf, liveWorkers, endpoints } = await stats(ground)
  if (liveWorkers !== 0) return false
  const first = await ground.client.look((jobs[0] as Accepted).id)
  const wantedMs = Date.parse(asOf) - Date.parse(first?.body.runAt)
  const [{ oldestDueAge, due }] = endpoints
  const isRight = Math.abs(millisecondsOf(oldestDueAge) - wantedMs) <= AGE_NOISE_MS
  if (due !== jobs.length || !isRight) {
    ground.complain(
      `GET /stats: ${due} due, the oldest for ${oldestDueAge}; ${wantedMs} ms were right`,
    )
  }
  return true
}

async function metricsTell({ client }: Ground): Promise<boolean> {
  const answer = await client.request('GET', '/metrics')
  return /^posthorn_live_workers(\{[^}]*\})? 0$/m.test(String(answer?.body))
}

async function workersTell({ client }: Ground, names: string[]): Promise<boolean> {
  const answer = await client.request('GET', '/workers')
  const items: { id: string; isLive: boolean }[] = answer?.body.items
  return items.every(({ id, isLive }) => !names.includes(id) || !isLive)
}

async function explainTells({ client }: Ground, jobs: Accepted[]): Promise<boolean> {
  const answer = await client.request('GET', `/jobs/${jobs[0]?.id}/explain`)
  return answer?.body.reason === 'no_live_worker'
}

const UNIT_MS: Record<string, number> = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000 }

/** Of a duration as the API tells it, like 1m30s; null counts as nothing. */
function millisecondsOf(text: string | null): number {
  const parts = [...(text ?? '').matchAll(/(\d+)(ms|s|m|h)/g)]
  return parts.reduce((sum, [, count, unit]) => sum + Number(count) * (UNIT_MS[unit ?? ''] ?? 0), 0)
}
