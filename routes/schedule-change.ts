// From a checked request to a schedule to be stored: read, decide on the next tick, write over the
// version that was read.
import { isDeepStrictEqual } from 'node:util'
import { AppError } from '../src/errors.ts'
import { readSettings, type ScheduleSettings, settingsText } from '../src/schedule/schedule.ts'
import { isSameTiming, nextTick, type Timing, timingProblem } from '../src/schedule/timing.ts'
import { type IfVersion, isMet } from '../src/store/precondition.ts'
import type { PutScheduleResult, Schedule, ScheduleChange } from '../src/store/records.ts'
import { type Store, StoreUnusable } from '../src/store/store.ts'
import type { ScheduleBody } from '../src/wire/schedules.ts'
import { unknownEndpoint } from './enqueue-answer.ts'
import { templateFrom } from './enqueue-request.ts'
import { stale } from './http/conditional.ts'

/** Against others who change the same schedule; whoever loses so often is told to try again. */
const MAX_TRIES = 10

type Put = Extract<PutScheduleResult, { schedule: Schedule }>

/**
 * Writes what `change` makes of the stored schedule, over that one and no other.
 *
 * @param change null: nothing is to be written
 * @param read putting anew takes readToReplace
 * @throws AppError precondition_failed, endpoint_not_found (422), what `change` throws
 */
export async function changeSchedule(
  store: Store,
  name: string,
  ifVersion: IfVersion,
  change: (stored: Schedule | null, now: number) => ScheduleChange | null,
  read: (store: Store, name: string) => Promise<Schedule | null> = readToChange,
): Promise<Put> {
  for (let tries = 0; tries < MAX_TRIES; tries++) {
    const stored = await read(store, name)
    const version = stored?.version ?? null
    // First: only a request that would be carried out has a precondition (RFC 9110, 13.2.1).
    const changed = change(stored, store.clock.now())
    if (!isMet(ifVersion, version)) throw stale('schedule', version, ifVersion)
    if (changed === null) return { kind: 'replaced', schedule: stored as Schedule }
    if (stored !== null && isSameSchedule(stored, changed)) {
      await refuseUnknown(store, changed.endpoint)
      return { kind: 'replaced', schedule: stored }
    }
    const result = await store.putSchedule(changed, ifVersion === 'none' ? 'none' : version)
    switch (result.kind) {
      case 'created':
      case 'replaced':
        return result
      case 'unknown_endpoint':
        throw unknownEndpoint(changed.endpoint)
      case 'stale':
        // Another version is read and judged; what may not be there need not be read.
        if (ifVersion === 'none') throw stale('schedule', result.version, ifVersion)
        break
      default:
        throw new Error(`unknown result ${JSON.stringify(result satisfies never)}`)
    }
  }
  throw new AppError('overloaded', `schedule "${name}" is being changed by many; try again`, {
    headers: { 'retry-after': '1' },
  })
}

/** To store it would change nothing: then no version is raised. */
function isSameSchedule(stored: Schedule, change: ScheduleChange): boolean {
  return (
    stored.endpoint === change.endpoint &&
    stored.paused === change.paused &&
    stored.nextRunAt === change.nextRunAt &&
    Buffer.compare(stored.payload, change.payload) === 0 &&
    isDeepStrictEqual(JSON.parse(stored.settings), JSON.parse(change.settings))
  )
}

/** As the store would. */
async function refuseUnknown(store: Store, endpoint: string): Promise<void> {
  const [stored] = await store.endpointsNamed([endpoint])
  if (stored === undefined || stored.deleting) throw unknownEndpoint(endpoint)
}

function readToChange(store: Store, name: string): Promise<Schedule | null> {
  return store.getSchedule(name)
}

/** One that no key at hand opens can only be put anew as a whole: it counts as none. */
export async function readToReplace(store: Store, name: string): Promise<Schedule | null> {
  try {
    return await store.getSchedule(name)
  } catch (error) {
    if (error instanceof StoreUnusable) return null
    throw error
  }
}

/** The schedule that a PUT asks for. @throws AppError invalid_request */
export function scheduleFrom(
  name: string,
  body: ScheduleBody,
  stored: Schedule | null,
  now: number,
): ScheduleChange {
  const before = stored === null ? null : readSettings(stored.settings)
  const settings = settingsFrom(body, before?.timing.anchorAt ?? now)
  refuseImpossible(settings.timing)
  const paused = body.paused ?? stored?.paused ?? false
  // Ticks are decided anew where something about them has changed; else a deploy that repeats
  // its PUT in the very second of a tick would swallow it.
  const goesOn = stored?.paused === false && before && isSameTiming(before.timing, settings.timing)
  const nextRunAt = goesOn ? stored.nextRunAt : nextTick(settings.timing, now)
  return {
    name,
    endpoint: body.endpoint,
    paused,
    settings: settingsText(settings),
    payload: body.payload.bytes,
    nextRunAt: paused ? null : nextRunAt,
  }
}

/** The stored schedule paused, or going on with the next tick that is still to come. */
export function pausedOrResumed(
  stored: Schedule,
  paused: boolean,
  now: number,
): ScheduleChange | null {
  if (stored.paused === paused) return null
  const { name, endpoint, settings, payload } = stored
  const nextRunAt = paused ? null : nextTick(readSettings(settings).timing, now)
  return { name, endpoint, settings, payload, paused, nextRunAt }
}

function settingsFrom(body: ScheduleBody, anchorAt: number): ScheduleSettings {
  const { expiresAt: _, ...template } = templateFrom(body, anchorAt)
  return {
    timing: {
      cron: body.cron ?? null,
      everyMs: body.every ?? null,
      timezone: body.timezone ?? 'UTC',
      startAt: body.startAt ?? null,
      endAt: body.endAt ?? null,
      anchorAt,
    },
    overlap: body.overlap,
    misfire: body.misfire,
    template: { ...template, expiresInMs: body.expiresIn ?? null },
  }
}

function refuseImpossible(timing: Timing): void {
  const problem = timingProblem(timing)
  if (problem === null) return
  throw new AppError('invalid_request', `${problem.path}: ${problem.message}`, {
    errors: [problem],
  })
}
