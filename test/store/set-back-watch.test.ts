import { expect, test } from 'vitest'
import { createSetBackWatch } from '../../src/store/set-back-watch.ts'

const HOUR = 3_600_000

test('a clock that was ahead between two looks was set back by the most that was reported', () => {
  const offsetMs = 1_000
  const { note, watch } = createSetBackWatch(() => offsetMs)
  const { look: setBackMs } = watch()
  const { look: later } = watch()
  expect(setBackMs()).toBe(0)
  for (const offset of [1_000, HOUR, 2_000]) note(offset)
  expect(setBackMs()).toBe(HOUR - 1_000)
  expect(setBackMs()).toBe(0)
  expect(later()).toBe(HOUR - 1_000)
})

test('a clock that goes ahead, or back by less than half a second, was not set back', () => {
  let offsetMs = 0
  const { note, watch } = createSetBackWatch(() => offsetMs)
  const { look: setBackMs } = watch()
  offsetMs = HOUR
  note(offsetMs)
  expect(setBackMs()).toBe(0)
  offsetMs = HOUR - 499
  note(offsetMs)
  expect(setBackMs()).toBe(0)
  offsetMs -= 501
  expect(setBackMs()).toBe(501)
})

test('a watch that was stopped is noted nothing more', () => {
  const { note, watch } = createSetBackWatch(() => 0)
  const { look, stop } = watch()
  stop()
  note(HOUR)
  expect(look()).toBe(0)
})
