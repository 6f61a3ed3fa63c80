// What a server that stands in for the API answers, and the error that a call then ends with.
import { expect } from 'vitest'
import { PosthornError } from '../../src/client/client.ts'
import type { Reply } from '../support/receiver.ts'

const JOB = { id: 'job_1', endpoint: 'invoice-pdf', state: 'succeeded', result: { pages: 3 } }
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
