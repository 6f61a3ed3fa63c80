// The handlers in four languages, each started as its page says, against the real server. npm run
// test:long adds the one in Go: without a cache its compiler takes as much CPU time as ten files.
import { execFile, spawnSync } from 'node:child_process'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { newSecret, signedHeaders } from '../client/signed.ts'
import { type Deployment, deploy } from '../support/deployment.ts'
import { RUN_LONG } from '../support/engines.ts'
import {
  type ReceivedRequest,
  type Receiver,
  type Reply,
  startReceiver,
} from '../support/receiver.ts'
import { until } from '../support/until.ts'
import { blocksOf, type Program, ROOT, startProgram } from './program.ts'

const [register, ...blocks] = blocksOf('handlers/README.md') as [string, ...string[]]
const post = blocks.at(-1) as string
const lines = blocks.slice(0, -1)
const RUNTIMES = [
  { name: 'TypeScript', runtime: ['node', '--version'] },
  { name: 'Python', runtime: ['python3', '--version'] },
  { name: 'Go', runtime: ['go', 'version'] },
  { name: 'Java', runtime: ['java', '--version'] },
].map((one, i) => ({ ...one, line: lines[i] as string }))
const SLOW_MS = 120_000

it('the page has a line for each language', () => {
  expect(lines).toHaveLength(RUNTIMES.length)
  for (const { line, runtime } of RUNTIMES)
    expect(line).toMatch(new RegExp(`^(npx )?${runtime[0]} `))
})

describe.each(RUNTIMES)('the handler in $name', ({ name, runtime, line }) => {
  const [command, ...words] = runtime as [string, ...string[]]
  if (name === 'Go' && !RUN_LONG) {
    it.skip('npm run test:long', () => {})
    return
  }
  if (spawnSync(command, words, { timeout: 30_000 }).status !== 0) {
    console.log(`There is no ${command} here: the handler in ${name} was not run.`)
    it.skip(`needs ${command}`, () => {})
    return
  }

  let posthorn: Deployment
  let handler: Program
  /** A receiver between Posthorn and the handler that passes deliveries on. */
  let between: Receiver
  let secret: string
  let delivered: ReceivedRequest[]
  beforeAll(async () => {
    posthorn = deploy('sqlite')
    await posthorn.startApi()
    await posthorn.startWorker()
    between = await startReceiver(passOn)
    delivered = between.requests
    secret = await run(`{\n${register}\n} >&2\necho "$POSTHORN_SECRET"`)
    handler = await startProgram(line, { POSTHORN_SECRET: secret })
  }, SLOW_MS)
  afterAll(async () => {
    await handler?.stop()
    await posthorn?.close()
    await between?.close()
  })

  /** Runs a block of the page against this deployment. */
  async function run(block: string): Promise<string> {
    const script = block
      .replaceAll('localhost:8080', posthorn.url().replace('http://', ''))
      .replaceAll('http://localhost:3000', between.url)
    const settings = { cwd: ROOT, timeout: 60_000 }
    return (await promisify(execFile)('bash', ['-ec', script], settings)).stdout.trim()
  }

  function deliver({ headers, body }: Pick<ReceivedRequest, 'headers' | 'body'>) {
    const names = Object.entries(headers).filter(([key]) => /^(webhook|posthorn)-/.test(key))
    const init = { method: 'POST', headers: Object.fromEntries(names) as Record<string, string> }
    return fetch(handler.url, { ...init, body: new Uint8Array(body) })
  }

  async function passOn(request: ReceivedRequest): Promise<Reply> {
    const answer = await deliver(request).catch(() => null)
    return answer === null ? 502 : { status: answer.status, body: await answer.text() }
  }

  const workCount = () => handler.printed().split('makes the PDF of invoice').length - 1
  /** Waits for the output of the work, which may come after the response. */
  async function worked(count: number): Promise<void> {
    await until(() => workCount() >= count)
    expect(workCount()).toBe(count)
  }

  it('does a job, whose result is what it responds', async () => {
    const job = JSON.parse(await run(post))
    expect(job, handler.printed()).toMatchObject({
      state: 'succeeded',
      attemptCount: 1,
      result: { invoice: 42, pages: 3 },
    })
    await worked(1)
  })

  it('responds to a ping, and works on nothing for it', async () => {
    const before = workCount()
    const { body } = await posthorn.request('POST', '/endpoints/invoice-pdf/test')
    expect(body).toMatchObject({ outcome: 'succeeded', statusCode: 200 })
    expect(workCount()).toBe(before)
  })

  it('does the work of a job once when its response was lost, and refuses the older attempt', async () => {
    const before = workCount()
    const first = delivered.length
    between.answerWith(async (request, index) => {
      const answer = await passOn(request)
      return index === 0 ? 500 : answer
    })
    const retry = { maxAttempts: 3, backoff: { type: 'fixed', delay: '20ms', jitter: 0 } }
    const job = { endpoint: 'invoice-pdf', payload: { invoice: 7 }, retry }
    const { body } = await posthorn.request('POST', '/jobs', job)
    const done = await posthorn.job(body.id, 'succeeded', 'dead')
    expect(done).toMatchObject({ attemptCount: 2, fence: 2, result: { invoice: 7, pages: 3 } })
    await worked(before + 1)

    expect((await deliver(delivered[first] as ReceivedRequest)).status).toBe(409)
    expect((await deliver(delivered[first + 1] as ReceivedRequest)).status).toBe(200)
    expect(workCount()).toBe(before + 1)
  })

  it('believes only what was signed with its secret within five minutes', async () => {
    const before = workCount()
    const body = '{"invoice":13}'
    const nowSeconds = Math.floor(Date.now() / 1_000)
    const status = async (headers: Record<string, string>, sent = body) =>
      (await deliver({ headers, body: Buffer.from(sent) })).status
    const at = (timestampSeconds: number) => signedHeaders(secret, body, { timestampSeconds })

    expect(await status(signedHeaders(newSecret(), body))).toBe(401)
    expect(await status(at(nowSeconds), '{"invoice":14}')).toBe(401)
    expect(await status({ ...at(nowSeconds), 'webhook-id': 'job_other' })).toBe(401)
    expect(await status({ ...at(nowSeconds), 'webhook-signature': 'v1,' })).toBe(401)
    expect(await status({})).toBe(401)
    expect(await status(at(nowSeconds - 310))).toBe(401)
    expect(await status(at(nowSeconds + 310))).toBe(401)
    expect(workCount()).toBe(before)
    expect(await status(at(nowSeconds - 200))).toBe(200)
    await worked(before + 1)
  })

  it('still believes its secret while that is rotated', async () => {
    const before = workCount()
    const rotated = await posthorn.request('POST', '/endpoints/invoice-pdf/rotate-secret', {})
    expect(rotated.status).toBe(200)
    const job = JSON.parse(await run(post))
    expect(job.state).toBe('succeeded')
    expect(delivered.at(-1)?.headers['webhook-signature']).toMatch(/^v1,\S+ v1,\S+$/)
    await worked(before + 1)
  })

  it('refuses a body that is too long without reading all of it', async () => {
    const before = workCount()
    const body = `{"invoice":13,"more":"${'x'.repeat(9 * 1_048_576)}"}`
    const answer = await deliver({ headers: signedHeaders(secret, body), body: Buffer.from(body) })
      .then(({ status }) => status)
      .catch(() => 'broken off')
    expect([413, 'broken off']).toContain(answer)
    expect(workCount()).toBe(before)
  })
})
