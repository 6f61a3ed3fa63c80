// The room of one fairness key within its limits.
import { describe, expect, test } from 'vitest'
import { keyRoom, NEW_KEY } from '../../src/endpoint/key-limits.ts'

const NOW = 1_760_000_000_000
const HOUR_MS = 3_600_000
const HOURLY = { count: 10, perMs: HOUR_MS }
const none = { running: () => 0, sendingSince: () => 0 }

function roomOf(
  rateLimit: typeof HOURLY,
  bucket: { at: number; tokens: number } | null,
  now = NOW,
) {
  const state = { ...NEW_KEY, bucket: bucket && { ...bucket, fullAt: NOW + HOUR_MS } }
  return keyRoom({ concurrency: null, rateLimit }, state, none, now)
}

describe('the bucket of a key', () => {
  test('is taken from when the jobs may be sent, and not when the claim began', () => {
    const bucket = roomOf(HOURLY, null).bucketAfter(10, NOW + 2_000)
    expect(bucket).toEqual({ at: NOW + 2_000, tokens: 0, fullAt: NOW + 2_000 + HOUR_MS })
    expect(roomOf(HOURLY, null).bucketAfter(0, NOW)).toBeNull()
  })

  test('refills by the limit that holds, whatever held when tokens were taken', () => {
    const empty = { at: NOW - 60_000, tokens: 0 }
    expect(roomOf(HOURLY, empty).left()).toBe(0)
    expect(roomOf({ count: 30, perMs: 120_000 }, empty).left()).toBe(15)
    expect(roomOf({ count: 5, perMs: 24 * HOUR_MS }, { at: NOW, tokens: 8 }).left()).toBe(5)
    expect(roomOf({ count: 10, perMs: 10_000 }, { at: NOW, tokens: -5 }).freeAt()).toBe(NOW + 6_000)
  })

  test('is full if the clock was set back since tokens were taken', () => {
    const empty = { at: NOW, tokens: 0 }
    expect(roomOf(HOURLY, empty, NOW - 1).left()).toBe(0)
    expect(roomOf(HOURLY, empty, NOW - HOUR_MS).left()).toBe(10)
  })
})
