import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { nextCronTick } from '../../src/schedule/cron.ts'
import { cronProblem } from '../../src/schedule/cron-line.ts'

const AFTER = Date.parse('2026-11-24T12:00Z')

describe('a cron line', () => {
  it.each([
    '* * * * *',
    '0 9 * * 1-5',
    '*/15 8-18 * * MON-FRI',
    '0 0 1,15 * *',
    '0 0 29 2 *',
    '0 12 L * *',
    '0 12 15W * *',
    '0 8 * * 5#2',
    '0 8 * * FRI#2,mon#1',
    '0 8 * * 5L',
    '0 8 * * friL',
    '0 0 * * 7',
    '0 0 * * FRI-SUN',
    '0 0 * jan-mar sun-tue',
    '05 09 01 01 *',
    '8-18/2 * * * *',
    '*/60 * * * *',
    '5  4\t* * *',
    ' 0 9 * * 1-5 ',
    '@daily',
    '@HOURLY',
  ])('%s is read', (line) => {
    expect(cronProblem(line)).toBeNull()
    expect(nextCronTick(line, 'UTC', AFTER)).toBeGreaterThan(AFTER)
  })

  it.each([
    ['60 * * * *', /^the field minute is wrong: "60": expected 0 to 59$/],
    ['*/0 * * * *', /^the field minute is wrong: "\*\/0": expected a step of 1 to 60$/],
    ['*/61 * * * *', /expected a step of 1 to 60$/],
    ['5/10 * * * *', /expected a step after \* or a range, like 5-59\/10$/],
    ['9-5 * * * *', /expected a range from the smaller to the larger value$/],
    ['? * * * *', /^the field minute is wrong/],
    ['1, * * * *', /^the field minute is wrong/],
    ['1,,2 * * * *', /^the field minute is wrong/],
    ['-5 * * * *', /^the field minute is wrong/],
    ['005 * * * *', /^the field minute is wrong/],
    ['L * * * *', /^the field minute is wrong/],
    ['09:00 * * * *', /^the field minute is wrong: "09:00": expected 0 to 59, \*, ranges/],
    ['0 24 * * *', /^the field hour is wrong: "24": expected 0 to 23$/],
    ['0 0 32 * *', /^the field day of month is wrong: "32": expected 1 to 31, L, or like 15W$/],
    ['0 0 0 * *', /^the field day of month is wrong/],
    ['0 0 32W * *', /^the field day of month is wrong/],
    ['0 0 LW * *', /^the field day of month is wrong/],
    ['0 0 L-3 * *', /^the field day of month is wrong/],
    ['0 0 +5 * *', /^the field day of month is wrong/],
    ['0 0 * 13 *', /^the field month is wrong/],
    ['0 0 * JANUARY *', /^the field month is wrong/],
    ['0 0 * MON *', /^the field month is wrong/],
    ['0 0 * DEC-JAN *', /from the smaller to the larger/],
    ['0 0 * * 8', /^the field day of week is wrong: "8": expected 0 to 7, SUN to SAT, or like/],
    ['0 0 * * FUNDAY', /^the field day of week is wrong/],
    ['0 0 * * +5', /^the field day of week is wrong/],
    ['0 0 * * MON#L', /^the field day of week is wrong/],
    ['0 0 * * 5#6', /^the field day of week is wrong/],
    ['0 0 * * 1-5#2', /^the field day of week is wrong/],
    ['0 0 * * L', /^the field day of week is wrong/],
    ['0 0 * * 8L', /^the field day of week is wrong/],
    ['0 0 * * 6-0', /from the smaller to the larger/],
    ['* * * *', /five fields.*found 4$/],
    ['0 0 9 * * 1', /five fields.*found 6$/],
    ['   ', /five fields.*found 0$/],
    ['', /five fields.*found 0$/],
    ['@reboot', /@daily.*found "@reboot"$/],
    ['@daily x', /five fields/],
    ['constructor', /five fields/],
    ['__proto__', /five fields/],
    ['2026-11-24T08:30:00', /five fields/],
    ['0 9 * * 1\n', /^the field day of week is wrong/],
    [`0${',0'.repeat(100)} * * * *`, /longer than 128/],
  ])('%j is refused with a sentence', (line, sentence) => {
    expect(cronProblem(line)).toMatch(sentence)
  })

  it('of any text is refused, or has ticks that can be computed', () => {
    const field = fc.stringMatching(/^[0-9*/,LW#:+?A-Z-]{1,6}$/)
    const line = fc.array(field, { minLength: 5, maxLength: 5 }).map((some) => some.join(' '))
    fc.assert(
      fc.property(fc.oneof(line, fc.string()), (text) => {
        if (cronProblem(text) !== null) return
        const tick = nextCronTick(text, 'Europe/Berlin', AFTER)
        if (tick !== null) expect(tick).toBeGreaterThan(AFTER)
      }),
      { numRuns: 1_000 },
    )
  })
})
