// Reading minute statistics: a list that was cut leaves out whole minutes.
import { expect, test } from 'vitest'
import { minuteOf, wholeMinutes } from '../../src/store/minute-stats.ts'

const at = (minute: number, endpoint: string) => ({
  minute,
  endpoint,
  succeeded: 1,
  failed: 0,
  durations: [],
})

test('statistics come oldest first', () => {
  const newestFirst = [at(120_000, 'a'), at(60_000, 'b'), at(60_000, 'a')]
  expect(wholeMinutes(newestFirst)).toEqual({ stats: newestFirst.toReversed(), more: false })
  expect(wholeMinutes([])).toEqual({ stats: [], more: false })
})

test('of more than fit, the oldest minute is left out, for some of it may be missing', () => {
  const newestFirst = [at(120_000, 'b'), at(120_000, 'a'), at(60_000, 'b')]
  const stats = [at(120_000, 'a'), at(120_000, 'b')]
  expect(wholeMinutes(newestFirst, 2)).toEqual({ stats, more: true })
  expect(wholeMinutes(newestFirst, 3).stats).toHaveLength(3)
})

test('a minute holds its first instant and not its end', () => {
  expect(minuteOf(60_000)).toBe(60_000)
  expect(minuteOf(119_999)).toBe(60_000)
  expect(minuteOf(120_000)).toBe(120_000)
})
