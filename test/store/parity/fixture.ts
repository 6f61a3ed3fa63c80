// Runs a script on a store, step by step, and keeps the result of every step and the records at the
// end. Stable names replace everything that differs in each run (ids, leases, instants), so that
// the outputs of two stores can be compared directly.
import { type EndpointSettings, newSecret } from '../../../src/endpoint/endpoint.ts'
import type { ClaimedJob, NewJob } from '../../../src/job/job.ts'
import type { End } from '../../../src/store/ends.ts'
import type { Holder, Store } from '../../../src/store/store.ts'
import type { SweepCounts } from '../../../src/store/sweep.ts'
import { holderOf, newJob, passed, settingsOf } from '../../contract/fixtures.ts'
import type { Warning } from '../../support/stores.ts'
import { until } from '../../support/until.ts'

/** The instants of a script are whole units apart, and a script takes less than one unit. */
export const UNIT_MS = 300_000
export const HOUR_MS = 3_600_000
const SHORT_LEASE_MS = 1

/** One secret for both stores, because the secrets are compared, too. */
const SECRET = newSecret()

/** The effects of one step: its result, and the jobs and endpoints that it changed, by name. */
export interface Recorded {
  step: string
  answer: unknown
  jobs: Record<string, unknown>
  endpoints: Record<string, unknown>
  ends: unknown[]
  warnings: unknown[]
}

export interface Stage {
  readonly store: Store
  readonly recorded: Recorded[]
  /** Does the step and records its result. */
  step<T>(title: string, work: () => Promise<T>): Promise<T>
  /** Enqueues a job, which has this name in all later steps. */
  job(name: string, endpoint: string, fields?: Partial<NewJob>): NewJob
  idOf(name: string): string
  now(): number
  endpoint(name: string, settings?: Partial<EndpointSettings>): Promise<void>
  enqueue(...jobs: NewJob[]): Promise<void>
  claim(endpoint: string, limit?: number, holder?: Partial<Holder>): Promise<ClaimedJob[]>
  claimOne(endpoint: string, holder?: Partial<Holder>): Promise<ClaimedJob>
  /** Claims a job with a short lease. Resolves when the lease has expired. */
  claimAndExpire(endpoint: string): Promise<ClaimedJob>
  /** Sweeps until nothing is left to do. The result is the sum of all these sweeps. */
  sweep(title?: string): Promise<void>
  /**
   * Sweeps until an endpoint that is being deleted is gone: MongoDB waits for enqueues that came
   * late.
   */
  sweepAway(endpoint: string): Promise<void>
}

export type Script = (stage: Stage) => Promise<void>

export async function play(
  store: Store,
  warnings: readonly Warning[],
  script: Script,
): Promise<Recorded[]> {
  const ends: End[] = []
  const stop = store.onEnd((end) => void ends.push(end))
  try {
    const stage = createStage(store, ends, warnings)
    await script(stage)
    return stage.recorded
  } finally {
    stop()
  }
}

function createStage(store: Store, ends: End[], warnings: readonly Warning[]): Stage {
  const names = createNames(store)
  const recorded: Recorded[] = []
  const before = new Map<string, string>()
  let warningCount = warnings.length

  /** The records that differ from those after the step before. */
  function changed(kind: string, records: Map<string, unknown>): Record<string, unknown> {
    const found = [...records].filter(([name, record]) => {
      const text = JSON.stringify(record)
      const isChanged = before.get(`${kind} ${name}`) !== text
      before.set(`${kind} ${name}`, text)
      return isChanged
    })
    const gone = [...before.keys()].filter(
      (key) => key.startsWith(`${kind} `) && !records.has(key.slice(kind.length + 1)),
    )
    for (const key of gone) before.delete(key)
    const removed = gone.map((key) => [key.slice(kind.length + 1), 'removed'])
    return Object.fromEntries([...found, ...removed])
  }

  async function jobsNow() {
    const jobs = await allJobs(store)
    for (const { id, payload } of jobs) names.nameNotice(id, payload)
    return new Map(jobs.map((job) => [names.of(job.id), names.normalized(job)]))
  }

  async function endpointsNow() {
    const { items } = await store.listEndpoints(null, 1_000)
    return new Map(items.map((endpoint) => [endpoint.name, names.normalized(endpoint)]))
  }

  const stage: Stage = {
    store,
    recorded,
    now: () => store.clock.now(),
    idOf: names.idOf,
    async step(title, work) {
      const end = await names.span(work)
      const jobs = changed('job', await jobsNow())
      const normalizedEnds = ends.splice(0).map((one) => names.normalized(one))
      recorded.push({
        step: `${recorded.length + 1} ${title}`,
        answer: names.normalized(end),
        jobs,
        endpoints: changed('endpoint', await endpointsNow()),
        ends: normalizedEnds.toSorted((a, b) => (JSON.stringify(a) < JSON.stringify(b) ? -1 : 1)),
        warnings: warnings.slice(warningCount).map((one) => names.normalized(one)),
      })
      warningCount = warnings.length
      return end
    },
    job(name, endpoint, fields = {}) {
      const job = newJob(store, endpoint, { payload: Buffer.from(`{"is":"${name}"}`), ...fields })
      names.name(job.id, name)
      return job
    },
    async endpoint(name, settings = {}) {
      await stage.step(`put endpoint ${name}`, () =>
        store.putEndpoint(
          settingsOf({ name, ...settings }),
          { given: SECRET, fresh: SECRET },
          null,
        ),
      )
    },
    async enqueue(...jobs) {
      await stage.step(`enqueue ${jobs.map(({ id }) => names.of(id)).join(', ')}`, () =>
        store.enqueue(jobs),
      )
    },
    async claim(endpoint, limit = 1, holder = {}) {
      const { jobs } = await stage.step(`claim ${limit} of ${endpoint}`, () =>
        store.claim([{ endpoint, limit }], limit, holderOf({ leaseMs: HOUR_MS, ...holder })),
      )
      return jobs
    },
    async claimOne(endpoint, holder) {
      const [claimed] = await stage.claim(endpoint, 1, holder)
      if (claimed === undefined) throw new Error(`nothing to claim at ${endpoint}`)
      return claimed
    },
    async claimAndExpire(endpoint) {
      const { jobs } = await stage.step(
        `claim one of ${endpoint}, whose lease lapses`,
        async () => {
          const holder = holderOf({ leaseMs: SHORT_LEASE_MS })
          const claim = await store.claim([{ endpoint, limit: 1 }], 1, holder)
          await passed(store, store.clock.now() + SHORT_LEASE_MS)
          return claim
        },
      )
      return jobs[0] as ClaimedJob
    },
    async sweep(title = 'sweep') {
      await stage.step(title, () => sweepUntil(store, () => true))
    },
    async sweepAway(endpoint) {
      const isGone = async () => (await store.endpointsNamed([endpoint])).length === 0
      await stage.step(`sweep ${endpoint} away`, () => sweepUntil(store, isGone))
    },
  }
  return stage
}

async function sweepUntil(
  store: Store,
  isDone: () => boolean | Promise<boolean>,
): Promise<SweepCounts> {
  const total: Record<string, number> = {}
  await until(async () => {
    const counts = Object.entries(await store.sweep({ limit: 1_000, reclaim: true }))
    for (const [name, count] of counts) total[name] = (total[name] ?? 0) + count
    // Overdue jobs are not ended by a sweep.
    const isClean = counts.every(([name, count]) => name === 'overdue' || count === 0)
    return isClean && (await isDone())
  })
  return total as unknown as SweepCounts
}

async function allJobs(store: Store) {
  const { items } = await store.listJobs({ oldestFirst: true, limit: 1_000 })
  const jobs = await Promise.all(items.map(({ id }) => store.getJob(id)))
  return jobs.filter((job) => job !== null)
}

const JOB_ID = /job_[0-9a-hjkmnp-tv-z]{26}/g
/** Numbers above this are instants: no count or duration is as large. */
const FIRST_INSTANT = 1e12
/**
 * Instants that a rule computes, not the script. They show as "soon" if they are less than a unit
 * ahead.
 */
const SOON = new Set(['againAt', 'endsAt'])
/**
 * Outcomes of attempts that the store itself ended. Their durations are measured and differ in each
 * run.
 */
const MEASURED = new Set(['lost', 'cancelled'])

function createNames(store: Store) {
  const startedAt = store.clock.now()
  const nameById = new Map<string, string>()
  const idByName = new Map<string, string>()
  /** The first and the last instant of each step. Steps do not overlap. */
  const spans: { from: number; to: number }[] = []

  function name(id: string, text: string): void {
    nameById.set(id, text)
    idByName.set(text, id)
  }

  function instant(at: number): string {
    const units = Math.floor((at - startedAt) / UNIT_MS)
    const rest = at - units * UNIT_MS
    const index = spans.findIndex(({ from, to }) => from <= rest && rest <= to)
    const step = index < 0 ? `${rest - startedAt} ms after the start` : `step ${index + 1}`
    return units === 0 ? step : `${step}, ${units} units`
  }

  function normalized(value: unknown): unknown {
    if (typeof value === 'number') return value > FIRST_INSTANT ? instant(value) : value
    if (typeof value === 'string') return value.replaceAll(JOB_ID, (id) => of(id))
    if (value instanceof Uint8Array) return normalized(Buffer.from(value).toString())
    if (Array.isArray(value)) return value.map(normalized)
    if (typeof value !== 'object' || value === null) return value
    const record = value as Record<string, unknown>
    const entries = Object.entries(record).map(([key, one]): [string, unknown] => {
      if (key === 'leaseId') return [key, 'a lease']
      if (SOON.has(key) && isSoon(one as number)) return [key, 'soon']
      if (key === 'durationMs' && MEASURED.has(record.outcome as string)) return [key, 'measured']
      return [key, normalized(one)]
    })
    return Object.fromEntries(entries.toSorted(([a], [b]) => (a < b ? -1 : 1)))
  }

  function isSoon(againAt: number): boolean {
    return againAt - store.clock.now() < UNIT_MS
  }

  function of(id: string): string {
    return nameById.get(id) ?? 'a job without a name'
  }

  return {
    name,
    of,
    normalized,
    idOf(text: string): string {
      return idByName.get(text) ?? 'job_00000000000000000000000000'
    },
    /** A job that the script has not named is the notice of another job. */
    nameNotice(id: string, payload: Uint8Array): void {
      if (nameById.has(id)) return
      const { jobId, state } = JSON.parse(Buffer.from(payload).toString())
      const text = `notice: ${of(jobId)} ${state}`
      name(id, idByName.has(text) ? `${text} again` : text)
    },
    /**
     * The actions of the script before the work count as part of the step: they make the jobs of an
     * enqueue.
     */
    async span<T>(work: () => Promise<T>): Promise<T> {
      const span = { from: (spans.at(-1)?.to ?? startedAt - 1) + 1, to: Number.POSITIVE_INFINITY }
      spans.push(span)
      const result = await work()
      span.to = store.clock.now()
      await until(() => store.clock.now() > span.to)
      if (span.to - startedAt > UNIT_MS) throw new Error('the script took too long')
      return result
    },
  }
}
