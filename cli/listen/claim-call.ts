// The calls of `posthorn listen` whose JSON must not change: a claim, with its payloads, and the
// report of a result.
import { setTimeout as sleep } from 'node:timers/promises'
import { attemptCall } from '../../src/client/attempt-ref.ts'
import type { Call } from '../../src/client/call.ts'
import { type ClaimedJob, PosthornError } from '../../src/client/client.ts'
import { segment } from '../../src/client/request-path.ts'
import { APPLIED, CLAIM } from '../../src/client/response-check.ts'
import { valueAt } from '../../src/job/json-pointer.ts'
import { joinInputs } from '../../src/job/needs.ts'
import { parseEnvelope, type RawJson } from '../../src/wire/envelope.ts'
import { isFromServer } from './retry-while-away.ts'

/** The pause between two tries of a report, while something other than Posthorn responds. */
const REPORT_PAUSE_MS = 1_000

/** A pulled job with the bytes of its payload and its inputs. */
export type PulledJob = Omit<ClaimedJob, 'payload' | 'inputs'> & {
  payload: Buffer
  inputs: Uint8Array | null
}

export interface ClaimOptions {
  limit: number
  waitMs: number
  leaseMs: number
  signal: AbortSignal
}

/** The claim is not repeated: jobs of a lost response become due again when their leases expire. */
export async function claim(
  call: Call,
  endpoint: string,
  { limit, waitMs, leaseMs, signal }: ClaimOptions,
): Promise<PulledJob[]> {
  const request = {
    method: 'POST',
    path: `/endpoints/${segment(endpoint)}/claim`,
    body: JSON.stringify({ limit, wait: `${waitMs}ms`, lease: `${leaseMs}ms` }),
    repeatable: false,
    serverWaitMs: waitMs,
    signal,
  } as const
  const bytes = await call.raw(request, CLAIM)
  const { jobs } = parseEnvelope(Buffer.from(bytes)) as {
    jobs: (Omit<ClaimedJob, 'payload'> & { payload: RawJson })[]
  }
  return jobs.map((job, i) => ({
    ...job,
    payload: job.payload.bytes,
    inputs: inputsOf(job, valueAt(bytes, `/jobs/${i}/inputs`)),
  }))
}

/** @param inputs as they came, without the lists of names; null: the job has none */
function inputsOf(
  { truncatedInputs = [], failedInputs = [] }: Pick<ClaimedJob, 'truncatedInputs' | 'failedInputs'>,
  inputs: Uint8Array | null,
): Uint8Array | null {
  return inputs === null ? null : joinInputs(inputs, { truncatedInputs, failedInputs })
}

/** @param result JSON text, or null for none */
export async function complete(
  call: Call,
  job: PulledJob,
  result: string | null,
  untilMs: number,
): Promise<void> {
  const body = `{"result":${result ?? 'null'}}`
  await report(call, { ...attemptCall(job, 'complete'), body }, untilMs)
}

export async function fail(
  call: Call,
  job: PulledJob,
  failure: { message: string; retryable: boolean; retryAfter?: string },
  untilMs: number,
): Promise<void> {
  await report(call, { ...attemptCall(job, 'fail'), body: JSON.stringify(failure) }, untilMs)
}

/**
 * The work is done, so it retries until Posthorn itself responds. A repeated report does no harm.
 */
async function report(
  call: Call,
  what: { path: string; token: string; body: string },
  untilMs: number,
): Promise<void> {
  for (;;) {
    try {
      await call.raw({ method: 'POST', ...what, repeatable: true, untilMs }, APPLIED)
      return
    } catch (error) {
      if (!(error instanceof PosthornError) || isFromServer(error)) throw error
      const pauseMs = Math.max(REPORT_PAUSE_MS, error.retryAfterMs ?? 0)
      if (performance.now() + pauseMs > untilMs) throw error
      await sleep(pauseMs)
    }
  }
}
