// The promises of ids: they are unique, and sorted by the time and order of their creation.
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { firstIdAt, isJobId, newJobId } from '../../src/job/job-id.ts'

const NOW = 1_800_000_000_000

describe('a job id', () => {
  it('sorts by the order of the calls, even within one millisecond', () => {
    const ids = Array.from({ length: 50_000 }, (_, i) => newJobId(NOW + Math.floor(i / 10_000)))
    expect(ids.toSorted()).toEqual(ids)
    expect(new Set(ids).size).toBe(ids.length)
  })

  it('sorts by the instant it is given, whatever was asked for before', () => {
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 0, max: 2 ** 48 - 1 }), { minLength: 2 }), (times) => {
        const made = times.map((at) => ({ at, id: newJobId(at) }))
        for (const [i, one] of made.entries()) {
          for (const other of made.slice(i + 1)) {
            if (one.at !== other.at) expect(one.id < other.id).toBe(one.at < other.at)
            else expect(one.id).not.toBe(other.id)
          }
        }
      }),
    )
  })

  it('has the shape that the API checks, and 80 random bits', () => {
    const ids = Array.from({ length: 1_000 }, (_, i) => newJobId(NOW + i))
    expect(ids.every(isJobId)).toBe(true)
    const tails = new Set(ids.map((id) => id.slice(-16)))
    expect(tails.size).toBe(ids.length)
    for (const text of ['', 'job_', ids[0]?.slice(4), `${ids[0]}0`, ids[0]?.toUpperCase()]) {
      expect(isJobId(text as string)).toBe(false)
    }
  })

  it('is not smaller than the first id of its instant, and smaller than that of the next', () => {
    const id = newJobId(NOW)
    expect(firstIdAt(NOW) <= id).toBe(true)
    expect(id < firstIdAt(NOW + 1)).toBe(true)
    expect(firstIdAt(-5)).toBe(firstIdAt(0))
  })
})
