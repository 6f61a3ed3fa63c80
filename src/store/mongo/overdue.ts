// Jobs that await completion past their deadline: found for whoever knows the retry policy, and
// ended under the guard that they are as they were seen.
import type { OverdueEnd, OverdueJob, SettleResult } from '../settlement.ts'
import { afterFinish } from './aftermath.ts'
import { attemptDocument } from './attempt-documents.ts'
import { failureFields, pushAttempt, randomId, toFinal, toQueued } from './changes.ts'
import { type MongoContext, nowOf } from './context.ts'
import type { JobDocument } from './documents.ts'
import { type Ending, withdrawal, writeEndings } from './endings.ts'
import { SEEN_LEASE } from './lost-attempts.ts'
import { run, startDeadline } from './run-command.ts'

const OVERDUE = {
  ...SEEN_LEASE,
  runAt: 1,
  attemptsLeft: 1,
  maxAttempts: 1,
  freeAttempts: 1,
  firstRunAt: 1,
  promotedAt: 1,
  expiresAt: 1,
  retry: 1,
} as const
type Overdue = Pick<JobDocument, '_id' | keyof typeof OVERDUE>

export async function overdue(context: MongoContext, limit: number): Promise<OverdueJob[]> {
  const found = await run(startDeadline(), (commandLimit) =>
    context.jobs
      .find<Overdue>(
        {
          state: 'running',
          leaseExpiresAt: { $lte: nowOf(context) },
          phase: 'awaiting_completion',
        },
        {
          projection: OVERDUE,
          sort: { leaseExpiresAt: 1 },
          limit,
          batchSize: limit,
          ...commandLimit,
        },
      )
      .toArray(),
  )
  return found.map((job) => ({
    jobId: job._id,
    fence: job.fence,
    leaseId: job.leaseId ?? '',
    endpoint: job.endpoint,
    leaseExpiresAt: job.leaseExpiresAt?.getTime() ?? 0,
    claimedAt: (job.claimedAt ?? job.runAt).getTime(),
    workerId: job.leaseWorkerId ?? '',
    attemptNumber: job.attemptCount,
    attemptsLeft: job.attemptsLeft,
    maxAttempts: job.maxAttempts,
    freeAttempts: job.freeAttempts,
    firstRunAt: job.firstRunAt.getTime(),
    promotedAt: job.promotedAt?.getTime() ?? null,
    expiresAt: job.expiresAt?.getTime() ?? null,
    retry: job.retry,
  }))
}

export async function endOverdue(
  context: MongoContext,
  ends: OverdueEnd[],
): Promise<SettleResult[]> {
  if (ends.length === 0) return []
  const now = nowOf(context)
  const writeId = randomId()
  const endings = ends.map((end) => endingOf(end, writeId))
  const { results, finished, withdrawn } = await writeEndings(context, endings, {
    writeId,
    now,
    isRepeat: false,
  })
  ends.forEach((end, i) => {
    if (results[i] !== 'applied') return
    const { jobId, endpoint, attempt } = end
    const isDead = end.event === 'bury_timed_out' && !withdrawn.includes(jobId)
    context.ends.tell({ jobId, endpoint, attempt, diedOf: isDead ? end.failure.reason : null })
  })
  context.hint()
  await afterFinish(context, finished)
  return results
}

function endingOf(end: OverdueEnd, writeId: string): Ending {
  const attempt = attemptDocument(end.attempt, { ...end, writeId })
  const change =
    end.event === 'time_out'
      ? toQueued(new Date(end.runAt))
      : toFinal('dead', attempt.finishedAt, failureFields(end.failure))
  return {
    jobId: end.jobId,
    fence: end.fence,
    leaseId: end.leaseId,
    leaseExpiresAt: new Date(end.leaseExpiresAt),
    event: end.event,
    outcome: end.attempt.outcome,
    update: { ...change, ...pushAttempt(attempt) },
    instead: withdrawal(attempt),
  }
}
