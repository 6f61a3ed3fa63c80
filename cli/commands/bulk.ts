// posthorn retry and posthorn cancel: change jobs by id, or all that match a filter, however many.
import { setTimeout as sleep } from 'node:timers/promises'
import {
  type JobFilter,
  type JobState,
  type Posthorn,
  PosthornError,
  type RetriedJob,
} from '../../src/client/client.ts'
import { eachPage, MAX_PAGE } from '../../src/client/paging.ts'
import { segment } from '../../src/client/request-path.ts'
import { type Check, JOB, RETRIED_JOB } from '../../src/client/response-check.ts'
import { FAILURE_REASONS } from '../../src/job/job.ts'
import { type Action, action, JSON_OPTION, type Option } from '../command.ts'
import { errorInCommandWords } from '../command-words.ts'
import { responseText } from '../exact-json.ts'
import { EXIT, errorMessage, UsageError } from '../exit.ts'
import { oneOf } from '../input.ts'
import { CHANGEABLE, FILTER_OPTIONS, type Filter, filterFrom } from '../job-filter.ts'
import { printError, printJson, printJsonText, printLine } from '../output.ts'
import { connect, connectRaw } from '../server.ts'
import { cleaned } from '../terminal-text.ts'

type Verb = keyof typeof CHANGEABLE

/**
 * How many pages of jobs one request covers. Jobs created in the same millisecond as the last one
 * are added.
 */
const PAGES_PER_REQUEST = 10
/** The most jobs that the API counts or changes in a request. */
const MAX_PER_REQUEST = 10_000

/** An instant before every job, because the API refuses an empty filter. */
const EVER = '1970-01-01T00:00:00Z'

/** Tries of one request, while the server responds with 503. */
const MAX_TRIES = 5
const LEAST_PAUSE_MS = 1_000
const MAX_PAUSE_MS = 30_000

const RESPONSES = { cancel: JOB, retry: RETRIED_JOB } as const satisfies Record<Verb, Check>
const DONE: Record<Verb, string> = { cancel: 'cancelled', retry: 'queued again' }

/** This command sends its requests in the same order that routes/jobs/bulk.ts keeps within one. */
const ORDER: Record<Verb, string> = {
  cancel: 'Cancels the newest job first, so that no cancel lets another of the jobs start.',
  retry: 'Retries the oldest job first, which keeps the order of ordering keys and dependencies.',
}

/** Only for retry: the jobs that cancel can change have not failed. */
const RETRY_OPTIONS = {
  'failure-reason': { type: 'string', value: 'REASON', help: 'dead for this reason' },
  'with-dependents': { type: 'boolean', help: 'also the jobs that are dead because of these' },
} as const satisfies Record<string, Option>

function bulkCommand(verb: Verb, summary: string, examples: string[]): Action {
  return action({
    summary,
    arguments: ['[ID...]'],
    options: {
      ...FILTER_OPTIONS,
      ...(verb === 'retry' ? RETRY_OPTIONS : {}),
      'dry-run': { type: 'boolean', help: 'only count the jobs that match' },
      json: JSON_OPTION,
    },
    details: `Give ids, or a filter. A filter matches only ${CHANGEABLE[verb].join(' and ')} jobs.
${ORDER[verb]}`,
    examples,
    async run({ words, values }) {
      const filter = filterFrom(values)
      refuseUnchangeable(verb, filter.state)
      const failureReason = failureReasonFrom(values['failure-reason'])
      const isFiltered = Object.keys(filter).length > 0 || failureReason !== undefined
      if (words.length > 0 === isFiltered) {
        throw new UsageError(
          `posthorn ${verb} needs ids or a filter, and not both. See: posthorn ${verb} --help`,
        )
      }
      const isDry = values['dry-run'] === true
      if (isDry && !isFiltered) throw new UsageError('--dry-run needs a filter.')
      const withDependents = values['with-dependents'] !== undefined
      if (withDependents && isFiltered) throw new UsageError('--with-dependents needs ids.')
      const posthorn = connect()
      if (!isFiltered) return changeEach({ verb, withDependents }, words, values.json === true)
      const work = { posthorn, verb, filter, failureReason }
      const result = isDry ? await count(work) : await changeAll(work)
      if (values.json === true) printJson(result)
      else if (isDry)
        printLine(`${result.more ? 'More than ' : ''}${result.matched} would be ${DONE[verb]}.`)
      else printLine(`${result.more ? 'At least ' : ''}${result.affected} ${DONE[verb]}.`)
      if (result.dependencyFailed !== undefined) printError(notRetriedText(result.dependencyFailed))
      return EXIT.done
    },
  })
}

export const cancel = bulkCommand('cancel', 'Cancel jobs that are not final', [
  'posthorn cancel --tag july --state queued',
])

export const retry = bulkCommand(
  'retry',
  'Queue dead or cancelled jobs again, each with all its attempts',
  ['posthorn retry --endpoint invoice-pdf --state dead --dry-run'],
)

/** @throws UsageError for a state that the command cannot change */
function refuseUnchangeable(verb: Verb, states: JobState[] = []): void {
  const state = states.find((one) => !CHANGEABLE[verb].includes(one))
  if (state === undefined) return
  throw new UsageError(
    `--state is "${state}"; posthorn ${verb} changes only ${CHANGEABLE[verb].join(' and ')} jobs.`,
  )
}

/** Checks a reason here, because the server never sees it if the filter matches no job. */
function failureReasonFrom(text: string | undefined): JobFilter['failureReason'] {
  return text === undefined ? undefined : oneOf('--failure-reason', text, FAILURE_REASONS)
}

function notRetriedText(count: number): string {
  return `${count} were not retried: a job that they depend on is dead, cancelled or deleted. To run such a job without waiting for that one, retry it by id.`
}

interface Change {
  verb: Verb
  withDependents: boolean
}

/** If one job is refused, the others are changed all the same. */
async function changeEach(change: Change, ids: string[], isJson: boolean): Promise<number> {
  const { verb } = change
  let exitCode: number = EXIT.done
  // Ids sort by time of creation.
  const ordered = verb === 'retry' ? ids.toSorted() : ids.toSorted().reverse()
  for (const id of ordered) {
    try {
      const text = await changeOne(change, id)
      if (isJson) printJsonText(text)
      else printLine(`${id} ${DONE[verb]}${withoutText(JSON.parse(text))}`)
    } catch (error) {
      if (!(error instanceof PosthornError)) throw error
      const refusal = errorInCommandWords(error)
      if (!isRefusedByPosthorn(refusal)) throw error
      const { text } = errorMessage(refusal, false)
      printError(text.includes(id) ? text : `${cleaned(id)}: ${text}`)
      exitCode = EXIT.failed
    }
  }
  return exitCode
}

/** A retry is not repeated after a lost response: the job may have run and failed again. */
function changeOne({ verb, withDependents }: Change, id: string): Promise<string> {
  const path = `/jobs/${segment(id)}/${verb}`
  const body = withDependents ? { body: JSON.stringify({ withDependents }) } : {}
  const request = { method: 'POST', path, ...body, repeatable: verb === 'cancel' } as const
  return responseText(connectRaw(), request, RESPONSES[verb])
}

/** Posthorn itself refused this job, and may accept the next one. */
function isRefusedByPosthorn({ status, code }: PosthornError): boolean {
  return status !== null && code !== 'unexpected_answer'
}

/** What a retry says beside the job. */
function withoutText(job: Partial<RetriedJob>): string {
  const { dependenciesWaived: waived = [], dependentsRetried, left = [], more } = job
  const texts = [
    waived.length === 0 ? '' : `; it does not wait for ${waived.join(', ')}`,
    dependentsRetried === undefined ? '' : `, with ${dependentsRetried} that died because of it`,
    left.length === 0 ? '' : `; still dead because of others: ${left.join(', ')}`,
    more ? '; there are more, so retry it again' : '',
  ]
  return texts.join('')
}

interface Work {
  posthorn: Posthorn
  verb: Verb
  filter: Filter
  failureReason: JobFilter['failureReason']
}

interface Result {
  matched: number
  affected: number
  /** The true numbers are larger. */
  more?: boolean
  dependencyFailed?: number
}

/** The requested states, in the order in which the API changes them. */
function statesOf({ verb, filter }: Work): JobState[] {
  return CHANGEABLE[verb].filter((state) => filter.state?.includes(state) ?? true)
}

/**
 * The state in each request; undefined: the API changes jobs of all states that it can, in order.
 */
function requestedStates(work: Work): (JobState | undefined)[] {
  const states = statesOf(work)
  return states.length === CHANGEABLE[work.verb].length ? [undefined] : states
}

async function count(work: Work): Promise<Result> {
  let matched = 0
  let more = false
  for (const state of requestedStates(work)) {
    const options = { dryRun: true, limit: MAX_PER_REQUEST }
    const found = await bulk(
      work,
      { state, createdAfter: work.filter.createdAfter ?? EVER },
      options,
    )
    matched += found.matched
    more ||= found.more === true
  }
  return { matched, affected: 0, ...(more ? { more } : {}) }
}

/**
 * Goes from one time range to the next, so that a job that was queued again and has failed again is
 * not found a second time.
 */
async function changeAll(work: Work): Promise<Result> {
  const total: Result = { matched: 0, affected: 0 }
  const ranges = await timeRangesOf(work)
  for (const range of work.verb === 'retry' ? ranges.reverse() : ranges) {
    for (const state of requestedStates(work)) {
      const found = await changeRange(work, { state, ...range })
      total.matched += found.matched
      total.affected += found.affected
      if (found.more === true) total.more = true
      if (found.dependencyFailed === undefined) continue
      total.dependencyFailed = (total.dependencyFailed ?? 0) + found.dependencyFailed
    }
    if (process.stderr.isTTY) process.stderr.write(`\r${total.affected} ${DONE[work.verb]} …`)
  }
  if (process.stderr.isTTY) process.stderr.write('\r\u001b[K')
  return total
}

/**
 * A slow store may change only some jobs of a range in time; the same request again does the rest.
 */
async function changeRange(work: Work, range: Parameters<typeof bulk>[1]): Promise<Result> {
  const ask = () => retryWhileBusy(() => bulk(work, range, { limit: MAX_PER_REQUEST }))
  const first = await ask()
  let last = first
  let { affected } = first
  let isMore = first.more === true
  while (last.more === true && last.affected > 0 && affected < first.matched) {
    last = await ask()
    affected += last.affected
    isMore = last.more === true
  }
  const { dependencyFailed } = last
  return {
    ...{ matched: first.matched, affected },
    ...(dependencyFailed === undefined ? {} : { dependencyFailed }),
    ...(isMore ? { more: true } : {}),
  }
}

/**
 * A store under load may fail in the middle of a range. The same request again does the rest; only
 * the number of jobs that the first one changed is unknown.
 */
async function retryWhileBusy(ask: () => Promise<Result>): Promise<Result> {
  for (let tries = 1; ; tries++) {
    try {
      const found = await ask()
      return tries === 1 ? found : { ...found, more: true }
    } catch (error) {
      const isBusy = error instanceof PosthornError && error.status === 503
      if (!isBusy || tries === MAX_TRIES) throw error
      const pauseMs = Math.max(LEAST_PAUSE_MS, error.retryAfterMs ?? 0)
      printError(
        `${cleaned(errorInCommandWords(error).detail)}; continuing in ${pauseMs / 1_000} s.`,
      )
      await sleep(Math.min(pauseMs, MAX_PAUSE_MS))
    }
  }
}

interface TimeRange {
  createdAfter: string
  createdBefore: string
}

/** Ranges that together contain all jobs that match now: about a thousand each, newest first. */
async function timeRangesOf(work: Work): Promise<TimeRange[]> {
  const { posthorn, filter } = work
  const state = statesOf(work)
  const ranges: TimeRange[] = []
  let createdBefore: string | undefined
  let found = 0
  const pages = eachPage((cursor) => posthorn.page({ ...filter, state, limit: MAX_PAGE, cursor }))
  for await (const page of pages) {
    createdBefore ??= justAfter(page.items[0]?.createdAt)
    found += page.items.length
    const createdAfter = page.items.at(-1)?.createdAt
    if (found >= PAGES_PER_REQUEST * MAX_PAGE && createdBefore && createdAfter) {
      ranges.push({ createdAfter, createdBefore })
      createdBefore = createdAfter
      found = 0
    }
  }
  const last = createdBefore && { createdAfter: filter.createdAfter ?? EVER, createdBefore }
  return last ? [...ranges, last] : ranges
}

function justAfter(instant: string | undefined): string | undefined {
  return instant === undefined ? undefined : new Date(Date.parse(instant) + 1).toISOString()
}

function bulk(
  { posthorn, verb, filter, failureReason }: Work,
  further: { state: JobState | undefined; createdAfter: string; createdBefore?: string },
  options: { dryRun?: boolean; limit: number },
) {
  const whole: JobFilter = { ...filter, ...further, failureReason }
  return verb === 'cancel'
    ? posthorn.cancelMany(whole, options)
    : posthorn.retryMany(whole, options)
}
