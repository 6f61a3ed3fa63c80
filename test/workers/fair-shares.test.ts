import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { fairShares } from '../../workers/fair-shares.ts'

/**
 * The attempts that endpoints hold in the end if all of them hang, dealt until no slot is dealt any
 * more.
 */
function heldInTheEnd(endpointCount: number, slots: number): number[] {
  const ready = Array.from({ length: endpointCount }, (_, i) => ({
    endpoint: `e${i}`,
    inFlightCount: 0,
  }))
  for (;;) {
    const free = slots - ready.reduce((sum, one) => sum + one.inFlightCount, 0)
    const shares = fairShares(ready, free)
    if (shares.length === 0) return ready.map((one) => one.inFlightCount)
    for (const { endpoint, limit } of shares) {
      const asked = ready.find((one) => one.endpoint === endpoint)
      if (asked) asked.inFlightCount += limit
    }
  }
}

describe('sharing slots', () => {
  it('one endpoint that hangs holds 80 of 100, two hold 89', () => {
    expect(heldInTheEnd(1, 100)).toEqual([80])
    expect(heldInTheEnd(2, 100)).toEqual([45, 44])
  })

  it('one slot is enough to work', () => {
    expect(heldInTheEnd(1, 1)).toEqual([1])
  })

  it('deals in turns: with fewer slots than endpoints each gets one at most', () => {
    const ready = Array.from({ length: 50 }, (_, i) => ({ endpoint: `e${i}`, inFlightCount: 0 }))
    expect(fairShares(ready, 20)).toEqual(
      ready.slice(0, 20).map(({ endpoint }) => ({ endpoint, limit: 1 })),
    )
  })

  it('endpoints that hang at the head of the line do not keep out the next', () => {
    const hanging = Array.from({ length: 4 }, (_, i) => ({ endpoint: `h${i}`, inFlightCount: 24 }))
    expect(fairShares([...hanging, { endpoint: 'quick', inFlightCount: 0 }], 4)).toEqual([
      { endpoint: 'quick', limit: 4 },
    ])
  })

  it('never deals more than is free, and leaves a slot to the others when endpoints hang', () => {
    fc.assert(
      fc.property(
        fc.array(fc.nat({ max: 200 }), { maxLength: 30 }),
        fc.integer({ min: 0, max: 200 }),
        (inFlightCounts, freeSlots) => {
          const ready = inFlightCounts.map((inFlightCount, i) => ({
            endpoint: `e${i}`,
            inFlightCount,
          }))
          const shares = fairShares(ready, freeSlots)
          const dealt = shares.reduce((sum, { limit }) => sum + limit, 0)
          expect(dealt).toBeLessThanOrEqual(freeSlots)
          for (const { endpoint, limit } of shares) {
            const before = ready.find((one) => one.endpoint === endpoint)?.inFlightCount ?? 0
            // When its last attempt started, the free slots were more than a quarter of its other
            // attempts.
            expect(before + limit - 1).toBeLessThan(4 * freeSlots)
          }
        },
      ),
    )
  })
})
