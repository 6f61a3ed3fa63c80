// Writes jobs and schedules through the API, and reports the result of each. A dry run lets the API
// judge the same requests, each with a condition that cannot be met: a job that depends on one that
// does not exist, a schedule of a version that none has. The API looks at that last, so it answers
// as it would have, and stores nothing.
import {
  type BatchItem,
  type NewJob,
  type Posthorn,
  PosthornError,
  type ScheduleSettings,
} from '../../src/client/client.ts'
import { newJobId } from '../../src/job/job-id.ts'
import { NO_VERSION } from '../apply/probe.ts'

export type Outcome =
  | { kind: 'added' | 'would be added' | 'there already' }
  | { kind: 'refused'; reason: string }

export interface Writer {
  /** The result of each, in the same order. */
  enqueue(jobs: NewJob[]): Promise<Outcome[]>
  putSchedule(name: string, settings: ScheduleSettings): Promise<Outcome>
}

type Refusal = NonNullable<BatchItem['error']>
type Answer = { isNew: boolean; error?: undefined } | { error: Refusal }

/** What is wrong with one job or schedule. All else would be wrong with the next one, too. */
const OF_ONE_ITEM = new Set([
  ...['invalid_json', 'invalid_request', 'payload_too_large', 'endpoint_not_found'],
  ...['endpoint_disabled', 'dedupe_conflict', 'idempotency_key_reused', 'precondition_failed'],
])

export function createWriter(posthorn: Posthorn, isDry: boolean): Writer {
  // Made now, and at random: no job has it.
  const noJob = newJobId(Date.now())
  return {
    async enqueue(jobs) {
      const sent = isDry ? jobs.map((job) => probeOf(job, noJob)) : jobs
      return (await answersOf(posthorn, sent)).map(outcomeOfJob)
    },
    async putSchedule(name, settings) {
      if (await isThere(posthorn, name)) return { kind: 'there already' }
      try {
        // Not ifAbsent: a repeat after a lost answer would fail, and the name is the document's.
        await posthorn.schedules.put(name, settings, isDry ? { ifVersion: NO_VERSION } : {})
        return { kind: 'added' }
      } catch (error) {
        const { code, detail } = refusalIn(error)
        const isProbe = isDry && code === 'precondition_failed'
        return isProbe ? { kind: 'would be added' } : { kind: 'refused', reason: detail }
      }
    },
  }
}

/** The metadata of all jobs here have one form, and make room for the dependency. */
function probeOf({ metadata: _, ...job }: NewJob, noJob: string): NewJob {
  return { ...job, dependsOn: [noJob] } as NewJob
}

function outcomeOfJob(answer: Answer): Outcome {
  if (answer.error === undefined) return { kind: answer.isNew ? 'added' : 'there already' }
  const { code, detail, errors } = answer.error
  // Agenda has moved its next run since, or this is a dry run: another request, but the same job.
  if (code === 'idempotency_key_reused') return { kind: 'there already' }
  const isProbe = errors?.some(({ path }) => path === '/dependsOn')
  return isProbe ? { kind: 'would be added' } : { kind: 'refused', reason: detail }
}

/** What the API refuses as a whole is sent in halves, to find the one that it refuses. */
async function answersOf(posthorn: Posthorn, jobs: NewJob[]): Promise<Answer[]> {
  const [first, ...others] = jobs
  if (first === undefined) return []
  try {
    return (await posthorn.enqueueBatch(jobs)).map(answerIn)
  } catch (error) {
    refusalIn(error)
    // A batch is nested deeper than a job by itself.
    if (others.length === 0) return [await answerTo(posthorn, first)]
    const half = Math.ceil(jobs.length / 2)
    const answers = await answersOf(posthorn, jobs.slice(0, half))
    return [...answers, ...(await answersOf(posthorn, jobs.slice(half)))]
  }
}

function answerIn({ status, error }: BatchItem): Answer {
  return error === undefined ? { isNew: status === 201 } : { error }
}

async function answerTo(posthorn: Posthorn, job: NewJob): Promise<Answer> {
  try {
    return { isNew: !(await posthorn.enqueue(job)).deduplicated }
  } catch (error) {
    return { error: refusalIn(error) }
  }
}

/** @throws the error itself where it is about more than one job or schedule */
function refusalIn(error: unknown): Refusal {
  if (error instanceof PosthornError && OF_ONE_ITEM.has(error.code)) return error
  throw error
}

async function isThere(posthorn: Posthorn, scheduleName: string): Promise<boolean> {
  try {
    await posthorn.schedules.get(scheduleName)
    return true
  } catch (error) {
    if (error instanceof PosthornError && error.code === 'schedule_not_found') return false
    throw error
  }
}
