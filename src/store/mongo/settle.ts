// Settle: how a holder's attempts ended, as one batch of guarded updates. What did not match is
// read back, since a batch tells only how many did.
import type { UpdateFilter } from 'mongodb'
import type { Settlement, SettleResult } from '../settlement.ts'
import type { SettleOptions } from '../store.ts'
import { afterFinish } from './aftermath.ts'
import { attemptDocument } from './attempt-documents.ts'
import { failureFields, pushAttempt, randomId, toFinal, toQueued } from './changes.ts'
import { type MongoContext, nowOf } from './context.ts'
import type { JobDocument } from './documents.ts'
import { type Ending, withdrawal, writeEndings } from './endings.ts'

export async function settle(
  context: MongoContext,
  settlements: Settlement[],
  { isRepeat = false }: SettleOptions = {},
): Promise<SettleResult[]> {
  if (settlements.length === 0) return []
  const now = nowOf(context)
  const writeId = randomId()
  const endings = settlements.map((settlement) => endingOf(settlement, writeId))
  const { results, finished } = await writeEndings(context, endings, { writeId, now, isRepeat })
  if (settlements.some(({ event }) => event === 'reschedule' || event === 'postpone')) {
    context.hint()
  }
  await afterFinish(context, context.debts.takeOwing(finished))
  return results
}

function endingOf(settlement: Settlement, writeId: string): Ending {
  const { jobId, fence, leaseId, event } = settlement
  const lease = { jobId, fence, leaseId }
  if (settlement.event === 'await') {
    const update = toAwaiting(new Date(settlement.leaseExpiresAt), writeId)
    return { ...lease, event, outcome: null, update, instead: null }
  }
  const attempt = attemptDocument(settlement.attempt, { ...settlement, writeId })
  return {
    ...lease,
    event,
    outcome: settlement.attempt.outcome,
    update: { ...stateChangeOf(settlement), ...pushAttempt(attempt) },
    instead: withdrawal(attempt),
  }
}

function toAwaiting(until: Date, writeId: string): UpdateFilter<JobDocument> {
  return {
    $set: { phase: 'awaiting_completion', releaseId: writeId },
    $max: { leaseExpiresAt: until },
    $inc: { version: 1 },
  }
}

function stateChangeOf(
  settlement: Exclude<Settlement, { event: 'await' }>,
): UpdateFilter<JobDocument> {
  const finishedAt = new Date(settlement.attempt.finishedAt)
  switch (settlement.event) {
    case 'succeed': {
      const { result, resultTruncated } = settlement
      return toFinal('succeeded', finishedAt, { result, resultTruncated })
    }
    case 'reschedule':
      return toQueued(new Date(settlement.runAt))
    case 'postpone':
      return toQueued(new Date(settlement.runAt), { attemptsLeft: 1, freeAttempts: 1 })
    case 'bury':
      return toFinal('dead', finishedAt, failureFields(settlement.failure))
    default:
      throw new Error(`unknown event ${(settlement satisfies never as Settlement).event}`)
  }
}
