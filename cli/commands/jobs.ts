// posthorn jobs: lists jobs, newest first; reads as many pages as --limit needs.
import { action, JSON_OPTION } from '../command.ts'
import { EXIT } from '../exit.ts'
import { FILTER_OPTIONS, filterFrom } from '../job-filter.ts'
import { JOB_COLUMNS } from '../job-view.ts'
import { LIMIT_OPTION, listLimit, printPage } from '../list.ts'
import { connect, firstItems } from '../server.ts'

export const command = action({
  summary: 'List jobs, newest first',
  arguments: [],
  options: {
    ...FILTER_OPTIONS,
    'dedupe-key': { type: 'string', value: 'KEY', help: 'jobs with this dedupe key' },
    group: { type: 'string', value: 'ID', help: 'jobs of this group' },
    'fairness-key': {
      type: 'string',
      value: 'KEY',
      help: 'jobs with this fairness key; only with --endpoint',
    },
    limit: LIMIT_OPTION,
    json: JSON_OPTION,
  },
  examples: ['posthorn jobs --endpoint invoice-pdf --state dead --limit 100'],
  async run({ values }) {
    const limit = listLimit(values.limit)
    const keys = { dedupeKey: values['dedupe-key'], fairnessKey: values['fairness-key'] }
    const query = { ...filterFrom(values), ...keys, group: values.group }
    const posthorn = connect()
    const page = await firstItems(limit, (part) => posthorn.page({ ...query, ...part }))
    printPage(page, JOB_COLUMNS, { limit, empty: 'No jobs match.', isJson: values.json === true })
    return EXIT.done
  },
})
