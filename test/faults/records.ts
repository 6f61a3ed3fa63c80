// Reads the record of every job in the store at the end of a run, as any client does.
import { setTimeout as sleep } from 'node:timers/promises'
import type { AttemptRecord, GroupRecord, JobRecord } from './history.ts'
import type { Answer, WorkClient } from './work-client.ts'

const PAGE_SIZE = 100
const READS_AT_ONCE = 32
/**
 * How often a read is sent until it gets another response than a 503. All faults are over by then,
 * but the store may be slower than the deadline of the API. The 503 for a missing payload stays.
 */
const READ_TRIES = 5
const READ_AGAIN_MS = 500

/** All jobs, including those that the client does not know. */
export async function readRecords(client: WorkClient): Promise<JobRecord[]> {
  const listed = await allListed(client, 'jobs')
  const records: JobRecord[] = []
  for (let from = 0; from < listed.length; from += READS_AT_ONCE) {
    const some = listed.slice(from, from + READS_AT_ONCE)
    records.push(...(await Promise.all(some.map((job) => readRecord(client, job)))))
  }
  return records
}

export async function readGroups(client: WorkClient): Promise<GroupRecord[]> {
  const groups: GroupRecord[] = []
  for (const { id } of await allListed(client, 'groups')) {
    const { state, counts, finishes } = await mustAnswer(client, `/groups/${id}`)
    groups.push({ id, state, counts, finishes })
  }
  return groups
}

async function allListed(client: WorkClient, what: 'jobs' | 'groups'): Promise<Answer['body'][]> {
  const listed: Answer['body'][] = []
  let cursor: string | null = null
  do {
    const query: string = cursor === null ? '' : `&cursor=${encodeURIComponent(cursor)}`
    const page = await mustAnswer(client, `/${what}?limit=${PAGE_SIZE}${query}`)
    listed.push(...page.items)
    cursor = page.nextCursor
  } while (cursor !== null)
  return listed
}

/** A job without its payload is in the list, but the API cannot return it. */
async function readRecord(client: WorkClient, listed: Answer['body']): Promise<JobRecord> {
  const { id } = listed
  const answer = await read(client, `/jobs/${id}`)
  const hasPayload = answer?.status !== 503
  const job = hasPayload ? bodyOf(answer, `/jobs/${id}`) : { attempts: [], ...listed }
  return {
    ...{ id, endpoint: job.endpoint, state: job.state, fence: job.fence },
    ...{ priority: job.priority, fairnessKey: job.fairnessKey, cost: job.cost },
    groupId: job.group,
    workNumber: job.payload?.workNumber ?? null,
    attemptCount: job.attemptCount,
    maxAttempts: job.maxAttempts,
    createdAt: Date.parse(job.createdAt),
    runAt: Date.parse(job.runAt),
    finishedAt: job.finishedAt === null ? null : Date.parse(job.finishedAt),
    failureReason: job.failure?.reason ?? null,
    hasLease: job.lease !== null,
    hasPayload,
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
  return bodyOf(await read(client, path), path)
}

async function read(client: WorkClient, path: string): Promise<Answer | null> {
  for (let tries = 1; ; tries++) {
    const answer = await client.request('GET', path)
    const isTransient = answer === null || answer.status === 503
    if (!isTransient || tries === READ_TRIES) return answer
    await sleep(READ_AGAIN_MS)
  }
}

function bodyOf(answer: Answer | null, path: string): Answer['body'] {
  if (answer?.status !== 200) throw new Error(`GET ${path} was answered by ${answer?.status}`)
  return answer.body
}
