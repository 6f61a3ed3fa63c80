// Remembers which schedules no key decrypts, so that each is logged once a minute.
import { expect, test } from 'vitest'
import { StoreUnusable } from '../../src/store/store-errors.ts'
import { rememberUndecryptableSchedules } from '../../src/store/undecryptable-schedules.ts'

function remembering() {
  const told: unknown[] = []
  const clock = { ms: 0 }
  const undecryptable = rememberUndecryptableSchedules(
    (fields) => told.push(fields.schedule),
    () => clock.ms,
  )
  const meet = (name: string) =>
    undecryptable.tryDecrypt(name, () => {
      throw new StoreUnusable('no key')
    })
  return { undecryptable, meet, told, clock }
}

test('each is logged once a minute, however often it is found, and skipped meanwhile', () => {
  const { undecryptable, meet, told, clock } = remembering()
  expect(meet('a')).toBeNull()
  expect(meet('a')).toBeNull()
  meet('b')
  expect(told).toEqual(['a', 'b'])
  expect(undecryptable.names()).toEqual(['a', 'b'])
  clock.ms = 61_000
  expect(undecryptable.names()).toEqual([])
  meet('a')
  expect(told).toEqual(['a', 'b', 'a'])
})

test('what can be opened is, and any other error is not swallowed', () => {
  const { undecryptable, told } = remembering()
  expect(undecryptable.tryDecrypt('a', () => 'plain')).toBe('plain')
  const fail = () => {
    throw new TypeError('a bug')
  }
  expect(() => undecryptable.tryDecrypt('a', fail)).toThrow(TypeError)
  expect(told).toEqual([])
})

test('no more are remembered than have a place', () => {
  const { undecryptable, meet, told } = remembering()
  for (let i = 0; i < 10_500; i++) meet(`schedule-${i}`)
  expect(undecryptable.names()).toHaveLength(10_000)
  expect(told).toHaveLength(10_000)
})
