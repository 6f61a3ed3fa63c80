// A worker runs out of a resource of its machine. Its jobs must not suffer from that.
import { execFileSync } from 'node:child_process'
import { readdirSync } from 'node:fs'
import { pino } from 'pino'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import type { AttemptEnd } from '../../src/webhook/send.ts'
import { createOwnFaults, ownFaultOf } from '../../workers/own-faults.ts'
import { type Deployment, deploy } from '../support/deployment.ts'
import { type Receiver, startReceiver } from '../support/receiver.ts'
import { until } from '../support/until.ts'

describe('a failure for want of a resource of this machine', () => {
  const end = (errorCode: string | null, changes: Partial<AttemptEnd> = {}) =>
    ({
      outcome: 'connect_error',
      errorCode,
      statusCode: null,
      isSent: false,
      ...changes,
    }) as AttemptEnd

  it.each([
    ['EMFILE', { code: 'EMFILE', unsent: true }],
    ['ENFILE', { code: 'ENFILE', unsent: true }],
    ['EADDRNOTAVAIL', { code: 'EADDRNOTAVAIL', unsent: false }],
    ['ENOBUFS', { code: 'ENOBUFS', unsent: true }],
    ['ECONNREFUSED', null],
    ['ENETUNREACH', null],
    ['EAI_AGAIN', null],
    [null, null],
  ])('%s is distinguished from a fault of the endpoint', (code, expected) => {
    expect(ownFaultOf(end(code))).toEqual(expected)
  })

  it('gives back no job of which something was sent', () => {
    const sent = end('ENOBUFS', { isSent: true })
    expect(ownFaultOf(sent)).toEqual({ code: 'ENOBUFS', unsent: false })
  })

  it('is none where the endpoint has responded', () => {
    expect(ownFaultOf(end('EMFILE', { statusCode: 500 }))).toBeNull()
  })
})

describe('the slots of a worker', () => {
  function faultsOf(concurrency: number) {
    let nowMs = 0
    const log = pino({ level: 'silent' })
    const faults = createOwnFaults(concurrency, log, () => nowMs)
    return {
      ...faults,
      pass(ms: number) {
        nowMs += ms
      },
    }
  }

  it('are all used while nothing is wrong', () => {
    expect(faultsOf(100).slots()).toBe(100)
  })

  it('are none for a moment after a burst of faults, then half, once for all of the burst', () => {
    const faults = faultsOf(100)
    for (let i = 0; i < 50; i++) faults.note('EMFILE')
    expect(faults.slots()).toBe(0)
    faults.pass(250)
    expect(faults.slots()).toBe(50)
  })

  it('are one at least, and all again in time', () => {
    const faults = faultsOf(100)
    for (let i = 0; i < 20; i++) {
      faults.note('EMFILE')
      faults.pass(200)
    }
    faults.pass(100)
    expect(faults.slots()).toBe(1)
    faults.pass(60_000)
    expect(faults.slots()).toBe(100)
  })
})

describe.skipIf(process.platform !== 'linux')('a worker without file descriptors', () => {
  const JOBS = 200
  const SPARE = 8
  let posthorn: Deployment
  let receiver: Receiver
  beforeEach(async () => {
    posthorn = deploy('sqlite')
    receiver = await startReceiver()
    await posthorn.startApi()
  })
  afterEach(async () => {
    await posthorn.close()
    await receiver.close()
  })

  it('delivers all jobs in the end, each of them at its only attempt', async () => {
    receiver.answerWith(() => new Promise((resolve) => setTimeout(resolve, 50, 200)))
    await posthorn.endpoint('work', receiver.url, { retry: { maxAttempts: 1 } })
    const worker = await posthorn.startWorker()
    const pid = worker.child.pid as number
    const most = readdirSync(`/proc/${pid}/fd`).length + SPARE
    execFileSync('prlimit', ['--pid', String(pid), `--nofile=${most}:${most}`])
    const items = Array.from({ length: JOBS }, () => ({ endpoint: 'work', payload: 1 }))
    expect((await posthorn.request('POST', '/jobs/batch', { jobs: items })).status).toBeLessThan(
      300,
    )
    await until(async () => {
      const { body } = await posthorn.request('GET', '/endpoints/work')
      return body.counts.queued + body.counts.running === 0
    })
    const { body } = await posthorn.request('GET', '/jobs?endpoint=work&state=dead')
    expect(body.items).toEqual([])
    expect(receiver.requests).toHaveLength(JOBS)
    const { level, errorCode } = await worker.logged('worker.out_of_resources')
    expect([level, errorCode]).toEqual(['error', 'EMFILE'])
  })
})
