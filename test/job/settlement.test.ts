import { describe, expect, it } from 'vitest'
import {
  type AttemptEnd,
  endOfLease,
  eventIfSuperseded,
  isRepeat,
} from '../../src/job/settlement.ts'

const LEASE = { fence: 3, leaseId: 'lease' }
const end = (fields: Partial<AttemptEnd> = {}): AttemptEnd => ({
  ...{ ...LEASE, event: 'reschedule', outcome: 'http_error' },
  ...fields,
})

describe('a report about an attempt that has ended', () => {
  it('is a repeat if the same lease stored the same outcome by the same event', () => {
    expect(isRepeat(end(), end())).toBe(true)
    expect(isRepeat(end(), end({ fence: 4 }))).toBe(false)
    expect(isRepeat(end(), end({ leaseId: 'other' }))).toBe(false)
    expect(isRepeat(end(), end({ outcome: 'timeout' }))).toBe(false)
    expect(isRepeat(end(), end({ event: 'bury' }))).toBe(false)
    expect(isRepeat(end(), end({ event: 'reclaim', outcome: 'lost' }))).toBe(false)
  })

  it('is a repeat also where the job was withdrawn, since it was superseded', () => {
    expect(isRepeat(end(), end({ event: 'withdraw' }))).toBe(true)
    expect(isRepeat(end({ event: 'time_out' }), end({ event: 'withdraw_lost' }))).toBe(true)
    expect(isRepeat(end({ event: 'succeed' }), end({ event: 'withdraw' }))).toBe(false)
    expect(eventIfSuperseded('bury')).toBeNull()
  })

  it('of a failure that a handler reported is a repeat whatever was decided', () => {
    const failed = { outcome: 'failed' } as const
    expect(isRepeat(end(failed), end({ ...failed, event: 'bury' }))).toBe(true)
    expect(isRepeat(end({ ...failed, event: 'bury' }), end({ ...failed, event: 'withdraw' }))).toBe(
      true,
    )
    expect(isRepeat(end(failed), end({ ...failed, event: 'succeed' }))).toBe(false)
  })
})

describe('a lease that no longer holds its job', () => {
  it('shows who ended its attempt, and nothing of other attempts', () => {
    const last = { ...LEASE, outcome: 'cancelled' } as const
    expect(endOfLease(LEASE, 'cancelled', last)).toBe('cancelled')
    expect(endOfLease(LEASE, 'dead', last)).toBe('evicted')
    expect(endOfLease(LEASE, 'queued', last)).toBe('lease_lost')
    expect(endOfLease(LEASE, null, undefined)).toBe('lease_lost')
    expect(endOfLease(LEASE, 'cancelled', { ...last, fence: 4 })).toBe('lease_lost')
    expect(endOfLease(LEASE, 'dead', { ...last, outcome: 'http_error' })).toBe('lease_lost')
  })
})
