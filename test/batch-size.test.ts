import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { createBatchSize } from '../src/batch-size.ts'
import { StoreUnavailable } from '../src/store/store-errors.ts'

const DEADLINE_MS = 2_700
const MAX = 500

/** A store that takes `fixedMs` for a write and `itemMs` for each item of it. */
const storeOf = (fixedMs: number, itemMs: number) => (count: number) => fixedMs + itemMs * count

/** Makes full writes, one after the other; returns the duration of each. */
function play(tookMs: (count: number) => number, writes: number, size = createBatchSize(MAX)) {
  const played: { count: number; ms: number }[] = []
  for (let i = 0; i < writes; i++) {
    const count = size.limit
    const ms = tookMs(count)
    played.push({ count, ms })
    if (ms > DEADLINE_MS) size.failed(count)
    else size.written(count, ms)
  }
  return { played, size }
}

describe('the size of a write', () => {
  it('begins at the largest, and stays there on a store that keeps up', () => {
    const { played, size } = play(storeOf(2, 0.02), 100)
    expect(size.limit).toBe(MAX)
    expect(new Set(played.map(({ count }) => count))).toEqual(new Set([MAX]))
  })

  it('is never below one nor above the largest, whatever happens', () => {
    const step = fc.record({
      count: fc.integer({ min: 0, max: 2 * MAX }),
      tookMs: fc.option(fc.double({ min: 0, max: 2 * DEADLINE_MS, noNaN: true }), { nil: null }),
    })
    fc.assert(
      fc.property(fc.integer({ min: 1, max: MAX }), fc.array(step), (max, steps) => {
        const size = createBatchSize(max)
        for (const { count, tookMs } of steps) {
          if (tookMs === null) size.failed(count)
          else size.written(count, tookMs)
          expect(size.limit).toBeGreaterThanOrEqual(1)
          expect(size.limit).toBeLessThanOrEqual(max)
        }
      }),
    )
  })

  it('finds what a slow store writes in time, and uses at least a fourth of it', () => {
    // The slowest disks: from 5 ms for each document to a second.
    const slow = fc.record({
      fixedMs: fc.double({ min: 0, max: 200, noNaN: true }),
      itemMs: fc.double({ min: 5, max: 1_000, noNaN: true }),
    })
    fc.assert(
      fc.property(slow, ({ fixedMs, itemMs }) => {
        const { played } = play(storeOf(fixedMs, itemMs), 300)
        const settled = played.slice(20)
        expect(settled.filter(({ ms }) => ms > DEADLINE_MS)).toEqual([])
        const most = Math.max(1, Math.floor((DEADLINE_MS - fixedMs) / itemMs))
        const mean = settled.reduce((sum, { count }) => sum + count, 0) / settled.length
        expect(mean).toBeGreaterThanOrEqual(Math.min(most, MAX) / 4)
      }),
    )
  })

  it('comes down from the largest within four writes that fail', () => {
    const { played } = play(storeOf(0, 300), 50)
    const failed = played.filter(({ ms }) => ms > DEADLINE_MS)
    expect(failed.map(({ count }) => count)).toEqual([500, 125, 31])
  })

  it('is back at the largest soon after a store was away', () => {
    const { size } = play(storeOf(3_000, 0), 10)
    expect(size.limit).toBe(1)
    play(storeOf(2, 0.02), 17, size)
    expect(size.limit).toBe(MAX)
  })

  it('grows where a write takes its time whatever its size', () => {
    const size = createBatchSize(MAX)
    for (let i = 0; i < 5; i++) size.failed(size.limit)
    play(storeOf(1_500, 0.1), MAX, size)
    expect(size.limit).toBeGreaterThan(MAX / 2)
  })

  it('learns nothing for larger writes from one that was not full', () => {
    const size = createBatchSize(MAX)
    size.failed(MAX)
    const { limit } = size
    size.written(limit - 1, 1)
    size.written(0, 2_600)
    expect(size.limit).toBe(limit)
  })

  it('is a fourth of what failed, even if that was less than the limit', () => {
    const size = createBatchSize(MAX)
    size.failed(40)
    expect(size.limit).toBe(10)
  })

  it('shrinks by a write that fails on the store, and by no other failure', async () => {
    const size = createBatchSize(MAX)
    const fail = (error: Error) => size.run(100, () => Promise.reject(error)).catch(() => {})
    await fail(new RangeError('a bug'))
    expect(size.limit).toBe(MAX)
    await fail(new StoreUnavailable('MongoDB did not respond in time'))
    expect(size.limit).toBe(25)
    expect(await size.run(25, async () => 'done')).toBe('done')
    expect(size.limit).toBeGreaterThan(25)
  })

  it('is not below `least` because of slow writes or a few that fail', () => {
    const size = createBatchSize(100, { deadlineMs: 1_000, least: 25 })
    for (let i = 0; i < 20; i++) size.written(size.limit, 900)
    expect(size.limit).toBe(25)
    for (let i = 0; i < 3; i++) size.failed(25)
    expect(size.limit).toBe(25)
    size.written(25, 900)
    for (let i = 0; i < 3; i++) size.failed(25)
    expect(size.limit).toBe(25)
  })

  it('goes down to one where so many fail again and again, and back at once', () => {
    const size = createBatchSize(100, { deadlineMs: 1_000, least: 25 })
    for (let i = 0; i < 10; i++) size.failed(size.limit)
    expect(size.limit).toBe(1)
    for (let i = 0; i < 5; i++) size.written(size.limit, 900)
    expect(size.limit).toBe(25)
  })

  it('uses the count of the result, where only that is known', async () => {
    const size = createBatchSize(MAX)
    size.failed(MAX)
    const { limit } = size
    await size.run(
      limit,
      async () => [1, 2, 3],
      ({ length }) => length,
    )
    expect(size.limit).toBe(limit)
  })
})
