// posthorn limits: reads and configures the limits that endpoints share, with a verb for each
// action.
import type { ListedSharedLimit, SharedLimit } from '../../src/client/client.ts'
import { action, JSON_OPTION } from '../command.ts'
import { confirm, YES_OPTION } from '../confirm.ts'
import { LIMIT_OPTIONS, limitSettingsGiven } from '../endpoint-settings.ts'
import { EXIT } from '../exit.ts'
import { type Column, printError, printJson, printLine, record, table } from '../output.ts'
import { collected, connect } from '../server.ts'

const COLUMNS: Column<ListedSharedLimit>[] = [
  { title: 'name', value: ({ name }) => name },
  { title: 'concurrency', value: ({ concurrency }) => concurrency },
  { title: 'rate limit', value: rateText },
  { title: 'tokens', value: ({ tokens }) => tokens },
  { title: 'waiting', value: ({ waiting }) => waiting.join(', ') || null },
]

function rateText({ rateLimit }: Pick<ListedSharedLimit, 'rateLimit'>): string | null {
  return rateLimit && `${rateLimit.count}/${rateLimit.per}`
}

const list = action({
  summary: 'All limits that endpoints share, with the endpoints that wait for them',
  arguments: [],
  options: { json: JSON_OPTION },
  examples: ['posthorn limits list'],
  async run({ values }) {
    const items = await collected(connect().limits.list())
    if (values.json === true) printJson({ items, nextCursor: null })
    else if (items.length === 0)
      printError('There are no limits yet. Create one: posthorn limits put NAME --concurrency N')
    else printLine(table(items, COLUMNS))
    return EXIT.done
  },
})

const get = action({
  summary: 'One limit, with its endpoints and their running jobs',
  arguments: ['NAME'],
  options: { json: JSON_OPTION },
  examples: ['posthorn limits get tax-office'],
  async run({ words: [name = ''], values }) {
    show(await connect().limits.get(name), values.json === true)
    return EXIT.done
  },
})

const put = action({
  summary: 'Create or replace a limit that endpoints share; its used tokens are kept',
  arguments: ['NAME'],
  options: { ...LIMIT_OPTIONS, json: JSON_OPTION },
  details: `A setting that is not given is no limit, also if it was one before. Endpoints name the
limit: posthorn endpoints set --limits.`,
  examples: ['posthorn limits put tax-office --concurrency 5 --rate-limit 100/1m'],
  async run({ words: [name = ''], values }) {
    const settings = limitSettingsGiven(values)
    show(await connect().limits.put(name, settings), values.json === true)
    return EXIT.done
  },
})

const remove = action({
  summary: 'Delete a limit that no endpoint names',
  arguments: ['NAME'],
  options: { yes: YES_OPTION },
  examples: ['posthorn limits delete tax-office --yes'],
  async run({ words: [name = ''], values }) {
    const posthorn = connect()
    await confirm(`Delete the limit ${name}`, values.yes)
    await posthorn.limits.remove(name)
    printLine(`${name} is deleted`)
    return EXIT.done
  },
})

function show(limit: SharedLimit, isJson: boolean): void {
  if (isJson) {
    printJson(limit)
    return
  }
  printLine(
    record([
      ['limit', limit.name],
      ['concurrency', limit.concurrency ?? 'no limit'],
      ['rate limit', rateText(limit) ?? 'no limit'],
      ['running', limit.running],
      ['tokens', limit.tokens],
      ['endpoints', limit.endpoints.join(', ') || 'none'],
      ['waiting', limit.waiting.join(', ') || 'none'],
    ]),
  )
}

export const command = { verbs: { list, get, put, delete: remove } }
