import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import {
  type Backoff,
  backoffMs,
  DEFAULT_RETRY,
  decide,
  effectivePolicy,
  MAX_FREE_ATTEMPTS,
  MAX_RETRY_AFTER_MS,
} from '../../src/job/retry-policy.ts'

const NOW = 1_800_000_000_000
const MIDDLE = 0.5 // the random that leave a delay as it is
const budget = {
  attemptsLeft: 2,
  maxAttempts: 3,
  freeAttempts: 0,
  firstRunAt: NOW,
  promotedAt: null,
  expiresAt: null,
}
const policy = {
  ...DEFAULT_RETRY,
  backoff: { type: 'fixed', delayMs: 1_000, factor: 1, maxDelayMs: 60_000, jitter: 0 } as Backoff,
}
const ending = (
  outcome: Parameters<typeof decide>[2]['outcome'],
  retryAfterMs: number | null = null,
) => ({
  outcome,
  retryAfterMs,
  message: 'it said so',
})

describe('what follows an attempt', () => {
  it('a success ends the job', () => {
    expect(decide(budget, policy, ending('succeeded'), NOW, MIDDLE)).toEqual({ event: 'succeed' })
  })

  it('a response that the work continues elsewhere lets the job await completion', () => {
    expect(decide(budget, policy, ending('accepted'), NOW, MIDDLE)).toEqual({ event: 'await' })
    const last = { ...budget, attemptsLeft: 0 }
    expect(decide(last, policy, ending('accepted'), NOW, MIDDLE)).toEqual({ event: 'await' })
  })

  it('a failure that the handler reports is tried again, when it asks to be', () => {
    const reported = ending('failed', 9_000)
    expect(decide(budget, policy, reported, NOW, MIDDLE)).toEqual({
      event: 'reschedule',
      runAt: NOW + 9_000,
    })
    const last = decide({ ...budget, attemptsLeft: 0 }, policy, reported, NOW, MIDDLE)
    expect(last).toMatchObject({ event: 'bury', failure: { reason: 'attempts_exhausted' } })
  })

  it('a failure that the handler calls final buries the job, whatever is left', () => {
    const final = { ...ending('failed'), isFinal: true }
    expect(decide(budget, policy, final, NOW, MIDDLE)).toEqual({
      event: 'bury',
      failure: { reason: 'failed_by_handler', message: 'it said so' },
    })
    const notFinal = { ...ending('failed'), isFinal: false }
    expect(decide(budget, policy, notFinal, NOW, MIDDLE).event).toBe('reschedule')
  })

  it.each([
    'http_error',
    'connect_error',
    'dns_error',
    'tls_error',
    'timeout',
    'protocol_error',
  ] as const)('after %s it is tried again while attempts are left', (outcome) => {
    expect(decide(budget, policy, ending(outcome), NOW, MIDDLE)).toEqual({
      event: 'reschedule',
      runAt: NOW + 1_000,
    })
    const last = decide({ ...budget, attemptsLeft: 0 }, policy, ending(outcome), NOW, MIDDLE)
    expect(last).toMatchObject({ event: 'bury', failure: { reason: 'attempts_exhausted' } })
  })

  it.each(['rejected', 'blocked'] as const)('after %s it is dead at once', (outcome) => {
    expect(decide(budget, policy, ending(outcome), NOW, MIDDLE)).toMatchObject({
      event: 'bury',
      failure: { reason: 'rejected', message: 'it said so' },
    })
  })

  it('throttled costs nothing, and waits as long as was asked for', () => {
    const free = { ...budget, attemptsLeft: 0 }
    expect(decide(free, policy, ending('throttled', 7_000), NOW, MIDDLE)).toEqual({
      event: 'postpone',
      runAt: NOW + 7_000,
    })
  })

  it('throttled without a time waits 1 s, doubling up to 60 s', () => {
    const waits = [0, 1, 2, 5, 6, 50].map((freeAttempts) => {
      const next = decide({ ...budget, freeAttempts }, policy, ending('throttled'), NOW, MIDDLE)
      return 'runAt' in next ? next.runAt - NOW : null
    })
    expect(waits).toEqual([1_000, 2_000, 4_000, 32_000, 60_000, 60_000])
  })

  it('throttled with a time waits the longer of that and its own, up to a day', () => {
    const waitMs = (freeAttempts: number, retryAfterMs: number) => {
      const throttled = ending('throttled', retryAfterMs)
      const next = decide({ ...budget, freeAttempts }, policy, throttled, NOW, MIDDLE)
      return 'runAt' in next ? next.runAt - NOW : null
    }
    expect([waitMs(0, 0), waitMs(3, 0), waitMs(3, 1_000)]).toEqual([1_000, 8_000, 8_000])
    expect([waitMs(0, 5_000), waitMs(0, 1e12)]).toEqual([5_000, MAX_RETRY_AFTER_MS])
  })

  it('interrupted costs nothing and is due now', () => {
    const next = decide({ ...budget, attemptsLeft: 0 }, policy, ending('interrupted'), NOW, MIDDLE)
    expect(next).toEqual({ event: 'postpone', runAt: NOW })
  })

  it('the attempt after the last free one costs', () => {
    const spent = { ...budget, freeAttempts: MAX_FREE_ATTEMPTS }
    expect(decide(spent, policy, ending('throttled', 5_000), NOW, MIDDLE)).toEqual({
      event: 'reschedule',
      runAt: NOW + 5_000,
    })
    expect(
      decide({ ...spent, attemptsLeft: 0 }, policy, ending('throttled'), NOW, MIDDLE).event,
    ).toBe('bury')
  })

  it('Retry-After beats the computed delay only when longer, up to a day', () => {
    const runAt = (retryAfterMs: number) => {
      const next = decide(budget, policy, ending('http_error', retryAfterMs), NOW, MIDDLE)
      return 'runAt' in next ? next.runAt - NOW : null
    }
    expect([10, 9_000, 10 * MAX_RETRY_AFTER_MS].map(runAt)).toEqual([
      1_000,
      9_000,
      MAX_RETRY_AFTER_MS,
    ])
  })

  it('a retry that would be due after expiresAt or maxAge buries the job now', () => {
    const late = decide({ ...budget, expiresAt: NOW + 999 }, policy, ending('timeout'), NOW, MIDDLE)
    expect(late).toMatchObject({ event: 'bury', failure: { reason: 'expired' } })
    const old = decide(budget, { ...policy, maxAgeMs: 999 }, ending('timeout'), NOW, MIDDLE)
    expect(old).toMatchObject({ event: 'bury', failure: { reason: 'max_age' } })
    const justInTime = decide(
      { ...budget, expiresAt: NOW + 1_000 },
      { ...policy, maxAgeMs: 1_000 },
      ending('timeout'),
      NOW,
      MIDDLE,
    )
    expect(justInTime.event).toBe('reschedule')
  })

  it('the wait for another job uses up no maxAge, but counts towards expiresAt', () => {
    const waited = { ...budget, firstRunAt: NOW - 310_000, promotedAt: NOW }
    const short = { ...policy, maxAgeMs: 1_000 }
    expect(decide(waited, short, ending('timeout'), NOW, MIDDLE).event).toBe('reschedule')
    const early = { ...waited, promotedAt: NOW - 310_000, firstRunAt: NOW }
    expect(decide(early, short, ending('timeout'), NOW, MIDDLE).event).toBe('reschedule')
    const old = { ...waited, promotedAt: NOW - 1 }
    expect(decide(old, short, ending('timeout'), NOW, MIDDLE)).toMatchObject({
      failure: { reason: 'max_age' },
    })
    const expired = { ...waited, expiresAt: NOW }
    expect(decide(expired, short, ending('timeout'), NOW, MIDDLE)).toMatchObject({
      failure: { reason: 'expired' },
    })
  })
})

describe('the wait before the next attempt', () => {
  const curve = (backoff: Backoff) => [1, 2, 3, 4].map((n) => backoffMs(backoff, n, MIDDLE))
  const shape = { delayMs: 100, factor: 3, maxDelayMs: 1_000, jitter: 0.2 }

  it('grows as its type says, up to maxDelay', () => {
    expect(curve({ type: 'exponential', ...shape })).toEqual([100, 300, 900, 1_000])
    expect(curve({ type: 'linear', ...shape })).toEqual([100, 200, 300, 400])
    expect(curve({ type: 'fixed', ...shape })).toEqual([100, 100, 100, 100])
    expect(curve({ type: 'schedule', delaysMs: [5, 50], jitter: 0 })).toEqual([5, 50, 50, 50])
  })

  it('is spread by the jitter and no further, even after 99 attempts', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 100 }),
        fc.double({ min: 0, max: 0.999, noNaN: true }),
        (n, random) => {
          const waitMs = backoffMs({ type: 'exponential', ...shape }, n, random)
          const plainMs = Math.min(100 * 3 ** (n - 1), 1_000)
          expect(waitMs).toBeGreaterThanOrEqual(Math.floor(plainMs * 0.8))
          expect(waitMs).toBeLessThanOrEqual(Math.ceil(plainMs * 1.2))
        },
      ),
    )
  })

  it('takes the parts a job gives over those of its endpoint', () => {
    expect(effectivePolicy(policy, null)).toBe(policy)
    expect(effectivePolicy(policy, { maxAgeMs: 5 })).toEqual({ ...policy, maxAgeMs: 5 })
  })
})
