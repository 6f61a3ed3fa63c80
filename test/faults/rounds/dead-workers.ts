// All workers are killed at once. The API must report that soon, and a new worker must finish the
// work.
import { until } from '../../support/until.ts'
import type { Fixture, Member } from '../fixture.ts'
import { nowMs } from '../history.ts'
import { BOTH, type Round } from '../round.ts'
import type { Accepted } from '../work-client.ts'

const WORKERS = 2
const JOBS = 5
const LONG_REPEATS = 5
/** The limit of D14. */
const SHOWN_WITHIN_MS = 10_000
/** The API, the receiver and this round share two cores with everything else on the machine. */
const NOISE_MS = 500
const LOOK_DEADLINE_MS = 30_000
/** A snapshot and an age are in whole milliseconds, and are read one after the other. */
const AGE_NOISE_MS = 100

const ALL_KILLED = 'all workers killed with work due'

export const deadWorkers: Round = {
  name: 'dead-workers',
  title: 'all workers killed −9: what is seen of it, and when',
  engines: BOTH,
  shortOn: [],
  settings: { pollMs: 100 },
  windows: [ALL_KILLED],
  async play(fixture, { isLong }) {
    for (let i = 0; i < (isLong ? LONG_REPEATS : 1); i++) await killAll(fixture)
  },
}

async function killAll(fixture: Fixture): Promise<void> {
  const { client } = fixture
  const workers: Member[] = []
  for (let i = 0; i < WORKERS; i++) workers.push(await fixture.startWorker())
  await client.enqueueMany(JOBS, () => ({}))
  await fixture.drained()
  // Reads the statistics as a regular client would: the next snapshot is taken when this one is too
  // old.
  await until(async () => (await stats(fixture)).liveWorkers === WORKERS, LOOK_DEADLINE_MS)

  await Promise.all(workers.map((worker) => fixture.kill(worker)))
  const deadAtMs = nowMs()
  const jobs = await client.enqueueMany(JOBS, () => ({}))
  fixture.hit(ALL_KILLED)
  const names = workers.map(({ name }) => name)
  await Promise.all([
    shown(fixture, deadAtMs, 'live workers 0 in GET /stats', () => statsTell(fixture, jobs)),
    shown(fixture, deadAtMs, 'live workers 0 in the metrics', () => metricsTell(fixture)),
    shown(fixture, deadAtMs, 'isLive false in GET /workers', () => workersTell(fixture, names)),
    shown(fixture, deadAtMs, 'no_live_worker in explain', () => explainTells(fixture, jobs)),
    // The readiness of the worker itself, at its own port.
    shown(fixture, deadAtMs, 'no worker ready', async () => {
      const answers = await Promise.allSettled(workers.map((one) => one.metric('up')))
      return answers.every(({ status }) => status === 'rejected')
    }),
  ])

  const startedAtMs = nowMs()
  const worker = await fixture.startWorker()
  const seen = new Set<string>()
  const what = 'a new worker in GET /stats, all done'
  const tookMs = await shown(fixture, startedAtMs, what, async () => {
    const { asOf, liveWorkers, endpoints } = await stats(fixture)
    seen.add(JSON.stringify({ asOf, liveWorkers, ...endpoints[0] }))
    return liveWorkers === 1 && endpoints[0].oldestDueAge === null
  })
  if (tookMs > SHOWN_WITHIN_MS) fixture.complain(`GET /stats showed ${[...seen].join(' ')}`)
  await fixture.drained()
  await fixture.terminate(worker)
}

/** Measures how long it takes until the check is true. */
async function shown(
  fixture: Fixture,
  sinceMs: number,
  what: string,
  look: () => Promise<boolean>,
): Promise<number> {
  await until(look, LOOK_DEADLINE_MS)
  const tookMs = Math.round(nowMs() - sinceMs)
  fixture.measure('D14', `${what}, ms`, tookMs)
  if (tookMs > SHOWN_WITHIN_MS + NOISE_MS) fixture.complain(`${what}: only after ${tookMs} ms`)
  return tookMs
}

async function stats({ client }: Fixture) {
  const answer = await client.request('GET', '/stats')
  if (answer?.status !== 200) throw new Error(`GET /stats was answered by ${answer?.status}`)
  return answer.body
}

async function statsTell(fixture: Fixture, jobs: Accepted[]): Promise<boolean> {
  const { asOf, liveWorkers, endpoints } = await stats(fixture)
  if (liveWorkers !== 0) return false
  const first = await fixture.client.look((jobs[0] as Accepted).id)
  const wantedMs = Date.parse(asOf) - Date.parse(first?.body.runAt)
  const [{ oldestDueAge, due }] = endpoints
  const isRight = Math.abs(millisecondsOf(oldestDueAge) - wantedMs) <= AGE_NOISE_MS
  if (due !== jobs.length || !isRight) {
    fixture.complain(
      `GET /stats: ${due} due, the oldest for ${oldestDueAge}; ${wantedMs} ms were right`,
    )
  }
  return true
}

async function metricsTell({ client }: Fixture): Promise<boolean> {
  const answer = await client.request('GET', '/metrics')
  return /^posthorn_live_workers(\{[^}]*\})? 0$/m.test(String(answer?.body))
}

async function workersTell({ client }: Fixture, names: string[]): Promise<boolean> {
  const answer = await client.request('GET', '/workers')
  const items: { id: string; isLive: boolean }[] = answer?.body.items
  return items.every(({ id, isLive }) => !names.includes(id) || !isLive)
}

async function explainTells({ client }: Fixture, jobs: Accepted[]): Promise<boolean> {
  const answer = await client.request('GET', `/jobs/${jobs[0]?.id}/explain`)
  return answer?.body.reason === 'no_live_worker'
}

const UNIT_MS: Record<string, number> = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000 }

/** Milliseconds of a duration of the API, like 1m30s; null counts as 0. */
function millisecondsOf(text: string | null): number {
  const parts = [...(text ?? '').matchAll(/(\d+)(ms|s|m|h)/g)]
  return parts.reduce((sum, [, count, unit]) => sum + Number(count) * (UNIT_MS[unit ?? ''] ?? 0), 0)
}
