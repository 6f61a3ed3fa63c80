// The methods of `posthorn.endpoints`.

import type { Call, RequestOptions } from './call.ts'
import type {
  Endpoint,
  EndpointChange,
  EndpointSettings,
  FairnessKey,
  FairnessKeyPage,
  FairnessKeySettings,
  ListedEndpoint,
  PingResult,
  StoredFairnessKey,
} from './endpoint.ts'
import { givenObject, notNull } from './given.ts'
import type { Page } from './job.ts'
import { eachItem, MAX_PAGE } from './paging.ts'
import { queryText, segment } from './request-path.ts'
import * as check from './response-check.ts'

export interface VersionOptions extends RequestOptions {
  /** Write only if this is still the stored version; otherwise 412 precondition_failed. */
  ifVersion?: number | undefined
}

export interface PutOptions extends VersionOptions {
  /** Write only if the name is unused; otherwise 412 precondition_failed. */
  ifAbsent?: boolean | undefined
}

export interface PageOptions extends RequestOptions {
  limit?: number | undefined
  cursor?: string | undefined
}

export interface FairnessKeyOptions extends PageOptions {
  /** `wait`: only keys with due jobs, the one that waits longest first. Default: by key. */
  order?: 'key' | 'wait' | undefined
}

const PING_WAIT_MS = 15 * 60_000

/** A class, because its many methods share one Call. */
export class EndpointCalls {
  readonly #call: Call

  constructor(call: Call) {
    this.#call = call
  }

  /**
   * Creates or replaces an endpoint; safe to call at every deploy. A new secret is only in the
   * response that created it. If that response was lost, rotateSecret creates another secret.
   */
  async put(
    name: string,
    settings: EndpointSettings,
    { ifVersion, ifAbsent, signal }: PutOptions = {},
  ): Promise<Endpoint> {
    const body = JSON.stringify(givenObject('settings', settings))
    return this.#call.json(
      {
        method: 'PUT',
        path: pathOf(name),
        body,
        ...writeCondition(ifVersion, ifAbsent),
        signal,
      },
      check.ENDPOINT,
    )
  }

  /** Changes the given fields and keeps the others. */
  async edit(
    name: string,
    change: EndpointChange,
    { ifVersion, signal }: VersionOptions = {},
  ): Promise<Endpoint> {
    const request = {
      method: 'PATCH',
      path: pathOf(name),
      body: JSON.stringify(givenObject('change', change)),
      headers: ifMatch(ifVersion),
      repeatable: ifVersion === undefined,
      signal,
    } as const
    return this.#call.json(request, check.ENDPOINT)
  }

  async get(name: string, { signal }: RequestOptions = {}): Promise<Endpoint> {
    return this.#call.json(
      { method: 'GET', path: pathOf(name), repeatable: true, signal },
      check.ENDPOINT,
    )
  }

  /** One page of endpoints, ordered by name. */
  async page({ limit, cursor, signal }: PageOptions = {}): Promise<Page<ListedEndpoint>> {
    const query = queryText({ limit, cursor })
    return this.#call.json(
      { method: 'GET', path: `/endpoints${query}`, repeatable: true, signal },
      check.pageOf(check.LISTED_ENDPOINT),
    )
  }

  /** All endpoints, ordered by name. Fetches pages as needed. */
  list({ limit = MAX_PAGE, signal }: PageOptions = {}): AsyncGenerator<ListedEndpoint, void> {
    return eachItem((cursor) => this.page({ limit, cursor, signal }))
  }

  /** One page of the fairness keys that have queued or running jobs. */
  async fairnessKeysPage(
    name: string,
    { limit, cursor, order, signal }: FairnessKeyOptions = {},
  ): Promise<FairnessKeyPage> {
    const path = pathOf(name, '/keys') + queryText({ limit, cursor, order })
    return this.#call.json(
      { method: 'GET', path, repeatable: true, signal },
      check.pageOf(check.FAIRNESS_KEY),
    )
  }

  /** All of them. Fetches pages as needed. */
  fairnessKeys(
    name: string,
    { limit = MAX_PAGE, order, signal }: FairnessKeyOptions = {},
  ): AsyncGenerator<FairnessKey, void> {
    return eachItem((cursor) => this.fairnessKeysPage(name, { limit, cursor, order, signal }))
  }

  /** The settings of one fairness key. */
  async fairnessKey(
    name: string,
    key: string,
    { signal }: RequestOptions = {},
  ): Promise<StoredFairnessKey> {
    const path = pathOf(name, `/keys/${segment(key)}`)
    return this.#call.json(
      { method: 'GET', path, repeatable: true, signal },
      check.STORED_FAIRNESS_KEY,
    )
  }

  /** Replaces all settings of a fairness key: those that are absent get their defaults. */
  async putFairnessKey(
    name: string,
    key: string,
    settings: FairnessKeySettings,
    { ifVersion, ifAbsent, signal }: PutOptions = {},
  ): Promise<StoredFairnessKey> {
    const path = pathOf(name, `/keys/${segment(key)}`)
    const body = JSON.stringify(givenObject('settings', settings))
    const condition = writeCondition(ifVersion, ifAbsent)
    return this.#call.json(
      { method: 'PUT', path, body, ...condition, signal },
      check.STORED_FAIRNESS_KEY,
    )
  }

  /** Gives a fairness key the defaults of the endpoint again. */
  async resetFairnessKey(
    name: string,
    key: string,
    { ifVersion, signal }: VersionOptions = {},
  ): Promise<void> {
    await this.#call.nothing({
      ...{ method: 'DELETE', path: pathOf(name, `/keys/${segment(key)}`) },
      ...{ headers: ifMatch(ifVersion), repeatable: ifVersion === undefined, signal },
    })
  }

  /** Stops deliveries; enqueueing continues. */
  async pause(name: string, { signal }: RequestOptions = {}): Promise<Endpoint> {
    return this.#call.json(
      {
        method: 'POST',
        path: pathOf(name, '/pause'),
        repeatable: true,
        signal,
      },
      check.ENDPOINT,
    )
  }

  /** Ends a pause or a rest, or enables a disabled endpoint. */
  async resume(name: string, { signal }: RequestOptions = {}): Promise<Endpoint> {
    return this.#call.json(
      {
        method: 'POST',
        path: pathOf(name, '/resume'),
        repeatable: true,
        signal,
      },
      check.ENDPOINT,
    )
  }

  /**
   * With `force`, the jobs of the endpoint become dead. Without it, an endpoint in use is refused.
   */
  async remove(
    name: string,
    { force, ifVersion, signal }: VersionOptions & { force?: boolean | undefined } = {},
  ): Promise<void> {
    await this.#call.nothing({
      method: 'DELETE',
      path: pathOf(name) + queryText({ force }),
      headers: ifMatch(ifVersion),
      repeatable: ifVersion === undefined,
      goneCode: 'endpoint_not_found',
      signal,
    })
  }

  /**
   * The response shows the new secret, and no later response does. Both secrets sign during the
   * overlap.
   */
  async rotateSecret(
    name: string,
    {
      secret,
      overlap,
      signal,
    }: RequestOptions & { secret?: string | undefined; overlap?: string | undefined } = {},
  ): Promise<Endpoint & { secret: string }> {
    const body = JSON.stringify({ secret, overlap })
    return this.#call.json(
      {
        method: 'POST',
        path: pathOf(name, '/rotate-secret'),
        body,
        repeatable: false,
        signal,
      },
      check.ROTATED_ENDPOINT,
    )
  }

  /** Sends one signed test ping now and returns its result. */
  async test(name: string, { signal }: RequestOptions = {}): Promise<PingResult> {
    return this.#call.json(
      {
        method: 'POST',
        path: pathOf(name, '/test'),
        repeatable: false,
        serverWaitMs: PING_WAIT_MS,
        signal,
      },
      check.PING,
    )
  }
}

function pathOf(name: string, verb = ''): string {
  return `/endpoints/${segment(name)}${verb}`
}

/** The header of a write that requires a version. */
export function ifMatch(version: number | undefined): Record<string, string> {
  if (notNull('ifVersion', version) === undefined) return {}
  return { 'if-match': `"${version}"` }
}

/**
 * The headers of a put with a condition on the stored record, and whether the call may be repeated.
 * With a condition it may not: the first try may have changed the version.
 */
export function writeCondition(ifVersion: number | undefined, ifAbsent: boolean | undefined) {
  const isNew = notNull('ifAbsent', ifAbsent) === true
  const headers = { ...ifMatch(ifVersion), ...(isNew ? { 'if-none-match': '*' } : {}) }
  return { headers, repeatable: Object.keys(headers).length === 0 }
}
