// Single corruptions of a synthetic history that violate I1 to I5: something is lost, invented or
// counted wrongly.
import type { Delivery, InvariantId, Sighting } from './history.ts'
import {
  type Fate,
  groupAll,
  jobWith,
  letNeed,
  type SyntheticHistory,
  type SyntheticJob,
} from './synthetic-history.ts'

export interface Damage {
  breaks: InvariantId
  what: string
  /** The first job with this fate is corrupted. */
  fate: Fate
  do(job: SyntheticJob, history: SyntheticHistory): void
}

export const first = <T>(items: T[]): T => items[0] as T
export const last = <T>(items: T[]): T => items.at(-1) as T

function drop<T>(items: T[], gone: T): void {
  items.splice(items.indexOf(gone), 1)
}

export function seen({ id }: SyntheticJob, { sightings }: SyntheticHistory): Sighting[] {
  return sightings.filter(({ jobId }) => jobId === id)
}

export function moveBy(delivery: Delivery, ms: number): void {
  delivery.beganAtMs += ms
  if (delivery.answeredAtMs !== null) delivery.answeredAtMs += ms
  delivery.timestampSeconds = Math.floor(delivery.timestampSeconds + ms / 1_000)
}

const WHAT_IS_LOST: Damage[] = [
  {
    ...{ breaks: 'I1', what: 'the record of an accepted job is gone', fate: 'done' },
    do({ record }, { records }) {
      drop(records, record)
    },
  },
  {
    ...{ breaks: 'I1', what: 'the record of a delivered job is gone', fate: 'answered_late' },
    do({ record, calls }, { records, sightings }) {
      drop(records, record)
      Object.assign(last(calls), { status: null, jobId: null })
      sightings.length = 0
    },
  },
  {
    ...{ breaks: 'I1', what: 'a job has succeeded without a delivery', fate: 'done' },
    do({ deliveries }, history) {
      drop(history.deliveries, first(deliveries))
    },
  },
  {
    ...{ breaks: 'I1', what: 'a job has succeeded by half an answer', fate: 'done' },
    do({ deliveries }) {
      Object.assign(first(deliveries), { answeredAtMs: null })
    },
  },
  {
    ...{ breaks: 'I1', what: 'a stale result ends the next attempt', fate: 'killed_unrecorded' },
    do({ deliveries }) {
      Object.assign(last(deliveries), { status: 500 })
    },
  },
  {
    ...{ breaks: 'I1', what: 'a success is recorded before its answer', fate: 'done' },
    do({ deliveries }) {
      first(deliveries).answeredAtMs = first(deliveries).beganAtMs + 5_000
    },
  },
  {
    ...{ breaks: 'I1', what: 'a job is still queued at the end', fate: 'done' },
    do(job, history) {
      Object.assign(job.record, { state: 'queued', finishedAt: null })
      for (const one of seen(job, history)) one.state = 'queued'
    },
  },
  {
    ...{ breaks: 'I1', what: 'a dead job says no reason', fate: 'worn_out' },
    do({ record }) {
      Object.assign(record, { failureReason: null })
    },
  },
  {
    ...{ breaks: 'I1', what: 'a final job has no end', fate: 'cancelled_waiting' },
    do({ record }) {
      Object.assign(record, { finishedAt: null })
    },
  },
  {
    ...{ breaks: 'I1', what: 'a final job has a lease', fate: 'cancelled_waiting' },
    do({ record }) {
      Object.assign(record, { hasLease: true, attemptCount: 1, fence: 1 })
    },
  },
  {
    ...{ breaks: 'I1', what: 'a job is cancelled and nobody asked', fate: 'cancelled_waiting' },
    do({ calls }, history) {
      drop(history.calls, last(calls))
    },
  },
]

const WHAT_COMES_FROM_NOWHERE: Damage[] = [
  {
    ...{ breaks: 'I2', what: 'work is delivered that nobody enqueued', fate: 'done' },
    do({ calls }, history) {
      drop(history.calls, first(calls))
    },
  },
  {
    ...{ breaks: 'I2', what: 'refused work is delivered', fate: 'failed_once' },
    do({ calls }) {
      Object.assign(first(calls), { status: 422 })
    },
  },
  {
    ...{ breaks: 'I2', what: 'a job is delivered under an unknown id', fate: 'cancelled_running' },
    do({ calls, deliveries, id }, history) {
      const delivery = { ...first(deliveries), jobId: 'job_unknown' }
      history.deliveries.push(delivery)
      // It may have been deleted, so its missing record is not a loss.
      history.calls.push({ ...first(calls), kind: 'delete', status: null, jobId: 'job_unknown' })
      drop(history.deliveries, first(history.deliveries.filter((one) => one.jobId === id)))
    },
  },
  {
    ...{ breaks: 'I2', what: 'a job goes to another endpoint', fate: 'done' },
    do({ deliveries }) {
      Object.assign(first(deliveries), { endpoint: 'other' })
    },
  },
  {
    ...{ breaks: 'I2', what: 'a job is stored for another endpoint', fate: 'done' },
    do({ record }) {
      Object.assign(record, { endpoint: 'other' })
    },
  },
  {
    ...{ breaks: 'I3', what: 'a key has two records', fate: 'answered_late' },
    do({ record, deliveries }, history) {
      history.records.push({ ...record, id: 'job_twin' })
      history.deliveries.push({ ...first(deliveries), jobId: 'job_twin' })
    },
  },
  {
    ...{
      breaks: 'I3',
      what: 'no call was answered, and there are two jobs',
      fate: 'answered_late',
    },
    do({ record, deliveries, calls }, history) {
      Object.assign(last(calls), { status: 503, jobId: null })
      history.records.push({ ...record, id: 'job_twin' })
      history.deliveries.push({ ...first(deliveries), jobId: 'job_twin' })
    },
  },
  {
    ...{ breaks: 'I3', what: 'a repeat is answered with another job', fate: 'done' },
    do({ calls }, history) {
      const { id } = jobWith(history, 'given_back')
      history.calls.push({ ...first(calls), status: 200, jobId: id })
    },
  },
  {
    ...{ breaks: 'I3', what: 'a job is stored twice', fate: 'done' },
    do({ record }, { records }) {
      records.push({ ...record })
    },
  },
  {
    ...{ breaks: 'I3', what: 'a job is stored under another key', fate: 'done' },
    do({ record }) {
      Object.assign(record, { idempotencyKey: 'work-x' })
    },
  },
]

const WHAT_IS_COUNTED: Damage[] = [
  {
    ...{ breaks: 'I4', what: 'a fence reaches the receiver twice', fate: 'failed_once' },
    do({ deliveries }, history) {
      const { beganAtMs } = first(deliveries)
      history.deliveries.push({ ...first(deliveries), beganAtMs: beganAtMs + 3 })
    },
  },
  {
    ...{ breaks: 'I4', what: 'fences go back', fate: 'interrupted' },
    do({ deliveries }) {
      moveBy(first(deliveries), 60)
    },
  },
  {
    ...{ breaks: 'I4', what: 'a fence is sent twice on a new connection', fate: 'resent' },
    do({ deliveries }) {
      first(deliveries).requestOnConnection = 1
    },
  },
  {
    ...{ breaks: 'I4', what: 'a fence is sent twice on a kept connection', fate: 'resent' },
    do({ deliveries }) {
      last(deliveries).requestOnConnection = 2
    },
  },
  {
    ...{ breaks: 'I4', what: 'a fence is sent a third time', fate: 'resent' },
    do({ deliveries }, history) {
      const [one, other] = [first(deliveries), last(deliveries)]
      Object.assign(other, { requestOnConnection: 2, status: null, answeredAtMs: null })
      other.brokenOffAtMs = other.beganAtMs + 2
      const third = { ...one, ...{ beganAtMs: other.beganAtMs + 4, requestOnConnection: 1 } }
      const answered = { status: 200, answeredAtMs: third.beganAtMs + 2, brokenOffAtMs: null }
      history.deliveries.push({ ...third, ...answered })
    },
  },
  {
    ...{ breaks: 'I4', what: 'a thawed worker sends amid the next attempt', fate: 'frozen_unsent' },
    do({ deliveries }, history) {
      const next = first(deliveries)
      const late = { fence: next.fence - 1, attempt: next.attempt - 1, status: null }
      const beganAtMs = next.beganAtMs + 5
      history.deliveries.push({ ...next, ...late, beganAtMs, answeredAtMs: null })
    },
  },
  {
    ...{
      breaks: 'I4',
      what: 'a thawed worker sends before the next attempt',
      fate: 'frozen_unsent',
    },
    do({ record, deliveries }, history) {
      const next = first(deliveries)
      const lost = first(record.attempts)
      lost.finishedAt -= 200
      const beganAtMs = lost.finishedAt - history.epochOffsetMs + 60
      const late = { fence: next.fence - 1, attempt: next.attempt - 1, status: null }
      history.deliveries.push({ ...next, ...late, beganAtMs, answeredAtMs: null })
    },
  },
  {
    ...{ breaks: 'I4', what: 'a request leaves long after its lease', fate: 'killed_unsent' },
    do({ record, deliveries, workNumber }, history) {
      // The worker that sends it is not killed, but its attempt is lost all the same.
      const fault = first(history.faults.filter(({ target }) => target === `worker-${workNumber}`))
      Object.assign(fault, { kind: 'store_cut', target: 'store' })
      const next = first(deliveries)
      const lost = first(record.attempts)
      lost.finishedAt -= 600
      const beganAtMs = lost.finishedAt - history.epochOffsetMs + 550
      const late = { fence: next.fence - 1, attempt: next.attempt - 1, status: null }
      history.deliveries.push({ ...next, ...late, beganAtMs, answeredAtMs: null })
    },
  },
  {
    ...{ breaks: 'I5', what: 'an attempt is not counted', fate: 'failed_once' },
    do({ record, deliveries }) {
      record.attemptCount -= 1
      record.attempts.shift()
      first(record.attempts).number -= 1
      last(deliveries).attempt -= 1
    },
  },
  {
    ...{ breaks: 'I5', what: 'an attempt is missing from the list', fate: 'worn_out' },
    do({ record }) {
      record.attempts.splice(1, 1)
    },
  },
  {
    ...{ breaks: 'I5', what: 'the last attempt is not in the list', fate: 'worn_out' },
    do({ record }) {
      record.attempts.pop()
      record.failureReason = 'rejected'
    },
  },
  {
    ...{ breaks: 'I5', what: 'more attempts are counted than claims', fate: 'killed_unsent' },
    do({ record, deliveries }) {
      record.fence -= 1
      last(deliveries).fence -= 1
    },
  },
  {
    ...{ breaks: 'I5', what: 'the budget is overdrawn', fate: 'retried' },
    do({ calls }, history) {
      drop(history.calls, last(calls))
      history.sightings = history.sightings.filter(({ state }) => state !== 'dead')
    },
  },
  {
    ...{ breaks: 'I5', what: 'the budget is overdrawn since a retry', fate: 'retried' },
    do({ record }) {
      record.maxAttempts = 0
    },
  },
  {
    ...{ breaks: 'I5', what: 'a job dies before its budget is used up', fate: 'worn_out' },
    do({ record }) {
      record.maxAttempts += 1
    },
  },
]

const noticeOf = ({ deliveries }: SyntheticHistory) =>
  deliveries.find(({ notice }) => notice !== null) as Delivery

const WHAT_IS_GROUPED: Damage[] = [
  {
    ...{ breaks: 'I18', what: 'a member is counted twice', fate: 'done' },
    do(_, history) {
      groupAll(history)
      first(history.groups).counts.succeeded += 1
    },
  },
  {
    ...{ breaks: 'I18', what: 'members are counted as what they were before', fate: 'retried' },
    do(_, history) {
      groupAll(history)
      const { counts } = first(history.groups)
      // More than were deleted.
      counts.succeeded -= 5
      counts.dead += 5
    },
  },
  {
    ...{ breaks: 'I18', what: 'an accepted member is in no group', fate: 'answered_late' },
    do({ record }, history) {
      groupAll(history)
      record.groupId = null
      first(history.groups).counts.succeeded -= 1
    },
  },
  {
    ...{ breaks: 'I18', what: 'a group with failed members has succeeded', fate: 'worn_out' },
    do(_, history) {
      groupAll(history)
      first(history.groups).state = 'succeeded'
    },
  },
  {
    ...{ breaks: 'I19', what: 'a finish has no notice', fate: 'done' },
    do(_, history) {
      groupAll(history)
      first(history.groups).finishes += 1
    },
  },
  {
    ...{ breaks: 'I19', what: 'a finish has two notices', fate: 'done' },
    do(_, history) {
      groupAll(history)
      const record = { ...last(history.records), id: 'job_notice_again' }
      history.records.push(record)
      history.deliveries.push({ ...noticeOf(history), jobId: record.id })
    },
  },
  {
    ...{ breaks: 'I19', what: 'a notice comes before the last member', fate: 'failed_once' },
    do({ deliveries }, history) {
      groupAll(history)
      const notice = noticeOf(history)
      moveBy(notice, last(deliveries).beganAtMs - 1 - notice.beganAtMs)
    },
  },
  {
    ...{ breaks: 'I19', what: 'a notice does not tell of all members', fate: 'done' },
    do(_, history) {
      groupAll(history)
      const { notice } = noticeOf(history)
      if (notice !== null) notice.counts = { ...notice.counts, succeeded: 1 }
    },
  },
]

const WHAT_IS_NEEDED: Damage[] = [
  {
    ...{ breaks: 'I20', what: 'an input was serialized again', fate: 'failed_once' },
    do(job, history) {
      letNeed(jobWith(history, 'done'), job)
      for (const delivery of job.deliveries) {
        delivery.inputs = JSON.stringify(JSON.parse(delivery.inputs as string))
      }
    },
  },
  {
    ...{ breaks: 'I20', what: 'a later attempt has no inputs', fate: 'failed_once' },
    do(job, history) {
      letNeed(jobWith(history, 'done'), job)
      last(job.deliveries).inputs = null
    },
  },
  {
    ...{ breaks: 'I20', what: 'a job starts before one that it needs', fate: 'done' },
    do(job, history) {
      letNeed(jobWith(history, 'failed_once'), job)
    },
  },
]

export const DAMAGES: Damage[] = [
  ...[...WHAT_IS_LOST, ...WHAT_COMES_FROM_NOWHERE],
  ...[...WHAT_IS_COUNTED, ...WHAT_IS_GROUPED, ...WHAT_IS_NEEDED],
]
