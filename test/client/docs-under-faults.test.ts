// The programs of docs/ work correctly during ordinary faults: a restart, a lost lease, a busy
// store, a proxy instead of the API. test/long has the long form.
import { afterAll, beforeAll, expect, it } from 'vitest'
import { until } from '../support/until.ts'
import {
  enqueue,
  failedMessage,
  ONE_SHOTS,
  poison,
  type Scene,
  setScene,
  succeeded,
} from './examples-under-faults.ts'
import type { Fault } from './faulty-proxy.ts'

const DEADLINE_MS = 60_000

/** A lost response to a claim would show only when its lease ends, so only the long form has it. */
const OF_CLAIMS: Fault[] = ['page_503', 'page_200', 'cut', 'unavailable', 'page_404']
const OF_REPORTS: Fault[] = [
  ...(['lost_lease', 'unavailable', 'cut', 'lost_answer', 'page_503', 'page_200'] as const),
  ...(['lost_lease', 'page_404', 'pass', 'lost_lease', 'page_200'] as const),
]
/** Each fault meets at least one report of the example. */
const JOBS_EACH = OF_REPORTS.length
const OF_CALLS: Fault[] = ['page_503', 'cut', 'pass', 'unavailable', 'lost_answer', 'page_200']

let scene: Scene
beforeAll(async () => {
  scene = await setScene()
})
afterAll(() => scene?.close())

it('every worker goes on and does its jobs', { timeout: 240_000 }, async () => {
  const { workers, proxy } = scene
  proxy.deal({
    claim: [...OF_CLAIMS],
    complete: [...OF_REPORTS],
    heartbeat: ['lost_lease', 'page_200', 'cut', 'page_404', 'unavailable', 'lost_answer'],
    fail: ['lost_lease', 'unavailable', 'cut', 'lost_answer', 'page_503'],
  })
  const poisoned = workers.filter(({ poison }) => poison !== null)
  const poisonIds = await Promise.all(poisoned.map((one) => poison(scene, one)))
  for (const worker of workers) {
    for (let i = 0; i < JOBS_EACH; i++) await enqueue(scene, worker)
  }
  await until(() => proxy.left().length === 0, DEADLINE_MS)
  for (const [i, worker] of poisoned.entries()) {
    const message = await failedMessage(scene, worker, poisonIds[i] as string, DEADLINE_MS)
    expect(message.length).toBeLessThanOrEqual(2_000)
    expect(message).toMatch(/not a PNG: \ufffdx+…$|TypeError/)
  }
  await scene.restart()
  for (const worker of workers) {
    await succeeded(scene, worker, await enqueue(scene, worker), DEADLINE_MS)
    expect(worker.child.exitCode, worker.printed()).toBe(null)
  }
})

it.each(ONE_SHOTS)('%s ends with its result or with what went wrong', async (name) => {
  scene.proxy.deal({ other: [...OF_CALLS] })
  const { code, printed } = await scene.run(name)
  if (code === 0) expect(printed).not.toBe('')
  else expect(printed).toMatch(/PosthornError: unexpected_answer: /)
})
