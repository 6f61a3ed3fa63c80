// posthorn keys: manages API keys, with a verb for each action. Needs a key with the scope admin.
import type { ApiKey } from '../../src/client/client.ts'
import { action, JSON_OPTION } from '../command.ts'
import { confirm, YES_OPTION } from '../confirm.ts'
import { EXIT } from '../exit.ts'
import { oneOf } from '../input.ts'
import { type Column, fromNow, printError, printJson, printLine, table } from '../output.ts'
import { connect } from '../server.ts'

const SCOPES = ['enqueue', 'work', 'admin'] as const

const COLUMNS: Column<ApiKey>[] = [
  { title: 'id', value: ({ id }) => id },
  { title: 'scope', value: ({ scope }) => scope },
  { title: 'created', value: ({ createdAt }) => fromNow(createdAt) },
  { title: 'name', value: ({ name }) => name },
]

const list = action({
  summary: 'All keys by id and name, without their secret text',
  arguments: [],
  options: { json: JSON_OPTION },
  examples: ['posthorn keys list'],
  async run({ values }) {
    const items = await connect().keys.list()
    if (values.json === true) printJson({ items })
    else if (items.length === 0)
      printError('No keys were created yet. The keys in API_KEYS are not listed.')
    else printLine(table(items, COLUMNS))
    return EXIT.done
  },
})

const create = action({
  summary: 'Create a key, and print it once',
  arguments: ['NAME'],
  options: {
    scope: { type: 'string', value: 'SCOPE', help: 'enqueue (default), work or admin' },
    json: JSON_OPTION,
  },
  examples: ['posthorn keys create web-shop --scope enqueue'],
  async run({ words: [name = ''], values }) {
    const scope = oneOf('--scope', values.scope ?? 'enqueue', SCOPES)
    const created = await connect().keys.create({ name, scope })
    if (values.json === true) printJson(created)
    else printLine(created.key)
    printError(`The key is shown only once. To revoke it: posthorn keys delete ${created.id}`)
    return EXIT.done
  },
})

const remove = action({
  summary: 'Revoke a key; every server refuses it within 5 s',
  arguments: ['ID'],
  options: { yes: YES_OPTION },
  examples: ['posthorn keys delete "$key_id" --yes'],
  async run({ words: [id = ''], values }) {
    const posthorn = connect()
    await confirm(`Revoke the key ${id}, so that its requests are refused`, values.yes)
    await posthorn.keys.remove(id)
    printLine(`${id} is revoked`)
    return EXIT.done
  },
})

export const command = { verbs: { list, create, delete: remove } }
