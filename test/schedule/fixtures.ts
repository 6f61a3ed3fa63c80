// Schedules for tests, with defaults for all fields that a test does not set.
import {
  type JobTemplate,
  type ScheduleSettings,
  settingsText,
} from '../../src/schedule/schedule.ts'
import type { Timing } from '../../src/schedule/timing.ts'
import type { Schedule, ScheduleChange, Store } from '../../src/store/store.ts'
import { until } from '../support/until.ts'

export const HOUR_MS = 3_600_000

const TEMPLATE: JobTemplate = {
  priority: 5,
  maxAttempts: null,
  timeoutMs: null,
  retry: null,
  expiresInMs: null,
  orderingKey: null,
  fairnessKey: null,
  cost: 1,
  tags: [],
  metadata: {},
  headers: {},
  onFinish: 'inherited',
}

/** A schedule with a tick each hour from `firstTick` on, whether that is past or not. */
export function scheduleChange(
  name: string,
  endpoint: string,
  firstTick: number,
  timing: Partial<Timing> = {},
  fields: Partial<Omit<ScheduleSettings, 'timing'>> = {},
): ScheduleChange {
  const settings: ScheduleSettings = {
    timing: {
      cron: null,
      everyMs: HOUR_MS,
      timezone: 'UTC',
      startAt: firstTick,
      endAt: null,
      anchorAt: firstTick,
      ...timing,
    },
    overlap: 'allow',
    misfire: 'once',
    template: TEMPLATE,
    ...fields,
  }
  return {
    name,
    endpoint,
    paused: false,
    settings: settingsText(settings),
    payload: Buffer.from('{"n":1}'),
    nextRunAt: firstTick,
  }
}

let scheduleCount = 0

/** Stores a schedule whose first tick is this far in the past or in the future. */
export async function addSchedule(
  store: Store,
  endpoint: string,
  firstTickInMs: number,
  timing: Partial<Timing> = {},
  fields: Partial<Omit<ScheduleSettings, 'timing'>> = {},
): Promise<Schedule> {
  const firstTick = store.clock.now() + firstTickInMs
  const name = `schedule-${++scheduleCount}`
  const change = scheduleChange(name, endpoint, firstTick, timing, fields)
  const result = await store.putSchedule(change, null)
  if (result.kind !== 'created') throw new Error(result.kind)
  return result.schedule
}

export async function storedSchedule(store: Store, name: string): Promise<Schedule> {
  const schedule = await store.getSchedule(name)
  if (schedule === null) throw new Error(`${name} is gone`)
  return schedule
}

/** Resolves with the schedule once it has another next tick. */
export async function movedOn(store: Store, { name, nextRunAt }: Schedule): Promise<Schedule> {
  await until(async () => (await storedSchedule(store, name)).nextRunAt !== nextRunAt)
  return storedSchedule(store, name)
}
