// Waits for the end of a job or a group: one long request after another until it is final.

import { type Call, pause, type RequestOptions } from './call.ts'
import { milliseconds } from './given.ts'
import { PosthornError } from './posthorn-error.ts'
import type { Check } from './response-check.ts'

export interface WaitOptions extends RequestOptions {
  /** Default: 10 min. */
  timeoutMs?: number | undefined
}

const DEFAULT_WAIT_MS = 600_000
/** The longest wait of the API in one request. */
const MAX_SERVER_WAIT_MS = 60_000
/**
 * The shortest time between two requests, because a server that is full or stopping responds at
 * once.
 */
const MIN_ROUND_MS = 1_000

/** What is waited for. */
export interface Awaited<Found, Final extends Found> {
  path: string
  /** For messages. */
  what: 'job' | 'group'
  check: Check
  isFinal: (found: Found) => found is Final
}

/** @throws PosthornError wait_timeout if it is not final by the timeout */
export async function waitUntilFinal<
  Found extends { id: string; state: string },
  Final extends Found,
>(
  call: Call,
  { path, what, check, isFinal }: Awaited<Found, Final>,
  { timeoutMs = DEFAULT_WAIT_MS, signal }: WaitOptions,
): Promise<Final> {
  // Infinity waits until the end, however long that takes.
  const waitMs = timeoutMs === Infinity ? timeoutMs : milliseconds('timeoutMs', timeoutMs)
  const untilMs = performance.now() + waitMs
  for (;;) {
    const beganAtMs = performance.now()
    const leftMs = Math.max(0, untilMs - beganAtMs)
    const serverWaitMs = Math.min(Math.ceil(leftMs), MAX_SERVER_WAIT_MS)
    const request = {
      method: 'GET',
      path: `${path}?wait=${serverWaitMs}ms`,
      repeatable: true,
      serverWaitMs,
      untilMs,
      signal,
    } as const
    const found = await call.json<Found>(request, check)
    if (isFinal(found)) return found
    const nowMs = performance.now()
    if (nowMs >= untilMs) throw notFinal(what, found, timeoutMs)
    const restMs = MIN_ROUND_MS - (nowMs - beganAtMs)
    if (restMs > 0) await pause(Math.min(restMs, untilMs - nowMs), signal)
  }
}

function notFinal(
  what: string,
  { id, state }: { id: string; state: string },
  timeoutMs: number,
): PosthornError {
  return new PosthornError({
    code: 'wait_timeout',
    status: null,
    detail: `${what} ${id} is still ${state} after ${timeoutMs} ms`,
  })
}
