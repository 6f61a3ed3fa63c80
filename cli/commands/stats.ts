// posthorn stats: prints counts of jobs for each endpoint, and of attempts that ended recently.
import type { Stats } from '../../src/client/client.ts'
import { action, JSON_OPTION } from '../command.ts'
import { EXIT } from '../exit.ts'
import { countText } from '../list.ts'
import {
  type Column,
  painted,
  printError,
  printJson,
  printLine,
  styleOfState,
  table,
} from '../output.ts'
import { connect } from '../server.ts'

type EndpointStats = Stats['endpoints'][number]

const COLUMNS: Column<EndpointStats>[] = [
  { title: 'endpoint', value: ({ name }) => name },
  { title: 'state', value: ({ state }) => state, style: ({ state }) => styleOfState(state) },
  ...(['queued', 'due', 'running', 'dead'] as const).map((title) => ({
    title,
    value: (row: EndpointStats) => countText(row[title], row.more),
  })),
  { title: 'oldest due for', value: ({ oldestDueAge }) => oldestDueAge },
]

export const command = action({
  summary: 'Counts of queued and running jobs',
  arguments: [],
  options: {
    endpoint: { type: 'string', value: 'NAME', help: 'only this endpoint' },
    window: {
      type: 'string',
      value: 'DURATION',
      help: 'also attempts that ended in this time, like 1h',
    },
    json: JSON_OPTION,
  },
  examples: ['posthorn stats --window 1h'],
  async run({ values: { endpoint, window, json } }) {
    const stats = await connect().stats({ endpoint, window })
    if (json === true) {
      printJson(stats)
      return EXIT.done
    }
    if (stats.endpoints.length > 0) printLine(table(stats.endpoints, COLUMNS))
    else printError('No endpoints match.')
    if (stats.more === true)
      printError('Not all endpoints are listed. For another one, use --endpoint.')
    for (const { name, dead } of stats.deletedEndpoints ?? []) {
      printLine(`${name} was deleted: ${leftText(dead)}`)
    }
    const workers = `${stats.liveWorkers} live worker${stats.liveWorkers === 1 ? '' : 's'}`
    printLine(painted(workers, stats.liveWorkers === 0 ? 'red' : null))
    if (stats.minutes === undefined) return EXIT.done
    const since =
      stats.moreMinutes === true ? `since ${stats.minutes[0]?.minute}` : `within ${window}`
    printLine(`${since}: ${endedText(stats.minutes)}`)
    return EXIT.done
  },
})

function leftText(dead: number): string {
  if (dead === 1) return '1 dead job is left'
  return `${countText(dead, true)} dead jobs are left`
}

function endedText(minutes: NonNullable<Stats['minutes']>): string {
  const succeeded = minutes.reduce((sum, minute) => sum + minute.succeeded, 0)
  const failed = minutes.reduce((sum, minute) => sum + minute.failed, 0)
  return `${succeeded} attempts succeeded, ${failed} failed`
}
