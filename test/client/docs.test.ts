// The examples of docs/client.md, unchanged, run against Posthorn.
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { Posthorn } from '../../src/client/client.ts'
import { type Deployment, deploy } from '../support/deployment.ts'
import { until } from '../support/until.ts'
import { type Installed, installClient } from './installed.ts'
import { clientExamples } from './printed-examples.ts'
import { newSecret, signedHeaders } from './signed.ts'

const EXAMPLES = clientExamples()
const SECRET = newSecret()

let installed: Installed
let deployment: Deployment
let posthorn: Posthorn
const running: ChildProcess[] = []
beforeAll(async () => {
  installed = installClient()
  for (const [name, text] of EXAMPLES) installed.write(name, text)
  deployment = deploy('sqlite')
  await deployment.startApi()
  await deployment.startWorker()
  posthorn = new Posthorn({ url: deployment.url() })
})
afterEach(() => {
  for (const child of running.splice(0)) child.kill('SIGKILL')
})
afterAll(async () => {
  await deployment?.close()
  installed.remove()
})

function start(name: string, env: Record<string, string> = {}) {
  const child = spawn(process.execPath, [join(installed.folder, name)], {
    env: { POSTHORN_URL: deployment.url(), POSTHORN_SECRET: SECRET, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  running.push(child)
  let printed = ''
  for (const stream of [child.stdout, child.stderr]) {
    stream?.on('data', (chunk: Buffer) => {
      printed += chunk.toString()
    })
  }
  return { child, printed: () => printed }
}

/** Returns the output of an example that ends by itself. */
async function run(name: string, env: Record<string, string> = {}): Promise<string> {
  const { child, printed } = start(name, env)
  const [code] = await once(child, 'close')
  expect(printed() === '' || code === 0, printed()).toBe(true)
  return printed()
}

/** Starts an example that listens, and returns its URL. */
async function serve(name: string): Promise<{ url: string; printed: () => string }> {
  const probe = createServer().listen(0, '127.0.0.1')
  await once(probe, 'listening')
  const { port } = probe.address() as { port: number }
  await new Promise((resolve) => probe.close(resolve))
  const { printed } = start(name, { PORT: String(port) })
  const url = `http://127.0.0.1:${port}/`
  await until(() =>
    fetch(url).then(
      () => true,
      () => false,
    ),
  )
  return { url, printed }
}

it('the page has an example for each of these tests, and each imports the package', () => {
  expect([...EXAMPLES.keys()].sort()).toEqual([
    'async-handler.ts',
    'enqueue.ts',
    'errors.ts',
    'fetch-handler.ts',
    'handler.ts',
    'many.ts',
    'pull-worker.ts',
    'register.ts',
    'schedule.ts',
  ])
  for (const text of EXAMPLES.values()) expect(text).toContain("from 'posthorn/client'")
})

it('the examples hold before a strict type checker', () => {
  expect(installed.typeErrors()).toBe('')
})

describe('the example', () => {
  it('register.ts, handler.ts and enqueue.ts: a PDF is made', async () => {
    const handler = await serve('handler.ts')
    expect((await fetch(handler.url, { method: 'POST', body: '{}' })).status).toBe(401)
    expect(await run('register.ts', { HANDLER_URL: handler.url })).toBe('active\n')
    expect(await run('register.ts', { HANDLER_URL: handler.url })).toBe('active\n')
    expect(await run('enqueue.ts')).toBe('3 pages\n')
    // A test ping gets a response, but no work is done for it.
    expect(await posthorn.endpoints.test('invoice-pdf')).toMatchObject({ statusCode: 200 })
    expect(handler.printed()).toMatch(/^job_\w+, attempt 1: invoice 42\n$/)
  })

  it('fetch-handler.ts: believes what is signed', async () => {
    // A module in the folder uses the client that is installed in the folder.
    process.env.POSTHORN_SECRET = SECRET
    const { POST } = await import(join(installed.folder, 'fetch-handler.ts'))
    delete process.env.POSTHORN_SECRET
    const body = '{"invoice":42}'
    const request = (headers: Record<string, string>) =>
      new Request('http://localhost/', { method: 'POST', headers, body })
    const answer = await POST(request(signedHeaders(SECRET, body)))
    expect(await answer.json()).toEqual({ done: 42 })
    expect((await POST(request(signedHeaders(newSecret(), body)))).status).toBe(401)
    const ping = await POST(request({ ...signedHeaders(SECRET, body), 'posthorn-test': 'true' }))
    expect([ping.status, await ping.text()]).toEqual([200, ''])
  })

  it('async-handler.ts: reports its progress and its end', async () => {
    const handler = await serve('async-handler.ts')
    await posthorn.endpoints.put('import', {
      url: handler.url,
      completion: 'async',
      secret: SECRET,
    })
    expect(await posthorn.endpoints.test('import')).toMatchObject({ statusCode: 200 })
    const { id } = await posthorn.enqueue({ endpoint: 'import', payload: { rows: 5 } })
    const job = await posthorn.wait(id, { timeoutMs: 15_000 })
    expect(job, handler.printed()).toMatchObject({
      state: 'succeeded',
      result: { imported: 5 },
      attemptCount: 1,
      progress: { value: 100 },
    })
  })

  it('pull-worker.ts: takes jobs and completes them', async () => {
    const { printed } = start('pull-worker.ts')
    await until(() =>
      posthorn.endpoints.get('thumbnails').then(
        () => true,
        () => false,
      ),
    )
    const { id } = await posthorn.enqueue({ endpoint: 'thumbnails', payload: { image: 'a.png' } })
    const job = await posthorn.wait(id, { timeoutMs: 15_000 })
    expect(job.result, printed()).toEqual({ thumbnail: 'small-a.png' })
  })

  it('many.ts: enqueues, lists and counts', async () => {
    await posthorn.endpoints.put('invoice-pdf', { url: null })
    const lines = (await run('many.ts')).trim().split('\n')
    expect(lines.slice(0, 3)).toEqual(Array(3).fill(expect.stringMatching(/^201 job_\w+$/)))
    expect(lines.slice(3, 6)).toEqual(Array(3).fill(expect.stringMatching(/^job_\w+ queued$/)))
    expect(lines[6]).toBe('3 could be cancelled')
  })

  it('schedule.ts: makes a schedule', async () => {
    await posthorn.endpoints.put('invoice-pdf', { url: null })
    expect(await run('schedule.ts')).toBe('5\n')
  })

  it('errors.ts: prints what the API says', async () => {
    expect(await run('errors.ts')).toMatch(/^endpoint_not_found 422 there is no endpoint/)
  })
})
