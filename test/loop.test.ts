// A loop rests between its turns. Neither a rest nor a back-off delays its end.
import { expect, it, onTestFinished } from 'vitest'
import { type LoopParts, PollLoop } from '../src/loop.ts'
import { until } from './support/until.ts'

const DEADLINE_MS = 10_000
/** Longer than any test may take. */
const LONG_MS = 60_000
const LONG_BACK_OFF = { firstMs: LONG_MS, maxMs: LONG_MS }

function startLoop(parts: LoopParts): PollLoop {
  const loop = new PollLoop(parts)
  loop.start()
  onTestFinished(() => loop.stop())
  return loop
}

it('takes the next turn when it is woken, also in the midst of a turn', async () => {
  let turns = 0
  const { promise: goOn, resolve } = Promise.withResolvers<void>()
  const loop = startLoop({
    async turn() {
      turns++
      if (turns === 2) await goOn
      return LONG_MS
    },
  })
  await until(() => turns === 1, DEADLINE_MS)
  loop.wake()
  await until(() => turns === 2, DEADLINE_MS)
  loop.wake()
  resolve()
  await until(() => turns === 3, DEADLINE_MS)
})

it('ends a rest at once when it is stopped, and takes no turn after it', async () => {
  let turns = 0
  const loop = startLoop({
    firstRestMs: LONG_MS,
    async turn() {
      turns++
      return LONG_MS
    },
  })
  await loop.stop()
  expect(turns).toBe(0)
})

it('waits for the turn that is under way when it is stopped', async () => {
  const { promise: goOn, resolve } = Promise.withResolvers<void>()
  const events: string[] = []
  const loop = startLoop({
    async turn() {
      events.push('begun')
      await goOn
      events.push('ended')
      return 0
    },
  })
  await until(() => events.length === 1, DEADLINE_MS)
  const stopped = loop.stop().then(() => events.push('stopped'))
  resolve()
  await stopped
  expect(events).toEqual(['begun', 'ended', 'stopped'])
})

it('backs off after a failure, longer after each, and shorter again after a success', async () => {
  const atMs: number[] = []
  const errors: unknown[] = []
  startLoop({
    async turn() {
      atMs.push(performance.now())
      if (atMs.length !== 4) throw new Error(`turn ${atMs.length}`)
      return 0
    },
    onFailure: { backOff: { firstMs: 40, maxMs: 10_000 }, report: (error) => errors.push(error) },
  })
  await until(() => atMs.length === 6, DEADLINE_MS)
  const restsMs = atMs.slice(1).map((ms, i) => ms - (atMs[i] as number))
  // The fixed half of each back-off: 20, 40 and 80 ms, then none, then 20 ms.
  for (const [i, leastMs] of [20, 40, 80, 0, 20].entries()) {
    expect(restsMs[i]).toBeGreaterThanOrEqual(leastMs - 2)
  }
  expect(errors.map(String).slice(0, 4)).toEqual([1, 2, 3, 5].map((n) => `Error: turn ${n}`))
})

it('ends a back-off when it is stopped, and not when it is woken', async () => {
  let turns = 0
  let failures = 0
  const loop = startLoop({
    async turn() {
      turns++
      throw new Error('no')
    },
    onFailure: { backOff: LONG_BACK_OFF, report: () => failures++ },
  })
  await until(() => failures === 1, DEADLINE_MS)
  loop.wake()
  await new Promise((resolve) => setImmediate(resolve))
  await loop.stop()
  expect(turns).toBe(1)
})
