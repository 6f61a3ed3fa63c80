// The methods of `posthorn.keys`. They need an API key with the scope admin.

import type { Call, RequestOptions } from './call.ts'
import { givenObject } from './given.ts'
import { segment } from './request-path.ts'
import * as check from './response-check.ts'

/** `enqueue`: enqueue jobs; `work`: claim jobs; `admin`: everything. */
export type KeyScope = 'enqueue' | 'work' | 'admin'

/** An API key without its secret, which only the response that created it shows. */
export interface ApiKey {
  id: string
  name: string
  scope: KeyScope
  createdAt: string
}

export class KeyCalls {
  readonly #call: Call

  constructor(call: Call) {
    this.#call = call
  }

  /** The call is not retried: each try would create a key. */
  async create(
    key: { name: string; scope: KeyScope },
    { signal }: RequestOptions = {},
  ): Promise<ApiKey & { key: string }> {
    const body = JSON.stringify(givenObject('key', key))
    return this.#call.json(
      { method: 'POST', path: '/keys', body, repeatable: false, signal },
      check.NEW_API_KEY,
    )
  }

  async list({ signal }: RequestOptions = {}): Promise<ApiKey[]> {
    const { items } = await this.#call.json<{ items: ApiKey[] }>(
      { method: 'GET', path: '/keys', repeatable: true, signal },
      check.API_KEYS,
    )
    return items
  }

  /** All servers refuse the key within 5 s. */
  async remove(id: string, { signal }: RequestOptions = {}): Promise<void> {
    const path = `/keys/${segment(id)}`
    await this.#call.nothing({
      method: 'DELETE',
      path,
      repeatable: true,
      goneCode: 'not_found',
      signal,
    })
  }
}
