// posthorn endpoints put, set and delete: their changes, their output, and the confirmations that
// they ask for.
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { type Deployment, deploy } from '../support/deployment.ts'
import { restKey } from '../support/key-rest.ts'
import { openShell, type Shell } from './command-line.ts'

const DEADLINE = { timeout: 60_000 }
const SETTINGS = {
  url: 'http://127.0.0.1:3999/',
  description: 'makes PDFs',
  timeout: '1m30s',
  retry: { maxAttempts: 3, backoff: { type: 'fixed', delay: '1m', maxDelay: '1h' } },
  concurrency: 4,
  rateLimit: { count: 100, per: '1m' },
  circuitBreaker: { failures: 5, cooldown: '10s' },
  statuses: { 404: 'final' },
}

let posthorn: Deployment
let shell: Shell
beforeAll(async () => {
  posthorn = deploy('sqlite', { PUBLIC_URL: 'http://127.0.0.1:3998' })
  await posthorn.startApi()
  shell = openShell({ POSTHORN_URL: posthorn.url() })
})
afterAll(async () => {
  await shell.close()
  await posthorn.close()
})
beforeEach(async () => {
  await posthorn.request('PUT', '/endpoints/pdf', SETTINGS)
})

const read = async (path = '/endpoints/pdf') => (await posthorn.request('GET', path)).body
const endpoints = (...words: string[]) => shell.call(['endpoints', ...words])

/** The fields of an endpoint that a user chooses. */
function settingsOf(endpoint: Record<string, unknown>) {
  return Object.fromEntries(Object.keys(SETTINGS).map((field) => [field, endpoint[field]]))
}

describe('set', () => {
  it('changes what is given, keeps all else, and shows the difference', DEADLINE, async () => {
    const before = settingsOf(await read())
    const pulled = await endpoints('set', 'pdf', '--pull')
    expect(pulled).toMatchObject({ code: 0, stderr: '' })
    expect(pulled.stdout.split('\n').slice(0, 3)).toEqual([
      '~ endpoint pdf',
      '    url: "http://127.0.0.1:3999/" → null',
      'endpoint     pdf',
    ])
    expect(settingsOf(await read())).toEqual({ ...before, url: null })
    await endpoints('set', 'pdf', '--max-attempts', '9', '--concurrency', 'none')
    const changed = settingsOf(await read())
    expect(changed).toMatchObject({ url: null, concurrency: null, rateLimit: before.rateLimit })
    expect(changed.retry).toMatchObject({ ...(before.retry as object), maxAttempts: 9 })
    const again = await endpoints('set', 'pdf', '--max-attempts', '9')
    expect(again.stdout).toMatch(/^= endpoint pdf\n/)
  })

  it('takes a file, in which null resets a setting', DEADLINE, async () => {
    const file = shell.write('change.yaml', 'timeout: null\ncircuitBreaker: {failures: 7}\n')
    expect((await endpoints('set', 'pdf', '--file', file, '--async')).code).toBe(0)
    const changed = await read()
    expect(changed).toMatchObject({
      timeout: '15s',
      completion: 'async',
      description: 'makes PDFs',
    })
    expect(changed.circuitBreaker).toEqual({ failures: 7, cooldown: '10s' })
    await endpoints('set', 'pdf', '--sync')
    expect(await read()).toMatchObject({ completion: 'sync' })
  })

  it('shows of long values what differs in them', DEADLINE, async () => {
    const long = 'a'.repeat(90)
    const set = async (change: object) => {
      const file = shell.write('long.json', JSON.stringify(change))
      const { stdout } = await endpoints('set', 'pdf', '--file', file)
      return stdout.split('\nendpoint  ')[0]?.split('\n').slice(1)
    }
    await set({ description: `${long}1`, retry: { backoff: { type: 'exponential' } } })
    expect(await set({ description: `${long}2` })).toEqual([
      `    description: …${'a'.repeat(20)}1" → …${'a'.repeat(20)}2"`,
    ])
    expect(await set({ retry: { backoff: { type: 'exponential', jitter: 0.1 } } })).toEqual([
      expect.stringMatching(/^ {4}retry\.backoff\.jitter: .+ → 0\.1$/),
    ])
  })

  it('makes no endpoint, and needs a setting', DEADLINE, async () => {
    const missing = await endpoints('set', 'nowhere', '--pull')
    expect(missing).toMatchObject({ code: 1, stdout: '' })
    expect(missing.stderr).toContain('there is no endpoint "nowhere"')
    const empty = await endpoints('set', 'pdf')
    expect([empty.code, empty.stderr]).toEqual([2, expect.stringContaining('needs a setting')])
    const both = await endpoints('set', 'pdf', '--sync', '--async')
    expect([both.code, both.stderr]).toEqual([2, '--async and --sync cannot both be given.\n'])
  })
})

describe('put', () => {
  it('shows every setting that it resets', DEADLINE, async () => {
    const { stdout } = await endpoints('put', 'pdf', '--pull')
    expect(stdout).toMatch(/^~ endpoint pdf\n {4}url: "http:\/\/127.0.0.1:3999\/" → null\n/)
    for (const line of [
      'description: "makes PDFs" → ""',
      'timeout: "1m30s" → "15s"',
      'concurrency: 4 → null',
      'rateLimit: {"count":100,"per":"1m"} → null',
      'statuses: {"404":"final"} → {}',
    ]) {
      expect(stdout).toContain(`    ${line}\n`)
    }
    expect((await endpoints('put', 'pdf', '--pull')).stdout).toMatch(/^= endpoint pdf\n/)
    expect((await endpoints('put', 'new', '--pull')).stdout).toMatch(/^\+ endpoint new\n/)
  })

  it('prints with --json the endpoint alone', DEADLINE, async () => {
    const { stdout } = await endpoints('put', 'pdf', '--pull', '--json')
    expect(JSON.parse(stdout)).toMatchObject({ name: 'pdf', url: null })
  })
})

describe('delete', () => {
  const schedule = { every: '1h', endpoint: 'pdf', payload: 1 }
  const keep: [what: string, words: string[], path: string][] = [
    ['an endpoint', ['endpoints', 'delete', 'spare'], '/endpoints/spare'],
    ['a schedule', ['schedules', 'delete', 'hourly'], '/schedules/hourly'],
    ['a limit', ['limits', 'delete', 'spare'], '/limits/spare'],
  ]
  beforeEach(async () => {
    await posthorn.request('PUT', '/endpoints/spare', { url: null })
    await posthorn.request('PUT', '/limits/spare', {})
    await posthorn.request('PUT', '/schedules/hourly', schedule)
  })

  it.each(keep)('of %s without a terminal wants --yes', DEADLINE, async (_, words, path) => {
    const { code, stderr } = await shell.run(words)
    expect([code, stderr]).toEqual([2, expect.stringMatching(/^Delete the .+ add --yes\.$/m)])
    expect((await posthorn.request('GET', path)).status).toBe(200)
    expect(await shell.call([...words, '--yes'])).toMatchObject({ code: 0, stderr: '' })
    expect((await posthorn.request('GET', path)).status).toBe(404)
  })

  it('of a key without a terminal wants --yes', DEADLINE, async () => {
    const made = await posthorn.request('POST', '/keys', { name: 'shop', scope: 'enqueue' })
    const refused = await shell.run(['keys', 'delete', made.body.id])
    expect([refused.code, refused.stderr]).toEqual([2, expect.stringContaining('add --yes')])
    expect((await read('/keys')).items).toHaveLength(1)
    expect((await shell.call(['keys', 'delete', made.body.id, '--yes'])).code).toBe(0)
    expect((await read('/keys')).items).toEqual([])
  })

  it.each(keep)(
    'of %s asks on a terminal, and no reply is no',
    DEADLINE,
    async (_, words, path) => {
      // `script` of util-linux gives the command a terminal.
      const typed = (answer: string) =>
        shell.script(`printf '${answer}' | script -qec "posthorn ${words.join(' ')}" /dev/null`)
      for (const answer of ['n\\n', '\\n', '\\004']) {
        const asked = typed(answer)
        expect(await asked.ended()).toBe(1)
        expect(asked.stdout()).toMatch(/Delete the \w+ \w+\? \[y\/N\]/)
        expect(asked.stdout()).toContain('Nothing was deleted.')
        expect((await posthorn.request('GET', path)).status).toBe(200)
      }
      expect(await typed('y\\n').ended()).toBe(0)
      expect((await posthorn.request('GET', path)).status).toBe(404)
    },
  )
})

describe('limits', () => {
  const limits = (...words: string[]) => shell.call(['limits', ...words])

  it('are created, replaced, named, listed and deleted', DEADLINE, async () => {
    expect(await limits('list')).toMatchObject({
      ...{ code: 0, stdout: '' },
      stderr: 'There are no limits yet. Create one: posthorn limits put NAME --concurrency N\n',
    })
    await limits('put', 'renderers', '--concurrency', '8')
    const both = ['--concurrency', '8', '--rate-limit', '100/1m']
    const changed = await limits('put', 'renderers', ...both)
    expect(changed.stdout.split('\n').map((line) => line.trim().split(/ {2,}/))).toEqual([
      ...[
        ['limit', 'renderers'],
        ['concurrency', '8'],
        ['rate limit', '100/1m'],
      ],
      ...[['running', '0'], ['tokens', '100'], ['endpoints', 'none'], ['waiting', 'none'], ['']],
    ])
    const named = await endpoints('set', 'pdf', '--limits', 'renderers')
    expect(named.stdout).toContain('    limits: [] → ["renderers"]\n')
    const unknown = await endpoints('set', 'pdf', '--limits', 'renderers,other')
    expect(unknown).toMatchObject({
      code: 1,
      stderr: expect.stringContaining(
        'there is no limit "other": create it with posthorn limits put other',
      ),
    })
    const read = await limits('get', 'renderers', '--json')
    expect(JSON.parse(read.stdout)).toMatchObject({ endpoints: ['pdf'], concurrency: 8 })
    expect((await limits('list')).stdout).toMatch(/^NAME .*\nrenderers +8 +100\/1m +100 +-\n$/)
    const used = await limits('delete', 'renderers', '--yes')
    expect(used).toMatchObject({ code: 1, stderr: expect.stringContaining('endpoint "pdf"') })
    await endpoints('set', 'pdf', '--limits', 'none')
    expect((await limits('delete', 'renderers', '--yes')).stdout).toBe('renderers is deleted\n')
    await limits('put', 'unlimited', '--concurrency', '3')
    await limits('put', 'unlimited')
    expect(JSON.parse((await limits('get', 'unlimited', '--json')).stdout)).toMatchObject({
      ...{ concurrency: null, rateLimit: null, tokens: null },
    })
  })
})

describe('keys', () => {
  it('lists the fairness keys with the counts of their jobs', DEADLINE, async () => {
    await posthorn.request('PUT', '/endpoints/fair', { url: null })
    expect(await endpoints('keys', 'fair')).toMatchObject({
      ...{ code: 0, stdout: '' },
      stderr: 'No fairness key has queued or running jobs.\n',
    })
    for (const fairnessKey of ['tenant-7', 'tenant-7', 'tenant-12', 'tenant-3']) {
      await posthorn.request('POST', '/jobs', { endpoint: 'fair', payload: 1, fairnessKey })
    }
    const delayed = { endpoint: 'fair', payload: 1, fairnessKey: 'tenant-7', delay: '1h' }
    await posthorn.request('POST', '/jobs', delayed)
    await posthorn.request('POST', '/endpoints/fair/claim', { limit: 1 })
    const listed = await endpoints('keys', 'fair', '--limit', '2')
    expect(listed.stdout.split('\n').map((line) => line.trim().split(/ +/))).toEqual([
      ['KEY', 'QUEUED', 'DUE', 'RUNNING', 'SETTINGS'],
      ['tenant-12', '1', '1', '0', '-'],
      ['tenant-3', '1', '1', '0', '-'],
      [''],
    ])
    expect(listed.stderr).toBe('There may be more than 2; to list more, use --limit.\n')
    const json = JSON.parse((await endpoints('keys', 'fair', '--json')).stdout)
    expect(json.nextCursor).toBeNull()
    expect(json.items[2]).toMatchObject({ key: 'tenant-7', queued: 2, due: 1, running: 1 })
    const byWait = await endpoints('keys', 'fair', '--by-wait', '--json')
    const waiting = JSON.parse(byWait.stdout).items.map(({ key }: { key: string }) => key)
    expect(waiting.sort()).toEqual(['tenant-12', 'tenant-3', 'tenant-7'])
    const unknown = await endpoints('keys', 'unknown')
    expect(unknown.code).not.toBe(0)
    expect(unknown.stderr).toContain('unknown')
  })

  it('reads and changes the settings of one key', DEADLINE, async () => {
    const perKey = { concurrency: 3, rateLimit: { count: 10, per: '1m' } }
    await posthorn.request('PUT', '/endpoints/limited', { url: null, perKey })
    const path = '/endpoints/limited/keys/a%2Fb'
    const key = (...options: string[]) => endpoints('key', 'limited', 'a/b', ...options)
    expect((await key()).stdout).toMatch(/weight +1\nconcurrency +default\nrate limit +default/)
    expect((await key('--weight', '5', '--concurrency', 'none', '--pause')).code).toBe(0)
    expect(await read(path)).toMatchObject({ weight: 5, concurrency: null, paused: true })
    const changed = await key('--rate-limit', '2/1s', '--resume', '--concurrency', 'default')
    expect(changed.stdout).toMatch(
      /weight +5\nconcurrency +default\nrate limit +2 per 1s\npaused +no/,
    )
    await posthorn.request('POST', '/jobs', { endpoint: 'limited', payload: 1, fairnessKey: 'a/b' })
    const listed = await endpoints('keys', 'limited')
    expect(listed.stdout).toContain('weight 5, concurrency 3, 2 per 1s')
    const until = await restKey(posthorn, { endpoint: 'limited', key: 'a/b' })
    expect((await endpoints('keys', 'limited')).stdout).toContain(
      `resting until ${until}, weight 5`,
    )
    expect((await key()).stdout).toContain(`resting until  ${until}`)
    expect((await key('--resume')).stdout).not.toContain('resting')
    expect((await key('--pause', '--resume')).code).toBe(2)
    expect((await key('--reset', '--json')).stdout).toContain('"version": 0')
    expect(await read(path)).toMatchObject({ weight: 1, version: 0 })
    const shown = await endpoints('get', 'limited')
    expect(shown.stdout).toMatch(/concurrency of a key +3\nrate limit of a key +10 per 1m/)
    expect((await endpoints('set', 'limited', '--key-concurrency', 'none')).code).toBe(0)
    expect(await read('/endpoints/limited')).toMatchObject({
      perKey: { concurrency: null, rateLimit: { count: 10 } },
    })
    expect((await endpoints('set', 'limited', '--key-rate-limit', 'none')).code).toBe(0)
    expect((await read('/endpoints/limited')).perKey).toBeNull()
  })
})
