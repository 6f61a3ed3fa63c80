// posthorn workers: lists the workers that reported within the last hour.
import type { WorkerView } from '../../src/client/client.ts'
import { action, JSON_OPTION } from '../command.ts'
import { EXIT } from '../exit.ts'
import { type Column, fromNow, printError, printJson, printLine, table } from '../output.ts'
import { connect } from '../server.ts'

const COLUMNS: Column<WorkerView>[] = [
  { title: 'worker', value: ({ id }) => id },
  {
    title: 'state',
    value: ({ isLive, hasEncryptionKey }) =>
      isLive ? (hasEncryptionKey ? 'live' : 'live, lacks the encryption key') : 'gone',
    style: ({ isLive, hasEncryptionKey }) =>
      isLive ? (hasEncryptionKey ? 'green' : 'red') : 'dim',
  },
  {
    title: 'in flight',
    value: ({ isLive, inFlight, concurrency }) => (isLive ? `${inFlight} of ${concurrency}` : null),
  },
  { title: 'seen', value: ({ seenAt }) => fromNow(seenAt) },
  { title: 'started', value: ({ startedAt }) => fromNow(startedAt) },
  { title: 'version', value: ({ version }) => version },
]

export const command = action({
  summary: 'The workers that reported within the last hour',
  arguments: [],
  options: { json: JSON_OPTION },
  examples: ['posthorn workers'],
  async run({ values }) {
    const items = await connect().workers()
    if (values.json === true) printJson({ items })
    else if (items.length === 0) printError('No worker reported within the last hour.')
    else printLine(table(items, COLUMNS))
    return EXIT.done
  },
})
