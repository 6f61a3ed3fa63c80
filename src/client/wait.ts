// Waits for the end of a job: one long request after another until the job is final.

import { type Call, pause, type RequestOptions } from './call.ts'
import { milliseconds } from './given.ts'
import { type FinalJob, isFinal, type Job } from './job.ts'
import { PosthornError } from './posthorn-error.ts'
import { segment } from './request-path.ts'
import { JOB } from './response-check.ts'

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

/** @throws PosthornError wait_timeout if the job is not final by the timeout */
export async function waitUntilFinal<Payload, Result>(
  call: Call,
  id: string,
  { timeoutMs = DEFAULT_WAIT_MS, signal }: WaitOptions,
): Promise<FinalJob<Payload, Result>> {
  // Infinity waits until the job is final, however long that takes.
  const waitMs = timeoutMs === Infinity ? timeoutMs : milliseconds('timeoutMs', timeoutMs)
  const untilMs = performance.now() + waitMs
  for (;;) {
    const beganAtMs = performance.now()
    const leftMs = Math.max(0, untilMs - beganAtMs)
    const serverWaitMs = Math.min(Math.ceil(leftMs), MAX_SERVER_WAIT_MS)
    const request = {
      method: 'GET',
      path: `/jobs/${segment(id)}?wait=${serverWaitMs}ms`,
      repeatable: true,
      serverWaitMs,
      untilMs,
      signal,
    } as const
    const job = await call.json<Job<Payload, Result>>(request, JOB)
    if (isFinal(job.state)) return job as FinalJob<Payload, Result>
    const nowMs = performance.now()
    if (nowMs >= untilMs) throw notFinal(job, timeoutMs)
    const restMs = MIN_ROUND_MS - (nowMs - beganAtMs)
    if (restMs > 0) await pause(Math.min(restMs, untilMs - nowMs), signal)
  }
}

function notFinal(job: Job, timeoutMs: number): PosthornError {
  return new PosthornError({
    code: 'wait_timeout',
    status: null,
    detail: `job ${job.id} is still ${job.state} after ${timeoutMs} ms`,
  })
}
