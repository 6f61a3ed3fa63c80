// Every failure prints one sentence and has an exit code; it never prints a stack.
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type Deployment, deploy } from '../support/deployment.ts'
import { openShell, type Shell } from './command-line.ts'

const ADMIN_KEY = 'a-key-of-the-failures-tests-of-posthorn'
const DEADLINE = { timeout: 60_000 }

let posthorn: Deployment
let shell: Shell
beforeAll(async () => {
  posthorn = deploy('sqlite', { API_KEYS: ADMIN_KEY })
  await posthorn.startApi()
  shell = openShell({ POSTHORN_URL: posthorn.url(), POSTHORN_KEY: ADMIN_KEY })
  const key = { authorization: `Bearer ${ADMIN_KEY}` }
  await posthorn.request('PUT', '/endpoints/there', { url: null }, key)
})
afterAll(async () => {
  await shell.close()
  await posthorn.close()
})

async function fails(
  words: string[],
  exitCode: number,
  says: RegExp,
  env: Record<string, string> = {},
) {
  // This one listens for signals.
  const isOwnProcess = words[0] === 'listen'
  const ended = isOwnProcess ? shell.run(words, { env }) : shell.call(words, { env })
  const { code, stdout, stderr } = await ended
  expect(stderr).toMatch(says)
  expect(stderr).not.toMatch(/\n\s+at /)
  expect({ code, stdout }).toEqual({ code: exitCode, stdout: '' })
}

it.each([
  { words: ['fly'], env: {} },
  { words: ['get', 'job_x'], env: {} },
  { words: ['jobs', '--state', 'gone'], env: {} },
  { words: ['jobs'], env: { POSTHORN_URL: 'http://127.0.0.1:1' } },
])('a process ends like a call within this one: $words $env', DEADLINE, async ({ words, env }) => {
  const ended = await shell.run(words, { env })
  expect(ended.code).toBeGreaterThan(0)
  expect(await shell.call(words, { env })).toEqual(ended)
})

describe('wrong usage is 2', () => {
  it.each<[string[], RegExp]>([
    [['fly'], /has no command "fly"/],
    [['get'], /needs ID/],
    [['get', 'a', 'b'], /"b"/],
    [['get', '..'], /"\.\."/],
    [['endpoints'], /needs a verb/],
    [['endpoints', 'fly'], /has no verb "fly"; expected list/],
    [['jobs', '--no-such-option'], /--no-such-option/],
    [['jobs', '--state', 'gone'], /--state is "gone"; expected one of queued/],
    [['jobs', '--endpoint', 'a', '--endpoint', 'b'], /--endpoint can be given only once/],
    [
      ['enqueue', 'a', '1', '--delay', '-5s'],
      /--delay has no value; one that begins with a dash is written --delay=VALUE\./,
    ],
    [['help', 'fly'], /has no command "fly --help"/],
    [
      ['endpoints', 'set', 'there', '--concurrency=-1'],
      /--concurrency is "-1"; expected a whole number from 1 to 10000\./,
    ],
    [
      ['endpoints', 'set', 'there', '--max-attempts', '101'],
      /--max-attempts is "101"; expected a whole number from 1 to 100\./,
    ],
    [['jobs', '--limit', 'all'], /--limit is "all"; expected a whole number/],
    [['wait', 'job_x', '--timeout', 'soon'], /--timeout is "soon"; expected a duration/],
    [['enqueue', 'a'], /needs one payload/],
    [['enqueue', 'a', 'hello'], /not JSON/],
    [['enqueue', 'a', '1', '--idempotency-key', 'Zoë'], /--idempotency-key is "Zoë"/],
    [['retry', '--failure-reason', 'bogus'], /--failure-reason is "bogus"; expected one of /],
    [
      ['cancel', '--state', 'succeeded'],
      /--state is "succeeded"; posthorn cancel changes only queued and running jobs/,
    ],
    [['cancel', '--state', 'queued', '--state', 'dead', '--dry-run'], /--state is "dead"/],
    [['cancel', '--failure-reason', 'rejected'], /--failure-reason/],
    [
      ['retry', '--state', 'running', '--endpoint', 'there'],
      /--state is "running"; posthorn retry changes only dead and cancelled jobs/,
    ],
    [['cancel'], /needs ids or a filter/],
    [['cancel', 'job_x', '--tag', 'a'], /and not both/],
    [['cancel', 'job_x', '--dry-run'], /--dry-run/],
    [['endpoints', 'put', 'a'], /needs --url/],
    [['endpoints', 'put', 'a', '--pull', '--rate-limit', '5'], /--rate-limit is "5"/],
    [['keys', 'create', 'a', '--scope', 'all'], /--scope is "all"; expected one of enqueue/],
    [['listen', 'a', 'localhost:3000'], /not the URL of a handler/],
    [['listen', 'a', 'http://localhost:3000/', '--secret', 'x'], /whsec_/],
  ])('%j', DEADLINE, (words, says) => fails(words, 2, says))

  it.each<[what: string, words: string[]]>([
    ['a payload', ['enqueue', 'a', '--file']],
    ['a file of apply', ['apply']],
    ['settings to put', ['endpoints', 'put', 'a', '--file']],
    ['settings to change', ['endpoints', 'set', 'a', '--file']],
  ])('also of %s in a file that cannot be read', DEADLINE, async (_, words) => {
    const long = shell.write('long.json', JSON.stringify('a'.repeat(8 * 1_048_576)))
    await fails([...words, 'no-such-file'], 2, /^no-such-file cannot be read: ENOENT/)
    await fails([...words, '/tmp'], 2, /^\/tmp cannot be read: EISDIR/)
    await fails([...words, long], 2, /is longer than 8 MiB/)
  })

  it.each<[string[], RegExp]>([
    [
      ['endpoints', 'put', 'a', '--url', 'https://example.com', '--timeout', '1d'],
      /--timeout: expected a duration.* from 100ms to 15m/s,
    ],
    [['endpoints', 'put', 'a', '--pull', '--timeout', '20x'], /timeout/],
    [['endpoints', 'put', 'A', '--pull'], /expected 1–64/],
    [['endpoints', 'set', 'there', '--rate-limit', '1/20x'], /--rate-limit: expected a duration/],
    [['endpoints', 'rotate', 'there', '--overlap', 'soon'], /overlap/],
    [['enqueue', 'there', '1', '--delay', '20x'], /delay/],
    [['enqueue', 'there', '1', '--run-at', 'tomorrow'], /--run-at: expected/],
    [['jobs', '--created-before', 'yesterday'], /--created-before: expected an RFC 3339 instant/],
    [['retry', '--created-after', 'yesterday'], /--created-after: expected an RFC 3339 instant/],
    [['stats', '--window', 'soon'], /window/],
  ])('also where the server finds it: %j', DEADLINE, (words, says) => fails(words, 2, says))

  it('also of fields in a file that no endpoint has', DEADLINE, async () => {
    const file = shell.write('colour.yaml', 'url: null\ncolour: red\n')
    for (const verb of ['put', 'set']) {
      await fails(['endpoints', verb, 'there', '--file', file], 2, /colour/)
    }
  })

  it('also of the environment', async () => {
    await fails(['jobs'], 2, /POSTHORN_URL is "nowhere"/, { POSTHORN_URL: 'nowhere' })
    await fails(['jobs'], 2, /POSTHORN_KEY cannot be used/, { POSTHORN_KEY: 'with a space' })
    await fails(['jobs'], 2, /POSTHORN_URL is/, { POSTHORN_URL: `${posthorn.url()}/\u200b` })
    // A line end after a value does not belong to the value.
    const env = { POSTHORN_URL: `${posthorn.url()}\r\n`, POSTHORN_KEY: `${ADMIN_KEY}\n` }
    expect((await shell.call(['jobs'], { env })).code).toBe(0)
  })
})

describe('what the server refuses is 1', () => {
  it('with its sentence', async () => {
    await fails(['get', 'job_x'], 1, /job_x/)
    const missing =
      /^there is no endpoint "nowhere"; register it with posthorn endpoints put nowhere --url URL\n$/
    await fails(['enqueue', 'nowhere', '1'], 1, missing)
    await fails(['endpoints', 'get', 'nowhere'], 1, /there is no endpoint "nowhere"/)
  })

  it('as a wrong key is, or none', async () => {
    await fails(['jobs'], 1, /POSTHORN_KEY/, { POSTHORN_KEY: 'no-key-of-this-server' })
    await fails(['jobs'], 1, /POSTHORN_KEY/, { POSTHORN_KEY: '' })
  })
})

describe('a server that cannot be reached is 3', () => {
  it.each([
    { words: ['jobs'] },
    { words: ['endpoints', 'get', 'there'] },
    { words: ['cancel', 'job_x', 'job_y'] },
    { words: ['keys', 'delete', 'key_x', '--yes'] },
    { words: ['listen', 'there', 'http://localhost:3000/'] },
  ])('also under a path of its URL: $words', DEADLINE, async ({ words }) => {
    const env = { POSTHORN_URL: `${posthorn.url()}/pre` }
    await fails(
      words,
      3,
      /^[^\n]*no Posthorn API under this path\nPOSTHORN_URL sets [^\n]+\n$/,
      env,
    )
  })

  it('because it is gone, at whatever moment', DEADLINE, async () => {
    const other = deploy('sqlite')
    const api = await other.startApi()
    const env = { POSTHORN_URL: other.url() }
    await other.request('PUT', '/endpoints/a', { url: null })
    const job = await other.request('POST', '/jobs', { endpoint: 'a', payload: 1 })
    const typed = shell.start(['wait', job.body.id, '--timeout', '2s'], { env })
    await api.stop('SIGKILL')
    await fails(['jobs'], 3, /could not be sent.*POSTHORN_URL/s, env)
    expect(await typed.ended()).toBe(3)
    await other.close()
  })
})
