// posthorn import: imports the pending jobs of another queue.
import { type Posthorn, PosthornError } from '../../src/client/client.ts'
import { withAgenda } from '../agenda/collection.ts'
import { importAll, type Row, type Rows } from '../agenda/import.ts'
import { action } from '../command.ts'
import { CommandFailed, EXIT, UsageError } from '../exit.ts'
import { printError, printJson, printLine, table } from '../output.ts'
import { connect } from '../server.ts'

const agenda = action({
  summary: 'Import the waiting and repeating jobs of Agenda',
  arguments: [],
  options: {
    from: {
      type: 'string',
      value: 'URL',
      help: 'the MongoDB of Agenda, with the name of its database',
    },
    collection: { type: 'string', value: 'NAME', help: 'default agendaJobs' },
    map: {
      type: 'string',
      value: 'NAME=ENDPOINT',
      multiple: true,
      help: 'jobs of this name go to that endpoint; once for each name',
    },
    'dry-run': { type: 'boolean', help: 'only print what would happen; the API checks each' },
    json: { type: 'boolean', help: 'print the rows as JSON' },
  },
  details: `Changes nothing in Agenda: stop its processes first, or both do the work. Documents that
are finished, locked or without --map are skipped, and counted. A document that cannot
become a job or a schedule is refused, and printed with the reason; the others are
imported. A second run adds nothing twice.`,
  examples: [
    'posthorn import agenda --from mongodb://localhost:27017/agenda --map "send email=email" --dry-run',
  ],
  async run({ values }) {
    const { from, collection = 'agendaJobs' } = values
    if (from === undefined) throw new UsageError('posthorn import agenda needs --from URL.')
    const endpoints = endpointsFrom(values.map ?? [])
    const isDry = values['dry-run'] === true
    const posthorn = connect()
    await refuseUnknown(posthorn, endpoints)
    const found: Rows = new Map()
    const show = (complete: boolean) => {
      const rows = [...found.values()]
      if (values.json === true) printJson({ dryRun: isDry, complete, rows })
      else printRows(rows)
      if (isDry) printError('Nothing was done (--dry-run).')
    }
    try {
      await withAgenda(from, collection, (source) =>
        importAll(source, posthorn, { endpoints, isDry, rows: found }),
      )
    } catch (error) {
      if (found.size > 0) {
        show(false)
        printError('Not all documents were read. Another run imports the rest.')
      }
      throw error
    }
    show(true)
    const isRefused = [...found.values()].some(({ becomes }) => becomes === 'refused')
    return isRefused ? EXIT.failed : EXIT.done
  },
})

export const command = { verbs: { agenda } }

/** The endpoint is the text after the last `=`: a name in Agenda can contain any character. */
function endpointsFrom(given: string[]): Map<string, string> {
  const pairs = given.map((text): [string, string] => {
    const at = text.lastIndexOf('=')
    if (at < 1 || at === text.length - 1) {
      throw new UsageError(`--map is "${text}"; expected NAME=ENDPOINT, like "send email=email".`)
    }
    return [text.slice(0, at), text.slice(at + 1)]
  })
  const names = pairs.map(([name]) => name)
  const twice = names.find((name, i) => names.indexOf(name) < i)
  if (twice !== undefined) throw new UsageError(`--map names "${twice}" twice.`)
  return new Map(pairs)
}

/** Throws before anything is imported, if an endpoint does not exist. */
async function refuseUnknown(posthorn: Posthorn, endpoints: Map<string, string>): Promise<void> {
  for (const endpoint of new Set(endpoints.values())) {
    try {
      await posthorn.endpoints.get(endpoint)
    } catch (error) {
      if (!(error instanceof PosthornError) || error.code !== 'endpoint_not_found') throw error
      throw new CommandFailed(
        `There is no endpoint "${endpoint}". Register it first: posthorn endpoints put ${endpoint} --url URL`,
      )
    }
  }
}

function printRows(rows: Row[]): void {
  const columns = [
    { title: 'in Agenda', value: ({ name }: Row) => name },
    { title: 'becomes', value: ({ becomes }: Row) => becomes },
    { title: 'count', value: ({ count }: Row) => count },
    { title: 'note', value: ({ note, id }: Row) => (id === undefined ? note : `${id}: ${note}`) },
  ]
  printLine(rows.length === 0 ? 'Agenda has no jobs to import.' : table(rows, columns))
}
