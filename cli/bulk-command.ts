// posthorn retry and posthorn cancel: by ids, or all that a filter finds, however many they are.
import { setTimeout as sleep } from 'node:timers/promises'
import {
  type JobFilter,
  type JobState,
  type Posthorn,
  PosthornError,
} from '../src/client/client.ts'
import { MAX_PAGE } from '../src/client/paging.ts'
import { type Action, action, JSON_OPTION } from './command.ts'
import { EXIT, told, UsageError } from './exit.ts'
import { CHANGEABLE, FILTER_OPTIONS, type Filter, filterFrom } from './job-filter.ts'
import { connect } from './server.ts'
import { say, sayAside, sayJson } from './shown.ts'

type Verb = keyof typeof CHANGEABLE

/** So many jobs are one request; several may be made in one millisecond, and come on top. */
const PAGES_AT_ONCE = 10
/** The most that the API counts or changes at once. */
const MAX_AT_ONCE = 10_000

/** Of one request that the server is too busy for. */
const MAX_TRIES = 5
const DEFAULT_PAUSE_MS = 1_000
const MAX_PAUSE_MS = 30_000

const DONE: Record<Verb, string> = { cancel: 'cancelled', retry: 'queued again' }

export function bulkCommand(verb: Verb, summary: string, examples: string[]): Action {
  return action({
    summary,
    arguments: ['[ID...]'],
    options: {
      ...FILTER_OPTIONS,
      'failure-reason': { type: 'string', value: 'REASON', help: 'those that died of this' },
      'dry-run': { type: 'boolean', help: 'only count what the filter finds' },
      json: JSON_OPTION,
    },
    details: `Give ids, or a filter, which looks at ${CHANGEABLE[verb].join(' and ')} jobs.`,
    examples,
    async run({ words, values }) {
      const filter = filterFrom(values)
      const failureReason = values['failure-reason'] as JobFilter['failureReason']
      const isFiltered = Object.keys(filter).length > 0 || failureReason !== undefined
      if (words.length > 0 === isFiltered) {
        throw new UsageError(
          `posthorn ${verb} needs ids or a filter, and not both. See: posthorn ${verb} --help`,
        )
      }
      const isDry = values['dry-run'] === true
      if (isDry && !isFiltered) throw new UsageError('--dry-run counts what a filter finds.')
      const posthorn = connect()
      if (!isFiltered) return changeEach(posthorn, verb, words, values.json === true)
      const work = { posthorn, verb, filter, failureReason }
      const result = isDry ? await count(work) : await changeAll(work)
      if (values.json === true) sayJson(result)
      else if (isDry)
        say(`${result.more ? 'More than ' : ''}${result.matched} would be ${DONE[verb]}.`)
      else say(`${result.more ? 'At least ' : ''}${result.affected} ${DONE[verb]}.`)
      return EXIT.done
    },
  })
}

/** One that is refused does not keep the others from their turn. */
async function changeEach(
  posthorn: Posthorn,
  verb: Verb,
  ids: string[],
  isJson: boolean,
): Promise<number> {
  let exitCode: number = EXIT.done
  for (const id of ids) {
    try {
      const job = await posthorn[verb](id)
      if (isJson) sayJson(job)
      else say(`${id} ${DONE[verb]}`)
    } catch (error) {
      if (!(error instanceof PosthornError) || error.status === null) throw error
      sayAside(told(error, false).text)
      exitCode = EXIT.failed
    }
  }
  return exitCode
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
}

/** The states asked for, of those that can be changed; one request each, for it takes one. */
function statesOf({ verb, filter }: Work): JobState[] {
  return CHANGEABLE[verb].filter((state) => filter.state?.includes(state) ?? true)
}

async function count(work: Work): Promise<Result> {
  let matched = 0
  let more = false
  for (const state of statesOf(work)) {
    const options = { dryRun: true, limit: MAX_AT_ONCE }
    const found = await bulk(work, { state }, options)
    matched += found.matched
    more ||= found.more === true
  }
  return { matched, affected: 0, ...(more ? { more } : {}) }
}

/**
 * From the newest to the oldest, stretch of time after stretch: a job that was queued again, and is
 * dead again by now, is not found a second time.
 */
async function changeAll(work: Work): Promise<Result> {
  const { posthorn, filter } = work
  const state = statesOf(work)
  const total: Result = { matched: 0, affected: 0 }
  let createdBefore = filter.createdBefore
  for (let isLast = state.length === 0; !isLast; ) {
    const oldest = await oldestOfNext(posthorn, { ...filter, state, ...before(createdBefore) })
    isLast = oldest === null
    const createdAfter = oldest ?? filter.createdAfter
    for (const one of state) {
      const stretch = { state: one, ...before(createdBefore), ...after(createdAfter) }
      const found = await untilAnswered(() => bulk(work, stretch, { limit: MAX_AT_ONCE }))
      total.matched += found.matched
      total.affected += found.affected
      if (found.more === true) total.more = true
    }
    createdBefore = oldest ?? undefined
    if (process.stderr.isTTY) process.stderr.write(`\r${total.affected} ${DONE[work.verb]} …`)
  }
  if (process.stderr.isTTY) process.stderr.write('\r\u001b[K')
  return total
}

function before(createdBefore: string | undefined): { createdBefore?: string } {
  return createdBefore === undefined ? {} : { createdBefore }
}

function after(createdAfter: string | undefined): { createdAfter?: string } {
  return createdAfter === undefined ? {} : { createdAfter }
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
      const pauseMs = error.retryAfterMs ?? DEFAULT_PAUSE_MS
      sayAside(`${error.detail}; going on in ${pauseMs / 1_000} s.`)
      await sleep(Math.min(pauseMs, MAX_PAUSE_MS))
    }
  }
}

/** When the last of the next thousand jobs or so was made; null: there are fewer. */
async function oldestOfNext(posthorn: Posthorn, filter: Filter): Promise<string | null> {
  let cursor: string | undefined
  let found = 0
  for (;;) {
    const page = await posthorn.page({ ...filter, limit: MAX_PAGE, cursor })
    found += page.items.length
    if (page.nextCursor === null) return null
    const last = page.items.at(-1)
    if (found >= PAGES_AT_ONCE * MAX_PAGE && last !== undefined) return last.createdAt
    cursor = page.nextCursor
  }
}

function bulk(
  { posthorn, verb, filter, failureReason }: Work,
  further: { state: JobState; createdAfter?: string; createdBefore?: string },
  options: { dryRun?: boolean; limit: number },
) {
  const whole: JobFilter = { ...filter, ...further, failureReason }
  return verb === 'cancel'
    ? posthorn.cancelMany(whole, options)
    : posthorn.retryMany(whole, options)
}
