// The methods of `posthorn.schedules`.

import type { Call, RequestOptions } from './call.ts'
import {
  ifMatch,
  type PageOptions,
  type PutOptions,
  type VersionOptions,
  writeCondition,
} from './endpoint-calls.ts'
import { givenObject } from './given.ts'
import type { Job, Page } from './job.ts'
import { jobText } from './json-text.ts'
import { eachItem, MAX_PAGE } from './paging.ts'
import { queryText, segment } from './request-path.ts'
import * as check from './response-check.ts'
import type { Schedule, ScheduleSettings, ScheduleSummary } from './schedule.ts'

/** A class, because its many methods share one Call. */
export class ScheduleCalls {
  readonly #call: Call

  constructor(call: Call) {
    this.#call = call
  }

  /**
   * Creates or replaces a schedule; safe to call at every deploy. If the timing is unchanged, the
   * time of the next tick is kept.
   */
  async put<Payload = unknown>(
    name: string,
    settings: ScheduleSettings<Payload>,
    { ifVersion, ifAbsent, signal }: PutOptions = {},
  ): Promise<Schedule<Payload>> {
    return this.#call.json(
      {
        method: 'PUT',
        path: pathOf(name),
        body: jobText(givenObject('settings', settings)),
        ...writeCondition(ifVersion, ifAbsent),
        signal,
      },
      check.SCHEDULE,
    )
  }

  async get<Payload = unknown>(
    name: string,
    { signal }: RequestOptions = {},
  ): Promise<Schedule<Payload>> {
    return this.#call.json(
      { method: 'GET', path: pathOf(name), repeatable: true, signal },
      check.SCHEDULE,
    )
  }

  /** One page of schedules, ordered by name. */
  async page({ limit, cursor, signal }: PageOptions = {}): Promise<Page<ScheduleSummary>> {
    const query = queryText({ limit, cursor })
    return this.#call.json(
      { method: 'GET', path: `/schedules${query}`, repeatable: true, signal },
      check.pageOf(check.SCHEDULE_SUMMARY),
    )
  }

  /** All schedules, ordered by name. Fetches pages as needed. */
  list({ limit = MAX_PAGE, signal }: PageOptions = {}): AsyncGenerator<ScheduleSummary, void> {
    return eachItem((cursor) => this.page({ limit, cursor, signal }))
  }

  /** Ticks enqueue no jobs until the schedule is resumed. */
  async pause(name: string, { signal }: RequestOptions = {}): Promise<Schedule> {
    return this.#call.json(
      {
        method: 'POST',
        path: pathOf(name, '/pause'),
        repeatable: true,
        signal,
      },
      check.SCHEDULE,
    )
  }

  async resume(name: string, { signal }: RequestOptions = {}): Promise<Schedule> {
    return this.#call.json(
      {
        method: 'POST',
        path: pathOf(name, '/resume'),
        repeatable: true,
        signal,
      },
      check.SCHEDULE,
    )
  }

  /**
   * Enqueues a job of the schedule now, in addition to its ticks. The call is not retried: each try
   * would enqueue a job.
   */
  async run<Payload = unknown, Result = unknown>(
    name: string,
    { signal }: RequestOptions = {},
  ): Promise<Job<Payload, Result>> {
    return this.#call.json(
      {
        method: 'POST',
        path: pathOf(name, '/run'),
        repeatable: false,
        signal,
      },
      check.JOB,
    )
  }

  /** Removes the schedule. Its jobs stay. */
  async remove(name: string, { ifVersion, signal }: VersionOptions = {}): Promise<void> {
    await this.#call.nothing({
      method: 'DELETE',
      path: pathOf(name),
      headers: ifMatch(ifVersion),
      repeatable: ifVersion === undefined,
      goneCode: 'schedule_not_found',
      signal,
    })
  }
}

function pathOf(name: string, verb = ''): string {
  return `/schedules/${segment(name)}${verb}`
}
