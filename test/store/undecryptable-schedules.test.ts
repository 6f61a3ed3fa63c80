// Remembers which schedules no key decrypts, so that each is logged once a minute.
import { expect, test } from 'vitest'
import { StoreUnusable } from '../../src/store/store-errors.ts'
import { rememberUndecryptableSchedules } from '../../src/store/undecryptable-schedules.ts'

function remembering() {
  const logged: unknown[] = []
  const clock = { ms: 0 }
  const undecryptable = rememberUndecryptableSchedules(
    (fields) => logged.push(fields.schedule),
    () => clock.ms,
  )
  const read = (name: string) =>
    undecryptable.tryDecrypt(name, () => {
      throw new StoreUnusable('no key')
    })
  return { undecryptable, read, logged, clock }
}

test('each is logged once a minute, however often it is found, and skipped meanwhile', () => {
  const { undecryptable, read, logged, clock } = remembering()
  expect(read('a')).toBeNull()
  expect(read('a')).toBeNull()
  read('b')
  expect(logged).toEqual(['a', 'b'])
  expect(undecryptable.names()).toEqual(['a', 'b'])
  clock.ms = 61_000
  expect(undecryptable.names()).toEqual([])
  read('a')
  expect(logged).toEqual(['a', 'b', 'a'])
})

test('what can be opened is, and any other error is not swallowed', () => {
  const { undecryptable, logged } = remembering()
  expect(undecryptable.tryDecrypt('a', () => 'plain')).toBe('plain')
  const fail = () => {
    throw new TypeError('a bug')
  }
  expect(() => undecryptable.tryDecrypt('a', fail)).toThrow(TypeError)
  expect(logged).toEqual([])
})

test('no more are remembered than have a place', () => {
  const { undecryptable, read, logged } = remembering()
  for (let i = 0; i < 10_500; i++) read(`schedule-${i}`)
  expect(undecryptable.names()).toHaveLength(10_000)
  expect(logged).toHaveLength(10_000)
})
