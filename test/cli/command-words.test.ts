// The command line prints messages of the server in its own words: without requests, parameters and
// JSON Pointers. Numbers are printed unchanged.
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { COMMANDS, errorInCommandWords, inCommandWords } from '../../cli/command-words.ts'
import { PosthornError } from '../../src/client/posthorn-error.ts'
import { type Deployment, deploy } from '../support/deployment.ts'
import { openShell, type Shell } from './command-line.ts'

const DEADLINE = { timeout: 60_000 }
const BIG = '9007199254740993'
const ROOT = join(import.meta.dirname, '../..')
/** Users of the API read `GET /`. The command line does not name it. */
const OF_THE_API =
  /\b(GET|POST|PUT|PATCH|DELETE) \/\w|\?\w+=|(^|\s)\/\w+|query\/|header\/|path\/|Idempotency-Key/

let posthorn: Deployment
let shell: Shell
let jobId = ''
beforeAll(async () => {
  posthorn = deploy('sqlite')
  await posthorn.startApi()
  shell = openShell({ POSTHORN_URL: posthorn.url() })
  await posthorn.request('PUT', '/endpoints/in-use', { url: null })
  const job = { endpoint: 'in-use', payload: 1 }
  jobId = (await posthorn.request('POST', '/jobs', job, { 'idempotency-key': 'one' })).body.id
  const schedule = { every: '1h', endpoint: 'in-use', payload: 1 }
  await posthorn.request('PUT', '/schedules/hourly', schedule)
})
afterAll(async () => {
  await shell.close()
  await posthorn.close()
})

describe('a refusal of the server names', () => {
  it.each<[what: string, words: string[], says: RegExp]>([
    [
      'the option',
      ['endpoints', 'put', 'a', '--pull', '--timeout', '1d'],
      /^--timeout: expected a/,
    ],
    [
      'an option of two parts',
      ['endpoints', 'set', 'in-use', '--rate-limit', '1/20x'],
      /^--rate-limit: /,
    ],
    [
      'an option within a part',
      ['endpoints', 'set', 'in-use', '--rate-limit', '1/0ms'],
      /^--rate-limit: /,
    ],
    ['the option of a query', ['stats', '--window', 'soon'], /^--window: expected/],
    [
      'the option of a list',
      ['jobs', '--created-before', 'yesterday'],
      /^--created-before: expected/,
    ],
    [
      'the option of a filter',
      ['cancel', '--created-after', 'yesterday'],
      /^--created-after: expected/,
    ],
    ['the option by its own name', ['enqueue', 'in-use', '1', '--tag', 'x'.repeat(65)], /^--tag: /],
    ['the argument', ['endpoints', 'put', 'A', '--pull'], /^NAME: expected 1–64/],
    [
      '--force, and the command for a schedule',
      ['endpoints', 'delete', 'in-use', '--yes'],
      /schedule "hourly" names it: posthorn schedules delete hourly first; .* with --force$/,
    ],
    [
      '--idempotency-key',
      ['enqueue', 'in-use', '2', '--idempotency-key', 'one'],
      /^this --idempotency-key was used for job job_/,
    ],
    [
      'how an endpoint is made',
      ['enqueue', 'nowhere', '1'],
      /there is no endpoint "nowhere".*posthorn endpoints put nowhere --url URL$/,
    ],
  ])('%s', DEADLINE, async (_, words, says) => {
    const { stderr, code } = await shell.call(words)
    expect(stderr.trimEnd()).toMatch(says)
    expect(stderr).not.toMatch(OF_THE_API)
    expect(code).toBeGreaterThan(0)
  })

  it('the field of a file as the file has it', DEADLINE, async () => {
    const file = shell.write('settings.json', '{"retry": {"backoff": {"type": "none"}}, "size": 1}')
    const { stderr } = await shell.call(['endpoints', 'set', 'in-use', '--file', file])
    expect(stderr).toMatch(/retry\.backoff\S*: expected/)
    expect(stderr).toMatch(/^ *size: /m)
    expect(stderr).not.toMatch(OF_THE_API)
  })

  it('no key header, and whether a change may have been made', () => {
    const busy = (method: string) =>
      new PosthornError({
        ...{ code: 'store_unavailable', status: 503 },
        detail: `the store did not respond${method === 'GET' ? '' : '; if this was a write, it may have happened: repeat it with the same Idempotency-Key'}`,
      })
    expect(errorInCommandWords(busy('GET')).detail).toBe('the store did not respond')
    expect(errorInCommandWords(busy('PUT')).detail).toBe(
      'the store did not respond; the change may have been made: check before you repeat it',
    )
  })

  it('the server alone where there is none', DEADLINE, async () => {
    const { stderr } = await shell.call(['jobs'], { env: { POSTHORN_URL: 'http://127.0.0.1:1' } })
    expect(stderr).toMatch(/^the request got no complete response: .*\nPOSTHORN_URL sets/)
  })
})

describe('explain names the command', () => {
  it('that lets an endpoint go on', DEADLINE, async () => {
    await posthorn.request('POST', '/endpoints/in-use/pause')
    await posthorn.request('PUT', '/endpoints/paused', { url: null })
    const { stdout } = await shell.call(['explain', jobId])
    expect(stdout).toContain('is paused; posthorn endpoints resume in-use resumes deliveries')
    await posthorn.request('POST', '/endpoints/in-use/resume')
  })
})

it('no request that a sentence of the API names is without its command', () => {
  const files = ['routes', 'src/upkeep', 'src/job', 'src/endpoint'].flatMap((folder) =>
    readdirSync(join(ROOT, folder), { recursive: true, encoding: 'utf8' })
      .filter((name) => name.endsWith('.ts') && !name.includes('openapi'))
      .map((name) => join(ROOT, folder, name)),
  )
  const found = new Set<string>()
  for (const file of files) {
    const code = readFileSync(file, 'utf8').replace(/^\s*(\/\/|\*|\/\*\*).*$/gm, '')
    for (const [text] of code.matchAll(/\b(GET|POST|PUT|PATCH|DELETE) \/[\w:${}./-]+/g)) {
      found.add(text.replace(/\$\{[^}]*\}/g, 'x'))
    }
  }
  expect(found.size).toBeGreaterThan(2)
  for (const request of found) {
    expect([request, inCommandWords(request)]).toEqual([
      request,
      expect.stringMatching(/^posthorn /),
    ])
  }
})

it.each([
  [
    ['help', 'jobs'],
    ['jobs', '--help'],
  ],
  [
    ['help', 'endpoints'],
    ['endpoints', '--help'],
  ],
  [
    ['help', 'endpoints', 'put'],
    ['endpoints', 'put', '--help'],
  ],
  [['help', 'help'], ['help']],
])('posthorn %j prints the help of that command', DEADLINE, async (words, same) => {
  expect(await shell.call(words)).toEqual(await shell.call(same))
})

it('each command of the table is one', DEADLINE, async () => {
  const commands = [...new Set(Object.values(COMMANDS))].map((one) => one.replace(' *', ''))
  const ended = await Promise.all(
    ['jobs', 'endpoints', 'schedules', 'keys'].map((name) => shell.run([name, '--help'])),
  )
  const help = ended.map(({ stdout }) => stdout).join('\n')
  for (const command of commands) {
    const [name = '', verb] = command.split(' ')
    if (verb !== undefined) expect(help).toMatch(new RegExp(`^ {2}${verb} `, 'm'))
    expect((await shell.call([name, '--help'])).code).toBe(0)
  }
})

describe('a number beyond 2⁵³', () => {
  it('is printed as it came, of results, payloads and schedules', DEADLINE, async () => {
    const request = (path: string, body?: string) => posthorn.request('POST', path, body)
    await posthorn.request('PUT', '/endpoints/exact', { url: null })
    const { body } = await request('/jobs', `{"endpoint":"exact","payload":{"n":${BIG}}}`)
    const claimed = (await request('/endpoints/exact/claim', '{"limit":1}')).body.jobs[0]
    await request(
      `/jobs/${body.id}/complete?token=${claimed.token}`,
      `{"result":{"n":${BIG},"x":1.50}}`,
    )
    const got = (await shell.call(['get', body.id])).stdout
    expect(got).toMatch(new RegExp(`^payload +\\{"n":${BIG}\\}$`, 'm'))
    expect(got).toMatch(new RegExp(`^result +\\{"n":${BIG},"x":1\\.50\\}$`, 'm'))
    await posthorn.request(
      'PUT',
      '/schedules/exact',
      `{"every":"1h","endpoint":"exact","payload":${BIG}}`,
    )
    for (const words of [
      ['schedules', 'get', 'exact'],
      ['schedules', 'get', 'exact', '--json'],
      ['schedules', 'pause', 'exact', '--json'],
      ['schedules', 'run', 'exact', '--json'],
    ]) {
      const { stdout } = await shell.call(words)
      expect([words, stdout]).toEqual([words, expect.stringContaining(BIG)])
    }
    const other = (await request('/jobs', `{"endpoint":"exact","payload":${BIG}}`)).body.id
    for (const verb of ['cancel', 'retry']) {
      expect((await shell.call([verb, other, '--json'])).stdout).toContain(BIG)
    }
  })
})
