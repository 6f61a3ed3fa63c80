// Every program of docs/ that uses a server runs for a minute. Meanwhile faults of all kinds occur
// at random, responses to claims are lost, and the API is killed again and again.
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, expect, it } from 'vitest'
import {
  enqueue,
  failedMessage,
  ONE_SHOTS,
  poison,
  type Scene,
  setScene,
  succeeded,
} from '../client/examples-under-faults.ts'
import type { Fault, Purpose } from '../client/faulty-proxy.ts'

const RUN_MS = 60_000
const JOB_EVERY_MS = 500
const RESTART_EVERY_ROUNDS = 20
/** Leases of a minute must end first: those of claims whose responses were lost. */
const DEADLINE_MS = 180_000

const FAULTS: Fault[] = [
  ...(['pass', 'pass', 'pass', 'pass', 'pass', 'cut', 'lost_answer'] as const),
  ...(['lost_lease', 'page_200', 'page_404', 'page_503', 'unavailable'] as const),
]
const PURPOSES: Purpose[] = ['claim', 'complete', 'fail', 'heartbeat', 'other']

let scene: Scene
beforeAll(async () => {
  scene = await setScene()
})
afterAll(() => scene?.close())

it('no program ends, and every job is done', async () => {
  const { workers, proxy } = scene
  const untilMs = performance.now() + RUN_MS
  const isOver = () => performance.now() > untilMs
  const ids = workers.map((): string[] => [])
  const poisonIds = workers.map((): string[] => [])
  deal(100_000)

  const jobs = async () => {
    for (let round = 1; !isOver(); round++) {
      if (round % RESTART_EVERY_ROUNDS === 0) await scene.restart()
      for (const [i, worker] of workers.entries()) {
        ids[i]?.push(await enqueue(scene, worker))
        if (worker.poison === null || round % 10 !== 0) continue
        poisonIds[i]?.push(await poison(scene, worker))
      }
      await sleep(JOB_EVERY_MS)
    }
  }
  const programs = async () => {
    for (let i = 0; !isOver(); i++) {
      const { code, printed } = await scene.run(ONE_SHOTS[i % ONE_SHOTS.length] as string)
      if (code !== 0) expect(printed).toMatch(/PosthornError: \w+: /)
    }
  }
  await Promise.all([jobs(), programs()])
  proxy.deal({})
  for (const [i, worker] of workers.entries()) {
    for (const id of ids[i] ?? []) await succeeded(scene, worker, id, DEADLINE_MS)
    for (const id of poisonIds[i] ?? []) {
      const message = await failedMessage(scene, worker, id, DEADLINE_MS)
      expect(message.length).toBeLessThanOrEqual(2_000)
    }
    expect(worker.child.exitCode, worker.printed()).toBe(null)
  }

  function deal(count: number): void {
    const any = () => FAULTS[Math.floor(Math.random() * FAULTS.length)] as Fault
    proxy.deal(Object.fromEntries(PURPOSES.map((one) => [one, Array.from({ length: count }, any)])))
  }
})
