// Formats a job for people, and derives the exit code from its final state.

import type { Call } from '../src/client/call.ts'
import type { Attempt, Job, JobState, JobSummary } from '../src/client/client.ts'
import { segment } from '../src/client/request-path.ts'
import { JOB } from '../src/client/response-check.ts'
import { responseText } from './exact-json.ts'
import { EXIT } from './exit.ts'
import { type Column, fromNow, painted, printLine, record, styleOfState, table } from './output.ts'
import { cleaned } from './terminal-text.ts'

/** Longer payloads and results are cut; --json prints them whole. */
const MAX_SHOWN_CHARACTERS = 2_000

export const JOB_COLUMNS: Column<JobSummary>[] = [
  { title: 'id', value: ({ id }) => id },
  { title: 'endpoint', value: ({ endpoint }) => endpoint },
  { title: 'state', value: ({ state }) => state, style: ({ state }) => styleOfState(state) },
  { title: 'attempts', value: attemptsText },
  { title: 'created', value: ({ createdAt }) => fromNow(createdAt) },
  { title: 'status', value: statusText },
]

/**
 * Like `1/10`. A retry by hand allows `maxAttempts` again and some attempts are free, so there can
 * be more attempts than `maxAttempts`: then only their number is printed.
 */
export function attemptsText({
  attemptCount,
  maxAttempts,
}: Pick<JobSummary, 'attemptCount' | 'maxAttempts'>): string {
  return attemptCount > maxAttempts ? String(attemptCount) : `${attemptCount}/${maxAttempts}`
}

function statusText(job: JobSummary): string | null {
  const { state, failure, progress, finishedAt, lease } = job
  if (failure !== null) return `${failure.reason}: ${failure.message}`
  if (state === 'queued') return waitText(job) ?? `due ${fromNow(job.dueAt)}`
  if (state === 'running') return leaseEnd(lease) ?? (progress && progressText(progress))
  return `ended ${fromNow(finishedAt)}`
}

/** Which other jobs a queued one waits for; null: none. */
function waitText({ dueAt, dependsOn, needs, orderingKey }: JobSummary): string | null {
  if (dueAt !== null) return null
  const needed = Object.values(needs).map(({ job }) => job)
  const { length } = [...new Set([...dependsOn, ...needed])]
  if (length > 0) return `depends on ${length} job${length === 1 ? '' : 's'}`
  return `waits for earlier jobs of the ordering key ${JSON.stringify(orderingKey)}`
}

/** null: there is no lease, or it has not expired. */
function leaseEnd(lease: JobSummary['lease']): string | null {
  if (lease === null || Date.parse(lease.expiresAt) > Date.now()) return null
  return `lost: the lease of ${lease.workerId} expired ${fromNow(lease.expiresAt)}`
}

function progressText({ value, message }: NonNullable<JobSummary['progress']>): string {
  return [value === null ? null : `${value} %`, message].filter((one) => one !== null).join(' ')
}

const ATTEMPT_COLUMNS: Column<Attempt>[] = [
  { title: 'attempt', value: ({ number }) => number },
  { title: 'started', value: ({ startedAt }) => startedAt },
  { title: 'took', value: ({ durationMs }) => `${durationMs} ms` },
  {
    title: 'outcome',
    value: ({ outcome }) => outcome,
    style: ({ outcome }) => (outcome === 'succeeded' ? 'green' : 'red'),
  },
  { title: 'message', value: ({ message }) => message },
]

/** The exact text of the response. */
export async function jobText(call: Call, id: string): Promise<string> {
  const path = `/jobs/${segment(id)}`
  return responseText(call, { method: 'GET', path, repeatable: true }, JOB)
}

/** @param payload the exact text */
export function printJob(job: Job, payload: string): void {
  printLine(
    record([
      ['job', job.id],
      ['endpoint', job.endpoint],
      ['state', job.phase === 'awaiting_completion' ? `${job.state}, ${job.phase}` : job.state],
      ['attempts', attemptsOf(job)],
      ['created', job.createdAt],
      ['due', job.state === 'queued' ? dueText(job) : null],
      [
        'lease',
        job.lease && (leaseEnd(job.lease) ?? `${job.lease.workerId}, until ${job.lease.expiresAt}`),
      ],
      ['finished', job.finishedAt],
      ['expires', job.expiresAt],
      ['progress', job.progress === null ? null : progressText(job.progress)],
      ['failure', job.failure === null ? null : `${job.failure.reason}: ${job.failure.message}`],
      ['tags', job.tags.length === 0 ? null : job.tags.join(', ')],
      ['metadata', pairs(job.metadata)],
      ['ordering key', job.orderingKey],
      ['fairness key', job.fairnessKey],
      ['cost', job.cost === 1 ? null : job.cost],
      ['schedule', job.scheduleName],
      ['depends on', job.dependsOn.length === 0 ? null : job.dependsOn.join(', ')],
      ['needs', needsText(job)],
      ['payload', shortened(payload)],
      ['result', job.state === 'succeeded' ? resultText(job) : null],
    ]),
  )
  if (job.attempts.length > 0) printLine(`\n${table(job.attempts, ATTEMPT_COLUMNS)}`)
}

function attemptsOf({ attemptCount, maxAttempts }: Job): string {
  if (attemptCount <= maxAttempts) return `${attemptCount} of ${maxAttempts}`
  return `${attemptCount}; ${maxAttempts} allowed after each retry by hand, throttled ones are free`
}

function dueText(job: Job): string {
  const wait = waitText(job)
  return wait === null
    ? `${job.dueAt} (${fromNow(job.dueAt)})`
    : `${job.runAt} (at the earliest: ${wait})`
}

function needsText({ needs }: Job): string | null {
  const shown = Object.entries(needs).map(([name, one]) => {
    const pointer = one.pointer === '' ? '' : ` ${one.pointer}`
    return `${name} from ${one.job}${pointer}${one.ifFailed === 'continue' ? ' if it succeeds' : ''}`
  })
  return shown.length === 0 ? null : shown.join(', ')
}

function resultText({ result, resultTruncated }: Job): string {
  return resultTruncated ? '(too long to be stored)' : shortened(JSON.stringify(result))
}

function pairs(metadata: Record<string, string>): string | null {
  const shown = Object.entries(metadata).map(([name, value]) => `${name}=${value}`)
  return shown.length === 0 ? null : shown.join(', ')
}

function shortened(text: string): string {
  return text.length <= MAX_SHOWN_CHARACTERS ? text : `${text.slice(0, MAX_SHOWN_CHARACTERS)}…`
}

/** One line about a job that is final. */
export function endText({ id, state, failure, finishedAt }: JobSummary): string {
  const why = failure === null ? '' : `: ${cleaned(failure.message)}`
  return `${id} ${painted(state, styleOfState(state))} ${fromNow(finishedAt) ?? ''}${why}`
}

export function exitCodeOf(state: JobState): number {
  switch (state) {
    case 'dead':
      return EXIT.failed
    case 'cancelled':
      return EXIT.cancelled
    default:
      return EXIT.done
  }
}
