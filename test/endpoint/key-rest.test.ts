// The rest of a fairness key: how long it is, when it is over, and how many jobs may start then.
import { describe, expect, test } from 'vitest'
import { keyRoom, NEW_KEY } from '../../src/endpoint/key-limits.ts'
import {
  type KeyHealthReport,
  type KeyRest,
  keyRestAfter,
  keyRestsUntil,
  restInForce,
} from '../../src/endpoint/key-rest.ts'

const NOW = 1_760_000_000_000
const HOUR_MS = 3_600_000

function reported(rest: KeyRest | null, report: Partial<KeyHealthReport>, now: number) {
  const none = { endpoint: 'a', key: 'k', succeeded: [], throttle: null }
  return keyRestAfter(rest, { ...none, ...report }, now)
}

const throttled = (rest: KeyRest | null, now: number, until: number | null = null) =>
  reported(rest, { throttle: { until } }, now)

/** Of a key that was throttled at NOW. */
const first = throttled(null, NOW)

function roomAt(rest: KeyRest | null, now: number, running = 0, sending = running) {
  const since: number[] = []
  const counts = {
    running: () => running,
    sendingSince(instant: number) {
      since.push(instant)
      return sending
    },
  }
  const perKey = { concurrency: 10, rateLimit: null }
  return { room: keyRoom(perKey, { ...NEW_KEY, rest }, counts, now), since }
}

describe('the rest of a key', () => {
  test('lasts 1 s, twice as long after each further throttled attempt, and 60 s at most', () => {
    const lengths: number[] = []
    let rest: KeyRest | null = null
    let now = NOW
    for (let i = 0; i < 8; i++) {
      rest = throttled(rest, now)
      lengths.push((rest?.restingUntil ?? 0) - now)
      now = rest?.restingUntil ?? 0
    }
    expect(lengths).toEqual([1, 2, 4, 8, 16, 32, 60, 60].map((seconds) => seconds * 1_000))
  })

  test('is not doubled by attempts that end during it', () => {
    expect(throttled(first, NOW + 500)).toMatchObject({
      ...{ restingUntil: NOW + 1_500, throttleStreak: 1 },
    })
  })

  test('lasts as long as a response asks, within 24 h', () => {
    expect(throttled(null, NOW, NOW + HOUR_MS)?.restingUntil).toBe(NOW + HOUR_MS)
    expect(throttled(null, NOW, NOW + 10)?.restingUntil).toBe(NOW + 1_000)
    expect(throttled(null, NOW, NOW + 99 * HOUR_MS)?.restingUntil).toBe(NOW + 24 * HOUR_MS)
  })

  test('is followed by a ramp that only later attempts extend', () => {
    expect(reported(first, { succeeded: [NOW - 1] }, NOW + 10)).toEqual({ ...first, at: NOW + 10 })
    const ramp = reported(first, { succeeded: [NOW + 1_000] }, NOW + 1_100)
    expect(ramp).toMatchObject({ throttleStreak: 0, ramp: { slots: 2, endsAt: NOW + 31_100 } })
    expect(
      reported(ramp, { succeeded: Array(62).fill(NOW + 1_200) }, NOW + 1_300)?.ramp?.slots,
    ).toBe(64)
    expect(reported(ramp, { succeeded: Array(63).fill(NOW + 1_200) }, NOW + 1_300)).toBeNull()
    expect(restInForce(ramp, NOW + 31_099)).toEqual(ramp)
    expect(restInForce(ramp, NOW + 31_100)).toBeNull()
  })

  test('is forgotten an hour after its end, and if the clock was set back since', () => {
    expect(keyRestsUntil(first, NOW + 999)).toBe(NOW + 1_000)
    expect(keyRestsUntil(first, NOW + 1_000)).toBeNull()
    expect(restInForce(first, NOW + HOUR_MS + 999)).toEqual(first)
    expect(restInForce(first, NOW + HOUR_MS + 1_000)).toBeNull()
    expect(throttled(first, NOW + HOUR_MS + 1_000)?.throttleStreak).toBe(1)
    expect(restInForce(first, NOW - 1_000)).toEqual(first)
    expect(restInForce(first, NOW - 1_001)).toBeNull()
  })

  test('stores nothing for a success of a key that did not rest', () => {
    expect(reported(null, { succeeded: [NOW] }, NOW)).toBeNull()
  })
})

describe('the room of a key', () => {
  test('is none while it rests, and comes with the end of the rest', () => {
    const { room } = roomAt(first, NOW + 10)
    expect([room.left(), room.canTake(1), room.freeAt()]).toEqual([0, false, NOW + 1_000])
    expect(room.isRecovering).toBe(true)
  })

  test('has no end while the key is paused, too', () => {
    const settings = { weight: 1, paused: true }
    const counts = { running: () => 0, sendingSince: () => 0 }
    expect(keyRoom(null, { ...NEW_KEY, settings, rest: first }, counts, NOW).freeAt()).toBeNull()
  })

  test('is one job after the rest, until it has ended', () => {
    const { room, since } = roomAt(first, NOW + 1_000)
    expect(room.left()).toBe(1)
    // A claim that came at the end of the rest by the clock of another process counts.
    expect(since).toEqual([NOW + 900])
    room.take(1)
    expect([room.left(), room.freeAt()]).toEqual([0, null])
    expect(roomAt(first, NOW + 1_000, 1).room.freeAt()).toBeNull()
  })

  test('grows with each success, within the limits of the key, until the ramp ends', () => {
    const ramp = reported(first, { succeeded: [NOW + 1_000, NOW + 1_000] }, NOW + 1_100)
    expect(roomAt(ramp, NOW + 1_200, 1).room.left()).toBe(2)
    expect(roomAt(ramp, NOW + 1_200, 9, 1).room.left()).toBe(1)
    expect(roomAt(ramp, NOW + 1_200, 3).room.freeAt()).toBe(NOW + 31_100)
    expect(roomAt(ramp, NOW + 31_100, 3).room.left()).toBe(7)
    expect(roomAt(ramp, NOW + 31_100, 3).room.isRecovering).toBe(false)
  })
})
