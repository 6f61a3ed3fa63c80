// When a busy worker writes. Turns of the event loop decide, so these tests count turns.
import { setImmediate as nextTurn } from 'node:timers/promises'
import { describe, expect, it } from 'vitest'
import { createWritePacer } from '../../workers/write-pacer.ts'

const SLOTS = 8

function pacerOf(isBehind: boolean) {
  const pacer = createWritePacer(SLOTS)
  pacer.isBehind = isBehind
  return pacer
}

/** Shows whether the promise has resolved. */
function watched(promise: Promise<void>): { hasCome: boolean } {
  const seen = { hasCome: false }
  void promise.then(() => {
    seen.hasCome = true
  })
  return seen
}

describe('the write pacer of a worker', () => {
  it('comes with the next turn for who is not behind, though attempts end', async () => {
    const pacer = pacerOf(false)
    const next = watched(pacer.next())
    pacer.noteEnded()
    expect(next.hasCome).toBe(false)
    await nextTurn()
    expect(next.hasCome).toBe(true)
  })

  it('waits for half of the slots while each turn frees some', async () => {
    const pacer = pacerOf(true)
    const next = watched(pacer.next())
    for (let freed = 1; freed < SLOTS / 2; freed++) {
      pacer.noteEnded()
      await nextTurn()
      expect(next.hasCome).toBe(false)
    }
    pacer.noteEnded()
    await nextTurn()
    expect(next.hasCome).toBe(true)
  })

  it('waits for no slot once a turn has freed none', async () => {
    const pacer = pacerOf(true)
    const next = watched(pacer.next())
    pacer.noteEnded()
    await nextTurn()
    expect(next.hasCome).toBe(false)
    await nextTurn()
    expect(next.hasCome).toBe(true)
  })

  it('is one for all who wait, and each is a new one', async () => {
    const pacer = pacerOf(true)
    const first = pacer.next()
    expect(pacer.next()).toBe(first)
    await first
    const second = watched(pacer.next())
    expect(second.hasCome).toBe(false)
    await nextTurn()
    expect(second.hasCome).toBe(true)
  })
})
