// The record of every job in the store at the end of a run, read like any client reads it.
import type { AttemptRecord, JobRecord } from './history.ts'
import type { WorkClient } from './work-client.ts'

const PAGE_SIZE = 100
const READS_AT_ONCE = 32

/** All jobs, also those that the client does not know. */
export async function readRecords(client: WorkClient): Promise<JobRecord[]> {
  const ids = await allIds(client)
  const records: JobRecord[] = []
  for (let from = 0; from < ids.length; from += READS_AT_ONCE) {
    const some = ids.slice(from, from + READS_AT_ONCE)
    records.push(...(await Promise.all(some.map((id) => readRecord(client, id)))))
  }
  return records
}

async function allIds(client: WorkClient): Promise<string[]> {
  const ids: string[] = []
  let cursor: string | null = null
  do {
    const query: string = cursor === null ? '' : `&cursor=${encodeURIComponent(cursor)}`
    const page = await mustAnswer(client, `/jobs?limit=${PAGE_SIZE}${query}`)
    ids.push(...page.items.map(({ id }: { id: string }) => id))
    cursor = page.nextCursor
  } while (cursor !== null)
  return ids
}

async function readRecord(client: WorkClient, id: string): Promise<JobRecord> {
  const job = await mustAnswer(client, `/jobs/${id}`)
  return {
    ...{ id, endpoint: job.endpoint, state: job.state, fence: job.fence },
    workNumber: job.payload?.workNumber ?? null,
    attemptCount: job.attemptCount,
    maxAttempts: job.maxAttempts,
    createdAt: Date.parse(job.createdAt),
    runAt: Date.parse(job.runAt),
    finishedAt: job.finishedAt === null ? null : Date.parse(job.finishedAt),
    failureReason: job.failure?.reason ?? null,
    hasLease: job.lease !== null,
    idempotencyKey: job.idempotencyKey,
    attempts: job.attempts.map(
      (one: Record<string, unknown>): AttemptRecord => ({
        number: one.number as number,
        outcome: one.outcome as string,
        statusCode: one.statusCode as number | null,
        startedAt: Date.parse(one.startedAt as string),
        finishedAt: Date.parse(one.finishedAt as string),
        workerId: one.workerId as string,
      }),
    ),
  }
}

async function mustAnswer(client: WorkClient, path: string) {
  const answer = await client.request('GET', path)
  if (answer?.status !== 200) throw new Error(`GET ${path} was answered by ${answer?.status}`)
  return answer.body
}
