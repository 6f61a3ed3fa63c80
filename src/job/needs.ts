// Needs: the results of other jobs that a job gets as inputs. Here is what a need is, and how the
// inputs of a job are made from the results of the jobs that it needs. Results are copied as bytes.
import { dependencyFailed } from './attempt.ts'
import type { Failure, Job, JobState } from './job.ts'
import { valueAt } from './json-pointer.ts'

/** What happens if the needed job ends without success, or is gone. */
export const FAILED_POLICIES = ['fail', 'continue'] as const

export interface Need {
  /** The name of the input. */
  name: string
  jobId: string
  /** Into the result of that job; empty: the whole result. */
  pointer: string
  ifFailed: (typeof FAILED_POLICIES)[number]
}

export const MAX_NEEDS = 50
export const NEED_NAME_SHAPE = /^[a-z][a-zA-Z0-9_]*$/
export const MAX_NEED_NAME_LENGTH = 64
/** Limit of the inputs of one job together. */
export const MAX_INPUTS_BYTES = 1_048_576

/**
 * Limit of a result. Groups of jobs that are written together count a need as so many bytes,
 * because the write may copy the result.
 */
export const NEED_COST_BYTES = 65_536

type Needing = { dependsOn: readonly string[]; needs: readonly Need[] }

/** The ids of all jobs that must end before this one starts, each once. */
export function dependenciesOf({ dependsOn, needs }: Needing): string[] {
  if (needs.length === 0) return [...dependsOn]
  return [...new Set([...dependsOn, ...needs.map(({ jobId }) => jobId)])]
}

/** Whether the job starts although this dependency failed: every need of it says so. */
export function goesOnWithout(needs: readonly Need[], jobId: string): boolean {
  const own = needs.filter((need) => need.jobId === jobId)
  return own.length > 0 && own.every(({ ifFailed }) => ifFailed === 'continue')
}

/** The part of a needed job that makes an input. null: the job is no longer stored. */
export type NeededJob = Pick<Job, 'state' | 'result' | 'resultTruncated'> | null

export type MadeInputs =
  /** `inputs`: an object with the inputs, and with truncatedInputs and failedInputs if any are. */
  { kind: 'made'; inputs: Uint8Array } | { kind: 'failed'; failure: Failure }

/** The lists of names that follow the inputs, each only if it has names. */
interface NameLists {
  truncatedInputs: string[]
  failedInputs: string[]
}

/**
 * Makes the inputs of a job whose needed jobs have ended.
 *
 * @param before the inputs that the job had before it was retried: a needed job that is gone by now
 * keeps its input. null: it had none
 */
export function makeInputs(
  needs: readonly Need[],
  neededJob: (id: string) => NeededJob,
  before: Uint8Array | null,
): MadeInputs {
  const lists: NameLists = { truncatedInputs: [], failedInputs: [] }
  const earlier = before === null ? null : readInputs(before)
  const parts: Uint8Array[] = []
  let byteCount = 2
  for (const need of needs) {
    const made = inputOf(need, neededJob(need.jobId), earlier)
    if (made.kind === 'failed') return made
    if (made.list !== null) lists[made.list].push(need.name)
    const text = Buffer.from(`${parts.length === 0 ? '' : ','}"${need.name}":`)
    parts.push(text, made.value)
    byteCount += text.length + made.value.length
    if (byteCount > MAX_INPUTS_BYTES) return { kind: 'failed', failure: TOO_LARGE }
  }
  const object = Buffer.concat([Buffer.from('{'), ...parts, Buffer.from('}')])
  return { kind: 'made', inputs: joinInputs(object, lists) }
}

/** @param inputs the JSON object of the inputs */
export function joinInputs(
  inputs: Uint8Array,
  { truncatedInputs, failedInputs }: NameLists,
): Uint8Array {
  const lists = Object.entries({ truncatedInputs, failedInputs })
  const end = lists
    .filter(([, names]) => names.length > 0)
    .map(([field, names]) => `,"${field}":${JSON.stringify(names)}`)
  return Buffer.concat([Buffer.from('{"inputs":'), inputs, Buffer.from(`${end.join('')}}`)])
}

/** The body of a delivery: the payload alone, or with the inputs of the job. */
export function deliveredBody(payload: Uint8Array, inputs: Uint8Array | null): Uint8Array {
  if (inputs === null) return payload
  return Buffer.concat([Buffer.from('{"payload":'), payload, Buffer.from(','), inputs.subarray(1)])
}

/** The inputs of a job that needs none. */
export const NO_INPUTS = Buffer.from('{"inputs":{}}')

const NULL = Buffer.from('null')

const TOO_LARGE = {
  reason: 'inputs_too_large',
  message: `its inputs are larger than ${MAX_INPUTS_BYTES} bytes together`,
} as const satisfies Failure

type OneInput =
  | { kind: 'made'; value: Uint8Array; list: keyof NameLists | null }
  | { kind: 'failed'; failure: Failure }

const FAILED_INPUT = { kind: 'made', value: NULL, list: 'failedInputs' } as const

function inputOf(need: Need, job: NeededJob, earlier: EarlierInputs | null): OneInput {
  const { name, jobId, pointer, ifFailed } = need
  if (job === null && earlier !== null) return earlier(name)
  if (job?.state !== 'succeeded') {
    if (ifFailed === 'continue') return FAILED_INPUT
    return { kind: 'failed', failure: dependencyFailed(jobId) }
  }
  if (job.resultTruncated && pointer === '') {
    return { kind: 'made', value: NULL, list: 'truncatedInputs' }
  }
  const value = job.resultTruncated ? null : valueAt(Buffer.from(job.result ?? 'null'), pointer)
  if (value !== null) return { kind: 'made', value, list: null }
  if (ifFailed === 'continue') return FAILED_INPUT
  return { kind: 'failed', failure: inputMissing(need, job.resultTruncated) }
}

function inputMissing({ name, jobId, pointer }: Need, isTruncated: boolean): Failure {
  const why = isTruncated ? 'was too long and was not stored' : `has nothing at ${pointer}`
  const message = `its input ${name} is missing: the result of ${jobId} ${why}`
  return { reason: 'input_missing', message, jobId }
}

/** Cuts an input out of those that a job had before. */
type EarlierInputs = (name: string) => OneInput

function readInputs(before: Uint8Array): EarlierInputs {
  const namesIn = (list: keyof NameLists): string[] =>
    JSON.parse(Buffer.from(valueAt(before, `/${list}`) ?? '[]').toString())
  const [truncated, failed] = [namesIn('truncatedInputs'), namesIn('failedInputs')]
  return (name) => {
    const value = valueAt(before, `/inputs/${name}`) ?? NULL
    if (truncated.includes(name)) return { kind: 'made', value, list: 'truncatedInputs' }
    return { kind: 'made', value, list: failed.includes(name) ? 'failedInputs' : null }
  }
}

/** How a needed job is at the time of a retry of the job that needs it. null: it is gone. */
type StateOf = (id: string) => JobState | null

/**
 * What a retry finds about the jobs that a job needs.
 *
 * @param hasInputs the job has had inputs: a needed job that is gone keeps its input
 */
export function needsAtRetry(needs: readonly Need[], hasInputs: boolean, stateOf: StateOf) {
  const waitingFor: string[] = []
  /** They prevent the retry, because a need is not waived. */
  const failed: string[] = []
  for (const jobId of new Set(needs.map((need) => need.jobId))) {
    const state = stateOf(jobId)
    if (state === 'queued' || state === 'running') waitingFor.push(jobId)
    else if (state === 'succeeded' || (state === null && hasInputs)) continue
    else if (!goesOnWithout(needs, jobId)) failed.push(jobId)
  }
  return { waitingFor, failed }
}
