// The server at POSTHORN_URL is not Posthorn: every command that needs the server says so in a
// sentence and exits with 3.
import { createServer, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest'
import { type Action, readWords } from '../../cli/command.ts'
import { COMMAND_GROUPS, type Entry, entryOf } from '../../cli/command-table.ts'
import { errorMessage } from '../../cli/exit.ts'
import { JOB } from '../client/answering.ts'
import { openShell, type Shell } from './command-line.ts'

const FROM = ['--from', 'mongodb://127.0.0.1:1/agenda']
const COMMANDS: string[][] = [
  ['enqueue', 'a', '1'],
  ['enqueue', 'a', '1', '--json'],
  ['enqueue', 'a', '1', '--wait'],
  ['get', 'job_x'],
  ['get', 'job_x', '--json'],
  ['get', 'job_x', '--payload'],
  ['wait', 'job_x', '--timeout', '2s'],
  ['jobs'],
  ['jobs', '--json', '--limit', '1000'],
  ['explain', 'job_x'],
  ['explain', 'job_x', '--json'],
  ['retry', 'job_x'],
  ['retry', '--tag', 'a'],
  ['retry', '--tag', 'a', '--dry-run'],
  ['cancel', 'job_x', 'job_y'],
  ['cancel', '--tag', 'a'],
  ['cancel', '--tag', 'a', '--dry-run', '--json'],
  ['listen', 'a', 'http://localhost:3000/'],
  ['endpoints', 'list'],
  ['endpoints', 'list', '--json'],
  ['endpoints', 'get', 'a'],
  ['endpoints', 'keys', 'a'],
  ['endpoints', 'key', 'a', 'b'],
  ['endpoints', 'keys', 'a', '--by-wait', '--json'],
  ['endpoints', 'put', 'a', '--pull'],
  ['endpoints', 'set', 'a', '--timeout', '5s'],
  ['endpoints', 'pause', 'a'],
  ['endpoints', 'resume', 'a'],
  ['endpoints', 'test', 'a'],
  ['endpoints', 'rotate', 'a'],
  ['endpoints', 'delete', 'a', '--yes'],
  ['groups', 'list'],
  ['groups', 'get', 'grp_x'],
  ['groups', 'create'],
  ['groups', 'wait', 'grp_x', '--timeout', '2s'],
  ['groups', 'close', 'grp_x'],
  ['groups', 'cancel', 'grp_x'],
  ['groups', 'retry', 'grp_x'],
  ['groups', 'delete', 'grp_x', '--yes'],
  ['limits', 'list'],
  ['limits', 'get', 'a'],
  ['limits', 'put', 'a', '--concurrency', '1'],
  ['limits', 'delete', 'a', '--yes'],
  ['schedules', 'list'],
  ['schedules', 'get', 'a'],
  ['schedules', 'pause', 'a'],
  ['schedules', 'resume', 'a'],
  ['schedules', 'run', 'a'],
  ['schedules', 'delete', 'a', '--yes'],
  ['keys', 'list'],
  ['keys', 'create', 'a'],
  ['keys', 'delete', 'key_x', '--yes'],
  ['apply', 'posthorn.yaml'],
  ['apply', 'posthorn.yaml', '--dry-run'],
  ['import', 'agenda', ...FROM, '--map', 'a=b'],
  ['stats'],
  ['stats', '--window', '1h', '--json'],
  ['workers'],
]
const WITHOUT_SERVER = ['start', 'api', 'worker', 'backup', 'vacuum', 'migrate', 'doctor']

const json = { 'content-type': 'application/json' }
const KINDS: Record<string, (answer: ServerResponse) => void> = {
  '{}': (answer) => void answer.writeHead(200, json).end('{}'),
  '[]': (answer) => void answer.writeHead(200, json).end('[]'),
  HTML: (answer) => void answer.writeHead(200, { 'content-type': 'text/html' }).end('<h1>Hi</h1>'),
  '204': (answer) => void answer.writeHead(204).end(),
  'a redirect': (answer) => void answer.writeHead(302, { location: '/login' }).end(),
  'a page with 500': (answer) =>
    void answer.writeHead(500, { 'content-type': 'text/html' }).end('<h1>Sorry</h1>'),
  'a page with 503': (answer) =>
    void answer.writeHead(503, { 'content-type': 'text/html' }).end('<h1>Sorry</h1>'),
  'no HTTP': (answer) => void answer.socket?.end('220 mail.example.com ESMTP\r\n'),
  nothing: (answer) => void answer.socket?.destroy(),
}

let kind = '{}'
let server: Server
let shell: Shell
beforeAll(async () => {
  server = createServer((_, answer) => KINDS[kind]?.(answer))
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  shell = openShell({ POSTHORN_URL: url })
  const file = shell.write('posthorn.yaml', 'endpoints: {a: {url: null}}\n')
  for (const words of COMMANDS) if (words[0] === 'apply') words[1] = file
  vi.stubEnv('POSTHORN_URL', url)
})
afterAll(async () => {
  vi.unstubAllEnvs()
  server.closeAllConnections()
  server.close()
  await shell.close()
})
afterEach(() => void vi.restoreAllMocks())

async function actionOf(
  words: string[],
): Promise<{ action: Action; name: string; rest: string[] }> {
  const [word = '', verb = ''] = words
  const { command } = await (entryOf(word) as Entry).load()
  if (!('verbs' in command)) return { action: command, name: word, rest: words.slice(1) }
  const action = command.verbs[verb] as Action
  return { action, name: `${word} ${verb}`, rest: words.slice(2) }
}

const SENTENCE =
  /^[^\n]* (got a \d+ response that is not from Posthorn: |got no complete response: )/
const HINT = /\nPOSTHORN_URL sets the address of the server [^\n]+$/

it('every command that talks to a server is here, with each of its verbs', async () => {
  const names = Object.values(COMMAND_GROUPS).flatMap((group) => Object.keys(group))
  for (const name of names.filter((one) => !WITHOUT_SERVER.includes(one))) {
    const { command } = await (entryOf(name) as Entry).load()
    const verbs = 'verbs' in command ? Object.keys(command.verbs) : [undefined]
    for (const verb of verbs) {
      const found = COMMANDS.some((words) => words[0] === name && (!verb || words[1] === verb))
      expect([name, verb, found]).toEqual([name, verb, true])
    }
  }
})

describe.each(Object.keys(KINDS))('a server that answers %s', (answered) => {
  it('is named in a sentence by every command, and the exit code is 3', async () => {
    kind = answered
    const printed = vi.spyOn(process.stdout, 'write').mockReturnValue(true)
    const failures = await Promise.all(
      COMMANDS.map(async (words) => {
        const { action, name, rest } = await actionOf(words)
        const error = await action.run(readWords(name, action, rest)).catch((reason) => reason)
        return { words, ...errorMessage(error, false) }
      }),
    )
    const results = printed.mock.calls.map(([text]) => text)
    printed.mockRestore()
    for (const { words, text, exitCode } of failures) {
      expect([words, exitCode, text]).toEqual([words, 3, expect.stringMatching(SENTENCE)])
      expect(text).toMatch(HINT)
    }
    expect(results).toEqual([])
  })
})

it.each([
  { words: ['cancel', 'job_x'] },
  { words: ['jobs'] },
  { words: ['get', 'job_x'] },
  { words: ['listen', 'a', 'http://localhost:3000/'] },
])('as a process: $words', { timeout: 60_000 }, async ({ words }) => {
  kind = '{}'
  const { code, stdout, stderr } = await shell.run(words)
  expect({ code, stdout }).toEqual({ code: 3, stdout: '' })
  expect(stderr.trimEnd()).toMatch(SENTENCE)
  expect(stderr.trimEnd()).toMatch(HINT)
})

describe('what a server says is obeyed by no terminal', () => {
  /** Characters that clear the screen in two ways, reverse the text, and begin a new line. */
  const WORDS = 'a\u001b[2J\u009b2J\u202eb\r\nposthorn: all is well\u001b]0;title\u0007'
  const AT = '2026-11-24T08:30:00.000Z'
  const PING = { outcome: 'http_error', statusCode: 500, durationMs: 1, errorCode: null }
  /** The text is in every field that may contain one. */
  const ANSWERS: Record<string, object> = {
    job: { ...JOB, state: 'dead', failure: { reason: 'rejected', message: WORDS }, tags: [WORDS] },
    page: {
      items: [{ ...JOB, failure: { reason: 'rejected', message: WORDS } }],
      nextCursor: null,
    },
    explanation: {
      state: 'queued',
      version: 1,
      reason: 'not_due',
      detail: WORDS,
      expectedAt: null,
    },
    keys: { items: [{ id: 'key_1', name: WORDS, scope: 'work', createdAt: AT }] },
    ping: { ...PING, message: WORDS, responseBody: WORDS },
    'wrong id': { ...JOB, id: WORDS },
    problem: { code: 'invalid_request', detail: WORDS, errors: [{ path: WORDS, message: WORDS }] },
  }

  it.each([
    { words: ['enqueue', 'a', '1'], says: 'wrong id', status: 201 },
    { words: ['enqueue', 'a', '1', '--wait'], says: 'job', status: 201 },
    { words: ['wait', 'job_x'], says: 'job', status: 200 },
    { words: ['get', 'job_x'], says: 'job', status: 200 },
    { words: ['get', 'job_x', '--json'], says: 'job', status: 200 },
    { words: ['jobs'], says: 'page', status: 200 },
    { words: ['explain', 'job_x'], says: 'explanation', status: 200 },
    { words: ['keys', 'list'], says: 'keys', status: 200 },
    { words: ['endpoints', 'test', 'a'], says: 'ping', status: 200 },
    { words: ['jobs'], says: 'problem', status: 400 },
    { words: ['cancel', 'job_x'], says: 'problem', status: 409 },
    { words: ['listen', 'a', 'http://localhost:3000/'], says: 'problem', status: 400 },
    { words: ['stats'], says: 'page of a proxy', status: 502 },
  ])('$words: $says', { timeout: 60_000 }, async ({ words, says, status }) => {
    kind = 'words'
    const body = ANSWERS[says]
    KINDS.words = (answer) => {
      answer.setHeader('x-request-id', 'r-1')
      answer.writeHead(status, json).end(body ? JSON.stringify(body) : `<h1>${WORDS}</h1>`)
    }
    const { stdout, stderr } = await shell.run(words, { env: { FORCE_COLOR: '1' } })
    const printed = stdout + stderr
    expect(printed).toContain('all is well')
    // Removes the colours of the command itself.
    const plain = stripColours(printed)
    // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what must not be there
    expect(plain).not.toMatch(/[\u0000-\u0009\u000b-\u001f\u007f-\u009f\p{Cf}\p{Zl}\p{Zp}]/u)
    expect(plain).not.toMatch(/^posthorn: all is well/m)
  })
})

function stripColours(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: it begins every colour
  return text.replaceAll(/\u001b\[\d+m/g, '')
}
