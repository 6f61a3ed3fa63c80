// Writes jobs and schedules through the API, and reports the result of each. A dry run sends the
// same requests, each with a condition that cannot be met: the job depends on a job that does not
// exist, the schedule must have a version that none has. The API checks that condition last, so it
// reports every other fault, and stores nothing.
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
  | { kind: 'added' | 'would be added' | 'already imported' }
  | { kind: 'refused'; reason: string }

export interface Writer {
  /** The result of each, in the same order. */
  enqueue(jobs: NewJob[]): Promise<Outcome[]>
  putSchedule(name: string, settings: ScheduleSettings): Promise<Outcome>
}

type Refusal = NonNullable<BatchItem['error']>
type ItemResult = { isNew: boolean; error?: undefined } | { error: Refusal }

/** Errors of one job or schedule. Any other error would also occur with the next one. */
const OF_ONE_ITEM = new Set([
  ...['invalid_json', 'invalid_request', 'payload_too_large', 'endpoint_not_found'],
  ...['endpoint_disabled', 'dedupe_conflict', 'idempotency_key_reused', 'precondition_failed'],
])

export function createWriter(posthorn: Posthorn, isDry: boolean): Writer {
  // A new random id: no job has it.
  const noJob = newJobId(Date.now())
  return {
    async enqueue(jobs) {
      const sent = isDry ? jobs.map((job) => probeOf(job, noJob)) : jobs
      return (await resultsOf(posthorn, sent)).map(outcomeOfJob)
    },
    async putSchedule(name, settings) {
      if (await hasSchedule(posthorn, name)) return { kind: 'already imported' }
      try {
        // ifAbsent is not used: a repeat after a lost response would fail. The name is unique
        // anyway.
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

/** The job without its metadata, which is always valid, so that the dependency adds no bytes. */
function probeOf({ metadata: _, ...job }: NewJob, noJob: string): NewJob {
  return { ...job, dependsOn: [noJob] } as NewJob
}

function outcomeOfJob(result: ItemResult): Outcome {
  if (result.error === undefined) return { kind: result.isNew ? 'added' : 'already imported' }
  const { code, detail, errors } = result.error
  // The job exists with another body: Agenda has moved its next run, or this is a dry run.
  if (code === 'idempotency_key_reused') return { kind: 'already imported' }
  const isProbe = errors?.some(({ path }) => path === '/dependsOn')
  return isProbe ? { kind: 'would be added' } : { kind: 'refused', reason: detail }
}

/** If the API refuses the whole batch, sends it in halves, to find the job that it refuses. */
async function resultsOf(posthorn: Posthorn, jobs: NewJob[]): Promise<ItemResult[]> {
  const [first, ...others] = jobs
  if (first === undefined) return []
  try {
    return (await posthorn.enqueueBatch(jobs)).map(resultOf)
  } catch (error) {
    refusalIn(error)
    // The job is not sent as a batch: its payload would be nested deeper there, perhaps too deep.
    if (others.length === 0) return [await enqueueAlone(posthorn, first)]
    const half = Math.ceil(jobs.length / 2)
    const results = await resultsOf(posthorn, jobs.slice(0, half))
    return [...results, ...(await resultsOf(posthorn, jobs.slice(half)))]
  }
}

function resultOf({ status, error }: BatchItem): ItemResult {
  return error === undefined ? { isNew: status === 201 } : { error }
}

async function enqueueAlone(posthorn: Posthorn, job: NewJob): Promise<ItemResult> {
  try {
    const { deduplicated } = await posthorn.enqueue(job, { return: 'minimal' })
    return { isNew: !deduplicated }
  } catch (error) {
    return { error: refusalIn(error) }
  }
}

/** @throws the error itself if it is not about one job or schedule */
function refusalIn(error: unknown): Refusal {
  if (error instanceof PosthornError && OF_ONE_ITEM.has(error.code)) return error
  throw error
}

async function hasSchedule(posthorn: Posthorn, scheduleName: string): Promise<boolean> {
  try {
    await posthorn.schedules.get(scheduleName)
    return true
  } catch (error) {
    if (error instanceof PosthornError && error.code === 'schedule_not_found') return false
    throw error
  }
}
