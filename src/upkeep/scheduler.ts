// Enqueues the jobs of schedules whose tick has come. Two schedulers may run at once.
//
// A scheduler first stores the jobs, each under the unique key of its tick, then advances the
// schedules by compare-and-set from the tick and the version that it read. If it dies between these
// steps, the next scheduler finds that the jobs exist already. A slower scheduler finds that the
// schedule has advanced.
import type { Logger } from 'pino'
import { createBatchSize } from '../batch-size.ts'
import type { NewJob } from '../job/job.ts'
import { PollLoop } from '../loop.ts'
import { type DueTicks, dueTicks, tickAfterSetBack } from '../schedule/due-ticks.ts'
import { jobOfTick, readSettings, type ScheduleSettings } from '../schedule/schedule.ts'
import type { SetBackLooks } from '../store/set-back-watch.ts'
import type { EnqueueResult, Page, Schedule, ScheduleMove, Store } from '../store/store.ts'

/** Longest time between polls. A poll comes just after a whole second, when cron ticks are due. */
const POLL_INTERVAL_MS = 1_000
/** Keeps schedulers from polling at the same time: the first one leaves the others no work. */
const MAX_JITTER_MS = 40
const DUE_LIMIT = 500
/** Limit of schedules read together, because each is read with its payload. */
const LISTED_AT_ONCE = 100
/**
 * A schedule with a tick each second can have one tick more than this due before its ticks are
 * missed.
 */
const MAX_TICKS_PER_SCHEDULE = 60
/** Limits of one write: it must end well within its deadline on a store at full load. */
const MAX_BATCH_JOBS = 250
const MAX_BATCH_BYTES = 16 * 1_048_576
/**
 * Limit of ticks remembered until the next poll. The polls at remembered ticks find all other due
 * ticks, too.
 */
const MAX_KNOWN_TICKS = 1_000
/**
 * If all jobs of a batch existed already, another scheduler is at work: it gets this long for the
 * next ticks.
 */
const MIN_STAND_BACK_MS = 100
const MAX_STAND_BACK_MS = 400
const BACK_OFF = { firstMs: 100, maxMs: 2_000 }

type SchedulerStore = Pick<
  Store,
  'clock' | 'dueSchedules' | 'advanceSchedules' | 'enqueue' | 'finalAmong' | 'listSchedules'
>

/** A schedule with its due ticks and their jobs. */
interface DueSchedule {
  schedule: Schedule
  settings: ScheduleSettings
  due: DueTicks
  jobs: NewJob[]
  /** Why a tick enqueues no job, if that is known before the write. */
  error: string | null
}

/** Runs schedules from start() to stop(). */
export class Scheduler {
  readonly #store: SchedulerStore
  readonly #log: Logger
  readonly #setBack: SetBackLooks
  /** Initially true: the clock may have been set back while no scheduler ran. */
  #mayBeAhead = true
  readonly #size = createBatchSize(MAX_BATCH_JOBS)
  #knownTicks = new Set<number>()
  readonly #loop: PollLoop

  constructor(store: SchedulerStore, log: Logger) {
    this.#store = store
    this.#setBack = store.clock.watchSetBack()
    this.#log = log
    const report = (err: unknown) => log.warn({ err }, 'schedules.failed')
    this.#loop = new PollLoop({
      turn: () => this.#turn(),
      onFailure: { backOff: BACK_OFF, report },
    })
  }

  start(): void {
    this.#loop.start()
  }

  /** Resolves when no write is in progress. */
  async stop(): Promise<void> {
    await this.#loop.stop()
    this.#setBack.stop()
  }

  /** The rest before the next turn, in ms. */
  async #turn(): Promise<number> {
    await this.#resetTicksAhead()
    const found = await this.#actOnDue()
    return found === 'acted' ? 0 : this.#pauseMs(found)
  }

  /**
   * Corrects ticks that were stored while the clock was ahead: without this they would come too
   * late.
   */
  async #resetTicksAhead(): Promise<void> {
    if (this.#setBack.look() > 0) this.#mayBeAhead = true
    if (!this.#mayBeAhead) return
    let after: string | null = null
    do {
      const page: Page<Schedule> = await this.#store.listSchedules(after, LISTED_AT_ONCE)
      const now = this.#store.clock.now()
      const moves = page.items.flatMap((schedule) => resetMoves(schedule, now))
      await this.#store.advanceSchedules(moves)
      for (const { name, tickAt, nextRunAt } of moves) {
        this.#log.warn({ schedule: name, from: iso(tickAt), to: iso(nextRunAt) }, 'schedule.reset')
      }
      after = page.next
    } while (after !== null && !this.#loop.isStopping)
    this.#knownTicks.clear()
    this.#mayBeAhead = false
  }

  /** `acted`: more ticks may be due; `outrun`: another scheduler enqueues the same ticks. */
  async #actOnDue(): Promise<'nothing' | 'acted' | 'outrun'> {
    const schedules = await this.#store.dueSchedules(DUE_LIMIT)
    if (schedules.length === 0) return 'nothing'
    const now = this.#store.clock.now()
    const busy = await this.#busySchedules(schedules)
    const most = () => this.#size.limit
    const due = schedules.map((one) => dueSchedule(one, now, busy.has(one.name), most()))
    for (const batch of batchesOf(due, most)) {
      if (this.#loop.isStopping) return 'nothing'
      const count = Math.max(batch.length, jobCountOf(batch))
      const isOutrun = await this.#size.run(count, () => this.#enqueueAndAdvance(batch))
      if (isOutrun) return 'outrun'
    }
    return 'acted'
  }

  /** Names of the schedules that must not overlap and whose last job is not final. */
  async #busySchedules(schedules: Schedule[]): Promise<Set<string>> {
    const skipping = schedules.filter(
      ({ settings, lastJobId }) => lastJobId !== null && readSettings(settings).overlap === 'skip',
    )
    if (skipping.length === 0) return new Set()
    const ids = skipping.map(({ lastJobId }) => lastJobId as string)
    const final = new Set(await this.#store.finalAmong(ids))
    return new Set(
      skipping.filter((one) => !final.has(one.lastJobId as string)).map(({ name }) => name),
    )
  }

  /** Resolves with whether all the jobs existed already. */
  async #enqueueAndAdvance(batch: DueSchedule[]): Promise<boolean> {
    const jobs = batch.flatMap((one) => one.jobs)
    const results = jobs.length === 0 ? [] : await this.#store.enqueue(jobs)
    const moves: ScheduleMove[] = []
    let at = 0
    for (const one of batch) {
      moves.push(moveOf(one, results.slice(at, at + one.jobs.length)))
      at += one.jobs.length
    }
    await this.#store.advanceSchedules(moves)
    for (const { nextRunAt } of moves) this.#remember(nextRunAt)
    const enqueued = results.filter(({ kind }) => kind === 'inserted').length
    const skipped = moves.filter(({ lastError }) => lastError !== null).length
    this.#log.info({ schedules: batch.length, enqueued, skipped }, 'schedules.ticked')
    return results.length > 0 && results.every(({ kind }) => kind === 'existing')
  }

  /** Remembers a tick that is due before the next poll, so that it is enqueued in time. */
  #remember(tick: number | null): void {
    if (tick === null || this.#knownTicks.size >= MAX_KNOWN_TICKS) return
    if (tick <= this.#store.clock.now() + 2 * POLL_INTERVAL_MS) this.#knownTicks.add(tick)
  }

  #pauseMs(found: 'nothing' | 'outrun'): number {
    if (found === 'nothing') return this.#untilNextLookMs()
    return MIN_STAND_BACK_MS + Math.random() * (MAX_STAND_BACK_MS - MIN_STAND_BACK_MS)
  }

  #untilNextLookMs(): number {
    const now = this.#store.clock.now()
    for (const tick of this.#knownTicks) if (tick <= now) this.#knownTicks.delete(tick)
    const untilPollMs = POLL_INTERVAL_MS - (now % POLL_INTERVAL_MS) + Math.random() * MAX_JITTER_MS
    const next = Math.min(...this.#knownTicks)
    return Math.min(untilPollMs, next - now)
  }
}

function resetMoves(schedule: Schedule, now: number): ScheduleMove[] {
  if (schedule.paused) return []
  const { name, version, nextRunAt: tickAt, lastError } = schedule
  const nextRunAt = tickAfterSetBack(readSettings(schedule.settings).timing, tickAt, now)
  return nextRunAt === tickAt ? [] : [{ name, version, tickAt, nextRunAt, lastError }]
}

function iso(instant: number | null): string | null {
  return instant === null ? null : new Date(instant).toISOString()
}

function dueSchedule(
  schedule: Schedule,
  now: number,
  isBusy: boolean,
  mostTicks: number,
): DueSchedule {
  const settings = readSettings(schedule.settings)
  const tickAt = schedule.nextRunAt
  if (tickAt === null) throw new Error(`schedule ${schedule.name} is due without a tick`)
  // With overlap `skip`, one tick at a time becomes a job: whether that job is final decides about
  // the next tick.
  const limit = settings.overlap === 'skip' ? 1 : tickLimit(schedule.payload.byteLength, mostTicks)
  const due = dueTicks(settings, tickAt, now, limit)
  if (isBusy) return { schedule, settings, due, jobs: [], error: busyText(schedule.lastJobId) }
  const source = { ...schedule, settings }
  const jobs = due.ticks.map((tick) => jobOfTick(source, tick, due.isMissed ? now : tick, now))
  const error = jobs.length === 0 ? missedText(tickAt, settings) : null
  return { schedule, settings, due, jobs, error }
}

function tickLimit(payloadBytes: number, most: number): number {
  const carried = Math.floor(MAX_BATCH_BYTES / Math.max(1, payloadBytes))
  return Math.max(1, Math.min(MAX_TICKS_PER_SCHEDULE, carried, most))
}

function busyText(jobId: string | null): string {
  return `the tick was skipped: job ${jobId} of the previous tick is not final`
}

function missedText(tickAt: number, { misfire }: ScheduleSettings): string {
  const tick = new Date(tickAt).toISOString()
  return `the tick of ${tick} was missed, and misfire is "${misfire}"`
}

function jobCountOf(batch: DueSchedule[]): number {
  return batch.reduce((sum, { jobs }) => sum + jobs.length, 0)
}

/** Splits schedules, in order, into batches whose jobs and advances each fit into one write. */
function* batchesOf(schedules: DueSchedule[], most: () => number): Iterable<DueSchedule[]> {
  let batch: DueSchedule[] = []
  let jobCount = 0
  let bytes = 0
  for (const one of schedules) {
    const itsBytes = one.jobs.length * one.schedule.payload.byteLength
    const isFull = jobCount + one.jobs.length > most() || batch.length >= most()
    if (batch.length > 0 && (isFull || bytes + itsBytes > MAX_BATCH_BYTES)) {
      yield batch
      batch = []
      jobCount = 0
      bytes = 0
    }
    batch.push(one)
    jobCount += one.jobs.length
    bytes += itsBytes
  }
  if (batch.length > 0) yield batch
}

/** @param results the results of its jobs, in order */
function moveOf(dueSchedule: DueSchedule, results: EnqueueResult[]): ScheduleMove {
  const { schedule, due, error } = dueSchedule
  const move: ScheduleMove = {
    name: schedule.name,
    version: schedule.version,
    tickAt: schedule.nextRunAt as number,
    nextRunAt: due.nextRunAt,
    lastError: error,
  }
  for (const result of results) {
    if (result.kind === 'inserted' || result.kind === 'existing') move.lastJobId = result.job.id
    move.lastError = refusalText(dueSchedule, result)
  }
  return move
}

/** Why this tick has no job; null: it has one. */
function refusalText({ schedule, settings }: DueSchedule, result: EnqueueResult): string | null {
  const { endpoint, lastJobId } = schedule
  switch (result.kind) {
    case 'inserted':
      return null
    case 'existing':
      // The job of this tick exists, from an earlier try or from another scheduler. Or the dedupe
      // key found the job of the previous tick.
      return settings.overlap === 'skip' && result.job.id === lastJobId ? busyText(lastJobId) : null
    case 'unknown_endpoint':
      return `there is no endpoint "${endpoint}"`
    case 'endpoint_disabled':
      return `endpoint "${endpoint}" is disabled`
    case 'unknown_notice_endpoint':
    case 'key_reused':
    case 'dedupe_conflict':
    case 'id_taken':
    case 'unknown_dependency':
    case 'unknown_group':
    case 'group_closed':
    case 'group_full':
    case 'group_open':
      throw new Error(`a tick cannot be refused as ${result.kind}`)
    default:
      throw new Error(`unknown result ${JSON.stringify(result satisfies never)}`)
  }
}
