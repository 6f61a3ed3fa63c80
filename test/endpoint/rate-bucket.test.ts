// The token bucket as one number: the rate holds, whatever is claimed, at any time.
import { array, assert, integer, property, record } from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  freeAt,
  fullAfterTaking,
  hasTokens,
  tokensAt,
  underNewLimit,
  wholeTokens,
} from '../../src/endpoint/rate-bucket.ts'

const START = 1_760_000_000_000
/** Two thousandths of a millisecond: doubles hold no finer instants. */
const ROUNDING_MS = 0.002

const limits = record({
  count: integer({ min: 1, max: 1_000 }),
  perMs: integer({ min: 100, max: 86_400_000 }),
})
/** The time since the previous claim, in thousandths of perMs, and the number of jobs requested. */
const demands = array(
  record({ pause: integer({ min: 0, max: 1_500 }), asked: integer({ min: 1, max: 2_000 }) }),
  { minLength: 1, maxLength: 60 },
)

describe('the bucket of a rate limit', () => {
  test('gives in any stretch L at most count × (1 + L / per)', () => {
    assert(
      property(limits, demands, (limit, asked) => {
        const starts: { at: number; count: number }[] = []
        let now = START
        let fullAt: number | null = null
        for (const demand of asked) {
          now += Math.floor((demand.pause * limit.perMs) / 1_000)
          const taken = Math.min(demand.asked, wholeTokens(limit, fullAt, now))
          if (taken > 0) fullAt = fullAfterTaking(limit, fullAt, now, taken)
          starts.push({ at: now, count: taken })
        }
        for (const [i, first] of starts.entries()) {
          let sum = 0
          for (const { at, count } of starts.slice(i)) {
            sum += count
            const stretchMs = at - first.at + ROUNDING_MS
            expect(sum).toBeLessThanOrEqual(limit.count * (1 + stretchMs / limit.perMs))
          }
        }
      }),
    )
  })

  test('shows the first millisecond at which a token is there', () => {
    assert(
      property(limits, (limit) => {
        const empty = fullAfterTaking(limit, null, START, limit.count)
        const tokenAt = freeAt(limit, empty, START) as number
        expect(wholeTokens(limit, empty, tokenAt)).toBeGreaterThanOrEqual(1)
        const before = tokenAt - 1
        if (before > START) expect(wholeTokens(limit, empty, before)).toBe(0)
        expect(freeAt(limit, null, START)).toBeNull()
      }),
      // One millisecond after the instant that the refill gives without its rounding.
      { examples: [[{ count: 993, perMs: 9_137_587 }]] },
    )
  })

  test('is under a changed limit no fuller than it was, and than it can be', () => {
    assert(
      property(limits, limits, integer({ min: 0, max: 1_000 }), (before, limit, taken) => {
        const fullAt = fullAfterTaking(before, null, START, Math.min(taken, before.count))
        const changed = underNewLimit(before, limit, fullAt, START)
        const tokens = tokensAt(limit, changed, START)
        // Each instant is rounded to what a double can hold, so the result may differ by this many
        // tokens.
        const perMs = before.count / before.perMs + limit.count / limit.perMs
        const most = tokensAt(before, fullAt, START) + Math.max(1e-9, 1e-3 * perMs)
        expect(tokens).toBeLessThanOrEqual(most)
        expect(tokens).toBeLessThanOrEqual(limit.count)
      }),
    )
  })

  test('gives a token though the clock was set back a year', () => {
    const limit = { count: 500, perMs: 60_000 }
    const fullAt = fullAfterTaking(limit, null, START, 500)
    const past = START - 365 * 86_400_000
    // The longest debt lasts 2 × perMs, because no job costs more than 1,000.
    const set = fullAfterTaking(limit, fullAt, past, 0)
    expect(set).toBe(past + 120_000)
    expect(freeAt(limit, set, past)).toBe(past + 60_120)
    expect(wholeTokens(limit, set, past + 60_120)).toBe(1)
  })

  test('lets a job that costs more than it holds start when it is full, and is then in debt', () => {
    const limit = { count: 10, perMs: 1_000 }
    expect(hasTokens(limit, null, START, 1_000)).toBe(true)
    const after = fullAfterTaking(limit, null, START, 25)
    expect(freeAt(limit, after, START)).toBe(START + 1_600)
    expect(freeAt(limit, after, START, 25)).toBe(START + 2_500)
    expect(hasTokens(limit, after, START + 2_499, 25)).toBe(false)
    expect(hasTokens(limit, after, START + 2_500, 25)).toBe(true)
  })
})
