// posthorn retry and posthorn cancel: by ids, or all that a filter finds, however many they are.
import { setTimeout as sleep } from 'node:timers/promises'
import { type Check, JOB, RETRIED_JOB } from '../src/client/answer-check.ts'
import {
  type Job,
  type JobFilter,
  type JobState,
  type Posthorn,
  PosthornError,
  type RetriedJob,
} from '../src/client/client.ts'
import { eachPage, MAX_PAGE } from '../src/client/paging.ts'
import { segment } from '../src/client/request-path.ts'
import { FAILURE_REASONS } from '../src/job/job.ts'
import { type Action, action, JSON_OPTION, type Option } from './command.ts'
import { errorInCommandWords } from './command-words.ts'
import { responseText } from './exact-json.ts'
import { EXIT, errorMessage, UsageError } from './exit.ts'
import { oneOf } from './input.ts'
import { CHANGEABLE, FILTER_OPTIONS, type Filter, filterFrom } from './job-filter.ts'
import { printError, printJson, printJsonText, printLine } from './output.ts'
import { connect, connectRaw } from './server.ts'
import { cleaned } from './terminal-text.ts'

type Verb = keyof typeof CHANGEABLE

/** So many jobs are one request; several may be made in one millisecond, and come on top. */
const PAGES_AT_ONCE = 10
/** The most that the API counts or changes at once. */
const MAX_AT_ONCE = 10_000

/** Before every job; a request must name something. */
const EVER = '1970-01-01T00:00:00Z'

/** Of one request that the server is too busy for. */
const MAX_TRIES = 5
const LEAST_PAUSE_MS = 1_000
const MAX_PAUSE_MS = 30_000

const ANSWERS = { cancel: JOB, retry: RETRIED_JOB } as const satisfies Record<Verb, Check>
const DONE: Record<Verb, string> = { cancel: 'cancelled', retry: 'queued again' }

/** What routes/jobs/bulk.ts does within one request, this does with its requests. */
const ORDER: Record<Verb, string> = {
  cancel: 'The newest is cancelled first, so that no cancel lets another job start.',
  retry: 'The oldest is queued first, so that ordering keys and dependencies hold.',
}

/** What cancel changes has not failed. */
const REASON_OPTION = {
  'failure-reason': { type: 'string', value: 'REASON', help: 'those that died of this' },
} as const satisfies Record<string, Option>

export function bulkCommand(verb: Verb, summary: string, examples: string[]): Action {
  return action({
    summary,
    arguments: ['[ID...]'],
    options: {
      ...FILTER_OPTIONS,
      ...(verb === 'retry' ? REASON_OPTION : {}),
      'dry-run': { type: 'boolean', help: 'only count what the filter finds' },
      json: JSON_OPTION,
    },
    details: `Give ids, or a filter, which looks at ${CHANGEABLE[verb].join(' and ')} jobs.
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
      if (isDry && !isFiltered) throw new UsageError('--dry-run counts what a filter finds.')
      const posthorn = connect()
      if (!isFiltered) return changeEach(verb, words, values.json === true)
      const work = { posthorn, verb, filter, failureReason }
      const result = isDry ? await count(work) : await changeAll(work)
      if (values.json === true) printJson(result)
      else if (isDry)
        printLine(`${result.more ? 'More than ' : ''}${result.matched} would be ${DONE[verb]}.`)
      else printLine(`${result.more ? 'At least ' : ''}${result.affected} ${DONE[verb]}.`)
      if (result.dependencyFailed !== undefined) printError(leftAside(result.dependencyFailed))
      return EXIT.done
    },
  })
}

/** @throws UsageError for a state that the command can do nothing about */
function refuseUnchangeable(verb: Verb, states: JobState[] = []): void {
  const state = states.find((one) => !CHANGEABLE[verb].includes(one))
  if (state === undefined) return
  throw new UsageError(
    `--state is "${state}"; posthorn ${verb} changes only ${CHANGEABLE[verb].join(' and ')} jobs.`,
  )
}

/** Judged here: where the filter finds no job, the server is not asked about it. */
function failureReasonFrom(text: string | undefined): JobFilter['failureReason'] {
  return text === undefined ? undefined : oneOf('--failure-reason', text, FAILURE_REASONS)
}

function leftAside(count: number): string {
  return `${count} were left as they are: a job they depend on stays dead, cancelled or gone. Retry one by its id to run it without.`
}

/** One that is refused does not keep the others from their turn. */
async function changeEach(verb: Verb, ids: string[], isJson: boolean): Promise<number> {
  let exitCode: number = EXIT.done
  // Ids sort by creation.
  const ordered = verb === 'retry' ? ids.toSorted() : ids.toSorted().reverse()
  for (const id of ordered) {
    try {
      const text = await changeOne(verb, id)
      if (isJson) printJsonText(text)
      else printLine(`${id} ${DONE[verb]}${withoutText(JSON.parse(text))}`)
    } catch (error) {
      if (!(error instanceof PosthornError)) throw error
      const refusal = errorInCommandWords(error)
      if (!isOfServer(refusal)) throw error
      const { text } = errorMessage(refusal, false)
      printError(text.includes(id) ? text : `${cleaned(id)}: ${text}`)
      exitCode = EXIT.failed
    }
  }
  return exitCode
}

/** A retry is not repeated: the job may have run and died again. */
function changeOne(verb: Verb, id: string): Promise<string> {
  const path = `/jobs/${segment(id)}/${verb}`
  const request = { method: 'POST', path, repeatable: verb === 'cancel' } as const
  return responseText(connectRaw(), request, ANSWERS[verb])
}

/** Posthorn has refused this job; the next one may be taken. */
function isOfServer({ status, code }: PosthornError): boolean {
  return status !== null && code !== 'unexpected_answer'
}

function withoutText(job: Job | RetriedJob): string {
  const waived = 'dependenciesWaived' in job ? job.dependenciesWaived : []
  return waived.length === 0 ? '' : `; it runs without ${waived.join(', ')}, on which it depends`
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
  /** The figures are larger. */
  more?: boolean
  dependencyFailed?: number
}

/** The states asked for, in the order in which the API takes them. */
function statesOf({ verb, filter }: Work): JobState[] {
  return CHANGEABLE[verb].filter((state) => filter.state?.includes(state) ?? true)
}

/** A request names one state, or none: then it looks at all that can be changed, in their order. */
function requestedStates(work: Work): (JobState | undefined)[] {
  const states = statesOf(work)
  return states.length === CHANGEABLE[work.verb].length ? [undefined] : states
}

async function count(work: Work): Promise<Result> {
  let matched = 0
  let more = false
  for (const state of requestedStates(work)) {
    const options = { dryRun: true, limit: MAX_AT_ONCE }
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
 * Stretch of time after stretch: a job that was queued again, and is dead again by now, is not
 * found a second time.
 */
async function changeAll(work: Work): Promise<Result> {
  const total: Result = { matched: 0, affected: 0 }
  const stretches = await stretchesOf(work)
  for (const stretch of work.verb === 'retry' ? stretches.reverse() : stretches) {
    for (const state of requestedStates(work)) {
      const found = await changeWhole(work, { state, ...stretch })
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

/** A store that is slow changes some of a stretch in time; the same request again does the rest. */
async function changeWhole(work: Work, whole: Parameters<typeof bulk>[1]): Promise<Result> {
  const ask = () => untilAnswered(() => bulk(work, whole, { limit: MAX_AT_ONCE }))
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
 * A store under load may break off in the middle of a stretch: the rest of it is done by the same
 * request again, and only how many the first has changed is not known.
 */
async function untilAnswered(ask: () => Promise<Result>): Promise<Result> {
  for (let tries = 1; ; tries++) {
    try {
      const found = await ask()
      return tries === 1 ? found : { ...found, more: true }
    } catch (error) {
      const isPassing = error instanceof PosthornError && error.status === 503
      if (!isPassing || tries === MAX_TRIES) throw error
      const pauseMs = Math.max(LEAST_PAUSE_MS, error.retryAfterMs ?? 0)
      printError(`${cleaned(errorInCommandWords(error).detail)}; going on in ${pauseMs / 1_000} s.`)
      await sleep(Math.min(pauseMs, MAX_PAUSE_MS))
    }
  }
}

interface Stretch {
  createdAfter: string
  createdBefore: string
}

/** Times that together hold all jobs that match now, a thousand or so each, the newest first. */
async function stretchesOf(work: Work): Promise<Stretch[]> {
  const { posthorn, filter } = work
  const state = statesOf(work)
  const stretches: Stretch[] = []
  let createdBefore: string | undefined
  let found = 0
  const pages = eachPage((cursor) => posthorn.page({ ...filter, state, limit: MAX_PAGE, cursor }))
  for await (const page of pages) {
    createdBefore ??= justAfter(page.items[0]?.createdAt)
    found += page.items.length
    const createdAfter = page.items.at(-1)?.createdAt
    if (found >= PAGES_AT_ONCE * MAX_PAGE && createdBefore && createdAfter) {
      stretches.push({ createdAfter, createdBefore })
      createdBefore = createdAfter
      found = 0
    }
  }
  const last = createdBefore && { createdAfter: filter.createdAfter ?? EVER, createdBefore }
  return last ? [...stretches, last] : stretches
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
