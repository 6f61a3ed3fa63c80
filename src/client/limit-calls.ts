// The methods of `posthorn.limits`: limits that endpoints share.

import type { Call, RequestOptions } from './call.ts'
import type { ListedSharedLimit, SharedLimit, SharedLimitSettings } from './endpoint.ts'
import {
  ifMatch,
  type PageOptions,
  type PutOptions,
  type VersionOptions,
  writeCondition,
} from './endpoint-calls.ts'
import { givenObject } from './given.ts'
import type { Page } from './job.ts'
import { eachItem, MAX_PAGE } from './paging.ts'
import { queryText, segment } from './request-path.ts'
import * as check from './response-check.ts'

/** A class, because its methods share one Call. */
export class LimitCalls {
  readonly #call: Call

  constructor(call: Call) {
    this.#call = call
  }

  /** Creates or replaces a limit; safe to call at every deploy. Its tokens are kept. */
  async put(
    name: string,
    settings: SharedLimitSettings,
    { ifVersion, ifAbsent, signal }: PutOptions = {},
  ): Promise<SharedLimit> {
    const body = JSON.stringify(givenObject('settings', settings))
    const condition = writeCondition(ifVersion, ifAbsent)
    return this.#call.json(
      { method: 'PUT', path: pathOf(name), body, ...condition, signal },
      check.LIMIT,
    )
  }

  async get(name: string, { signal }: RequestOptions = {}): Promise<SharedLimit> {
    return this.#call.json(
      { method: 'GET', path: pathOf(name), repeatable: true, signal },
      check.LIMIT,
    )
  }

  /** One page of limits, ordered by name. */
  async page({ limit, cursor, signal }: PageOptions = {}): Promise<Page<ListedSharedLimit>> {
    const query = queryText({ limit, cursor })
    return this.#call.json(
      { method: 'GET', path: `/limits${query}`, repeatable: true, signal },
      check.pageOf(check.LISTED_LIMIT),
    )
  }

  /** All limits, ordered by name. Fetches pages as needed. */
  list({ limit = MAX_PAGE, signal }: PageOptions = {}): AsyncGenerator<ListedSharedLimit, void> {
    return eachItem((cursor) => this.page({ limit, cursor, signal }))
  }

  /** Throws limit_in_use while an endpoint names it. */
  async remove(name: string, { ifVersion, signal }: VersionOptions = {}): Promise<void> {
    await this.#call.nothing({
      method: 'DELETE',
      path: pathOf(name),
      headers: ifMatch(ifVersion),
      repeatable: ifVersion === undefined,
      goneCode: 'limit_not_found',
      signal,
    })
  }
}

function pathOf(name: string): string {
  return `/limits/${segment(name)}`
}
