// The inputs of jobs count in the bytes that one claim takes, beside the payloads.
import { expect, test } from 'vitest'
import { addEndpoint, claimFrom, newJob, success } from '../contract/fixtures.ts'
import { needOf } from '../contract/lifecycle-cases/needs-cases.ts'
import { useStore } from '../support/stores.ts'

const RESULT_BYTES = 65_000
const NEEDED = 16
const NEEDING = 80
/** As in claim.ts. */
const MAX_CLAIM_BYTES = 64 * 1_024 * 1_024

const place = useStore('sqlite')

test('a claim stops at its bytes, with the inputs of its jobs', async () => {
  const { store } = place
  const [base, endpoint] = [await addEndpoint(store), await addEndpoint(store)]
  const needed = Array.from({ length: NEEDED }, () => newJob(store, base))
  await store.enqueue(needed, () => true)
  const result = JSON.stringify('x'.repeat(RESULT_BYTES))
  for (const claimed of await claimFrom(store, base, NEEDED)) {
    await store.settle([{ ...success(store, claimed), result }])
  }
  const needs = needed.map(({ id }, i) => needOf(id, { name: `n${i}` }))
  for (let i = 0; i < NEEDING; i++) await store.enqueue([newJob(store, endpoint, { needs })])
  const first = await claimFrom(store, endpoint, NEEDING)
  const bytes = first.reduce((sum, { inputs }) => sum + (inputs?.byteLength ?? 0), 0)
  const one = bytes / first.length
  expect(one).toBeGreaterThan(NEEDED * RESULT_BYTES)
  expect(bytes).toBeGreaterThanOrEqual(MAX_CLAIM_BYTES)
  expect(bytes).toBeLessThan(MAX_CLAIM_BYTES + one)
  expect(first.length).toBeLessThan(NEEDING)
  expect(await claimFrom(store, endpoint, NEEDING)).toHaveLength(NEEDING - first.length)
})
