import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { nextCronTick } from '../../src/schedule/cron.ts'
import { cronProblem } from '../../src/schedule/cron-line.ts'
import { localTimeAt } from '../../src/schedule/time-zone.ts'

/**
 * The CPU time of three lines that never tick. A search through ten centuries takes five times as
 * long.
 */
const QUIET_CPU_MS = 160

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
  it('for a day that never comes has no tick', () => {
    expect(nextCronTick('0 0 30 2 *', 'UTC', at('2026-11-24T00:00Z'))).toBeNull()
    expect(nextCronTick('0 0 31 4,6,9,11 *', 'UTC', at('2026-11-24T00:00Z'))).toBeNull()
  })

  it('for the rarest day has a tick, however many years ahead', () => {
    expect(ticks('0 0 29 2 */7', 'UTC', '2032-03-01T00:00Z', 4)).toEqual([
      ...['2060-02-29T00:00Z', '2088-02-29T00:00Z', '2128-02-29T00:00Z', '2156-02-29T00:00Z'],
    ])
  })

  it('for a day that never comes is done in little time, whatever must be looked at', () => {
    const weekdays = Array.from({ length: 28 }, (_, i) => `${i + 1}W`).join(',')
    const lines = [
      `* * ${weekdays} * */7`,
      '* * 8W * */7,1#5,2#5,3#5,4#5,5#5,6#5,1L,2L,3L',
      '0 0 31W,30W,29W 2,4,6,9,11 */7',
    ]
    const before = process.cpuUsage()
    for (const line of lines) {
      expect(cronProblem(line)).toBeNull()
      expect(nextCronTick(line, 'UTC', at('2026-11-24T00:00Z'))).toBeNull()
    }
    const { user, system } = process.cpuUsage(before)
    expect((user + system) / 1_000).toBeLessThan(4 * QUIET_CPU_MS)
  })

  it.each(['UTC', 'Asia/Kolkata', 'America/New_York'])(
    'has no tick before 1970 in %s, however early the instant is',
    (zone) => {
      const first = nextCronTick('0 0 * * *', zone, at('1969-12-31T23:59:59.999Z'))
      expect(first).toBeGreaterThanOrEqual(0)
      expect(first).toBeLessThan(DAY_MS)
      for (const year of ['0000', '0001', '0049', '0099', '1900']) {
        expect(nextCronTick('0 0 * * *', zone, at(`${year}-01-01T00:00:00Z`))).toBe(first)
      }
    },
  )

  it.each(['UTC', 'Asia/Kolkata', 'America/New_York'])(
    'has no tick after the year 2999 in %s',
    (zone) => {
      const end = at('3000-01-01T00:00:00Z')
      const last = ticks('0 * * * *', zone, '2999-12-31T20:00Z', 10).at(-1) as string
      expect(end - at(last)).toBeLessThanOrEqual(3_600_000)
      expect(nextCronTick('0 * * * *', zone, at(last))).toBeNull()
      expect(nextCronTick('0 0 1 1 *', 'UTC', at('2999-06-01T00:00Z'))).toBeNull()
      expect(nextCronTick('0 * * * *', zone, at('9999-12-31T23:59Z'))).toBeNull()
    },
  )

  it('ticks after an instant, never at it', () => {
    expect(ticks('0 9 * * *', 'UTC', '2026-11-24T09:00:00.000Z', 1)).toEqual(['2026-11-25T09:00Z'])
    expect(ticks('0 9 * * *', 'UTC', '2026-11-24T08:59:59.999Z', 1)).toEqual(['2026-11-24T09:00Z'])
    expect(ticks('0 9 * * *', 'UTC', '2026-11-24T09:00:00.001Z', 1)).toEqual(['2026-11-25T09:00Z'])
  })
})

describe('the fields day of month and day of week', () => {
  it.each([
    // Neither of the two day fields begins with a star: a day matches if it fits one of them.
    ['0 0 1,15 * MON', ['2026-11-30', '2026-12-01', '2026-12-07']],
    ['0 0 13 * 5', ['2026-11-27', '2026-12-04', '2026-12-11', '2026-12-13']],
    ['0 0 L * 5L', ['2026-11-27', '2026-11-30', '2026-12-25', '2026-12-31']],
    ['0 0 1-31/7 * 0-7/7', ['2026-11-29', '2026-12-01', '2026-12-06', '2026-12-08']],
    // One of the two day fields begins with a star: a day must match both.
    ['0 0 1-7 * */7', ['2026-12-06', '2027-01-03', '2027-02-07', '2027-03-07']],
    ['0 0 */2 * MON', ['2026-12-07', '2026-12-21', '2027-01-11', '2027-01-25']],
    ['0 0 */10,5 * SAT', ['2026-12-05', '2027-05-01']],
    ['0 0 15W * */1', ['2026-12-15', '2027-01-15', '2027-02-15', '2027-03-15']],
    ['0 0 * * MON', ['2026-11-30', '2026-12-07']],
    ['0 0 13 * *', ['2026-12-13', '2027-01-13']],
    ['0 0 * * 5#2', ['2026-12-11', '2027-01-08']],
  ])('%s', (line, days) => {
    const found = ticks(line, 'UTC', '2026-11-24T12:00Z', days.length)
    expect(found.map((tick) => tick.slice(0, 10))).toEqual(days)
  })

  it('have the ticks that a calendar has when each day is looked at', () => {
    fc.assert(
      fc.property(plainLine, fc.integer({ min: 0, max: 20_000 }), (line, days) => {
        const after = at('2020-02-29T00:00Z') + days * DAY_MS
        const expected = daysByHand(line, after).slice(0, 12)
        let tick = nextCronTick(line, 'UTC', after + DAY_MS - 1)
        for (const day of expected) {
          expect([line, tick]).toEqual([line, day])
          tick = nextCronTick(line, 'UTC', day)
        }
      }),
      { numRuns: 150 },
    )
  })
})

const DAY_MS = 86_400_000

const item = (min: number, max: number, steps: number) => {
  const value = fc.integer({ min, max })
  const range = fc.tuple(value, value).map((pair) => pair.sort((a, b) => a - b).join('-'))
  const step = fc.integer({ min: 1, max: steps })
  return fc.oneof(
    value.map(String),
    range,
    fc.tuple(fc.oneof(range, fc.constant('*')), step).map((parts) => parts.join('/')),
    fc.constant('*'),
  )
}
const listOf = (one: fc.Arbitrary<string>) =>
  fc.array(one, { minLength: 1, maxLength: 3 }).map((items) => items.join(','))
const plainLine = fc
  .tuple(listOf(item(1, 31, 31)), listOf(item(1, 12, 12)), listOf(item(0, 7, 7)))
  .map((fields) => `0 0 ${fields.join(' ')}`)

/** The days that a line of numbers names within the next 400, by the rule of Vixie cron. */
function daysByHand(line: string, after: number): number[] {
  const [, , dom = '', month = '', dow = ''] = line.split(' ')
  const isBoth = dom.startsWith('*') || dow.startsWith('*')
  return Array.from({ length: 400 }, (_, i) => after + (i + 1) * DAY_MS).filter((day) => {
    const date = new Date(day)
    const fitsDom = namesValue(dom, 1, 31, date.getUTCDate())
    const weekday = date.getUTCDay()
    const fitsDow = [weekday, ...(weekday === 0 ? [7] : [])].some((n) => namesValue(dow, 0, 7, n))
    if (!namesValue(month, 1, 12, date.getUTCMonth() + 1)) return false
    return isBoth ? fitsDom && fitsDow : fitsDom || fitsDow
  })
}

function namesValue(field: string, min: number, max: number, value: number): boolean {
  return field.split(',').some((one) => {
    const [range = '', step = '1'] = one.split('/')
    const [from = '', to = from] = range === '*' ? [String(min), String(max)] : range.split('-')
    const isWithin = value >= Number(from) && value <= Number(to)
    return isWithin && (value - Number(from)) % Number(step) === 0
  })
}

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
          // There is no tick in between: the next tick is also the next one after the midpoint.
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
