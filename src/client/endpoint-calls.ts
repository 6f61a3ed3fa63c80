// The calls about endpoints, as `posthorn.endpoints` has them.
import * as check from './answer-check.ts'
import type { Call, RequestOptions } from './call.ts'
import type { Endpoint, EndpointChange, EndpointSettings, PingResult } from './endpoint.ts'
import { givenObject, notNull } from './given.ts'
import type { Page } from './job.ts'
import { eachItem, MAX_PAGE } from './paging.ts'
import { queryText, segment } from './request-path.ts'

export interface VersionOptions extends RequestOptions {
  /** Only if this is the stored version still; else 412 precondition_failed. */
  ifVersion?: number | undefined
}

export interface PutOptions extends VersionOptions {
  /** Only if there is none of this name; else 412 precondition_failed. */
  ifAbsent?: boolean | undefined
}

export interface PageOptions extends RequestOptions {
  limit?: number | undefined
  cursor?: string | undefined
}

const PING_WAIT_MS = 15 * 60_000

/** A class, for its methods are many and share one caller. */
export class EndpointCalls {
  readonly #call: Call

  constructor(call: Call) {
    this.#call = call
  }

  /**
   * Creates or replaces: safe at every deploy. The answer that made a secret shows it, once;
   * should it be lost on its way, rotateSecret makes another.
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

  /** Changes the fields given and keeps the rest. */
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

  /** One page, by name. */
  async page({ limit, cursor, signal }: PageOptions = {}): Promise<Page<Endpoint>> {
    const query = queryText({ limit, cursor })
    return this.#call.json(
      { method: 'GET', path: `/endpoints${query}`, repeatable: true, signal },
      check.pageOf(check.ENDPOINT),
    )
  }

  /** All, by name, page after page. */
  list({ limit = MAX_PAGE, signal }: PageOptions = {}): AsyncGenerator<Endpoint, void> {
    return eachItem((cursor) => this.page({ limit, cursor, signal }))
  }

  /** Deliveries stop, enqueueing goes on. */
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

  /** Ends a pause, a rest and a disabling. */
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

  /** With `force` its jobs are buried; else one in use is refused. */
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

  /** The answer shows the new secret, once; both sign during the overlap. */
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

  /** Sends one signed ping now and tells how it went. */
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

/** The header of a write that depends on a version. */
export function ifMatch(version: number | undefined): Record<string, string> {
  if (notNull('ifVersion', version) === undefined) return {}
  return { 'if-match': `"${version}"` }
}

/** Of a put that depends on what is stored: its repeat would find its own work. */
export function writeCondition(ifVersion: number | undefined, ifAbsent: boolean | undefined) {
  const isNew = notNull('ifAbsent', ifAbsent) === true
  const headers = { ...ifMatch(ifVersion), ...(isNew ? { 'if-none-match': '*' } : {}) }
  return { headers, repeatable: Object.keys(headers).length === 0 }
}
