import { describe, expect, it } from 'vitest'
import { intervalOf, timeOfDay } from '../../cli/agenda/interval.ts'

describe('an interval of Agenda', () => {
  it.each([
    [5_000, { everyMs: 5_000 }],
    ['5000', { everyMs: 5_000 }],
    ['3 minutes', { everyMs: 180_000 }],
    ['minute', { everyMs: 60_000 }],
    ['one hour', { everyMs: 3_600_000 }],
    ['1.5 hours', { everyMs: 5_400_000 }],
    ['1 day and 3 hours', { everyMs: 97_200_000 }],
    ['2 days, 1 minute', { everyMs: 172_860_000 }],
    ['a week', { everyMs: 604_800_000 }],
    ['0 9 * * 1-5', { cron: '0 9 * * 1-5' }],
    ['0 */5 9 * * MON', { cron: '*/5 9 * * MON' }],
    ['0 0 1 * ?', { cron: '0 0 1 * *' }],
    ['0 0 L * *', { cron: '0 0 L * *' }],
  ])('%s is understood', (text, expected) => {
    expect(intervalOf(text)).toEqual(expected)
  })

  it.each([
    ['*/10 * * * * *', /field for seconds/],
    ['whenever', /not a valid interval/],
    ['seventeen blue minutes', /not a valid interval/],
    ['', /not a valid interval/],
    [100, /not between 1s and 366d/],
    ['2 years', /not between/],
    ['x'.repeat(1_000), /longer than 200/],
  ])('%s is refused with a reason', (text, reason) => {
    expect(intervalOf(text)).toEqual({ problem: expect.stringMatching(reason) })
  })

  it.each([
    ['3:30pm', '30 15 * * *'],
    ['12am', '0 0 * * *'],
    ['12:05 pm', '5 12 * * *'],
    ['at 15:30', '30 15 * * *'],
  ])('repeatAt %s is a time of day', (text, cron) => {
    expect(timeOfDay(text)).toEqual({ cron })
  })

  it.each(['tomorrow at noon', '25:00', '13pm', '7', '9:75'])('repeatAt %s is not', (text) => {
    expect(timeOfDay(text)).toEqual({ problem: expect.stringMatching(/not a time of day/) })
  })
})
