// Single corruptions of a synthetic history that violate I6 to I17: something is too late, too
// early, or wrong.
import type { Fault } from './history.ts'
import { type Damage, first, last, moveBy, seen } from './history-corruptions.ts'
import { hashOf, type SyntheticHistory, type SyntheticJob } from './synthetic-history.ts'

const HOUR_MS = 3_600_000

/** Each synthetic job has a worker of its own. */
const workerOf = ({ workNumber }: SyntheticJob) => `worker-${workNumber}`

/** Removes the faults of the job, so that nothing explains what happened to it. */
function forgetFaults(history: SyntheticHistory, job: SyntheticJob): void {
  history.faults = history.faults.filter(({ target }) => target !== workerOf(job))
}

const WHAT_IS_OVER: Damage[] = [
  {
    ...{ breaks: 'I6', what: 'a cancelled job is dead at the end', fate: 'cancelled_waiting' },
    do({ record }) {
      Object.assign(record, { state: 'dead', failureReason: 'rejected' })
    },
  },
  {
    ...{ breaks: 'I6', what: 'a job is seen running after it was seen final', fate: 'done' },
    do(job, history) {
      const final = last(seen(job, history))
      const { endedAtMs } = final
      const times = { sentAtMs: endedAtMs + 1, endedAtMs: endedAtMs + 2 }
      history.sightings.push({ ...final, ...times, state: 'running' })
    },
  },
  {
    ...{ breaks: 'I6', what: 'a job that has succeeded is retried', fate: 'done' },
    do(job, history) {
      const { endedAtMs } = last(seen(job, history))
      const times = { sentAtMs: endedAtMs + 1, endedAtMs: endedAtMs + 2 }
      history.calls.push({ ...first(job.calls), ...times, kind: 'retry', status: 200 })
    },
  },
  {
    ...{ breaks: 'I6', what: 'a job is claimed after it was seen dead', fate: 'failed_once' },
    do(job, history) {
      const { beganAtMs } = last(job.deliveries)
      const times = { sentAtMs: beganAtMs - 2, endedAtMs: beganAtMs - 1 }
      history.sightings.push({ jobId: job.id, ...times, state: 'dead', fence: 1 })
      for (const one of seen(job, history)) if (one.state === 'succeeded') one.state = 'dead'
      Object.assign(job.record, { state: 'dead', failureReason: 'rejected' })
    },
  },
  {
    ...{ breaks: 'I6', what: 'a deleted job is still stored', fate: 'deleted' },
    do({ record }, { records }) {
      records.push(record)
    },
  },
  {
    ...{ breaks: 'I7', what: 'a send begins after a seen success', fate: 'failed_once' },
    do(job, history) {
      const { beganAtMs } = last(job.deliveries)
      const sighting = last(seen(job, history))
      Object.assign(sighting, { sentAtMs: beganAtMs - 60, endedAtMs: beganAtMs - 55 })
    },
  },
  {
    ...{ breaks: 'I7', what: 'a send begins after the recorded success', fate: 'interrupted' },
    do({ record, deliveries }, { epochOffsetMs }) {
      const { beganAtMs } = last(deliveries)
      record.finishedAt = Math.floor(beganAtMs - 60) + epochOffsetMs
    },
  },
  {
    ...{ breaks: 'I7', what: 'a send begins long after a cancel', fate: 'cancelled_running' },
    do({ deliveries }) {
      moveBy(first(deliveries), 1_600)
    },
  },
]

const WHAT_IS_SENT: Damage[] = [
  {
    ...{ breaks: 'I8', what: 'a second 2xx has no fault', fate: 'killed_unrecorded' },
    do(job, history) {
      forgetFaults(history, job)
    },
  },
  {
    ...{
      breaks: 'I8',
      what: 'a second 2xx comes with a wrong clock only',
      fate: 'killed_unrecorded',
    },
    do(job, { faults }) {
      for (const one of faults) if (one.target === workerOf(job)) one.kind = 'clock'
    },
  },
  {
    ...{ breaks: 'I8', what: 'one fault makes two more 2xx', fate: 'killed_unrecorded' },
    do({ record, deliveries }, history) {
      // Adds a claim between the two, with a 2xx of its own.
      const [one, other] = [first(deliveries), last(deliveries)]
      const beganAtMs = one.beganAtMs + 1_500
      const between = { ...one, fence: 2, attempt: 2, beganAtMs, answeredAtMs: beganAtMs + 9 }
      history.deliveries.push(between)
      Object.assign(other, { fence: 3, attempt: 3 })
      const [lost, done] = [first(record.attempts), last(record.attempts)]
      record.attempts = [lost, { ...lost, number: 2 }, { ...done, number: 3 }]
      Object.assign(record, { fence: 3, attemptCount: 3 })
    },
  },
  {
    ...{ breaks: 'I8', what: 'a fault long over makes one more 2xx', fate: 'killed_unrecorded' },
    do(job, history) {
      const { record, deliveries } = job
      const fault = first(history.faults.filter(({ target }) => target === workerOf(job)))
      history.faults.push({ ...fault, kind: 'store_cut', target: 'store' })
      // Both faults are over before the second 2xx, which needs only one of them.
      moveBy(last(deliveries), 2_000)
      const third = { ...last(deliveries), fence: 3, attempt: 3 }
      moveBy(third, 7_000)
      history.deliveries.push(third)
      const done = last(record.attempts)
      const lost = { ...done, outcome: 'lost', finishedAt: done.finishedAt + 4_500 }
      record.attempts = [first(record.attempts), lost]
      record.attempts.push({ ...done, number: 3 })
      const finishedAt = (record.finishedAt as number) + 9_000
      Object.assign(record, { fence: 3, attemptCount: 3, finishedAt })
      const sighting = last(seen(job, history))
      Object.assign(sighting, { sentAtMs: 1e9, endedAtMs: 1e9 + 5, fence: 3 })
    },
  },
  {
    ...{ breaks: 'I9', what: 'other bytes are sent', fate: 'done' },
    do({ deliveries }) {
      first(deliveries).bodyHash = hashOf(999_999)
    },
  },
  {
    ...{ breaks: 'I9', what: 'the bytes of another job are sent', fate: 'failed_once' },
    do({ deliveries, workNumber }) {
      const other = { workNumber: workNumber + 1, bodyHash: hashOf(workNumber + 1) }
      Object.assign(first(deliveries), other)
    },
  },
  {
    ...{ breaks: 'I9', what: 'a signature does not fit', fate: 'done' },
    do({ deliveries }) {
      first(deliveries).signature = 'invalid'
    },
  },
  {
    ...{ breaks: 'I9', what: 'a timestamp is old', fate: 'done' },
    do({ deliveries }) {
      first(deliveries).timestampSeconds -= 7
    },
  },
  {
    ...{ breaks: 'I9', what: 'a timestamp is two hours ahead', fate: 'frozen_unsent' },
    do({ deliveries }) {
      first(deliveries).timestampSeconds += (2 * HOUR_MS) / 1_000
    },
  },
  {
    ...{ breaks: 'I10', what: 'a job is sent before its delay is over', fate: 'delayed' },
    do({ deliveries }) {
      moveBy(first(deliveries), -100)
    },
  },
  {
    ...{ breaks: 'I10', what: 'a retry comes too early', fate: 'failed_once' },
    do({ deliveries }) {
      moveBy(last(deliveries), -200)
    },
  },
  {
    ...{ breaks: 'I10', what: 'a retry is forgotten for long', fate: 'failed_once' },
    do(job, history) {
      moveBy(last(job.deliveries), 4_000)
      job.record.finishedAt = (job.record.finishedAt as number) + 4_000
      Object.assign(last(seen(job, history)), { sentAtMs: 1e9, endedAtMs: 1e9 + 5 })
    },
  },
  {
    ...{ breaks: 'I11', what: 'a secret stands in a log', fate: 'done' },
    do(_, { texts, secrets }) {
      texts.push({ from: 'log', text: `key=${first(secrets)};` })
    },
  },
  {
    ...{ breaks: 'I11', what: 'a secret stands in base64 in the store', fate: 'done' },
    do(_, { texts, secrets }) {
      const text = Buffer.from(`Bearer ${first(secrets)}, and more`).toString('base64')
      texts.push({ from: 'store', text })
    },
  },
  {
    ...{ breaks: 'I12', what: 'a job that was delivered lacks its payload', fate: 'done' },
    do({ record }) {
      record.hasPayload = false
    },
  },
  {
    ...{ breaks: 'I12', what: 'a cancelled job lacks its payload', fate: 'cancelled_waiting' },
    do({ record }) {
      record.hasPayload = false
    },
  },
  {
    ...{ breaks: 'I13', what: 'an attempt is lost that was not sent', fate: 'killed_unsent' },
    do(job, history) {
      forgetFaults(history, job)
    },
  },
  {
    ...{
      breaks: 'I13',
      what: 'an unsent attempt is lost by a short election',
      fate: 'killed_unsent',
    },
    do(job, history) {
      const kill = history.faults.find(({ target }) => target === workerOf(job))
      Object.assign(kill as Fault, { kind: 'election', target: 'store' })
    },
  },
  {
    ...{
      breaks: 'I13',
      what: 'an unsent attempt is lost between two elections',
      fate: 'killed_unsent',
    },
    do(job, history) {
      const { leaseMs } = history.settings
      const kill = history.faults.find(({ target }) => target === workerOf(job)) as Fault
      Object.assign(kill, { kind: 'election', target: 'store' })
      const beganAtMs = kill.endedAtMs + leaseMs / 2
      history.faults.push({ ...kill, beganAtMs, endedAtMs: beganAtMs + leaseMs })
    },
  },
]

/** All jobs are of one key, except for this one, which was enqueued first of all. */
function letWait(job: SyntheticJob, history: SyntheticHistory): void {
  for (const { record } of history.synthetic) {
    record.fairnessKey = record === job.record ? 'patient' : 'flood'
  }
  Object.assign(first(job.calls), { sentAtMs: 0, endedAtMs: 15 })
}

const WHAT_WAITS: Damage[] = [
  {
    ...{ breaks: 'I14', what: 'a key starts no job during many of another', fate: 'interrupted' },
    do: letWait,
  },
  {
    ...{
      breaks: 'I14',
      what: 'a key waits for a job that was cancelled',
      fate: 'cancelled_waiting',
    },
    do({ record }, history) {
      letWait(
        history.synthetic.findLast(({ fate }) => fate === 'interrupted') as SyntheticJob,
        history,
      )
      record.fairnessKey = 'patient'
    },
  },
]

const WHAT_IS_LIMITED: Damage[] = [
  {
    ...{ breaks: 'I15', what: 'two jobs of a key run at the same time', fate: 'interrupted' },
    do(job, history) {
      const other = otherWithAttempt(job, history)
      const { startedAt, finishedAt } = first(other.record.attempts)
      Object.assign(first(job.record.attempts), { startedAt, finishedAt })
      for (const { record } of [job, other]) record.fairnessKey = 'limited'
    },
  },
  {
    ...{ breaks: 'I15', what: 'a job of a key starts before another ends', fate: 'retried' },
    do(job, history) {
      const other = otherWithAttempt(job, history)
      const { startedAt } = first(other.record.attempts)
      Object.assign(first(job.record.attempts), {
        ...{ startedAt: startedAt - 1, finishedAt: startedAt + 1 },
      })
      for (const { record } of [job, other]) record.fairnessKey = 'limited'
    },
  },
]

const limitOf = ({ settings }: SyntheticHistory) => first(settings.sharedLimits ?? [])

const WHAT_IS_SHARED: Damage[] = [
  {
    ...{ breaks: 'I16', what: 'three jobs of a limit of two run at the same time', fate: 'done' },
    do({ record }, history) {
      const [other, third] = history.synthetic.filter(({ fate }) => fate === 'answered_late')
      const { startedAt } = first(record.attempts)
      for (const [i, one] of [record, other?.record, third?.record].entries()) {
        const times = { startedAt: startedAt + 600 * i, finishedAt: startedAt + 2_000 }
        Object.assign(first(one?.attempts ?? []), times)
      }
    },
  },
  {
    ...{ breaks: 'I16', what: 'a job begins before the debt of one is paid', fate: 'interrupted' },
    do({ record }) {
      record.cost = 50
    },
  },
  {
    ...{ breaks: 'I16', what: 'a limit with debt gives tokens long after', fate: 'throttled' },
    do({ record }, history) {
      limitOf(history).rateLimit = { count: 2, perMs: 2_000 }
      record.cost = 3
    },
  },
  {
    ...{ breaks: 'I17', what: 'a job waits for the backlog of its limit', fate: 'retried' },
    do: letWaitAtLimit,
  },
  {
    ...{ breaks: 'I17', what: 'a delayed job waits for longer than its delay', fate: 'delayed' },
    do(_, history) {
      letWaitAtLimit(
        history.synthetic.findLast(({ fate }) => fate === 'delayed') as SyntheticJob,
        history,
      )
    },
  },
]

/** The endpoint has few jobs, and this one was enqueued first of all. */
function letWaitAtLimit(job: SyntheticJob, history: SyntheticHistory): void {
  limitOf(history).few.endpoints = ['work']
  Object.assign(first(job.calls), { sentAtMs: 0, endedAtMs: 15 })
}

function otherWithAttempt({ record }: SyntheticJob, history: SyntheticHistory): SyntheticJob {
  const isOther = (one: SyntheticJob) => one.record !== record && one.record.attempts.length > 0
  return history.synthetic.find(isOther) as SyntheticJob
}

export const DAMAGES_IN_TIME: Damage[] = [
  ...[...WHAT_IS_OVER, ...WHAT_IS_SENT, ...WHAT_WAITS],
  ...[...WHAT_IS_LIMITED, ...WHAT_IS_SHARED],
]
