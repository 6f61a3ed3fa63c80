import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { dueTicks, MISSED_AFTER_MS } from '../../src/schedule/due-ticks.ts'
import { nextTick, nextTicks, type Timing, timingProblem } from '../../src/schedule/timing.ts'

const at = (text: string) => Date.parse(text)
const MADE = at('2026-11-24T08:00:00.250Z')
const MINUTE_MS = 60_000

function timing(fields: Partial<Timing> = {}): Timing {
  return {
    cron: null,
    everyMs: null,
    timezone: 'UTC',
    startAt: null,
    endAt: null,
    anchorAt: MADE,
    ...fields,
  }
}

describe('an hour', () => {
  it('lasts two hours of an hourly cron line in autumn, and one of an interval', () => {
    const hourly = timing({ cron: '0 * * * *', timezone: 'Europe/Berlin' })
    const before = at('2026-10-24T23:30Z')
    const ticks = nextTicks(hourly, before, 3).map((tick) => new Date(tick).toISOString())
    expect(ticks).toEqual([
      '2026-10-25T00:00:00.000Z',
      '2026-10-25T02:00:00.000Z',
      '2026-10-25T03:00:00.000Z',
    ])
    const every = timing({ everyMs: 60 * MINUTE_MS, startAt: at('2026-10-24T22:00Z') })
    const [first = 0, ...later] = nextTicks(every, before, 3)
    expect(later.map((tick) => tick - first)).toEqual([60 * MINUTE_MS, 120 * MINUTE_MS])
  })
})

describe('an interval', () => {
  it('counts from the creation, which is no tick itself', () => {
    const every = timing({ everyMs: 15 * MINUTE_MS })
    expect(nextTick(every, MADE)).toBe(MADE + 15 * MINUTE_MS)
    expect(nextTick(every, MADE + 15 * MINUTE_MS)).toBe(MADE + 30 * MINUTE_MS)
    expect(nextTick(every, MADE + 16 * MINUTE_MS)).toBe(MADE + 30 * MINUTE_MS)
  })

  it('created by a clock that was ahead has its ticks before its creation too, in step', () => {
    const every = timing({ everyMs: 15 * MINUTE_MS })
    const dayBefore = MADE - 86_400_000
    expect(nextTicks(every, dayBefore, 2)).toEqual([
      dayBefore + 15 * MINUTE_MS,
      dayBefore + 30 * MINUTE_MS,
    ])
  })

  it('has no tick at its creation for a process whose clock is slightly behind', () => {
    const every = timing({ everyMs: 15 * MINUTE_MS })
    expect(nextTick(every, MADE - 1)).toBe(MADE + 15 * MINUTE_MS)
    expect(nextTick(every, MADE - 999)).toBe(MADE + 15 * MINUTE_MS)
    expect(nextTick(every, MADE - 1_000)).toBe(MADE)
  })

  it('counts exactly from a startAt of the year 1', () => {
    const startAt = at('0001-01-01T00:00:00.007Z')
    const every = timing({ everyMs: 1_001, startAt })
    const tick = nextTick(every, MADE) as number
    expect((tick - startAt) % 1_001).toBe(0)
    expect(tick).toBeGreaterThan(MADE)
    expect(tick - 1_001).toBeLessThanOrEqual(MADE)
  })

  it('counts from startAt where there is one, which is the first tick', () => {
    const startAt = at('2026-12-01T00:00Z')
    const every = timing({ everyMs: 15 * MINUTE_MS, startAt })
    expect(nextTicks(every, MADE, 2)).toEqual([startAt, startAt + 15 * MINUTE_MS])
    const past = timing({ everyMs: 15 * MINUTE_MS, startAt: at('2020-01-01T00:05Z') })
    expect(nextTick(past, MADE)).toBe(at('2026-11-24T08:05Z'))
  })

  it('has each tick at a whole number of intervals, the next one after any instant', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1_000, max: 366 * 86_400_000 }),
        fc.oneof(
          fc.integer({ min: 0, max: 10 * 366 * 86_400_000 }),
          fc.integer({ min: -10 * 366 * 86_400_000, max: -1_000 }),
        ),
        (everyMs, laterMs) => {
          const tick = nextTick(timing({ everyMs }), MADE + laterMs) as number
          expect(Math.abs((tick - MADE) % everyMs)).toBe(0)
          expect(tick).toBeGreaterThan(MADE + laterMs)
          expect(tick - everyMs).toBeLessThanOrEqual(MADE + laterMs)
        },
      ),
    )
  })
})

describe('startAt and endAt', () => {
  it('bound the ticks: the first is in, the last is not', () => {
    const bounded = timing({
      cron: '0 * * * *',
      startAt: at('2026-12-01T00:00Z'),
      endAt: at('2026-12-01T03:00Z'),
    })
    expect(nextTicks(bounded, MADE, 10)).toEqual([
      at('2026-12-01T00:00Z'),
      at('2026-12-01T01:00Z'),
      at('2026-12-01T02:00Z'),
    ])
    expect(nextTick(bounded, at('2026-12-01T02:00Z'))).toBeNull()
  })

  it('are refused the wrong way round', () => {
    const startAt = at('2026-12-01T00:00Z')
    expect(timingProblem(timing({ everyMs: 1_000, startAt, endAt: startAt }))?.path).toBe('/endAt')
    expect(timingProblem(timing({ everyMs: 1_000, startAt, endAt: startAt + 1 }))).toBeNull()
  })

  it('do not make up for a day that never comes', () => {
    expect(timingProblem(timing({ cron: '0 0 30 2 *' }))?.path).toBe('/cron')
    expect(timingProblem(timing({ cron: '0 0 29 2 *' }))).toBeNull()
  })

  it('beyond the years that cron lines are read for are refused by their own name', () => {
    const startAt = at('3000-01-01T00:00:00Z')
    const problem = {
      path: '/startAt',
      message: 'expected an instant from which the cron expression has a tick before the year 3000',
    }
    expect(timingProblem(timing({ cron: '* * * * *', startAt }))).toEqual(problem)
    const lastSummer = at('2999-06-01T00:00:00Z')
    expect(timingProblem(timing({ cron: '0 0 1 1 *', startAt: lastSummer }))).toEqual(problem)
    const before = startAt - 2 * MINUTE_MS
    expect(timingProblem(timing({ cron: '* * * * *', startAt: before }))).toBeNull()
    expect(timingProblem(timing({ everyMs: 1_000, startAt }))).toBeNull()
  })
})

describe('the ticks of a schedule that are due', () => {
  const everyMinute = { timing: timing({ cron: '* * * * *' }), misfire: 'once' as const }
  const first = at('2026-11-24T09:00Z')

  it('is the tick that has come, and then the next is to come', () => {
    expect(dueTicks(everyMinute, first, first + 5, 60)).toEqual({
      ticks: [first],
      isMissed: false,
      nextRunAt: first + MINUTE_MS,
    })
  })

  it('is each tick of the last minute: late is not missed', () => {
    const everySecond = {
      timing: timing({ everyMs: 1_000, startAt: first }),
      misfire: 'skip',
    } as const
    const due = dueTicks(everySecond, first, first + MISSED_AFTER_MS, 100)
    expect(due.ticks).toHaveLength(61)
    expect(due.isMissed).toBe(false)
    expect(due.nextRunAt).toBe(first + 61_000)
  })

  it('is cut at the limit, and the rest is due again', () => {
    const everySecond = {
      timing: timing({ everyMs: 1_000, startAt: first }),
      misfire: 'once',
    } as const
    const due = dueTicks(everySecond, first, first + 10_000, 4)
    expect(due.ticks).toEqual([0, 1, 2, 3].map((n) => first + n * 1_000))
    expect(due.nextRunAt).toBe(first + 4_000)
  })

  it('is one job for all that were missed, or none, and then the next tick to come', () => {
    const now = first + MISSED_AFTER_MS + 1
    expect(dueTicks(everyMinute, first, now, 60)).toEqual({
      ticks: [first],
      isMissed: true,
      nextRunAt: first + 2 * MINUTE_MS,
    })
    expect(dueTicks({ ...everyMinute, misfire: 'skip' }, first, now, 60)).toEqual({
      ticks: [],
      isMissed: true,
      nextRunAt: first + 2 * MINUTE_MS,
    })
  })

  it('ends with endAt', () => {
    const last = {
      timing: timing({ cron: '* * * * *', endAt: first + 1 }),
      misfire: 'once' as const,
    }
    expect(dueTicks(last, first, first, 60).nextRunAt).toBeNull()
  })

  it('however it is caught up, is every tick once', () => {
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 1, max: 50_000 }), { maxLength: 20 }), (steps) => {
        const settings = {
          timing: timing({ everyMs: 1_000, startAt: first }),
          misfire: 'once',
        } as const
        let now = first
        let next = first
        const made: number[] = []
        for (const step of steps) {
          now += step
          while (next <= now) {
            const due = dueTicks(settings, next, now, 7)
            made.push(...due.ticks)
            next = due.nextRunAt as number
          }
        }
        expect(made).toEqual(made.map((_, n) => first + n * 1_000))
        expect(next).toBe(first + made.length * 1_000)
      }),
    )
  })
})
