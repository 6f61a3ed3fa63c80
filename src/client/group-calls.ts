// The calls of `posthorn.groups`.
import { randomUUID } from 'node:crypto'
import type { Call, RequestOptions } from './call.ts'
import { givenObject, idempotencyHeader } from './given.ts'
import {
  type CreatedGroup,
  type FinalGroup,
  type Group,
  type GroupQuery,
  isFinalGroup,
  type ListedGroup,
  type NewGroup,
} from './group.ts'
import type { Page } from './job.ts'
import { eachItem, MAX_PAGE } from './paging.ts'
import { queryText, segment } from './request-path.ts'
import * as check from './response-check.ts'
import { type WaitOptions, waitUntilFinal } from './wait.ts'

/** A class, because its methods share one Call. */
export class GroupCalls {
  readonly #call: Call

  constructor(call: Call) {
    this.#call = call
  }

  /** Retries are harmless: each sends the same idempotency key. */
  async create(group: NewGroup = {}, { signal }: RequestOptions = {}): Promise<CreatedGroup> {
    const { idempotencyKey = randomUUID(), ...rest } = givenObject('group', group)
    const request = {
      method: 'POST',
      path: '/groups',
      body: JSON.stringify(rest),
      headers: { 'idempotency-key': idempotencyHeader(idempotencyKey) },
      repeatable: true,
      signal,
    } as const
    const created = await this.#call.json<CreatedGroup>(request, check.GROUP)
    return { ...created, deduplicated: created.deduplicated ?? false }
  }

  async get(id: string, { signal }: RequestOptions = {}): Promise<Group> {
    return this.#call.json(
      { method: 'GET', path: pathOf(id), repeatable: true, signal },
      check.GROUP,
    )
  }

  /**
   * Waits until the group is final and returns it. Failures of the API do not end the wait before
   * the timeout.
   *
   * @throws PosthornError wait_timeout if it is not final by the timeout
   */
  async wait(id: string, options: WaitOptions = {}): Promise<FinalGroup> {
    const isFinal = isFinalGroup
    const wanted = { path: pathOf(id), what: 'group', check: check.GROUP, isFinal } as const
    return waitUntilFinal(this.#call, wanted, options)
  }

  /** One page of groups, newest first. */
  async page(
    query: GroupQuery & { cursor?: string | undefined } = {},
    { signal }: RequestOptions = {},
  ): Promise<Page<ListedGroup>> {
    const path = `/groups${queryText({ ...query })}`
    return this.#call.json(
      { method: 'GET', path, repeatable: true, signal },
      check.pageOf(check.LISTED_GROUP),
    )
  }

  /** All matching groups, newest first. Fetches pages as needed. */
  list(query: GroupQuery = {}, options: RequestOptions = {}): AsyncGenerator<ListedGroup, void> {
    return eachItem((cursor) => this.page({ limit: MAX_PAGE, ...query, cursor }, options))
  }

  /** The group takes no more jobs. Closing a closed group changes nothing. */
  async close(id: string, options: RequestOptions = {}): Promise<Group> {
    return this.#command(id, 'close', true, options)
  }

  /** Closes the group. Its queued and running jobs are cancelled afterwards, the oldest first. */
  async cancel(id: string, options: RequestOptions = {}): Promise<Group> {
    return this.#command(id, 'cancel', true, options)
  }

  /**
   * The dead and cancelled jobs of the group are queued again afterwards, the oldest first. The
   * call is not retried: the jobs may have run and become dead again.
   */
  async retry(id: string, options: RequestOptions = {}): Promise<Group> {
    return this.#command(id, 'retry', false, options)
  }

  /** Removes a final group. Its jobs stay. */
  async remove(id: string, { signal }: RequestOptions = {}): Promise<void> {
    await this.#call.nothing({
      method: 'DELETE',
      path: pathOf(id),
      repeatable: true,
      goneCode: 'group_not_found',
      signal,
    })
  }

  #command(
    id: string,
    command: 'close' | 'cancel' | 'retry',
    repeatable: boolean,
    { signal }: RequestOptions,
  ): Promise<Group> {
    const path = `${pathOf(id)}/${command}`
    return this.#call.json({ method: 'POST', path, repeatable, signal }, check.GROUP)
  }
}

function pathOf(id: string): string {
  return `/groups/${segment(id)}`
}
