// The commands of random sequences about fairness keys, and what every start must keep to. What is
// due is read from the store, as any client reads it: nothing here knows of tags.
import { expect } from 'vitest'
import type { ClaimedJob, JobSummary, NewJob } from '../../src/job/job.ts'
import type { Store } from '../../src/store/store.ts'
import {
  burial,
  claimFrom,
  laterAgain,
  leaseOf,
  newJob,
  postponement,
  success,
  sweep,
} from '../contract/fixtures.ts'
import { until } from '../support/until.ts'

const PAGE = 200
/** Jobs of one sequence. A key has turns for 64 of its jobs. */
const MOST_JOBS = 400
/** Claims until the rest of a sequence must be done. */
const MOST_CLAIMS = 500
const SLOTS = 7
const HOUR_MS = 3_600_000
/** Short: the time passes between two commands. */
const SHORT_MS = 4

const PRIORITIES = [5, 9] as const
export const KEYS = ['a', 'b', 'c', 'd', null] as const
type Key = (typeof KEYS)[number]

export type Step =
  | {
      kind: 'enqueue'
      key: Key
      count: number
      priority: (typeof PRIORITIES)[number]
      cost: number
      when: 'now' | 'soon' | 'much later'
      expires: boolean
      dedupe: number | null
      ordering: number | null
    }
  | { kind: 'claim'; count: number }
  | { kind: 'settle'; how: 'succeed' | 'retry' | 'retry soon' | 'postpone' | 'bury' | 'release' }
  | { kind: 'cancel'; at: number; count: number }
  | { kind: 'retry'; at: number }
  | { kind: 'edit'; at: number; count: number; to: 'priority' | 'now' | 'soon' | 'early' }
  | { kind: 'delete'; at: number }
  | { kind: 'pause' | 'resume' | 'sweep' | 'wait' }

interface Start {
  key: string
  cost: number
}

/** Of a key that has due jobs and has not started one of them since. */
interface Wait {
  /** The greatest cost of these. A job that becomes due later can come before them. */
  mostCost: number
  /** What others have started. */
  starts: Map<string, Start[]>
}

export class TurnSequence {
  readonly #store: Store
  readonly #endpoint: string
  /** Jobs become due later, or again: then one start more of each other key is allowed. */
  readonly #slack: number
  readonly #running: ClaimedJob[] = []
  readonly #released = new Set<string>()
  readonly #final: string[] = []
  /** By priority, then by key. */
  readonly #waits = new Map<number, Map<string, Wait>>()
  readonly #known = new Map<string, JobSummary>()
  #queued: JobSummary[] = []
  #isPaused = false

  constructor(store: Store, endpoint: string, slack: number) {
    this.#store = store
    this.#endpoint = endpoint
    this.#slack = slack
  }

  async play(step: Step): Promise<void> {
    await this.#do(step)
    await this.#look()
  }

  /** All that is left begins, within the bound. */
  async finish(): Promise<void> {
    await this.play({ kind: 'resume' })
    const muchLater = this.#store.clock.now() + HOUR_MS / 2
    const late = this.#queued.filter(({ runAt }) => runAt > muchLater)
    await this.#store.cancel(late.map(({ id }) => id))
    for (let claims = 0; claims < MOST_CLAIMS; claims++) {
      await this.play({ kind: 'claim', count: SLOTS })
      await this.play({ kind: 'settle', how: 'succeed' })
      if (this.#queued.length === 0) return
      await this.play({ kind: 'sweep' })
      if (this.#due().length === 0) await this.play({ kind: 'wait' })
    }
    expect(this.#queued, 'never claimed').toEqual([])
  }

  #due(): JobSummary[] {
    const now = this.#store.clock.now()
    return this.#queued.filter(
      ({ runAt, expiresAt, isBlocked }) =>
        !isBlocked && runAt <= now && (expiresAt === null || expiresAt > now),
    )
  }

  async #do(step: Step): Promise<void> {
    const store = this.#store
    switch (step.kind) {
      case 'enqueue':
        return this.#enqueue(step)
      case 'claim':
        return this.#claim(step.count)
      case 'settle':
        return this.#settle(step.how)
      case 'cancel': {
        const ids = this.#from(step.at, step.count)
        if (ids.length === 0) return
        this.#waitAgain(ids)
        await store.cancel(ids)
        this.#final.push(...ids)
        return
      }
      case 'retry': {
        const id = this.#final[step.at % this.#final.length]
        if (id !== undefined) await store.retry([id])
        return
      }
      case 'edit':
        return this.#edit(step)
      case 'delete': {
        const id = this.#final[step.at % this.#final.length]
        if (id !== undefined) await store.deleteJob(id)
        return
      }
      case 'pause':
        this.#isPaused = true
        await store.pauseEndpoint(this.#endpoint)
        return
      case 'resume':
        this.#isPaused = false
        await store.resumeEndpoint(this.#endpoint)
        return
      case 'sweep':
        await sweep(store)
        return
      case 'wait': {
        const then = store.clock.now() + SHORT_MS
        return until(() => store.clock.now() > then)
      }
      default:
        throw new Error(`unknown step ${step satisfies never}`)
    }
  }

  async #enqueue(step: Extract<Step, { kind: 'enqueue' }>): Promise<void> {
    const { key, priority, cost, when, expires, dedupe, ordering } = step
    // Each replacement on MongoDB is several commands.
    const most = dedupe === null ? step.count : 1
    const count = Math.min(most, MOST_JOBS - this.#queued.length)
    const now = this.#store.clock.now()
    const runAt = now + { now: 0, soon: SHORT_MS, 'much later': HOUR_MS }[when]
    const fields: Partial<NewJob> = {
      ...{ fairnessKey: key, priority, cost, runAt },
      expiresAt: expires ? runAt + SHORT_MS : null,
      dedupe: dedupe === null ? null : { key: `dedupe ${dedupe}`, mode: 'replace' },
      orderingKey: ordering === null ? null : `ordering ${ordering}`,
    }
    if (count > 0) {
      await this.#store.enqueue(
        Array.from({ length: count }, () => newJob(this.#store, this.#endpoint, fields)),
      )
    }
  }

  async #claim(count: number): Promise<void> {
    const before = this.#due()
    const jobs = await claimFrom(this.#store, this.#endpoint, count)
    const isSwept = !this.#isAnyExpired()
    // Some may have expired since the last look.
    for (const { priority, key } of this.#expired()) this.#waits.get(priority)?.delete(key)
    if (this.#isPaused) expect(jobs).toEqual([])
    else if (isSwept && before.some(isStable)) expect(jobs.length, 'claimed').toBeGreaterThan(0)
    const left = new Map(before.map((job) => [job.id, job]))
    for (const job of jobs) {
      const summary = this.#known.get(job.jobId) as JobSummary
      left.delete(job.jobId)
      const { priority } = summary
      const higher = [...left.values()].filter((one) => one.priority > priority && isStable(one))
      if (isSwept) expect(higher, 'of a higher priority').toEqual([])
      const start = { key: summary.fairnessKey ?? '', cost: summary.cost }
      this.#running.push(job)
      // A job that was released has used up its turn already.
      if (!this.#released.delete(job.jobId)) this.#count(summary, start)
      const more = [...left.values()].filter(
        (one) => one.priority === priority && (one.fairnessKey ?? '') === start.key,
      )
      if (more.length > 0) this.#waits.get(priority)?.set(start.key, waitOf(more))
    }
  }

  #isAnyExpired(): boolean {
    return this.#expired().length > 0
  }

  /** The lanes of jobs that expired: they have their turns until the next sweep. */
  #expired(): { priority: number; key: string }[] {
    const now = this.#store.clock.now()
    return this.#queued
      .filter(({ expiresAt }) => expiresAt !== null && expiresAt <= now)
      .map(({ priority, fairnessKey }) => ({ priority, key: fairnessKey ?? '' }))
  }

  #count({ priority }: JobSummary, start: Start): void {
    const waits = this.#waits.get(priority)
    const own = waits?.get(start.key)
    if (own !== undefined) {
      for (const [other, starts] of own.starts) {
        const cost = starts.reduce((sum, one) => sum + one.cost, 0)
        const most = Math.max(...starts.map((one) => one.cost))
        const bound = Math.max(start.cost, own.mostCost) + most * (1 + this.#slack)
        expect(cost, `${other} before ${start.key}`).toBeLessThanOrEqual(bound)
      }
    }
    waits?.delete(start.key)
    for (const { starts } of waits?.values() ?? []) {
      starts.set(start.key, [...(starts.get(start.key) ?? []), start])
    }
  }

  async #settle(how: Extract<Step, { kind: 'settle' }>['how']): Promise<void> {
    const store = this.#store
    const some = this.#running.splice(0)
    if (some.length === 0) return
    if (how === 'release') {
      await store.release(some.map(leaseOf))
      for (const { jobId } of some) this.#released.add(jobId)
      return
    }
    const soon = store.clock.now() + SHORT_MS
    const settlements = some.map((job) => {
      switch (how) {
        case 'succeed':
          return success(store, job)
        case 'retry':
          return laterAgain(store, job)
        case 'retry soon':
          return laterAgain(store, job, soon)
        case 'postpone':
          return postponement(store, job)
        case 'bury':
          return burial(store, job)
        default:
          throw new Error(`unknown end ${how satisfies never}`)
      }
    })
    await store.settle(settlements)
    if (how === 'bury') this.#final.push(...some.map(({ jobId }) => jobId))
  }

  async #edit({ at, count, to }: Extract<Step, { kind: 'edit' }>): Promise<void> {
    const now = this.#store.clock.now()
    for (const id of this.#from(at, count)) {
      const { priority } = this.#known.get(id) as JobSummary
      const change = {
        priority: { priority: priority === 5 ? 9 : 5 },
        now: { runAt: now },
        soon: { runAt: now + SHORT_MS },
        early: { runAt: now - 60_000 },
      }[to]
      this.#waitAgain([id])
      await this.#store.edit(id, change, null)
    }
  }

  /** What these jobs, which go elsewhere, have waited does not count for the next of their keys. */
  #waitAgain(ids: string[]): void {
    for (const id of ids) {
      const { priority, fairnessKey } = this.#known.get(id) as JobSummary
      this.#waits.get(priority)?.delete(fairnessKey ?? '')
    }
  }

  #from(at: number, count: number): string[] {
    if (this.#queued.length === 0) return []
    const first = at % this.#queued.length
    return this.#queued.slice(first, first + count).map(({ id }) => id)
  }

  async #look(): Promise<void> {
    const found: JobSummary[] = []
    let after: string | null = null
    do {
      const page = await this.#store.listJobs({
        ...{ endpoint: this.#endpoint, states: ['queued'], limit: PAGE, oldestFirst: true },
        ...(after === null ? {} : { after }),
      })
      found.push(...page.items)
      after = page.next
    } while (after !== null)
    this.#queued = found
    for (const job of found) this.#known.set(job.id, job)
    const expired = new Set(this.#expired().map(({ priority, key }) => nameOf(priority, key)))
    const due = Map.groupBy(this.#due(), ({ priority }) => priority)
    for (const priority of PRIORITIES) {
      const before = this.#waits.get(priority) ?? new Map<string, Wait>()
      const byKey = Map.groupBy(due.get(priority) ?? [], ({ fairnessKey }) => fairnessKey ?? '')
      const now = new Map<string, Wait>()
      for (const [key, jobs] of byKey) {
        const wait = waitOf(jobs)
        const known = expired.has(nameOf(priority, key)) ? undefined : before.get(key)
        const mostCost = Math.max(wait.mostCost, known?.mostCost ?? 0)
        now.set(key, { mostCost, starts: known?.starts ?? wait.starts })
      }
      this.#waits.set(priority, now)
    }
  }
}

function waitOf(due: JobSummary[]): Wait {
  return { mostCost: Math.max(...due.map(({ cost }) => cost)), starts: new Map() }
}

/** A job that is about to expire may be gone when it would be claimed. */
function isStable({ expiresAt }: JobSummary): boolean {
  return expiresAt === null
}

const nameOf = (priority: number, key: string) => `${priority} ${key}`
