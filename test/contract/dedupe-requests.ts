// Requests with a dedupe key, for the tests of dedupe.
import type { DedupeMode, Job, NewJob } from '../../src/job/job.ts'
import type { EnqueueResult, Store } from '../../src/store/store.ts'
import { newJob } from './fixtures.ts'

export const DEDUPE_KEY = 'report-7'

export async function askWithKey(
  store: Store,
  endpoint: string,
  mode: DedupeMode,
  fields: Partial<NewJob> = {},
): Promise<EnqueueResult> {
  const dedupe = { key: DEDUPE_KEY, mode }
  const [result] = await store.enqueue([newJob(store, endpoint, { ...fields, dedupe })])
  if (result === undefined) throw new Error('no answer')
  return result
}

/** Sends the first request with the key, which creates a job. */
export async function askFirstWithKey(
  store: Store,
  endpoint: string,
  fields: Partial<NewJob> = {},
): Promise<Job> {
  const result = await askWithKey(store, endpoint, 'keep', fields)
  if (result.kind !== 'inserted') throw new Error(result.kind)
  return result.job
}
