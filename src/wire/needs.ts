// The fields `dependsOn` and `needs`: the jobs and groups that a job waits for, and the results of
// jobs that it gets as inputs.
import { z } from 'zod'
import { AppError } from '../errors.ts'
import type { NewJob } from '../job/job.ts'
import { isGroupId, isJobId } from '../job/job-id.ts'
import { isPointer, MAX_POINTER_LENGTH } from '../job/json-pointer.ts'
import {
  FAILED_POLICIES,
  MAX_NEED_NAME_LENGTH,
  MAX_NEEDS,
  NEED_NAME_SHAPE,
  type Need,
} from '../job/needs.ts'
import { pairs } from './fields.ts'

/** Limit of the jobs in `dependsOn` and `needs` together: a check of a blocked job reads them all. */
const MAX_DEPENDENCIES = 50

/** `#0` in a batch: the job of an earlier item. */
const BATCH_REFERENCE = /^#\d{1,3}$/
const JOB_OF_BATCH = 'expected the id of a job, or #0 for the first item of this batch'
/** In `dependsOn` of a batch: its group. */
const GROUP_OF_BATCH = '#group'

function isJobOfBatch(text: string): boolean {
  return isJobId(text) || BATCH_REFERENCE.test(text)
}

export const dependsOn = dependencies(
  (text) => isJobId(text) || isGroupId(text),
  'expected the id of a job or a group',
)

export const dependsOnOfBatch = dependencies(
  (text) => isJobOfBatch(text) || isGroupId(text) || text === GROUP_OF_BATCH,
  'expected the id of a job or a group, #0 for the first item of this batch, or #group',
)

function dependencies(isDependency: (text: string) => boolean, expected: string) {
  return z.array(z.string().refine(isDependency, expected)).max(MAX_DEPENDENCIES).default([])
}

const name = z
  .string()
  .max(MAX_NEED_NAME_LENGTH)
  .regex(NEED_NAME_SHAPE, 'expected a letter a-z, then letters and digits')

/** What follows the id in the short form: `job_…/result/irn`. */
const RESULT = '/result'

const MEANINGS = {
  job: 'id of the job whose result is needed',
  pointer: 'JSON Pointer (RFC 6901) into its result; empty: the whole result',
  ifFailed:
    'if that job is dead, cancelled or deleted: this one becomes dead, or runs with null in place of the result',
}

const need = z.union(
  [
    z.string().max(MAX_POINTER_LENGTH + 100),
    z.strictObject({
      job: z.string().meta({ description: MEANINGS.job }),
      pointer: z.string().default('').meta({ description: MEANINGS.pointer }),
      ifFailed: z.enum(FAILED_POLICIES).default('fail').meta({ description: MEANINGS.ifFailed }),
    }),
  ],
  { error: 'expected the id of a job, "<id>/result<pointer>", or an object with job' },
)

/**
 * @param isJob whether the text names a job
 * @param expected says what does
 */
function needsField(isJob: (text: string) => boolean, expected: string) {
  return pairs(
    z
      .record(name, need)
      .transform((given, context): Need[] => {
        const names = Object.keys(given)
        const refuse = (message: string, ...path: string[]) =>
          context.addIssue({ code: 'custom', message, path })
        if (names.length === 0) refuse('expected at least one name')
        if (names.length > MAX_NEEDS) refuse(`more than ${MAX_NEEDS} names`)
        return names.map((name) => {
          const one = needOf(name, given[name] as z.output<typeof need>)
          if (one === null || !isJob(one.jobId)) refuse(expected, name)
          else if (!isPointer(one.pointer)) {
            refuse('expected a JSON Pointer (RFC 6901) of at most 1,000 characters', name)
          }
          return one ?? { name, jobId: '', pointer: '', ifFailed: 'fail' }
        })
      })
      .meta({ minProperties: 1, maxProperties: MAX_NEEDS }),
  ).optional()
}

export const needs = needsField(isJobId, 'expected the id of a job')
export const needsOfBatch = needsField(isJobOfBatch, JOB_OF_BATCH)

/** null: the text is no reference to a job and its result. */
function needOf(name: string, given: z.output<typeof need>): Need | null {
  if (typeof given !== 'string') {
    const { job: jobId, pointer, ifFailed } = given
    return { name, jobId, pointer, ifFailed }
  }
  const end = given.indexOf('/')
  if (end === -1) return { name, jobId: given, pointer: '', ifFailed: 'fail' }
  const rest = given.slice(end)
  const pointer = rest.slice(RESULT.length)
  const isOfResult = rest.startsWith(RESULT) && (pointer === '' || pointer.startsWith('/'))
  return isOfResult ? { name, jobId: given.slice(0, end), pointer, ifFailed: 'fail' } : null
}

type Dependent = { dependsOn?: string[] | undefined; needs?: Need[] | undefined }

/** A job is in one of the two fields, and both together name few. */
export function refuseDependencies(
  { dependsOn = [], needs = [] }: Dependent,
  context: z.RefinementCtx,
): void {
  const refuse = (message: string, ...path: string[]) =>
    context.addIssue({ code: 'custom', message, path })
  const before = new Set(dependsOn)
  for (const { name, jobId } of needs) {
    if (before.has(jobId)) refuse('this job is in dependsOn too; name it once', 'needs', name)
  }
  const count = new Set([...before, ...needs.map(({ jobId }) => jobId)]).size
  if (count > MAX_DEPENDENCIES) {
    refuse(`more than ${MAX_DEPENDENCIES} jobs in dependsOn and needs together`, 'needs')
  }
}

export const needsResponse = z
  .record(
    z.string(),
    z.object({
      job: z.string().meta({ description: MEANINGS.job }),
      pointer: z.string().meta({ description: MEANINGS.pointer }),
      ifFailed: z.enum(FAILED_POLICIES).meta({ description: MEANINGS.ifFailed }),
    }),
  )
  .meta({ description: 'the results of other jobs that it gets, by the names of its inputs' })

/** In a pull claim, and in the response of GET /jobs/:id/inputs. */
export const inputsFields = {
  inputs: z
    .record(z.string(), z.unknown())
    .optional()
    .meta({ description: 'the results that it needs, by name; absent: it has no inputs' }),
  truncatedInputs: z.array(z.string()).optional().meta({
    description: 'names of inputs that are null because the result was too long; absent: none',
  }),
  failedInputs: z.array(z.string()).optional().meta({
    description:
      'names of inputs that are null because the needed job failed or its result has nothing there; absent: none',
  }),
}

export function needsJson(needs: readonly Need[]) {
  return Object.fromEntries(
    needs.map(({ name, jobId: job, pointer, ifFailed }) => [name, { job, pointer, ifFailed }]),
  )
}

/** @param jobId as the job names it */
export function unknownDependency(
  message: string,
  { needs }: Pick<NewJob, 'needs'>,
  jobId: string,
): AppError {
  const need = needs.find((one) => one.jobId === jobId)
  const path = need === undefined ? '/dependsOn' : `/needs/${need.name}`
  return new AppError('invalid_request', `${path}: ${message}`, { errors: [{ path, message }] })
}

/** The fields of the response that only a retry with dependents has. */
export const dependentsFields = {
  dependentsRetried: z.int().optional().meta({
    description: 'with withDependents: how many jobs were queued again because of this one',
  }),
  left: z.array(z.string()).optional().meta({
    description:
      'with withDependents: ids of at most 100 jobs that stay dead, because they depend on another job that is dead, cancelled or deleted',
  }),
  more: z.literal(true).optional().meta({
    description:
      'with withDependents: there are more than 10,000, or more than the store could change in time: repeat the request',
  }),
}
