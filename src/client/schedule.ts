// Types of schedules in requests and responses. Shapes only.
import type { FinalState, JobTemplate, RawJson, Retry } from './job.ts'

interface ScheduleOptions extends JobTemplate {
  endpoint: string
  /** A name of the IANA time zone database, for cron. Default: UTC. */
  timezone?: string | undefined
  paused?: boolean | undefined
  /** `skip`: a tick enqueues no job while the previous one is not final. */
  overlap?: 'allow' | 'skip' | undefined
  /**
   * The rule for missed ticks: `once` enqueues one job now for all of them, `skip` enqueues none.
   */
  misfire?: 'once' | 'skip' | undefined
  startAt?: string | Date | null | undefined
  endAt?: string | Date | null | undefined
}

/** The settings of a schedule: its timing and the job of each tick. */
export type ScheduleSettings<Payload = unknown> = ScheduleOptions &
  ({ cron: string; every?: null | undefined } | { cron?: null | undefined; every: string }) &
  ({ payload: Payload; rawPayload?: undefined } | { payload?: undefined; rawPayload: RawJson })

/** A schedule as a list shows it. */
export interface ScheduleSummary {
  name: string
  endpoint: string
  cron: string | null
  every: string | null
  timezone: string
  paused: boolean
  overlap: 'allow' | 'skip'
  misfire: 'once' | 'skip'
  startAt: string | null
  endAt: string | null
  /** null: the schedule is paused, or no tick is left. */
  nextRunAt: string | null
  lastJobId: string | null
  /** Why the last tick enqueued no job. */
  lastError: string | null
  priority: number
  timeout: string | null
  retry: Retry | null
  expiresIn: string | null
  orderingKey: string | null
  fairnessKey: string | null
  cost: number
  tags: string[]
  metadata: Record<string, string>
  /** Values are masked. */
  headers: Record<string, string>
  /** null: no notice; absent: `onFinish` of the endpoint applies. */
  onFinish?: { endpoint: string; states: FinalState[] } | null
  createdAt: string
  updatedAt: string
  version: number
}

export interface Schedule<Payload = unknown> extends ScheduleSummary {
  /** The next five ticks. */
  nextRuns: string[]
  payload: Payload
}
