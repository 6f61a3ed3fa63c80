// Settle: how a holder's attempts ended, as one batch of guarded updates. What did not match is
// read back, since a batch tells only how many did.
import type { UpdateFilter } from 'mongodb'
import type { Settlement, SettleResult, StoreSettings } from '../store.ts'
import { failureFields, pushAttempt, randomId, toFinal, toQueued } from './changes.ts'
import { type MongoContext, nowOf } from './context.ts'
import { attemptDocument, type JobDocument } from './documents.ts'
import { guardOf } from './guards.ts'
import { BY_ID } from './indexes.ts'
import { run, startDeadline } from './run-command.ts'

export async function settle(
  context: MongoContext,
  settlements: Settlement[],
): Promise<SettleResult[]> {
  if (settlements.length === 0) return []
  const deadline = startDeadline()
  const writeId = randomId()
  const now = nowOf(context)
  const updates = settlements.map((settlement) => ({
    updateOne: {
      filter: { _id: settlement.jobId, ...guardOf(settlement.event, { now, lease: settlement }) },
      update: changeOf(settlement, writeId, context.settings),
      ...BY_ID,
    },
  }))
  const { matchedCount } = await run(deadline, (limit) =>
    context.jobs.bulkWrite(updates, { ordered: false, ...limit }),
  )
  if (settlements.some(({ event }) => event === 'reschedule' || event === 'postpone')) {
    context.hint()
  }
  if (matchedCount === settlements.length) return settlements.map(() => 'applied')
  const ids = settlements.map(({ jobId }) => jobId)
  const found = await run(deadline, (limit) =>
    context.jobs
      .find({ _id: { $in: ids } }, { projection: WRITERS, batchSize: ids.length + 1, ...limit })
      .toArray(),
  )
  const attempts = new Map(found.map((document) => [document._id, document.attempts]))
  return settlements.map((settlement) =>
    resultOf(settlement, attempts.get(settlement.jobId) ?? [], writeId),
  )
}

/** Of each attempt only what tells who wrote it. */
const WRITERS = {
  'attempts.fence': 1,
  'attempts.leaseId': 1,
  'attempts.event': 1,
  'attempts.outcome': 1,
  'attempts.writeId': 1,
} as const

type Writer = Pick<
  JobDocument['attempts'][number],
  'fence' | 'leaseId' | 'event' | 'outcome' | 'writeId'
>

/** The sweeper may have written this very attempt as lost: only the same event is a repetition. */
function resultOf(settlement: Settlement, attempts: Writer[], writeId: string): SettleResult {
  const own = attempts.find(
    ({ fence, leaseId }) => fence === settlement.fence && leaseId === settlement.leaseId,
  )
  if (own === undefined) return 'lease_lost'
  if (own.writeId === writeId) return 'applied'
  const same = own.event === settlement.event && own.outcome === settlement.attempt.outcome
  return same ? 'already_applied' : 'lease_lost'
}

function changeOf(
  settlement: Settlement,
  writeId: string,
  settings: StoreSettings,
): UpdateFilter<JobDocument> {
  const attempt = attemptDocument(settlement.attempt, { ...settlement, writeId })
  return { ...stateChangeOf(settlement, settings), ...pushAttempt(attempt) }
}

function stateChangeOf(settlement: Settlement, settings: StoreSettings): UpdateFilter<JobDocument> {
  const finishedAt = new Date(settlement.attempt.finishedAt)
  switch (settlement.event) {
    case 'succeed': {
      const { result, resultTruncated } = settlement
      return toFinal('succeeded', finishedAt, settings, { result, resultTruncated })
    }
    case 'reschedule':
      return toQueued(new Date(settlement.runAt))
    case 'postpone':
      return toQueued(new Date(settlement.runAt), { attemptsLeft: 1, freeAttempts: 1 })
    case 'bury':
      return toFinal('dead', finishedAt, settings, failureFields(settlement.failure))
    default:
      throw new Error(`unknown event ${(settlement satisfies never as Settlement).event}`)
  }
}
