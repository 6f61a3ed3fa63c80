import { describe, expect, test } from 'vitest'
import { restAfterSetBack } from '../../src/endpoint/health.ts'
import { runAtAfterSetBack } from '../../src/job/set-back.ts'
import { tickAfterSetBack } from '../../src/schedule/due-ticks.ts'

const NOW = Date.parse('2026-06-01T12:00:00Z')
const [SECOND, HOUR, DAY] = [1_000, 3_600_000, 86_400_000]
const AHEAD = NOW + 400 * DAY

describe('after the clock was set back, a queued job', () => {
  test.each([
    ['of an instant that its client named keeps it', [NOW + 300 * DAY, NOW - DAY, null], null],
    [
      'whose retry was stored by a right clock keeps it',
      [NOW + HOUR, NOW - DAY, NOW - SECOND],
      null,
    ],
    ['that was due when it was created ahead is due now', [AHEAD, AHEAD, null], NOW],
    [
      'delayed by 10 s while ahead waits 10 s',
      [AHEAD + 10 * SECOND, AHEAD, null],
      NOW + 10 * SECOND,
    ],
    ['whose attempt failed ahead waits its back-off', [AHEAD + HOUR, NOW - DAY, AHEAD], NOW + HOUR],
    ['due later than any client can ask for is due now', [AHEAD, NOW - DAY, NOW - HOUR], NOW],
    // A client may have named an instant an hour ahead: the job is not due before it.
    ['created an hour ahead for an instant keeps it', [NOW + 3 * HOUR, NOW + HOUR, null], null],
    ['whose attempt failed an hour ahead waits', [NOW + 2 * HOUR, NOW, NOW + HOUR], NOW + HOUR],
  ])('%s', (_, [runAt, createdAt, lastFinishedAt], expected) => {
    const job = { runAt: runAt as number, createdAt: createdAt as number }
    expect(
      runAtAfterSetBack({ ...job, lastFinishedAt: lastFinishedAt as number | null }, NOW),
    ).toBe(expected)
  })
})

describe('after the clock was set back, a rest', () => {
  test.each([
    ['of the breaker is its cooldown', AHEAD, 30 * SECOND, 0, NOW + 30 * SECOND],
    ['of the breaker that ends earlier stays', NOW + SECOND, 30 * SECOND, 0, NOW + SECOND],
    ['that was asked for ends within a day', AHEAD, null, 0, NOW + DAY],
    ['that was asked for ends earlier by the step', NOW + HOUR + SECOND, null, HOUR, NOW + SECOND],
    ['that was asked for before ends now at the earliest', NOW + SECOND, null, HOUR, NOW],
    ['is as it was where no step is known', NOW + HOUR, null, 0, NOW + HOUR],
  ])('%s', (_, until, cooldownMs, setBackMs, expected) => {
    expect(restAfterSetBack(until, cooldownMs, setBackMs, NOW)).toBe(expected)
  })
})

describe('after the clock was set back, a schedule', () => {
  const every = {
    ...{ cron: null, everyMs: 2 * SECOND, timezone: 'UTC' },
    ...{ startAt: null, endAt: null, anchorAt: NOW - 1 },
  }
  test.each([
    ['ticks next as it would now', every, AHEAD, NOW + 2 * SECOND - 1],
    [
      'that was created while it was ahead ticks within an interval, in step',
      { ...every, anchorAt: AHEAD + 500 },
      AHEAD + 2 * SECOND + 500,
      AHEAD + 500 - Math.floor((AHEAD + 499 - NOW) / (2 * SECOND)) * 2 * SECOND,
    ],
    ['with a tick that is right keeps it', every, NOW + SECOND, NOW + SECOND],
    ['with a tick that is due keeps it', every, NOW - SECOND, NOW - SECOND],
    [
      'that seemed to have ended goes on',
      { ...every, endAt: NOW + DAY },
      null,
      NOW + 2 * SECOND - 1,
    ],
    ['that has ended stays so', { ...every, endAt: NOW - DAY }, null, null],
    ['that starts later waits for its start', { ...every, startAt: NOW + DAY }, AHEAD, NOW + DAY],
  ])('%s', (_, timing, stored, expected) => {
    expect(tickAfterSetBack(timing, stored, NOW)).toBe(expected)
  })
})
