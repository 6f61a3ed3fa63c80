// The calls about API keys, as `posthorn.keys` has them. They need a key with the scope admin.
import * as check from './answer-check.ts'
import type { Call, RequestOptions } from './call.ts'
import { givenObject } from './given.ts'
import { segment } from './request-path.ts'

/** `enqueue`: jobs; `work`: claims; `admin`: all. */
export type KeyScope = 'enqueue' | 'work' | 'admin'

/** Without the key itself, which is shown only in the answer that made it. */
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

  /** Not repeated: each call makes one. */
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

  /** Refused everywhere within 5 s. */
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
