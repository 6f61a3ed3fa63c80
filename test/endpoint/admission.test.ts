import { describe, expect, it } from 'vitest'
import {
  ASK_AGAIN_MS,
  afterClaim,
  isLimited,
  type Limits,
  slotsLeft,
} from '../../src/endpoint/admission.ts'

const NOW = 1_000_000
const NONE: Limits = {
  ...{ concurrency: null, rateLimit: null, rateFullAt: null, restingUntil: null, ramp: null },
}
const counts = (running: number, sending = 0) => ({
  running: () => running,
  sendingSince: () => sending,
})
const left = (limits: Partial<Limits>, running = 0, sending = 0) =>
  slotsLeft({ ...NONE, ...limits }, 10, counts(running, sending), NOW)

describe('the slots of an endpoint', () => {
  it('are as many as are asked for without limits, and nothing is counted', () => {
    const never = () => {
      throw new Error('nothing is to be counted')
    }
    expect(slotsLeft(NONE, 10, { running: never, sendingSince: never }, NOW)).toBe(10)
    expect(isLimited(NONE)).toBe(false)
  })

  it('are what the lowest limit leaves, and never fewer than none', () => {
    expect(left({ concurrency: 3 }, 1)).toBe(2)
    expect(left({ concurrency: 3 }, 5)).toBe(0)
    expect(left({ rateLimit: { count: 4, perMs: 1_000 } })).toBe(4)
    expect(left({ concurrency: 3, rateLimit: { count: 1, perMs: 1_000 } }, 1)).toBe(1)
    expect(left({ concurrency: 3, rateLimit: { count: 9, perMs: 1_000 } }, 1)).toBe(2)
  })

  it('are one after a rest, until its attempt has succeeded', () => {
    expect(left({ restingUntil: NOW - 1 })).toBe(1)
    expect(left({ restingUntil: NOW - 1 }, 0, 1)).toBe(0)
    const ramp = { slots: 4, endsAt: NOW + 1 }
    expect(left({ restingUntil: NOW - 1, ramp }, 0, 1)).toBe(3)
    expect(left({ restingUntil: NOW - 1, ramp: { ...ramp, endsAt: NOW } }, 0, 1)).toBe(10)
  })
})

describe('after a claim', () => {
  const rateLimit = { count: 2, perMs: 1_000 }

  it('it is asked again when the next token comes, or soon where no token is lacking', () => {
    expect(afterClaim({ ...NONE, rateLimit }, 2, NOW)).toEqual({
      rateFullAt: NOW + 1_000,
      againAt: NOW + 500,
    })
    expect(afterClaim({ ...NONE, rateLimit }, 1, NOW).againAt).toBe(NOW + ASK_AGAIN_MS)
    expect(afterClaim(NONE, 5, NOW)).toEqual({ rateFullAt: null, againAt: NOW + ASK_AGAIN_MS })
  })

  it('that took nothing, nothing is stored', () => {
    expect(afterClaim({ ...NONE, rateLimit, rateFullAt: NOW + 1 }, 0, NOW).rateFullAt).toBe(NOW + 1)
  })
})
