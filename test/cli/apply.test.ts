// posthorn apply creates what a file contains, and shows the difference first. A second run changes
// nothing.
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { readItems } from '../../cli/apply/plan.ts'
import { readDocument } from '../../cli/document.ts'
import { UsageError } from '../../cli/exit.ts'
import { Posthorn } from '../../src/client/client.ts'
import { type Deployment, deploy } from '../support/deployment.ts'
import { openShell, type Shell } from './command-line.ts'
import { startInterceptingProxy } from './intercepting-proxy.ts'

const DEADLINE = { timeout: 60_000 }

/** Every field, each in another spelling than the API returns. */
const FILE = `
limits:
  renderers: {concurrency: 8, rateLimit: {count: 100, per: 60s}}
endpoints:
  invoice-pdf:
    url: http://127.0.0.1:3999/
    description: makes PDFs
    timeout: 90s
    headers: {X-Api-Key: a-long-secret-1234}
    retry: {maxAttempts: 3, backoff: {type: fixed, delay: 60s}}
    rateLimit: {count: 100, per: 60s}
    circuitBreaker: {failures: 5}
    secret: whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=
    onFinish: notified
    limits: [renderers]
  notified:
    url: null
schedules:
  nightly:
    cron: 0 2 * * *
    timezone: Europe/Berlin
    endpoint: invoice-pdf
    payload: {report: nightly, sum: 1.5, rows: [1, null, "x"]}
    startAt: 2030-01-01T01:00:00+01:00
    timeout: 60s
    retry: {maxAttempts: 2}
    fairnessKey: reports
    cost: 10
    tags: [report]
    headers: {x-short: abc}
`

let posthorn: Deployment
let shell: Shell
beforeAll(async () => {
  posthorn = deploy('sqlite')
  await posthorn.startApi()
  shell = openShell({ POSTHORN_URL: posthorn.url() })
})
afterAll(async () => {
  await shell.close()
  await posthorn.close()
})

const read = async (path: string) => (await posthorn.request('GET', path)).body
const apply = (text: string, ...words: string[]) =>
  shell.call(['apply', shell.write('posthorn.yaml', text), ...words])

/** Returns what the command prints about an invalid file. One test checks the exit code 2. */
async function faultsOf(text: string): Promise<string> {
  const client = new Posthorn({ url: posthorn.url() })
  const error = await readItems(shell.write('posthorn.yaml', text), client).catch(
    (reason) => reason,
  )
  expect(error).toBeInstanceOf(UsageError)
  return error.message
}

/** Expects exactly these lines, in any order. */
async function expectFaults(text: string, line: number, of: string, says: string[]): Promise<void> {
  await posthorn.request('PUT', '/endpoints/notified', { url: null })
  const [, ...lines] = (await faultsOf(text)).split('\n')
  const found = lines.map((one) => one.replace(`  line ${line}: ${of}`, '').replace(/^[.:]/, ''))
  expect(found.toSorted()).toEqual(says.toSorted().map((one) => expect.stringMatching(`^${one}`)))
}

describe('apply', () => {
  it('refuses a file that is not UTF-8, instead of other characters', async () => {
    const path = shell.write(
      'latin1.yaml',
      Buffer.from('endpoints: {a: {description: "\xe9"}}', 'latin1'),
    )
    const { code, stderr } = await shell.call(['apply', path])
    expect([code, stderr]).toEqual([2, expect.stringContaining('latin1.yaml is not UTF-8.')])
  })

  it('first only shows, then makes, then finds nothing to change', DEADLINE, async () => {
    const lines = [
      '+ limit renderers',
      '+ endpoint invoice-pdf',
      '+ endpoint notified',
      '+ schedule nightly',
    ]
    const dry = await apply(FILE, '--dry-run')
    expect(dry.code).toBe(0)
    expect(dry.stdout.split('\n').slice(0, 4)).toEqual(lines)
    expect((await read('/endpoints')).items).toEqual([])

    const first = await apply(FILE)
    expect(first).toMatchObject({ code: 0, stderr: '' })
    expect(first.stdout).toBe(`${lines.join('\n')}\n4 new, 0 changed, 0 unchanged\n`)
    expect(await read('/endpoints/invoice-pdf')).toMatchObject({ timeout: '1m30s', version: 1 })
    expect(await read('/limits/renderers')).toMatchObject({
      ...{ concurrency: 8, rateLimit: { count: 100, per: '1m' }, endpoints: ['invoice-pdf'] },
    })
    expect(await read('/schedules/nightly')).toMatchObject({
      timezone: 'Europe/Berlin',
      payload: { report: 'nightly', sum: 1.5, rows: [1, null, 'x'] },
    })

    const again = await apply(FILE)
    const unchanged = `${lines.join('\n').replaceAll('+', '=')}\nno change\n`
    expect(again.stdout).toBe(unchanged)
    expect((await apply(FILE.replace('X-Api-Key', 'x-api-key'))).stdout).toBe(unchanged)
    expect(await read('/endpoints/invoice-pdf')).toMatchObject({ version: 1 })
    expect(await read('/schedules/nightly')).toMatchObject({ version: 1 })
  })

  it('shows what changes, from what to what, and changes only that', DEADLINE, async () => {
    await apply(FILE)
    await posthorn.request('POST', '/schedules/nightly/pause')
    const changed = FILE.replace('timeout: 90s', 'timeout: 2m')
      .replace('a-long-secret-1234', 'a-long-secret-5678')
      .replace('rows: [1, null, "x"]', 'rows: []')
      .replace('fairnessKey: reports', 'fairnessKey: null')
      .replace('cost: 10', 'cost: 11')
    const { stdout } = await apply(changed)
    expect(stdout).toContain('~ endpoint invoice-pdf\n')
    expect(stdout).toContain('    timeout: "1m30s" → "2m"\n')
    expect(stdout).toContain('headers: {"X-Api-Key":"***1234"} → {"X-Api-Key":"***5678"}')
    expect(stdout).toContain('= endpoint notified\n~ schedule nightly\n    payload: ')
    expect(stdout).toContain('    fairnessKey: "reports" → null\n    cost: 10 → 11\n')
    expect(stdout).toContain('0 new, 2 changed, 2 unchanged')
    expect(stdout).not.toContain('a-long-secret')
    expect(await read('/endpoints/invoice-pdf')).toMatchObject({ timeout: '2m' })
    // The file does not contain `paused`, so the schedule stays paused.
    expect(await read('/schedules/nightly')).toMatchObject({ paused: true, payload: { rows: [] } })
    expect((await apply(changed)).stdout).toContain('no change')
    await apply(FILE)
  })

  it('never writes over what was changed since it was read', DEADLINE, async () => {
    await apply(FILE)
    // Another client pauses the endpoint after the command has read it and before the command
    // writes it.
    const proxy = await startInterceptingProxy(posthorn.url, async (method) => {
      if (method === 'PUT') await posthorn.request('POST', '/endpoints/notified/pause')
      return undefined
    })
    const file = shell.write('raced.yaml', 'endpoints: {notified: {url: null, description: new}}')
    const env = { POSTHORN_URL: proxy.url }
    const { code, stderr } = await shell.call(['apply', file], { env })
    proxy.close()
    expect(code).toBe(1)
    expect(stderr).toContain('endpoint notified was changed by another client meanwhile')
    expect(await read('/endpoints/notified')).toMatchObject({ description: '', state: 'paused' })
  })

  it(
    'of two runs at once that create the same names one says so, and writes over nothing',
    DEADLINE,
    async () => {
      // The other run creates the endpoint and the schedule that this run has found missing.
      let isCreated = false
      const proxy = await startInterceptingProxy(posthorn.url, async (method) => {
        if (method === 'PUT' && !isCreated) {
          isCreated = true
          const settings = { url: null, description: 'of the other run' }
          await posthorn.request('PUT', '/endpoints/twice', settings)
          const schedule = { every: '2h', endpoint: 'twice', payload: 1 }
          await posthorn.request('PUT', '/schedules/twice', schedule)
        }
        return undefined
      })
      const env = { POSTHORN_URL: proxy.url }
      const file = shell.write(
        'twice.yaml',
        'endpoints: {twice: {url: null}}\nschedules: {twice: {every: 1h, endpoint: twice, payload: 1}}',
      )
      const first = await shell.call(['apply', file], { env })
      expect([first.code, first.stderr]).toEqual([
        1,
        expect.stringContaining('endpoint twice was created by another client meanwhile'),
      ])
      expect(await read('/endpoints/twice')).toMatchObject({ description: 'of the other run' })
      await posthorn.request('DELETE', '/schedules/twice')
      // This time the endpoint is as in the file, so the schedule shows the conflict.
      await posthorn.request('PUT', '/endpoints/twice', { url: null })
      isCreated = false
      const second = await shell.call(['apply', file], { env })
      proxy.close()
      expect([second.code, second.stderr]).toEqual([
        1,
        expect.stringContaining('schedule twice was created by another client meanwhile'),
      ])
      expect(await read('/schedules/twice')).toMatchObject({ every: '2h' })
    },
  )

  it('refuses before anything is done what the API would refuse half-way', async () => {
    const deep = `${'['.repeat(70)}${']'.repeat(70)}`
    const wrong: [string, RegExp][] = [
      [
        '{endpoint: nowhere, every: 1h, payload: 1}',
        /line 3: schedules\.late\.endpoint: there is no endpoint "nowhere"/,
      ],
      [
        '{endpoint: early, every: 1h, payload: 1, onFinish: {endpoint: nowhere}}',
        /line 3: schedules\.late\.onFinish: there is no endpoint "nowhere"/,
      ],
      [`{endpoint: early, every: 1h, payload: ${deep}}`, /late.*: .*64/],
      ['{endpoint: early, every: 1h}', /late\.payload: /],
      ['', /late: /],
    ]
    for (const [schedule, says] of wrong) {
      const text = `endpoints: {early: {url: null}}\nschedules:\n  late: ${schedule}\n`
      expect(await faultsOf(text)).toMatch(says)
    }
    expect((await posthorn.request('GET', '/endpoints/early')).status).toBe(404)
    // A schedule may use an endpoint that is on the server, but not in the file.
    const { code, stderr } = await apply(
      'schedules: {late: {endpoint: notified, every: 1h, payload: 1}}',
    )
    expect([code, stderr]).toEqual([0, ''])
  })

  it.each([[], ['--dry-run']])(
    'does nothing where the server refuses a part of it %j',
    async (...words) => {
      const big = 'x'.repeat(1_100_000)
      const text = `
endpoints:
  allowed: {url: null}
  blocked: {url: "http://10.0.0.1/"}
  metadata: {url: "http://169.254.169.254/"}
  notified: {url: null, description: changed}
schedules:
  big: {every: 1h, endpoint: allowed, payload: ${big}}
`
      const before = await read('/endpoints/notified')
      const { code, stdout, stderr } = await apply(text, ...words)
      expect(code).toBe(1)
      expect(stdout).toContain('+ endpoint allowed\n')
      const lines = stderr.trimEnd().split('\n')
      expect(lines).toEqual([
        'Nothing was done; the server refuses:',
        expect.stringMatching(/^ {2}endpoint blocked: .*10\.0\.0\.1/),
        expect.stringMatching(/^ {2}endpoint metadata: .*169\.254\.169\.254/),
        expect.stringMatching(/^ {2}schedule big: .*1048576/),
      ])
      expect(await read('/endpoints/notified')).toEqual(before)
      expect((await posthorn.request('GET', '/endpoints/allowed')).status).toBe(404)
    },
  )

  const WRONG = `
endpoint: {}
queues: {}
endpoints:
  Upper: {url: null}
  007: {url: null}
  yes: {url: null}
  slow:
    url: null
    limits: [renderers, nothing]
    timeout: 1d
    colour: red
    size: 1
    statuses: {12345678901234567890: final, 404: later}
  tagged: {url: null, description: !job x}
schedules:
  never: {cron: "61 * * * *", endpoint: slow, payload: 1}
  empty:
    cron: "0 * * * *"
    endpoint: nowhere
  exact: {every: 1h, endpoint: gone, payload: [1,
    9007199254740993]}
`

  it('says all that is wrong with a file at once, with the line, and does nothing', async () => {
    const { code, stdout, stderr } = await apply(WRONG)
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' })
    const [head, ...lines] = stderr.trimEnd().split('\n')
    expect(head).toMatch(/^\S*posthorn\.yaml is wrong:$/)
    const expected: [number, string][] = [
      [2, 'endpoint: expected limits, endpoints and schedules only'],
      [3, 'queues: expected limits, endpoints and schedules only'],
      [5, 'endpoints.Upper: expected 1–64'],
      [6, 'YAML does not read the name 007 as text; quote it'],
      [7, 'YAML does not read the name yes as text; quote it'],
      [10, 'endpoints.slow.limits.1: there is no limit "nothing"'],
      [11, 'endpoints.slow.timeout: expected a duration'],
      [12, 'endpoints.slow.colour: is unknown'],
      [13, 'endpoints.slow.size: is unknown'],
      [14, 'YAML does not read the name 12345678901234567890 as text'],
      [14, 'endpoints.slow.statuses.404: expected'],
      [15, 'the tag !job cannot be expressed in JSON'],
      [17, 'schedules.never.cron: '],
      [18, 'schedules.empty.payload: a payload is needed'],
      [20, 'schedules.empty.endpoint: there is no endpoint "nowhere"'],
      [21, 'schedules.exact.endpoint: there is no endpoint "gone"'],
      [22, '9007199254740993 cannot be represented exactly; quote it'],
    ]
    for (const [line, text] of expected) {
      expect(lines.filter((one) => one.startsWith(`  line ${line}: ${text}`))).toHaveLength(1)
    }
    expect((await posthorn.request('GET', '/endpoints/slow')).status).toBe(404)
  })

  it.each([
    [
      'a wrong URL beside a wrong field',
      '{url: ftp://localhost/, timeout: 99h}',
      ['url: the scheme "ftp" is neither', 'timeout: expected'],
    ],
    ['a text that is no URL', '{url: nourl}', ['url: it is not an absolute URL']],
    [
      'a URL with a password',
      '{url: "http://a:b@localhost/"}',
      ['url: a URL must not contain a user'],
    ],
    ['one fault of an empty URL', '{url: ""}', ['url: expected at least 1 character']],
  ])('names in its line %s', DEADLINE, async (_, endpoint, says) => {
    await expectFaults(`endpoints:\n  a: {url: null}\n  b: ${endpoint}\n`, 3, 'endpoints.b', says)
  })

  it.each([
    [
      'cron and every, and no payload',
      '{cron: 0 2 * * *, every: 1h, endpoint: notified}',
      ['payload: a payload', 'every: expected one of cron and every; found both'],
    ],
    [
      'neither, and an unknown field',
      '{endpoint: notified, payload: 1, colour: red}',
      ['colour: is unknown', 'cron: expected one of cron and every; found none'],
    ],
    [
      'no payload, and an interval in a time zone',
      '{every: 1h, timezone: UTC, endpoint: notified}',
      ['payload: a payload', 'timezone: expected with cron only'],
    ],
    [
      'an interval that is no duration, and a cron line',
      '{every: soon, cron: 0 2 * * *, endpoint: notified, payload: 1}',
      ['every: expected a duration', 'every: expected one of cron and every; found both'],
    ],
  ])('names in its line %s', DEADLINE, async (_, schedule, says) => {
    await expectFaults(`schedules:\n  s: ${schedule}\n`, 2, 'schedules.s', says)
  })

  it('checks what stands under a wrong name too', DEADLINE, async () => {
    const text = 'endpoints:\n  Bad Name: {url: ftp://x}\n'
    await expectFaults(text, 2, 'endpoints.Bad Name', [' expected 1–64', 'url: the scheme "ftp"'])
    const late =
      '{every: 1h, endpoint: notified, payload: 1, startAt: "2030-01-02T00:00:00Z", endAt: "2030-01-01T00:00:00Z"}'
    const schedules = `schedules:\n  Bad Name: ${late}\n`
    await expectFaults(schedules, 2, 'schedules.Bad Name', [
      ' expected 1–64',
      'endAt: expected an instant after',
    ])
  })

  it('says what is wrong with a file also where no server responds, and what it could not check', async () => {
    const env = { POSTHORN_URL: 'http://127.0.0.1:1' }
    const { code, stderr } = await shell.call(['apply', shell.write('wrong.yaml', WRONG)], { env })
    expect(code).toBe(2)
    expect(stderr).toMatch(/^\S*wrong\.yaml is wrong:\n {2}line 2: endpoint: /)
    expect(stderr).toMatch(
      /\n {2}limits and endpoints that are not in this file were not checked: .+\n$/,
    )
    expect(stderr).not.toContain('there is no endpoint')
  })

  it.each([
    ['007', '7'],
    ['1e3', '1000'],
    ['1.0', '1'],
    ['yes', 'yes'],
    ['Off', 'Off'],
    ['true', 'true'],
    ['null', ''],
    ['~', ''],
    ['0x1f', '31'],
    ['1_000', '1_000'],
    ['12:30', '12:30'],
    ['2026-01-31', '2026-01-31'],
    ['.inf', 'Infinity'],
  ])('refuses the name %s, which YAML can read otherwise, and asks for quotes', async (name) => {
    for (const text of [
      `endpoints:\n  ${name}: {url: null}\n`,
      `schedules: {a: {every: 1h, endpoint: notified, payload: {\n  ${name}: 1}}}`,
    ]) {
      const file = shell.write('names.yaml', text)
      await expect(readDocument(file)).rejects.toThrow(
        `names.yaml is wrong:\n  line 2: YAML does not read the name ${name} as text; quote it`,
      )
    }
    const quoted = shell.write('names.yaml', `endpoints: {"${name}": {url: null}}`)
    expect(await readDocument(quoted)).toEqual({ endpoints: { [name]: { url: null } } })
  })

  it('takes names that are texts or the same as numbers, and what is written once for twice', async () => {
    const text = `
endpoints:
  one: &one {url: null, statuses: {404: final, "503": retry}, timeout: 5s}
  "2": *one
  z.1: *one
  !!str 3: {url: null, description: !!str 5}
schedules:
  y: {every: 1h, endpoint: one, payload: {y: [yes, 12:30, 2026-01-31, 0x1f, "<<"]}}
`
    const { endpoints, schedules } = (await readDocument(shell.write('names.yaml', text))) as {
      // biome-ignore lint/suspicious/noExplicitAny: a test reads any field
      [section: string]: any
    }
    const one = { url: null, statuses: { 404: 'final', 503: 'retry' }, timeout: '5s' }
    const three = { url: null, description: '5' }
    expect(endpoints).toEqual({ one, 2: one, 'z.1': one, 3: three })
    expect(schedules.y.payload).toEqual({ y: ['yes', '12:30', '2026-01-31', 31, '<<'] })
  })

  it.each([
    ['!!set', 'a: !!set {x, y}', /line 1: the tag tag:yaml.org,2002:set cannot be expressed/],
    ['!!omap', 'a: !!omap [x: 1]', /2002:omap/],
    ['!!pairs', 'a: !!pairs [x: 1]', /2002:pairs/],
    ['!!binary', 'a: !!binary aGVsbG8=', /2002:binary/],
    ['!!timestamp', 'a: !!timestamp 2026-01-31', /2002:timestamp/],
    ['!!float', 'a: !!float 1', /[Tt]ag.*2002:float/],
    ['a tag of its own', 'a: !job {x: 1}', /line 1: the tag !job cannot/],
    ['a merge key', 'a: &a {x: 1}\nb: {<<: *a}', /line 2: merge keys \(<<\) are not supported/],
    ['an alias of itself', 'a: &a [*a]', /line 1: \*a contains itself/],
    ['aliases without end', bomb(), /[Ee]xcessive alias/],
    ['a name that is a list', '? [a]\n: 1', /line 1: a name is not text/],
    ['an empty name', 'a: {: 1}', /line 1: YAML does not read an empty name/],
    ['YAML 1.1', '%YAML 1.1\n---\na: yes', /line 1: it is not YAML 1.2/],
    ['a number with a leading zero', 'a: 0123', /line 1: 0123 begins with a zero; quote it/],
    ['no number', 'a: .nan', /line 1: .nan cannot be represented exactly/],
  ])('refuses %s', async (_, text, says) => {
    await expect(readDocument(shell.write('wrong.yaml', text))).rejects.toThrow(says)
    await expect(readDocument(shell.write('wrong.yaml', text))).rejects.toThrow(UsageError)
  })

  it.each([
    [
      'two documents',
      'wrong.yaml',
      'endpoints: {a: {url: null}}\n---\nendpoints: {b: {url: null}}\n',
    ],
    ['an empty second one', 'wrong.yaml', 'endpoints: {a: {url: null}}\n---\n'],
    ['a second one after an end mark', 'wrong.yaml', 'a: 1\n...\n---\nb: 1\n'],
    ['two documents of JSON', 'wrong.json', '{"a": 1}\n---\n{"b": 1}\n'],
  ])('refuses %s in a file, instead of dropping all but the first', async (_, name, text) => {
    const path = shell.write(name, text)
    await expect(readDocument(path)).rejects.toThrow(
      /^\S+ is wrong:\n {2}line \d: it has more than one document; use one file for each$/,
    )
    await expect(readDocument(path)).rejects.toThrow(UsageError)
    expect(await readDocument(shell.write('one.yaml', '---\na: 1\n...\n'))).toEqual({ a: 1 })
  })

  it.each([
    ['no YAML', 'endpoints: [', /line 1: /],
    ['a name twice', 'endpoints: {a: {url: null}, a: {url: null}}', /unique/],
    ['a list', '[1]', /not a mapping/],
    ['two documents', 'endpoints: {a: {url: null}}\n---\nendpoints: {}', /more than one document/],
    [
      'a number that JSON would change',
      'schedules: {a: {payload: 12345678901234567890}}',
      /quote it/,
    ],
  ])('refuses %s', async (_, text, says) => {
    const message = await faultsOf(text)
    expect(message).toMatch(says)
    expect(message).not.toMatch(/\n\s+at /)
  })
})

/** Nine lines that expand to ten to the ninth values. */
function bomb(): string {
  const lines = ['a: &a [1,1,1,1,1,1,1,1,1,1]']
  for (const [before, name] of ['ab', 'bc', 'cd', 'de', 'ef', 'fg', 'gh', 'hi']) {
    lines.push(`${name}: &${name} [${Array(10).fill(`*${before}`).join(',')}]`)
  }
  return lines.join('\n')
}
