import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { cronProblem, nextCronTick } from '../../src/schedule/cron.ts'
import { localTimeAt } from '../../src/schedule/time-zone.ts'

const at = (text: string) => Date.parse(text)

function ticks(line: string, zone: string, after: string, count: number): string[] {
  const found: string[] = []
  let tick = nextCronTick(line, zone, at(after))
  while (tick !== null && found.length < count) {
    found.push(new Date(tick).toISOString().replace(':00.000Z', 'Z'))
    tick = nextCronTick(line, zone, tick)
  }
  return found
}

describe('a cron line', () => {
  it.each([
    '* * * * *',
    '0 9 * * 1-5',
    '*/15 8-18 * * MON-FRI',
    '0 0 1,15 * *',
    '0 0 29 2 *',
    '0 12 L * *',
    '0 8 * * 5#2',
    '0 0 * * 7',
    '5  4\t* * *',
    '@daily',
    '@hourly',
  ])('%s is read', (line) => {
    expect(cronProblem(line)).toBeNull()
  })

  it.each([
    ['60 * * * *', /^the field minute is wrong: "60"/],
    ['*/0 * * * *', /^the field minute is wrong/],
    ['5/10 * * * *', /^the field minute is wrong/],
    ['? * * * *', /^the field minute is wrong/],
    ['0 24 * * *', /^the field hour is wrong: "24"/],
    ['0 0 32 * *', /^the field day of month is wrong/],
    ['0 0 * 13 *', /^the field month is wrong/],
    ['0 0 * JANUARY *', /^the field month is wrong/],
    ['0 0 * * 8', /^the field day of week is wrong/],
    ['0 0 * * FUNDAY', /^the field day of week is wrong/],
    ['* * * *', /five fields.*found 4$/],
    ['0 0 9 * * 1', /five fields.*found 6$/],
    [' 0 9 * * *', /five fields/],
    ['', /five fields.*found 0$/],
    ['@reboot', /@daily/],
    ['@fortnightly', /@daily/],
    ['2026-11-24T08:30:00', /five fields/],
    [`0${',0'.repeat(100)} * * * *`, /longer than 128/],
  ])('%j is refused with a sentence', (line, sentence) => {
    expect(cronProblem(line)).toMatch(sentence)
  })

  it('never throws on any text, and what it takes has ticks or none', () => {
    const field = fc.stringMatching(/^[0-9*/,LW#A-Z-]{1,6}$/)
    const line = fc.array(field, { minLength: 5, maxLength: 5 }).map((some) => some.join(' '))
    fc.assert(
      fc.property(fc.oneof(line, fc.string()), (text) => {
        if (cronProblem(text) !== null) return
        const tick = nextCronTick(text, 'Europe/Berlin', at('2026-11-24T12:00Z'))
        if (tick !== null) expect(tick).toBeGreaterThan(at('2026-11-24T12:00Z'))
      }),
      { numRuns: 500 },
    )
  })

  it('for a day that never comes has no tick', () => {
    expect(nextCronTick('0 0 30 2 *', 'UTC', at('2026-11-24T00:00Z'))).toBeNull()
    expect(nextCronTick('0 0 31 4,6,9,11 *', 'UTC', at('2026-11-24T00:00Z'))).toBeNull()
  })

  it('ticks after an instant, never at it', () => {
    expect(ticks('0 9 * * *', 'UTC', '2026-11-24T09:00:00.000Z', 1)).toEqual(['2026-11-25T09:00Z'])
    expect(ticks('0 9 * * *', 'UTC', '2026-11-24T08:59:59.999Z', 1)).toEqual(['2026-11-24T09:00Z'])
    expect(ticks('0 9 * * *', 'UTC', '2026-11-24T09:00:00.001Z', 1)).toEqual(['2026-11-25T09:00Z'])
  })
})

describe('in spring, a local time that does not exist runs at the shift', () => {
  it.each([
    ['Europe/Berlin', '30 2 * * *', '2027-03-27T12:00Z', ['03-28T01:00Z', '03-29T00:30Z']],
    ['Europe/Berlin', '*/20 2 * * *', '2027-03-27T12:00Z', ['03-28T01:00Z', '03-29T00:00Z']],
    [
      'Europe/Berlin',
      '30 1,2,3 * * *',
      '2027-03-27T12:00Z',
      ['03-28T00:30Z', '03-28T01:00Z', '03-28T01:30Z', '03-28T23:30Z'],
    ],
    [
      'Europe/Berlin',
      '*/30 * * * *',
      '2027-03-28T00:10Z',
      ['03-28T00:30Z', '03-28T01:00Z', '03-28T01:30Z', '03-28T02:00Z'],
    ],
    ['America/New_York', '15 2 * * *', '2027-03-13T12:00Z', ['03-14T07:00Z', '03-15T06:15Z']],
    ['Australia/Lord_Howe', '15 2 * * *', '2026-10-03T00:00Z', ['10-03T15:30Z', '10-04T15:15Z']],
    ['Asia/Kolkata', '30 2 * * *', '2027-03-27T12:00Z', ['03-27T21:00Z', '03-28T21:00Z']],
  ])('%s: %s', (zone, line, after, expected) => {
    const year = after.slice(0, 5)
    expect(ticks(line, zone, after, expected.length)).toEqual(expected.map((one) => year + one))
  })
})

describe('in autumn, a local time that exists twice runs once', () => {
  it.each([
    ['Europe/Berlin', '30 2 * * *', '2026-10-24T12:00Z', ['10-25T00:30Z', '10-26T01:30Z']],
    [
      'Europe/Berlin',
      '*/30 2 * * *',
      '2026-10-24T12:00Z',
      ['10-25T00:00Z', '10-25T00:30Z', '10-26T01:00Z'],
    ],
    ['Europe/Berlin', '0 1-3 * * *', '2026-10-25T00:10Z', ['10-25T02:00Z', '10-26T00:00Z']],
    ['America/New_York', '30 1 * * *', '2026-10-31T12:00Z', ['11-01T05:30Z', '11-02T06:30Z']],
    ['Australia/Lord_Howe', '45 1 * * *', '2027-04-03T00:00Z', ['04-03T14:45Z', '04-04T15:15Z']],
    ['Asia/Kolkata', '30 2 * * *', '2026-10-24T12:00Z', ['10-24T21:00Z', '10-25T21:00Z']],
  ])('%s: %s', (zone, line, after, expected) => {
    const year = after.slice(0, 5)
    expect(ticks(line, zone, after, expected.length)).toEqual(expected.map((one) => year + one))
  })

  it('whenever one looks: within the repeated hour there is no tick any more', () => {
    expect(ticks('30 2 * * *', 'Europe/Berlin', '2026-10-25T01:10Z', 1)).toEqual([
      '2026-10-26T01:30Z',
    ])
    expect(ticks('* * * * *', 'Europe/Berlin', '2026-10-25T00:59Z', 1)).toEqual([
      '2026-10-25T02:00Z',
    ])
  })
})

const ZONES = ['UTC', 'Europe/Berlin', 'America/New_York', 'Australia/Lord_Howe', 'Asia/Kolkata']
const LINES = ['*/20 * * * *', '15,45 1-3 * * *', '30 2 * * *', '0 0 * * 0', '0 */2 1 * *']

it('a walk over four years is strictly onward, and no local time runs twice', () => {
  const anyInstant = fc.integer({ min: at('2025-01-01'), max: at('2029-01-01') })
  fc.assert(
    fc.property(
      fc.constantFrom(...ZONES),
      fc.constantFrom(...LINES),
      anyInstant,
      (zone, line, start) => {
        const shown = new Set<number>()
        let after = start
        for (let i = 0; i < 20; i++) {
          const tick = nextCronTick(line, zone, after) as number
          expect(tick).toBeGreaterThan(after)
          // Nothing lies between: half way there the same tick is next.
          expect(nextCronTick(line, zone, Math.floor((after + tick - 1) / 2))).toBe(tick)
          shown.add(localTimeAt(tick, zone))
          after = tick
        }
        expect(shown.size).toBe(20)
      },
    ),
    { numRuns: 200 },
  )
})
