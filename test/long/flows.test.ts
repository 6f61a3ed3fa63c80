// Flows of many jobs: a long chain, and one job whose result thousands need.
import { describe, expect, test } from 'vitest'
import type { NewJob } from '../../src/job/job.ts'
import { addEndpoint, claimFrom, claimOne, newJob, success, sweep } from '../contract/fixtures.ts'
import { needOf } from '../contract/lifecycle-cases/needs-cases.ts'
import { ENGINES } from '../support/engines.ts'
import { useStore } from '../support/stores.ts'
import { until } from '../support/until.ts'

const CHAIN = { sqlite: 5_000, mongo: 500 }
const FAN_OUT = 3_000
const BATCH = 500
const MINUTES_MS = 600_000

describe.each(ENGINES)('on %s', (engine) => {
  const place = useStore(engine)

  async function enqueueAll(jobs: NewJob[]): Promise<void> {
    for (let at = 0; at < jobs.length; at += BATCH) {
      const results = await place.store.enqueue(jobs.slice(at, at + BATCH), () => true)
      expect(results.every(({ kind }) => kind === 'inserted')).toBe(true)
    }
  }

  test(
    'a long chain hands a result on from its beginning to its end',
    async () => {
      const { store } = place
      const endpoint = await addEndpoint(store)
      const jobs = [newJob(store, endpoint)]
      for (let i = 1; i < CHAIN[engine]; i++) {
        jobs.push(newJob(store, endpoint, { needs: [needOf(jobs[i - 1]?.id ?? '')] }))
      }
      await enqueueAll(jobs)
      for (const [i, { id }] of jobs.entries()) {
        const claimed = await claimOne(store, endpoint)
        expect(claimed.jobId).toBe(id)
        const inputs = claimed.inputs && Buffer.from(claimed.inputs).toString()
        expect(inputs).toBe(i === 0 ? null : `{"inputs":{"input":${i - 1}}}`)
        await store.settle([{ ...success(store, claimed), result: String(i) }])
      }
    },
    MINUTES_MS,
  )

  test(
    'thousands that need one large result all get it, and then it may go',
    async () => {
      const { store } = place
      const [first, endpoint] = [await addEndpoint(store), await addEndpoint(store)]
      const needed = newJob(store, first)
      await enqueueAll([needed])
      const needs = [needOf(needed.id)]
      await enqueueAll(Array.from({ length: FAN_OUT }, () => newJob(store, endpoint, { needs })))
      const result = `"${'x'.repeat(60_000)}"`
      await store.settle([{ ...success(store, await claimOne(store, first)), result }])
      const seen = new Set<string>()
      await until(async () => {
        await sweep(store)
        const claimed = await claimFrom(store, endpoint, 200)
        for (const { jobId, inputs } of claimed) {
          expect(inputs?.byteLength).toBe(result.length + '{"inputs":{"input":}}'.length)
          seen.add(jobId)
        }
        await store.settle(claimed.map((job) => success(store, job)))
        return seen.size === FAN_OUT
      }, MINUTES_MS)
      expect(await store.deleteJob(needed.id)).toEqual({ kind: 'applied' })
    },
    MINUTES_MS,
  )
})
