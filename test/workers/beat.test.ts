// When a busy worker writes: turns of the event loop decide, so these tests take turns.
import { setImmediate as nextTurn } from 'node:timers/promises'
import { describe, expect, it } from 'vitest'
import { createBeat } from '../../workers/beat.ts'

const SLOTS = 8

function beatOf(isBehind: boolean) {
  const beat = createBeat(SLOTS)
  beat.isBehind = isBehind
  return beat
}

/** Tells whether it has come. */
function watched(promise: Promise<void>): { hasCome: boolean } {
  const seen = { hasCome: false }
  void promise.then(() => {
    seen.hasCome = true
  })
  return seen
}

describe('the beat of a worker', () => {
  it('comes with the next turn for who is not behind, though attempts end', async () => {
    const beat = beatOf(false)
    const next = watched(beat.next())
    beat.count()
    expect(next.hasCome).toBe(false)
    await nextTurn()
    expect(next.hasCome).toBe(true)
  })

  it('waits for half of the slots while each turn frees some', async () => {
    const beat = beatOf(true)
    const next = watched(beat.next())
    for (let freed = 1; freed < SLOTS / 2; freed++) {
      beat.count()
      await nextTurn()
      expect(next.hasCome).toBe(false)
    }
    beat.count()
    await nextTurn()
    expect(next.hasCome).toBe(true)
  })

  it('waits for no slot once a turn has freed none', async () => {
    const beat = beatOf(true)
    const next = watched(beat.next())
    beat.count()
    await nextTurn()
    expect(next.hasCome).toBe(false)
    await nextTurn()
    expect(next.hasCome).toBe(true)
  })

  it('is one for all who wait, and each is a new one', async () => {
    const beat = beatOf(true)
    const first = beat.next()
    expect(beat.next()).toBe(first)
    await first
    const second = watched(beat.next())
    expect(second.hasCome).toBe(false)
    await nextTurn()
    expect(second.hasCome).toBe(true)
  })
})
