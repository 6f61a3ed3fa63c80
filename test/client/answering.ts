// Responses of a server that stands for the API, and the error of a call that gets them.
import { expect } from 'vitest'
import { type Job, PosthornError } from '../../src/client/client.ts'
import type { Reply } from '../support/receiver.ts'

const AT = '2026-11-24T08:30:00.000Z'
export const JOB: Job = {
  ...{ id: 'job_1', endpoint: 'invoice-pdf', state: 'succeeded', phase: null, priority: 5 },
  ...{ runAt: AT, dueAt: null, createdAt: AT, startedAt: AT, finishedAt: AT, expiresAt: null },
  ...{ attemptCount: 1, maxAttempts: 10, fence: 1, lease: null, progress: null, failure: null },
  ...{ payload: {}, payloadBytes: 2, timeout: null, retry: null, headers: {}, tags: [] },
  ...{ metadata: {}, idempotencyKey: null, dedupeKey: null, orderingKey: null },
  ...{
    fairnessKey: null,
    cost: 1,
    scheduleName: null,
    group: null,
    dependsOn: [],
    needs: {},
    onFinish: null,
    version: 3,
    attempts: [],
  },
  ...{ result: { pages: 3 }, resultTruncated: false },
}
export const job = (state: string): Reply => ({
  status: 200,
  body: JSON.stringify({ ...JOB, state }),
})
export const OK = job('succeeded')
export const problem = (status: number, code: string, more = {}, headers = {}): Reply => ({
  status,
  headers: { 'content-type': 'application/problem+json', ...headers },
  body: JSON.stringify({ status, code, detail: `it is ${code}`, requestId: 'r-1', ...more }),
})
export const UNAVAILABLE = problem(503, 'store_unavailable', {}, { 'retry-after': '0' })

export async function errorOf(promise: Promise<unknown>): Promise<PosthornError> {
  const error = await promise.then(
    () => null,
    (reason) => reason,
  )
  expect(error).toBeInstanceOf(PosthornError)
  return error as PosthornError
}
