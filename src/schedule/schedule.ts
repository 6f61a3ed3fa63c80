// The schedule: its timing, its rules for overlapping and missed ticks, and the template of its
// jobs. No I/O: a store keeps the settings as one text.
import type { NewJob } from '../job/job.ts'
import { newJobId } from '../job/job-id.ts'
import type { Timing } from './timing.ts'

export const OVERLAPS = ['allow', 'skip'] as const
/** `skip`: a tick enqueues no job while the job of the last tick is not final. */
type Overlap = (typeof OVERLAPS)[number]

export const MISFIRES = ['once', 'skip'] as const
/** The rule for missed ticks. `once`: all of them together become one job now; `skip`: none. */
export type Misfire = (typeof MISFIRES)[number]

/** The fields that every job of the schedule gets. */
export interface JobTemplate
  extends Pick<
    NewJob,
    | 'priority'
    | 'maxAttempts'
    | 'timeoutMs'
    | 'retry'
    | 'orderingKey'
    | 'fairnessKey'
    | 'cost'
    | 'tags'
    | 'metadata'
    | 'headers'
    | 'onFinish'
  > {
  /** Counts from the first due time of the job; null: it never expires. */
  expiresInMs: number | null
}

export interface ScheduleSettings {
  timing: Timing
  overlap: Overlap
  misfire: Misfire
  template: JobTemplate
}

/** The text that a store keeps. readSettings is the inverse. */
export function settingsText(settings: ScheduleSettings): string {
  return JSON.stringify(settings)
}

export function readSettings(text: string): ScheduleSettings {
  return JSON.parse(text) as ScheduleSettings
}

/** The fields of a schedule that its jobs are made from. */
export interface JobSource {
  name: string
  endpoint: string
  payload: Uint8Array
  settings: ScheduleSettings
}

/**
 * The job of a tick. The tick is its origin key, so the store keeps one job however many processes
 * enqueue it. With overlap `skip` it also has a dedupe key. Then the write itself, not an earlier
 * read, prevents that two jobs of the schedule are queued or running at once.
 *
 * @param runAt the tick, or now for a missed tick: expiry and maxAge count from here
 */
export function jobOfTick(source: JobSource, tickAt: number, runAt: number, now: number): NewJob {
  const isAlone = source.settings.overlap === 'skip'
  return {
    ...jobByHand(source, now),
    runAt,
    expiresAt: expiryOf(source, runAt),
    dedupe: isAlone ? { key: `schedule:${source.name}`, mode: 'keep' } : null,
    originKey: `schedule:${source.name}:${tickAt}`,
  }
}

/** A job of the schedule that is due now and belongs to no tick. */
export function jobByHand(
  source: JobSource,
  now: number,
  { trace, hops }: Pick<NewJob, 'trace' | 'hops'> = { trace: null, hops: 0 },
): NewJob {
  const { expiresInMs: _, ...template } = source.settings.template
  return {
    ...template,
    id: newJobId(now),
    endpoint: source.endpoint,
    payload: source.payload,
    createdAt: now,
    runAt: now,
    expiresAt: expiryOf(source, now),
    idempotency: null,
    dedupe: null,
    dependsOn: [],
    needs: [],
    hasEarlierOnFinish: true,
    scheduleName: source.name,
    originKey: null,
    group: null,
    trace,
    hops,
  }
}

function expiryOf({ settings }: JobSource, runAt: number): number | null {
  const { expiresInMs } = settings.template
  return expiresInMs === null ? null : runAt + expiresInMs
}
