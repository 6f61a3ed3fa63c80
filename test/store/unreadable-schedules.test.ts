// What is remembered of schedules that no key opens.
import { expect, test } from 'vitest'
import { StoreUnusable } from '../../src/store/store.ts'
import { rememberUnreadableSchedules } from '../../src/store/unreadable-schedules.ts'

function remembering() {
  const told: unknown[] = []
  const clock = { ms: 0 }
  const unreadable = rememberUnreadableSchedules(
    (fields) => told.push(fields.schedule),
    () => clock.ms,
  )
  const meet = (name: string) =>
    unreadable.openOrNote(name, () => {
      throw new StoreUnusable('no key')
    })
  return { unreadable, meet, told, clock }
}

test('each is told of once a minute, however often it is met, and looked past meanwhile', () => {
  const { unreadable, meet, told, clock } = remembering()
  expect(meet('a')).toBeNull()
  expect(meet('a')).toBeNull()
  meet('b')
  expect(told).toEqual(['a', 'b'])
  expect(unreadable.names()).toEqual(['a', 'b'])
  clock.ms = 61_000
  expect(unreadable.names()).toEqual([])
  meet('a')
  expect(told).toEqual(['a', 'b', 'a'])
})

test('what can be opened is, and any other error is not swallowed', () => {
  const { unreadable, told } = remembering()
  expect(unreadable.openOrNote('a', () => 'plain')).toBe('plain')
  const fail = () => {
    throw new TypeError('a bug')
  }
  expect(() => unreadable.openOrNote('a', fail)).toThrow(TypeError)
  expect(told).toEqual([])
})

test('no more are remembered than have a place', () => {
  const { unreadable, meet, told } = remembering()
  for (let i = 0; i < 10_500; i++) meet(`schedule-${i}`)
  expect(unreadable.names()).toHaveLength(10_000)
  expect(told).toHaveLength(10_000)
})
