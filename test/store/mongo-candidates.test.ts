// How a claim chooses among the jobs of its endpoints, without a database.
import { expect, it } from 'vitest'
import { createPicker, MAX_CLAIM_BYTES, type Picker } from '../../src/store/mongo/candidates.ts'

/** The jobs of each endpoint, in order, with their sizes. */
type Held = Record<string, { count: number; bytes?: number }>

/** Answers the picker's questions until its round is complete. Returns how often it asked. */
function runRound(picker: Picker, held: Held): number {
  let askedTimes = 0
  picker.startRound()
  for (let shares = picker.nextShares(); shares.length > 0; shares = picker.nextShares()) {
    askedTimes += 1
    picker.add(
      shares.map(({ endpoint, left }) => {
        const { count = 0, bytes = 10 } = held[endpoint] ?? {}
        const length = Math.min(count, left)
        return Array.from({ length }, (_, i) => {
          return { _id: `${endpoint}-${i}`, endpoint, payloadBytes: bytes }
        })
      }),
    )
  }
  return askedTimes
}

/** Counts all jobs that were picked as claimed. */
function takeAll(picker: Picker): string[] {
  const picked = picker.picked()
  const payloads = picked.map(({ payloadBytes, endpoint }) => {
    return { endpoint, payload: { byteLength: payloadBytes } as Uint8Array }
  })
  picker.count(payloads)
  return picked.map(({ _id }) => _id)
}

it('shares are served in their order, each up to its own limit', () => {
  const shares = [
    { endpoint: 'a', limit: 2 },
    { endpoint: 'b', limit: 10 },
  ]
  const picker = createPicker(shares, 4)
  runRound(picker, { a: { count: 5 }, b: { count: 5 } })
  expect(takeAll(picker)).toEqual(['a-0', 'a-1', 'b-0', 'b-1'])
  expect(picker.wantsMore()).toBe(false)
})

it('a claim stops at its bytes, and does not go on with a smaller job of a later share', () => {
  const shares = [
    { endpoint: 'big', limit: 10 },
    { endpoint: 'small', limit: 10 },
  ]
  const picker = createPicker(shares, 10)
  runRound(picker, { big: { count: 5, bytes: MAX_CLAIM_BYTES / 2 }, small: { count: 5 } })
  expect(takeAll(picker)).toEqual(['big-0', 'big-1'])
  expect(picker.wantsMore()).toBe(false)
  expect(picker.openEndpoints()).toContain('big')
})

it('a job larger than a whole claim may hold is taken alone', () => {
  const picker = createPicker([{ endpoint: 'a', limit: 5 }], 5)
  runRound(picker, { a: { count: 2, bytes: MAX_CLAIM_BYTES + 1 } })
  expect(takeAll(picker)).toEqual(['a-0'])
})

it('ids that others took are tried for again, but not at an endpoint that gave all it had', () => {
  const shares = [
    { endpoint: 'short', limit: 3 },
    { endpoint: 'long', limit: 3 },
  ]
  const picker = createPicker(shares, 4)
  runRound(picker, { short: { count: 1 }, long: { count: 3 } })
  picker.count([])
  expect(picker.wantsMore()).toBe(true)
  expect(picker.openEndpoints()).toEqual(['long'])
  picker.startRound()
  expect(picker.nextShares().map(({ endpoint }) => endpoint)).toEqual(['long'])
})

it('a thousand empty endpoints cost few commands', () => {
  const shares = Array.from({ length: 1_000 }, (_, i) => ({
    endpoint: `endpoint-${i}`,
    limit: 100,
  }))
  const picker = createPicker(shares, 100)
  expect(runRound(picker, {})).toBeLessThanOrEqual(20)
  takeAll(picker)
  expect(picker.wantsMore()).toBe(false)
})

it('nothing is asked of an endpoint whose limit is none', () => {
  const picker = createPicker([{ endpoint: 'a', limit: 0 }], 10)
  expect(picker.wantsMore()).toBe(false)
})
