// posthorn jobs: lists jobs, newest first; reads as many pages as --limit needs.
import type { JobSummary } from '../../src/client/client.ts'
import { eachPage, MAX_PAGE } from '../../src/client/paging.ts'
import { action, JSON_OPTION } from '../command.ts'
import { EXIT } from '../exit.ts'
import { wholeNumber } from '../input.ts'
import { FILTER_OPTIONS, filterFrom } from '../job-filter.ts'
import { JOB_COLUMNS } from '../job-view.ts'
import { printError, printJson, printLine, table } from '../output.ts'
import { connect } from '../server.ts'

const DEFAULT_LIMIT = '25'
/** All of them are in memory before they are printed. */
const MAX_LIMIT = 100_000

export const command = action({
  summary: 'List jobs, newest first',
  arguments: [],
  options: {
    ...FILTER_OPTIONS,
    'dedupe-key': { type: 'string', value: 'KEY', help: 'jobs with this dedupe key' },
    'fairness-key': {
      type: 'string',
      value: 'KEY',
      help: 'jobs with this fairness key; only with --endpoint',
    },
    limit: { type: 'string', value: 'N', help: `at most this many; default ${DEFAULT_LIMIT}` },
    json: JSON_OPTION,
  },
  examples: ['posthorn jobs --endpoint invoice-pdf --state dead --limit 100'],
  async run({ values }) {
    const limit = wholeNumber('--limit', values.limit ?? DEFAULT_LIMIT, 1, MAX_LIMIT)
    const keys = { dedupeKey: values['dedupe-key'], fairnessKey: values['fairness-key'] }
    const query = { ...filterFrom(values), ...keys }
    const posthorn = connect()
    const items: JobSummary[] = []
    let cursor: string | undefined
    const pages = eachPage((after) => {
      const left = Math.min(limit - items.length, MAX_PAGE)
      return posthorn.page({ ...query, limit: left, cursor: after })
    })
    for await (const page of pages) {
      items.push(...page.items)
      cursor = page.nextCursor ?? undefined
      if (items.length >= limit) break
    }
    if (values.json === true) printJson({ items, nextCursor: cursor ?? null })
    else if (items.length === 0) printError('No jobs match.')
    else printLine(table(items, JOB_COLUMNS))
    if (values.json !== true && cursor !== undefined) {
      printError(`There may be more than ${limit}; to list more, use --limit.`)
    }
    return EXIT.done
  },
})
