// Input from clients and receivers can neither write log lines nor control a terminal that shows
// them.
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { SQLITE_UNLESS_LONG } from '../support/engines.ts'
import type { Process } from '../support/process.ts'
import { type Receiver, startReceiver } from '../support/receiver.ts'
import { until } from '../support/until.ts'
import { type Fixture, openFixture } from './fixture.ts'
import { listenTo, logProblems } from './listening.ts'
import { exchange } from './raw-http.ts'

/** A text that would be a separate log line if it were written unchanged. */
const FORGED = 'forged-log-line'
const INJECTION = `a\n{"level":"fatal","msg":"${FORGED}"}\r\n\u001b[31m\u0007\u009b2J\u2028`
/** The same, for places where line breaks and control characters cannot be sent. */
const IN_HEADER = `a"},{"msg":"${FORGED}","x":"\t\u009b2J`

describe.each(SQLITE_UNLESS_LONG)('on %s', (engine) => {
  let fixture: Fixture
  let worker: Process
  let receiver: Receiver
  let logs: ReturnType<typeof listenTo>[]
  beforeAll(async () => {
    fixture = await openFixture(engine, { LOG_LEVEL: 'trace' })
    worker = await fixture.posthorn.startWorker({ LOG_LEVEL: 'trace', SWEEP_INTERVAL: '50ms' })
    logs = [listenTo(fixture.api), listenTo(worker)]
    receiver = await startReceiver()
  })
  afterAll(async () => {
    await fixture.posthorn.close()
    await receiver.close()
  })

  it('fields, names, paths, queries and headers of requests stay out of the lines', async () => {
    for (const operation of fixture.operations) {
      const body = operation.body === undefined ? undefined : JSON.stringify(INJECTION)
      const path = operation.path.replaceAll(/\{\w+\}/g, encodeURIComponent(INJECTION))
      await fixture.ask(operation.method, path, body)
      for (const name of operation.inQuery) {
        const query = `?${name}=${encodeURIComponent(INJECTION)}`
        await fixture.ask(
          operation.method,
          operation.path.replaceAll(/\{\w+\}/g, 'x') + query,
          body,
        )
      }
    }
    for (const name of ['user-agent', 'x-request-id', 'authorization', 'idempotency-key', 'x']) {
      const lines = ['POST /jobs HTTP/1.1', 'Host: localhost', 'Connection: close']
      const bytes = [...lines, `${name}: ${IN_HEADER}`, '', ''].join('\r\n')
      await exchange(fixture.posthorn.url(), bytes)
    }
    await exchange(fixture.posthorn.url(), `${INJECTION}\r\n\r\n`)
    const job = { endpoint: 'known', payload: INJECTION, tags: [INJECTION.slice(0, 60)] }
    const keys = { orderingKey: INJECTION, fairnessKey: INJECTION }
    const more = { metadata: { [INJECTION.slice(0, 60)]: INJECTION }, ...keys }
    const answer = await fixture.ask('POST', '/jobs', JSON.stringify({ ...job, ...more }))
    expect(answer.status).toBe(201)
    const key = JSON.stringify({ name: INJECTION.slice(0, 90), scope: 'work' })
    expect((await fixture.ask('POST', '/keys', key)).status).toBe(201)
    expectCleanLogs()
  })

  it('what receivers respond, and what handlers say, stays out of the lines', async () => {
    receiver.answerWith([
      { status: 500, body: INJECTION, headers: { 'x-error': IN_HEADER, 'retry-after': 'x' } },
      { status: 200, body: JSON.stringify(INJECTION) },
    ])
    const retry = { backoff: { type: 'fixed', delay: '0s' } }
    await fixture.posthorn.endpoint('echo', receiver.url, { retry, description: INJECTION })
    const body = JSON.stringify({ endpoint: 'echo', payload: INJECTION })
    const { id } = JSON.parse((await fixture.ask('POST', '/jobs', body)).text)
    await fixture.posthorn.job(id, 'succeeded')
    const held = await fixture.heldJob()
    const beat = JSON.stringify({ progress: 1, message: INJECTION })
    const path = `/jobs/${held.id}`
    expect((await fixture.ask('POST', `${path}/heartbeat?token=${held.token}`, beat)).status).toBe(
      200,
    )
    const said = JSON.stringify({ message: INJECTION })
    expect((await fixture.ask('POST', `${path}/fail?token=${held.token}`, said)).status).toBe(200)
    await until(() => worker.log.filter(({ msg }) => msg === 'attempt.finished').length === 2)
    expectCleanLogs()
  })

  it('a receiver that does not speak HTTP cannot either', async () => {
    const { createServer } = await import('node:net')
    const server = createServer((socket) => {
      socket.on('error', () => {})
      socket.end(`HTTP/1.1 200 ${INJECTION}\r\n${INJECTION}: ${INJECTION}\r\n\r\n`)
    })
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    const { port } = server.address() as { port: number }
    const retry = { maxAttempts: 1 }
    await fixture.posthorn.endpoint('garbled', `http://127.0.0.1:${port}/`, { retry })
    const body = '{"endpoint":"garbled","payload":1}'
    const { id } = JSON.parse((await fixture.ask('POST', '/jobs', body)).text)
    await fixture.posthorn.job(id, 'dead')
    await until(() => worker.log.filter(({ msg }) => msg === 'attempt.finished').length === 3)
    server.close()
    expectCleanLogs()
  })

  function expectCleanLogs(): void {
    for (const { stdout, stderr } of logs) {
      expect(logProblems(stdout())).toEqual([])
      expect(stdout()).not.toContain(FORGED)
      expect(stderr()).toBe('')
    }
  }
})

describe('the look at log lines', () => {
  it('reports a line that is none, and control characters', () => {
    expect(logProblems('{"a":1}\n{"b":"\\u001b"}\n')).toEqual([])
    for (const bad of ['x\n', '{}{}\n', '1\n', '{"a":"\u009b"}\n', '{"a":"\u2028"}\n', '{}']) {
      expect(logProblems(bad)).toHaveLength(1)
    }
  })
})
