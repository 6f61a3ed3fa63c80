// posthorn groups: jobs that finish together, with a verb for each action.
import type { Group, GroupNotice, GroupState, ListedGroup } from '../../src/client/client.ts'
import { type Action, action, JSON_OPTION } from '../command.ts'
import { confirm, YES_OPTION } from '../confirm.ts'
import { EXIT } from '../exit.ts'
import { oneOf } from '../input.ts'
import { countText, LIMIT_OPTION, listLimit, printPage } from '../list.ts'
import { type Column, painted, printJson, printLine, record, styleOfState } from '../output.ts'
import { connect, firstItems } from '../server.ts'
import { WAIT_OPTIONS, waitOptions } from '../waiting.ts'

const STATES = [
  'open',
  'closed',
  'cancelling',
  'retrying',
  'succeeded',
  'failed',
] as const satisfies GroupState[]
const EVENTS = ['all_final', 'all_succeeded', 'first_dead'] as const

const COLUMNS: Column<ListedGroup>[] = [
  { title: 'id', value: ({ id }) => id },
  { title: 'state', value: ({ state }) => state, style: ({ state }) => styleOfState(state) },
  { title: 'progress', value: ({ progress }) => `${progress} %` },
  { title: 'members', value: ({ members }) => members },
  { title: 'succeeded', value: ({ counts }) => counts.succeeded },
  { title: 'dead', value: ({ counts }) => counts.dead },
  { title: 'cancelled', value: ({ counts }) => counts.cancelled },
  { title: 'created', value: ({ createdAt }) => createdAt },
  { title: 'name', value: ({ name }) => name },
]

const list = action({
  summary: 'List groups, newest first',
  arguments: [],
  options: {
    state: { type: 'string', value: 'STATE', help: STATES.join(', ') },
    name: { type: 'string', value: 'NAME', help: 'groups with this name' },
    limit: LIMIT_OPTION,
    json: JSON_OPTION,
  },
  examples: ['posthorn groups list --state failed'],
  async run({ values }) {
    const limit = listLimit(values.limit)
    const state = values.state === undefined ? undefined : oneOf('--state', values.state, STATES)
    const { groups } = connect()
    const query = { state, name: values.name }
    const page = await firstItems(limit, (part) => groups.page({ ...query, ...part }))
    printPage(page, COLUMNS, { limit, empty: 'No groups match.', isJson: values.json === true })
    return EXIT.done
  },
})

const get = action({
  summary: 'One group, with its counts',
  arguments: ['ID'],
  options: { json: JSON_OPTION },
  examples: ['posthorn groups get "$group"'],
  async run({ words: [id = ''], values }) {
    show(await connect().groups.get(id), values.json === true)
    return EXIT.done
  },
})

const create = action({
  summary: 'Create a group, and print its id',
  arguments: [],
  options: {
    name: { type: 'string', value: 'NAME', help: 'a name to find it by' },
    notify: {
      type: 'string',
      value: 'ENDPOINT',
      help: 'the endpoint that receives a notice',
    },
    when: { type: 'string', value: 'EVENT', help: `${EVENTS.join(', ')}; default all_final` },
    'close-after': {
      type: 'string',
      value: 'DURATION',
      help: 'after the last add; none: only a close; default 7d',
    },
    'idempotency-key': {
      type: 'string',
      value: 'KEY',
      help: 'a repeat with the same key returns the same group',
    },
    json: JSON_OPTION,
  },
  examples: ['posthorn groups create --name import --notify alerts'],
  async run({ values }) {
    const { name, notify, when, 'close-after': closeAfter } = values
    const event = when === undefined ? 'all_final' : oneOf('--when', when, EVENTS)
    const notice: GroupNotice[] = notify === undefined ? [] : [{ endpoint: notify, when: event }]
    const group = await connect().groups.create({
      name,
      onFinish: notice,
      closeAfter: closeAfter === 'none' ? null : closeAfter,
      idempotencyKey: values['idempotency-key'],
    })
    if (values.json === true) printJson(group)
    else printLine(group.id)
    return EXIT.done
  },
})

const wait = action({
  summary: 'Wait until a group is final; the exit code says how it ended',
  arguments: ['ID'],
  options: { ...WAIT_OPTIONS, json: JSON_OPTION },
  details: 'Exits with 0 if it succeeded, 1 if it failed, 4 if it is not final in time.',
  examples: ['posthorn groups wait "$group" --timeout 5m'],
  async run({ words: [id = ''], values }) {
    const group = await connect().groups.wait(id, waitOptions(values.timeout))
    show(group, values.json === true)
    return group.state === 'succeeded' ? EXIT.done : EXIT.failed
  },
})

const CHANGES = {
  close: 'Close a group: it takes no more jobs',
  cancel: 'Close a group and cancel its queued and running jobs',
  retry: 'Queue the dead and cancelled jobs of a group again',
} as const

function change(verb: keyof typeof CHANGES): Action {
  return action({
    summary: CHANGES[verb],
    arguments: ['ID'],
    options: { json: JSON_OPTION },
    examples: [`posthorn groups ${verb} "$group"`],
    async run({ words: [id = ''], values }) {
      const group = await connect().groups[verb](id)
      if (values.json === true) printJson(group)
      else printLine(`${id} is ${painted(group.state, styleOfState(group.state))}`)
      return EXIT.done
    },
  })
}

const remove = action({
  summary: 'Delete a final group; its jobs stay',
  arguments: ['ID'],
  options: { yes: YES_OPTION },
  examples: ['posthorn groups delete "$group" --yes'],
  async run({ words: [id = ''], values }) {
    const posthorn = connect()
    await confirm(`Delete the group ${id}`, values.yes)
    await posthorn.groups.remove(id)
    printLine(`${id} is deleted`)
    return EXIT.done
  },
})

function show(group: Group, isJson: boolean): void {
  if (isJson) {
    printJson(group)
    return
  }
  const { counts } = group
  printLine(
    record([
      ['group', group.id],
      ['name', group.name],
      ['state', painted(group.state, styleOfState(group.state))],
      ['progress', `${group.progress} %`],
      ['members', group.members],
      ['queued', counts.queued],
      ['running', countText(counts.running, counts.more)],
      ['succeeded', counts.succeeded],
      ['dead', counts.dead],
      ['cancelled', counts.cancelled],
      ['notices', group.onFinish.map(noticeText).join(', ') || 'none'],
      ['created', group.createdAt],
      ['closes', group.closesAt],
      ['closed', group.closedAt],
      ['finished', group.finishedAt],
    ]),
  )
}

function noticeText({ endpoint, when }: GroupNotice): string {
  return `${endpoint} (${when})`
}

export const command = {
  verbs: {
    list,
    get,
    create,
    wait,
    ...{ close: change('close'), cancel: change('cancel'), retry: change('retry') },
    delete: remove,
  },
}
