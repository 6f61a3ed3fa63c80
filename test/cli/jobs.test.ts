// The commands about jobs do what they say, and their exit codes show the outcome.
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { type Deployment, deploy } from '../support/deployment.ts'
import { type Receiver, startReceiver } from '../support/receiver.ts'
import { until } from '../support/until.ts'
import { openShell, type Shell } from './command-line.ts'

const DEADLINE = { timeout: 60_000 }

let posthorn: Deployment
let receiver: Receiver
let shell: Shell
let name = ''
let count = 0

beforeAll(async () => {
  receiver = await startReceiver({ body: '{"pages":3}' })
  posthorn = deploy('sqlite')
  await posthorn.startApi()
  await posthorn.startWorker()
  shell = openShell({ POSTHORN_URL: posthorn.url() })
})
afterAll(async () => {
  await shell.close()
  await posthorn.close()
  await receiver.close()
})
beforeEach(async () => {
  receiver.answerWith({ body: '{"pages":3}' })
  name = `invoice-${++count}`
  await posthorn.endpoint(name, receiver.url)
})

const job = async (id: string) => (await posthorn.request('GET', `/jobs/${id}`)).body
const enqueued = async (more: object = {}) =>
  (await posthorn.request('POST', '/jobs', { endpoint: name, payload: 1, ...more })).body.id

/** Enqueues this many jobs with one tag that are not due yet. */
async function enqueueMany(jobCount: number, tag: string): Promise<void> {
  for (let left = jobCount; left > 0; left -= 1_000) {
    const one = { endpoint: name, payload: 1, delay: '1h', tags: [tag] }
    const jobs = Array.from({ length: Math.min(left, 1_000) }, () => one)
    expect((await posthorn.request('POST', '/jobs/batch', { jobs })).status).toBe(200)
  }
}

describe('enqueue', () => {
  const exact = '{"invoice": 12345678901234567890, "sum": 1.0 }'

  it.each(['word', 'input', 'file'])('delivers a payload byte for byte: by %s', async (way) => {
    const file = shell.write('payload.json', exact)
    const words = { word: [exact], input: ['-'], file: ['--file', file] }[way] as string[]
    const { code, stdout } = await shell.run(['enqueue', name, ...words], { input: exact })
    expect(code).toBe(0)
    const read = await shell.run(['get', stdout.trim(), '--payload'])
    expect(read.stdout).toBe(exact)
  })

  it('finds the same job by its idempotency key', async () => {
    const words = ['enqueue', name, '1', '--idempotency-key', 'invoice-42']
    const first = await shell.call(words)
    const again = await shell.call(words)
    expect(again.stdout).toBe(first.stdout)
    expect(again.stderr).toContain('already')
  })

  it('gives the job what its options say', async () => {
    const keys = ['--fairness-key', 'tenant 7', '--cost', '12']
    const words = ['--delay', '1h', '--priority', '9', '--tag', 'a', '--tag', 'b', ...keys]
    const { stdout } = await shell.call(['enqueue', name, '"x"', ...words, '--json'])
    const made = JSON.parse(stdout)
    expect(made).toMatchObject({ priority: 9, tags: ['a', 'b'], payload: 'x', state: 'queued' })
    expect(made).toMatchObject({ fairnessKey: 'tenant 7', cost: 12 })
    expect(Date.parse(made.runAt) - Date.parse(made.createdAt)).toBeGreaterThan(3_500_000)
    const shown = (await shell.call(['get', made.id])).stdout
    expect(shown).toMatch(/^fairness key +tenant 7$/m)
    expect(shown).toMatch(/^cost +12$/m)
    await enqueued({ fairnessKey: 'tenant' })
    const filter = ['--endpoint', name, '--fairness-key', 'tenant 7']
    const listed = await shell.call(['jobs', ...filter, '--json'])
    expect(JSON.parse(listed.stdout).items).toMatchObject([{ id: made.id }])
  })

  it('gives the job the results of others, by --needs', async () => {
    const first = await enqueued({ delay: '1h' })
    const words = ['--needs', `irn=${first}/result/irn`, '--needs', `whole=${first}`]
    const { stdout } = await shell.call(['enqueue', name, '1', ...words])
    const id = stdout.trim()
    const needed = { job: first, ifFailed: 'fail' }
    expect((await job(id)).needs).toEqual({
      irn: { ...needed, pointer: '/irn' },
      whole: { ...needed, pointer: '' },
    })
    const shown = (await shell.call(['get', id])).stdout
    expect(shown).toMatch(`irn from ${first} /irn, whole from ${first}`)
    expect(shown).toMatch(/^due .*: depends on 1 job\)$/m)
    for (const [wrong, says] of [
      [['--needs', 'irn'], 'expected NAME=JOB'],
      [['--needs', `a=${first}`, '--needs', `a=${first}`], 'more than once'],
    ] as const) {
      const { code, stderr } = await shell.call(['enqueue', name, '1', ...wrong])
      expect([code, stderr]).toEqual([2, expect.stringContaining(says)])
    }
    const unknown = await shell.call(['enqueue', name, '1', '--needs', 'A=job_x'])
    expect(unknown).toMatchObject({ code: 2, stderr: expect.stringContaining('needs') })
  })

  it('with --wait exits as the job ends', DEADLINE, async () => {
    const done = await shell.call(['enqueue', name, '1', '--wait'])
    expect(done).toMatchObject({ code: 0, stderr: expect.stringContaining('succeeded') })
    receiver.answerWith(400)
    const dead = await shell.call(['enqueue', name, '1', '--wait'])
    expect(dead).toMatchObject({ code: 1, stderr: expect.stringContaining('dead') })
  })
})

describe('wait', () => {
  it('exits with 4 when the job is not final in time', async () => {
    const id = await enqueued({ delay: '1h' })
    const { code, stderr } = await shell.call(['wait', id, '--timeout', '200ms'])
    expect(code).toBe(4)
    expect(stderr).toContain('still queued')
  })

  it('exits with 5 when it was cancelled', async () => {
    const id = await enqueued({ delay: '1h' })
    const typed = shell.start(['wait', id])
    expect((await shell.call(['cancel', id])).stdout).toContain(`${id} cancelled`)
    expect(await typed.ended()).toBe(5)
  })
})

describe('get, jobs and explain', () => {
  it('show a job, its attempts and its result', async () => {
    const id = await enqueued()
    await posthorn.job(id, 'succeeded')
    const { stdout } = await shell.call(['get', id])
    expect(stdout).toMatch(/state +succeeded/)
    expect(stdout).toMatch(/^attempts +1 of 10$/m)
    expect(stdout).toMatch(/^ATTEMPT +STARTED +TOOK +OUTCOME +MESSAGE$/m)
    expect(stdout).toContain('{"pages":3}')
    expect(stdout).toContain('the endpoint responded with 200')
    const { stdout: json } = await shell.call(['get', id, '--json'])
    expect(JSON.parse(json)).toEqual(await job(id))
  })

  it('say why a job is not running', async () => {
    await posthorn.request('POST', `/endpoints/${name}/pause`)
    const { stdout } = await shell.call(['explain', await enqueued()])
    expect(stdout).toContain('endpoint_paused')
  })

  it('let nothing that others wrote reach the terminal but text', async () => {
    receiver.answerWith({ status: 500, body: 'x' })
    const payload = 'a\u009b31m\u202e\u2028\u{e0001}'
    const id = await enqueued({ payload, tags: ['\u001b[31mred\u0007\nnext'] })
    const { stdout: json } = await shell.call(['get', id, '--json'])
    expect(JSON.parse(json)).toMatchObject({ payload })
    for (const words of [
      ['get', id],
      ['get', id, '--json'],
      ['jobs', '--endpoint', name],
    ]) {
      const { stdout } = await shell.call(words)
      expect(stdout).toContain(id)
      // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what must not be there
      expect(stdout).not.toMatch(/[\u0000-\u0009\u000b-\u001f\u007f-\u009f\p{Cf}\p{Zl}\p{Zp}]/u)
    }
  })

  it('have no colours where there is no terminal, or NO_COLOR is set', async () => {
    await enqueued()
    const words = ['jobs', '--endpoint', name]
    const printed = (env: Record<string, string>) => shell.run(words, { env })
    expect((await printed({})).stdout).not.toContain('\u001b')
    expect((await printed({ FORCE_COLOR: '1' })).stdout).toContain('\u001b[')
    expect((await printed({ NO_COLOR: '1' })).stdout).not.toContain('\u001b')
    const both = await printed({ NO_COLOR: '1', FORCE_COLOR: '1' })
    expect([both.code, both.stderr]).toEqual([0, ''])
    expect(both.stdout).not.toContain('\u001b')
  })

  it('follow the pages up to the limit, in lines of 120 columns', async () => {
    await enqueueMany(230, 'paged')
    const { stdout } = await shell.call(['jobs', '--tag', 'paged', '--limit', '1000', '--json'])
    const { items, nextCursor } = JSON.parse(stdout)
    expect(new Set(items.map(({ id }: { id: string }) => id)).size).toBe(230)
    expect(nextCursor).toBeNull()
    const some = await shell.call(['jobs', '--tag', 'paged', '--limit', '120'])
    const lines = some.stdout.trimEnd().split('\n')
    expect(lines).toHaveLength(121)
    expect(lines.filter((line) => line.length > 120)).toEqual([])
    expect(some.stderr).toContain('more than 120')
  })

  it('end quietly when the reader is gone', async () => {
    const typed = shell.line('posthorn jobs --limit 100 --json | head -1')
    expect(await typed.ended()).toBe(0)
    expect(typed.stdout()).toBe('{\n')
    expect(typed.stderr()).not.toContain('EPIPE')
  })

  it('have the payload that is piped, without a byte order mark', async () => {
    const words = ['enqueue', name, '-']
    const { code, stdout, stderr } = await shell.run(words, { input: '\ufeff{"a": 1.0}' })
    expect([code, stderr]).toEqual([0, ''])
    const printed = await shell.run(['get', stdout.trim(), '--payload'])
    expect(printed.stdout).toBe('{"a": 1.0}')
    const twice = await shell.run(words, { input: '\ufeff\ufeff1' })
    expect([twice.code, twice.stderr]).toEqual([
      2,
      expect.stringMatching(/^The payload is not JSON/),
    ])
    const utf16 = await shell.run([
      'enqueue',
      name,
      '--file',
      shell.write('utf16', Buffer.from('\ufeff1', 'utf16le')),
    ])
    expect([utf16.code, utf16.stderr]).toEqual([
      2,
      expect.stringMatching(/^The payload is not JSON/),
    ])
  })

  it('do all of their work though no reader is left, and fail when the result has no room', async () => {
    await enqueueMany(2, 'unread')
    const { items } = (await posthorn.request('GET', '/jobs?tag=unread')).body
    const [one, two] = items.map(({ id }: { id: string }) => id)
    const line = `set -o pipefail; posthorn cancel ${one} ${two} 2>&1 | true`
    expect(await shell.script(line).ended()).toBe(0)
    for (const id of [one, two]) {
      expect((await posthorn.request('GET', `/jobs/${id}`)).body.state).toBe('cancelled')
    }
    const full = shell.line(`posthorn get ${one} >/dev/full`)
    expect(await full.ended()).toBe(1)
    expect(full.stderr()).toMatch(/could not be written: .*ENOSPC/)
    const help = shell.line('posthorn start --help >/dev/full')
    expect([await help.ended(), help.stderr()]).toEqual([
      1,
      expect.stringMatching(/^The result could not be written: .*ENOSPC.*\n$/),
    ])
    const mute = shell.script(`posthorn get ${one} 2>/dev/full; posthorn get job_x 2>/dev/full`)
    expect(await mute.ended()).toBe(1)
    expect(mute.stdout()).toContain(one)
    expect(mute.stderr()).toBe('')
  })
})

describe('what is shown of a job', () => {
  const QUICK = { maxAttempts: 2, backoff: { type: 'fixed', delay: '0s', jitter: 0 } }
  const shown = async (...words: string[]) => (await shell.call(words)).stdout
  const listed = () => shown('jobs', '--endpoint', name)

  it(
    'is not that it is due while it waits for other jobs, and since when it no longer does',
    DEADLINE,
    async () => {
      await posthorn.request('PUT', `/endpoints/${name}`, { url: null })
      const first = await enqueued()
      const second = await enqueued()
      const after = await enqueued({ dependsOn: [first, second] })
      const head = await enqueued({ orderingKey: 'tenant 7' })
      const inOrder = await enqueued({ orderingKey: 'tenant 7' })
      const later = await enqueued({ dependsOn: [first], delay: '1h' })
      const lineOf = async (id: string) =>
        (await listed()).split('\n').find((line) => line.includes(id))
      expect(await lineOf(first)).toMatch(/ due /)
      expect(await lineOf(head)).toMatch(/ due /)
      expect(await lineOf(later)).toMatch(/ {2}depends on 1 job$/)
      expect(await lineOf(after)).toMatch(/ {2}depends on 2 jobs$/)
      expect(await lineOf(inOrder)).toMatch(
        / {2}waits for earlier jobs of the ordering key "tenant 7"$/,
      )
      expect(await shown('get', after)).toMatch(/^due .*Z \(at the earliest: depends on 2 jobs\)$/m)
      expect(await shown('get', first)).toMatch(/^due .*Z \((now|.* ago)\)$/m)
      // The runAt of the job has passed by then.
      const { runAt } = await job(after)
      await until(() => Date.now() > Date.parse(runAt) + 5_000)
      for (let left = 2; left > 0; left--) {
        const claim = { limit: 1, lease: '30s' }
        const claimed = await posthorn.request('POST', `/endpoints/${name}/claim`, claim)
        const [{ id, token }] = claimed.body.jobs
        await posthorn.request('POST', `/jobs/${id}/complete?token=${token}`, { result: 1 })
      }
      await until(async () => (await job(after)).dueAt !== null)
      const { dueAt } = await job(after)
      expect(Date.parse(dueAt)).toBeGreaterThan(Date.parse(runAt) + 4_000)
      expect(await lineOf(after)).toMatch(/ due (now|[123]s ago)$/)
      expect(await shown('get', after)).toContain(`${dueAt} (`)
      expect(await lineOf(later)).toMatch(/ due in 59m$/)
    },
  )

  it('never says that more attempts were sent than there may be', DEADLINE, async () => {
    receiver.answerWith(500)
    await posthorn.endpoint(name, receiver.url, { retry: QUICK })
    const id = await enqueued()
    await until(async () => (await job(id)).state === 'dead')
    expect(await listed()).toMatch(/ {2}2\/2 {2}/)
    await posthorn.request('POST', `/jobs/${id}/retry`)
    await until(async () => (await job(id)).attemptCount === 4 && (await job(id)).state === 'dead')
    expect(await listed()).toMatch(/ dead +4 {2}/)
    const text = await shown('get', id)
    expect(text).toMatch(/^attempts +4; 2 allowed after each retry by hand/m)
    expect(text + (await listed())).not.toMatch(/4 of 2|4\/2/)
  })

  it('is whole in a pipe, however long', DEADLINE, async () => {
    receiver.answerWith(500)
    await posthorn.endpoint(name, receiver.url, { retry: QUICK })
    const id = await enqueued()
    await until(async () => (await job(id)).state === 'dead')
    const { reason, message } = (await job(id)).failure
    expect(await listed()).toMatch(new RegExp(`^${id} .* ${reason}: ${message}$`, 'm'))
    expect(`${reason}: ${message}`.length).toBeGreaterThan(50)
  })

  it('fits a terminal of 80 columns, with its outcome', DEADLINE, async () => {
    receiver.answerWith(400)
    const id = await enqueued()
    await until(async () => (await job(id)).state === 'dead')
    const { message } = (await job(id)).failure
    // `script` of util-linux gives the command a terminal.
    const inTerminal = async (columns: number) => {
      const command = `stty cols ${columns}; posthorn jobs --endpoint ${name}`
      const typed = shell.script(`script -qec "${command}" /dev/null`, { NO_COLOR: '1' })
      expect(await typed.ended(), typed.stderr()).toBe(0)
      return typed.stdout().replaceAll('\r', '').trimEnd().split('\n')
    }
    const narrow = await inTerminal(80)
    expect(narrow.filter((line) => line.length > 80)).toEqual([])
    expect(narrow).toContain(`    rejected: ${message}`)
    expect(narrow.slice(0, 2)).toEqual([expect.stringMatching(/^ID +ENDPOINT/), '    STATUS'])
    // The whole message is shown even if it takes several lines, or has little room beside the
    // other columns.
    for (const columns of [40, 120]) {
      const text = await inTerminal(columns)
      expect(text.map((line) => line.trimStart()).join(' ')).toContain(`rejected: ${message}`)
      expect(text.join('')).not.toContain('…')
    }
    const wide = await inTerminal(160)
    expect(wide).toHaveLength(2)
    expect(wide[1]).toMatch(new RegExp(`^${id} .* rejected: ${message}$`))
  })
})
