// The shell lines of the guides, unchanged: each does what its page states.
import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type Deployment, deploy } from '../support/deployment.ts'
import { type Receiver, startReceiver } from '../support/receiver.ts'
import { until } from '../support/until.ts'

const DEADLINE_MS = 15_000
const ADMIN_KEY = 'a-key-of-more-than-24-characters'

/** The shell blocks of a page that send requests to the API, in order. */
function blocksOf(page: string): string[] {
  const text = readFileSync(join(import.meta.dirname, '../../docs', page), 'utf8')
  const blocks = [...text.matchAll(/```sh\n(.*?)```/gs)].map((match) => match[1] as string)
  return blocks.filter((block) => block.includes('curl'))
}

describe('the guides', () => {
  let posthorn: Deployment
  let receiver: Receiver
  beforeAll(async () => {
    posthorn = deploy('sqlite')
    await posthorn.startApi()
    await posthorn.startWorker()
    receiver = await startReceiver(202)
  })
  afterAll(async () => {
    await posthorn.close()
    await receiver.close()
  })

  /** Runs a block against this deployment. Returns the JSON texts that it printed. */
  // biome-ignore lint/suspicious/noExplicitAny: a test reads any field of a response
  function run(block: string, env: Record<string, string> = {}): any[] {
    const script = `json='content-type: application/json'\n${block}`
      .replaceAll('localhost:8080', posthorn.url().replace('http://', ''))
      .replaceAll('http://localhost:3000/', receiver.url)
    const printed = execFileSync('bash', ['-ec', script], {
      env: { PATH: process.env.PATH as string, ADMIN_KEY, ...env },
      timeout: 30_000,
    })
    const texts = printed.toString().replaceAll('}{', '}\n{').split('\n')
    return texts.filter((text) => text.trim() !== '').map((text) => JSON.parse(text))
  }

  it('async-work: registers an async endpoint, whose deliveries carry the URLs to report to', async () => {
    const [register] = blocksOf('async-work.md')
    const [endpoint] = run(register as string)
    expect(endpoint).toMatchObject({ completion: 'async', completionTimeout: '10m' })
    const job = { endpoint: endpoint.name, payload: 1 }
    const { body } = await posthorn.request('POST', '/jobs', job)
    await receiver.waitFor((requests) => requests.length > 0)
    const { headers } = receiver.requests[0] as (typeof receiver.requests)[number]
    const beat = new URL(headers['posthorn-heartbeat-url'] as string)
    const said = { progress: 40, message: 'row 4,000', extend: '10m' }
    await posthorn.request('POST', beat.pathname + beat.search, said)
    const done = new URL(headers['posthorn-complete-url'] as string)
    await posthorn.request('POST', done.pathname + done.search, { result: { rows: 8000 } })
    const finished = await posthorn.job(body.id, 'succeeded')
    expect(finished).toMatchObject({ result: { rows: 8000 }, progress: { value: 40 } })
  })

  it('limits: registers an endpoint with all three, retries what a filter finds, explains a job', async () => {
    const [register, share, retry, explain] = blocksOf('limits.md')
    const [endpoint] = run(register as string)
    expect(endpoint).toMatchObject({
      concurrency: 5,
      rateLimit: { count: 100, per: '1m' },
      circuitBreaker: { failures: 20, cooldown: '30s' },
    })
    expect(run(share as string).at(-1)).toMatchObject({
      ...{ name: 'tax-api', concurrency: 10, tokens: 600, endpoints: ['tax-office'] },
    })
    expect(run(retry as string)).toEqual([{ matched: 0, affected: 0 }])
    expect(run(explain as string)).toMatchObject([{ reason: 'not_due' }])
  })

  it('dedupe: a repeat finds the job, and a replaced job takes the new payload', async () => {
    const [repeats, replaces] = blocksOf('dedupe.md') as [string, string]
    await posthorn.endpoint('invoice-pdf', receiver.url)
    const [first, second] = run(repeats)
    expect(first.deduplicated).toBeUndefined()
    expect(second).toMatchObject({ id: first.id, deduplicated: true })
    const [waiting] = run(replaces)
    const [replaced] = run(replaces.replace('{"customer": 7}', '{"customer": 8}'))
    expect(replaced).toMatchObject({ id: waiting.id, payload: { customer: 8 } })
  })

  it('on-finish: the notice of a dead job has the payload that the page shows', async () => {
    const [enqueue] = blocksOf('on-finish.md') as [string]
    const rejecting = await startReceiver(422)
    await posthorn.endpoint('invoice-pdf', rejecting.url)
    // For up to a second a worker may use an older version of an endpoint.
    await until(async () => {
      const { body } = await posthorn.request('POST', '/jobs', {
        endpoint: 'invoice-pdf',
        payload: 0,
      })
      return (await posthorn.job(body.id, 'dead', 'succeeded')).state === 'dead'
    }, DEADLINE_MS)
    const [, job] = run(enqueue)
    await posthorn.job(job.id, 'dead')
    const isNotice = ({ body }: { body: Uint8Array }) => String(body).includes(job.id)
    await receiver.waitFor((requests) => requests.some(isNotice))
    const notice = receiver.requests.find(isNotice)
    expect(JSON.parse(String(notice?.body))).toEqual({
      jobId: job.id,
      endpoint: 'invoice-pdf',
      state: 'dead',
      metadata: { customer: '7' },
      failure: { reason: 'rejected', message: 'the endpoint responded with 422' },
    })
    await rejecting.close()
  })

  it('pull-workers: claims a job, reports progress, completes it', async () => {
    const [claim, report] = blocksOf('pull-workers.md')
    const answers = run(claim as string)
    const [job] = answers.at(-1).jobs
    expect(job).toMatchObject({ payload: { scene: 7 }, state: 'running' })
    const reports = run(report as string, { claimed: JSON.stringify(answers.at(-1)) })
    expect(reports).toMatchObject([{ cancelRequested: false }, { applied: true }])
    expect(await posthorn.job(job.id, 'succeeded')).toMatchObject({ result: { frames: 240 } })
  })

  it('keys-and-secrets: makes a key, and rotates a secret', async () => {
    const blocks = blocksOf('keys-and-secrets.md')
    const makeKey = blocks.find((block) => block.includes('/keys')) as string
    const rotate = blocks.find((block) => block.includes('rotate-secret')) as string
    await posthorn.endpoint('invoice-pdf', receiver.url)
    expect(run(rotate)).toMatchObject([{ secret: expect.stringMatching(/^whsec_/) }])
    const guarded = deploy('sqlite', { API_KEYS: ADMIN_KEY })
    try {
      await guarded.startApi()
      const script = makeKey.replaceAll('localhost:8080', new URL(guarded.url()).host)
      const [key] = run(script)
      expect(key).toMatchObject({ name: 'web shop', scope: 'enqueue' })
      const bearer = { authorization: `Bearer ${key.key}` }
      const list = await guarded.request('GET', '/jobs', undefined, bearer)
      expect(list.status).toBe(200)
      const refused = await guarded.request('GET', '/endpoints', undefined, bearer)
      expect(refused.body.code).toBe('forbidden')
    } finally {
      await guarded.close()
    }
  })
})
