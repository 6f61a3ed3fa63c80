// Several writers on one SQLite file at the same time, which needs several processes.
import { once } from 'node:events'
import { join } from 'node:path'
import { Worker } from 'node:worker_threads'
import { expect, onTestFinished, test } from 'vitest'
import { addEndpoint, enqueueMany } from '../contract/fixtures.ts'
import { useStore } from '../support/stores.ts'
import { until } from '../support/until.ts'
import type { Claimed } from './claimer.ts'

const WORKER_COUNT = 4
const JOB_COUNT = 2_000
const LOOKS = 5_000
const SEEN_OF_EACH = 100
const CLAIMER = join(import.meta.dirname, 'claimer.ts')
const CLAIM_RELEASE_WORKER = join(import.meta.dirname, 'claim-release-worker.ts')

const place = useStore('sqlite', { encryptionKeys: null })

test('four workers and an API share one file: each job is claimed once and settled once', async () => {
  const { store } = place
  const endpoint = await addEndpoint(store)
  await enqueueMany(store, endpoint, 1_000)
  const path = place.url.slice('sqlite:'.length)
  const workers = Array.from({ length: WORKER_COUNT }, (_, i) => {
    return new Worker(CLAIMER, { workerData: { path, endpoint, workerId: `worker-${i}` } })
  })
  const ends = workers.map((worker) => once(worker, 'message'))
  for (let count = 1_000; count < JOB_COUNT; count += 50) await enqueueMany(store, endpoint, 50)
  const claimed = (await Promise.all(ends)).map(([message]) => message as Claimed)

  const jobIds = claimed.flatMap((one) => one.jobIds)
  expect(new Set(jobIds).size).toBe(jobIds.length)
  expect(claimed.flatMap(({ results }) => results).every((one) => one === 'applied')).toBe(true)
  // A worker ends when it finds no job, which may be before the last job was enqueued.
  expect(jobIds.length).toBeGreaterThanOrEqual(1_000)
  const [counts] = await store.countJobs([endpoint])
  expect(counts).toEqual({ queued: JOB_COUNT - jobIds.length, running: 0, more: false })
  await until(() => workers.every((worker) => worker.threadId === -1))
})

test('a job that is claimed and given back meanwhile is always in one of the counts', async () => {
  const { store } = place
  const endpoint = await addEndpoint(store)
  await enqueueMany(store, endpoint, 1)
  const path = place.url.slice('sqlite:'.length)
  const worker = new Worker(CLAIM_RELEASE_WORKER, { workerData: { path, endpoint } })
  onTestFinished(async () => {
    await worker.terminate()
  })
  const seen = { queued: 0, running: 0 }
  // The thread starts at an unknown time. So the number of states seen decides, not the number of
  // looks.
  for (let look = 0; look < LOOKS || Math.min(seen.queued, seen.running) < SEEN_OF_EACH; look++) {
    const [counts] = await store.countJobs([endpoint])
    const [stats] = await store.statsOf([endpoint])
    expect(counts).toMatchObject({ queued: 1 - (counts?.running ?? 0) })
    expect(stats).toMatchObject({ queued: 1 - (stats?.running ?? 0) })
    seen.queued += counts?.queued ?? 0
    seen.running += counts?.running ?? 0
  }
})
