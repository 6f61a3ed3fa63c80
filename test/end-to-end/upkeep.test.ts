// The upkeep of several workers: one of them does it, and another one takes over when it dies or
// stops.
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type Deployment, deploy } from '../support/deployment.ts'
import { ENGINES } from '../support/engines.ts'
import type { Process } from '../support/process.ts'
import { until } from '../support/until.ts'

const WORKERS = 3
const TAKEN_OVER_MS = 3_000
/** The time that a machine at full load may add. */
const NOISE_MS = 1_000

describe.each(ENGINES)('on %s', { timeout: 60_000 }, (engine) => {
  let posthorn: Deployment
  let workers: Process[]
  const IN_ORDER = { concurrent: false }

  beforeAll(async () => {
    posthorn = deploy(engine)
    const api = await posthorn.startApi()
    workers = []
    for (let i = 0; i < WORKERS; i++) workers.push(await posthorn.startWorker())
    await until(() => holders().length === 1)
    await until(() => times(api, 'upkeep.begun') === times(api, 'upkeep.ended'))
    await posthorn.request('PUT', '/endpoints/render', { url: null })
  })
  afterAll(() => posthorn.close())

  const holders = () =>
    workers.filter((one) => times(one, 'upkeep.begun') > times(one, 'upkeep.ended'))

  /** Resolves with the new holder, and how long the takeover took. */
  async function takenOver(from: Process, leave: () => Promise<unknown>) {
    const leftAtMs = performance.now()
    const left = leave()
    workers = workers.filter((one) => one !== from)
    await until(() => holders().length === 1, 10 * TAKEN_OVER_MS)
    const tookMs = performance.now() - leftAtMs
    await left
    return { holder: holders()[0] as Process, tookMs }
  }

  async function expired(): Promise<string> {
    const job = { endpoint: 'render', payload: 1, expiresIn: '1s' }
    const { id } = (await posthorn.request('POST', '/jobs', job)).body
    await posthorn.job(id, 'dead')
    return id
  }

  it('one worker does it', IN_ORDER, async () => {
    const [holder] = holders()
    await expired()
    await until(() => times(holder as Process, 'sweep.found') > 0)
    const others = workers.filter((one) => one !== holder)
    expect(others.map((one) => times(one, 'sweep.found'))).toEqual(others.map(() => 0))
  })

  it('another one takes over within 3 s of a SIGKILL of that one', IN_ORDER, async () => {
    const killed = holders()[0] as Process
    const { holder, tookMs } = await takenOver(killed, () => killed.stop('SIGKILL'))
    expect(tookMs).toBeLessThan(TAKEN_OVER_MS + NOISE_MS)
    await expired()
    await until(() => times(holder, 'sweep.found') > 0)
  })

  it('another one takes over when that one stops, which ends it first', IN_ORDER, async () => {
    const stopped = holders()[0] as Process
    const { tookMs } = await takenOver(stopped, () => stopped.stop())
    expect(tookMs).toBeLessThan(TAKEN_OVER_MS + NOISE_MS)
    expect(times(stopped, 'upkeep.ended')).toBe(1)
    expect(times(stopped, 'upkeep.release_failed')).toBe(0)
    await expired()
  })
})

function times({ log }: Process, msg: string): number {
  return log.filter((line) => line.msg === msg).length
}
