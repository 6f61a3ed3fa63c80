import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { instantOf, isTimeZone, localTimeAt } from '../../src/schedule/time-zone.ts'
import { TIME_ZONE_NAMES } from '../../src/schedule/time-zone-names.ts'

const at = (text: string) => Date.parse(text)
/** The time of a wall clock, written as if it were UTC. */
const local = (text: string) => at(`${text}Z`)
const instantText = (text: string, zone: string) =>
  new Date(instantOf(local(text), zone)).toISOString()

const ZONES = [
  'UTC',
  'Europe/Berlin',
  'America/New_York',
  'America/St_Johns',
  'America/Santiago',
  'Australia/Lord_Howe',
  'Asia/Kolkata',
  'Asia/Kathmandu',
  'Africa/Casablanca',
  'Pacific/Apia',
]

describe('time zones', () => {
  const short = 'GMT EST MST HST CET EET MET WET PRC ROC ROK UCT'.split(' ')
  const links = ['Etc/GMT+5', 'GMT+0', 'US/Eastern', 'Europe/Kiev', 'Asia/Calcutta', 'EST5EDT']
  it.each([...ZONES, ...short, ...links, 'Europe/Kyiv', 'europe/berlin'])('%s is one', (zone) => {
    expect(isTimeZone(zone)).toBe(true)
  })

  const abbreviations =
    'ACT AET AGT ART AST BET BST CAT CNT CST CTT EAT ECT IET IST JST MIT NET NST PLT PNT PRT PST SST VST'
  const removed = ['SystemV/PST8', 'SystemV/EST5EDT', 'US/Pacific-New', 'Canada/East-Saskatchewan']
  const offsets = ['+01:00', '01:00', 'UTC+1', 'GMT+1', 'Z']
  const others = ['', 'Europe/Atlantis', 'Berlin', ' UTC', 'UTC ', 'Factory', 'Etc/Unknown']
  it.each([...abbreviations.split(' '), ...removed, ...offsets, ...others, 'a'.repeat(64)])(
    '%j is none',
    (zone) => {
      expect(isTimeZone(zone)).toBe(false)
    },
  )

  it('are all names of the database, each of which can be read', () => {
    expect(TIME_ZONE_NAMES.length).toBeGreaterThan(590)
    expect(TIME_ZONE_NAMES.filter((name) => !isTimeZone(name))).toEqual([])
    expect(Intl.supportedValuesOf('timeZone').filter((name) => !isTimeZone(name))).toEqual([])
  })

  it('show the time of their wall clocks, to the millisecond', () => {
    expect(localTimeAt(at('2026-07-01T10:20:30.456Z'), 'Europe/Berlin')).toBe(
      local('2026-07-01T12:20:30.456'),
    )
    expect(localTimeAt(at('2026-01-01T00:00:00.001Z'), 'America/New_York')).toBe(
      local('2025-12-31T19:00:00.001'),
    )
    expect(localTimeAt(at('2026-01-01T00:00:00Z'), 'Asia/Kolkata')).toBe(
      local('2026-01-01T05:30:00'),
    )
  })
})

describe('a local time', () => {
  it('that does not exist is the shift that left it out', () => {
    expect(instantText('2027-03-28T02:00:00', 'Europe/Berlin')).toBe('2027-03-28T01:00:00.000Z')
    expect(instantText('2027-03-28T02:30:00', 'Europe/Berlin')).toBe('2027-03-28T01:00:00.000Z')
    expect(instantText('2027-03-28T02:59:59', 'Europe/Berlin')).toBe('2027-03-28T01:00:00.000Z')
    expect(instantText('2027-03-14T02:15:00', 'America/New_York')).toBe('2027-03-14T07:00:00.000Z')
    expect(instantText('2026-10-04T02:15:00', 'Australia/Lord_Howe')).toBe(
      '2026-10-03T15:30:00.000Z',
    )
    // The clock skips midnight on this day.
    expect(instantText('2026-09-06T00:00:00', 'America/Santiago')).toBe('2026-09-06T04:00:00.000Z')
    // The clock skips this whole day.
    expect(instantText('2011-12-30T12:00:00', 'Pacific/Apia')).toBe('2011-12-30T10:00:00.000Z')
  })

  it('that exists twice is the first of the two', () => {
    expect(instantText('2026-10-25T02:30:00', 'Europe/Berlin')).toBe('2026-10-25T00:30:00.000Z')
    expect(instantText('2026-11-01T01:30:00', 'America/New_York')).toBe('2026-11-01T05:30:00.000Z')
    expect(instantText('2027-04-04T01:45:00', 'Australia/Lord_Howe')).toBe(
      '2027-04-03T14:45:00.000Z',
    )
  })

  it('that exists once is what the wall clock shows then, in every zone and year', () => {
    const anyInstant = fc.integer({ min: at('1975-01-01'), max: at('2100-01-01') })
    fc.assert(
      fc.property(fc.constantFrom(...ZONES), anyInstant, (zone, instant) => {
        const shown = localTimeAt(instant, zone)
        const back = instantOf(shown, zone)
        expect(localTimeAt(back, zone)).toBe(shown)
        expect(back).toBeLessThanOrEqual(instant)
      }),
      { numRuns: 1_000 },
    )
  })

  it('that is later is never an earlier instant', () => {
    const hour = fc.integer({ min: 0, max: 24 * 365 * 4 })
    const minutes = fc.integer({ min: 0, max: 180 })
    fc.assert(
      fc.property(fc.constantFrom(...ZONES), hour, minutes, (zone, hours, apart) => {
        const first = local('2025-01-01T00:00:00') + hours * 3_600_000
        const second = first + apart * 60_000
        expect(instantOf(second, zone)).toBeGreaterThanOrEqual(instantOf(first, zone))
      }),
      { numRuns: 1_000 },
    )
  })
})
