// Every example in --help works unchanged, and every command has an example.
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type Action, type Command, readWords } from '../../cli/command.ts'
import { COMMAND_GROUPS, type Entry, entryOf, isServer } from '../../cli/command-table.ts'
import { UsageError } from '../../cli/exit.ts'
import { actionHelp, commandHelp, overview } from '../../cli/help.ts'
import { type Deployment, deploy } from '../support/deployment.ts'
import { type Receiver, startReceiver } from '../support/receiver.ts'
import { until } from '../support/until.ts'
import { openShell, type Shell } from './command-line.ts'

/** import needs the database of another queue, so its own tests run its examples. */
const TESTED_ELSEWHERE = ['import']

const names = Object.values(COMMAND_GROUPS).flatMap((group) => Object.keys(group))

async function commandOf(name: string): Promise<Command> {
  return (await (entryOf(name) as Entry).load()).command
}

async function actionsOf(name: string): Promise<[string, Action][]> {
  const command = await commandOf(name)
  if (!('verbs' in command)) return [[name, command]]
  return Object.entries(command.verbs).map(([verb, action]) => [`${name} ${verb}`, action])
}

const actions = (await Promise.all(names.map(actionsOf))).flat()
const examples = actions
  .filter(([name]) => !TESTED_ELSEWHERE.includes(name.split(' ')[0] as string))
  .flatMap(([name, action]) => action.examples.map((line) => ({ name, line })))

describe('help', () => {
  it('lists every command, in lines of 100 columns', () => {
    for (const name of names) expect(overview()).toMatch(new RegExp(`^  ${name} `, 'm'))
    for (const line of overview().split('\n')) expect(line.length).toBeLessThanOrEqual(100)
  })

  it.each(actions)('%s shows its options and an example of itself', (name, action) => {
    expect(action.examples.length).toBeGreaterThan(0)
    const help = actionHelp(name, action)
    for (const option of Object.keys(action.options)) expect(help).toContain(`--${option}`)
    for (const line of action.examples) expect(line).toMatch(new RegExp(`\\bposthorn ${name}\\b`))
    for (const line of help.split('\n')) expect(line.length, line).toBeLessThanOrEqual(110)
  })

  it.each(names)('%s shows its verbs, if it has some', async (name) => {
    const command = await commandOf(name)
    const help = commandHelp(name, 'a summary', command)
    for (const verb of 'verbs' in command ? Object.keys(command.verbs) : []) {
      expect(help).toMatch(new RegExp(`^  ${verb} `, 'm'))
    }
  })

  it.each(actions)('%s refuses what it does not know', (name, action) => {
    const enough = action.arguments.filter((one) => !one.startsWith('[')).map(() => 'word')
    expect(() => readWords(name, action, [...enough, '--no-such-option'])).toThrow(UsageError)
    if (enough.length > 0) expect(() => readWords(name, action, [])).toThrow(/needs/)
  })
})

describe('the example of', () => {
  let posthorn: Deployment
  let receiver: Receiver
  let shell: Shell
  beforeAll(async () => {
    receiver = await startReceiver({ status: 200, body: '{"pages":3}' })
    posthorn = deploy('sqlite')
    await posthorn.startApi()
    await posthorn.startWorker()
    shell = openShell({ POSTHORN_URL: posthorn.url() })
    shell.write('posthorn.yaml', 'endpoints: {thumbnails: {url: null}}\n')
  })
  afterAll(async () => {
    await shell.close()
    await posthorn.close()
    await receiver.close()
  })

  /** Creates everything that the examples name, whatever an earlier example has done to it. */
  async function setScene(name: string): Promise<Record<string, string>> {
    await until(async () => {
      const { status } = await posthorn.endpoint('invoice-pdf', receiver.url)
      return status < 300
    })
    const schedule = { cron: '0 2 * * *', endpoint: 'invoice-pdf', payload: 1 }
    await posthorn.request('PUT', '/schedules/nightly-report', schedule)
    await posthorn.request('PUT', '/limits/tax-office', { concurrency: 5 })
    await posthorn.endpoint('alerts', receiver.url)
    const job = await posthorn.request('POST', '/jobs', { endpoint: 'invoice-pdf', payload: 1 })
    const group = await closedGroup(name === 'groups retry' || name === 'groups cancel')
    const key = await posthorn.request('POST', '/keys', { name: 'web shop', scope: 'enqueue' })
    return { id: job.body.id, key_id: key.body.id, group }
  }

  /** Without a member it is final. */
  async function closedGroup(hasMember: boolean): Promise<string> {
    const { body } = await posthorn.request('POST', '/groups')
    const member = { endpoint: 'invoice-pdf', payload: 1, delay: '1h', group: body.id }
    if (hasMember) await posthorn.request('POST', '/jobs', member)
    await posthorn.request('POST', `/groups/${body.id}/close`)
    return body.id
  }

  it.each(examples)('$name: $line', { timeout: 60_000 }, async ({ name, line }) => {
    const env = await setScene(name)
    const isOfServer = isServer(name)
    const text = line
      .replace('PORT=9000', 'PORT=0')
      .replace('http://localhost:3000/', `${receiver.url}/`)
      .replace('sqlite:./data/posthorn.db', posthorn.env.STORE_URL as string)
    const typed = shell.line(text, isOfServer ? {} : env)
    if (isOfServer) {
      await typed.printed(/api\.listening|worker\.started/)
      typed.signal('SIGTERM')
    } else if (name === 'listen') {
      await typed.printed('Ctrl-C ends this')
      typed.signal('SIGINT')
    }
    expect(await typed.ended(), typed.stderr()).toBe(0)
    expect(typed.stdout() + typed.stderr()).not.toBe('')
    expect(typed.stderr()).not.toMatch(/\n\s+at /)
  })
})
