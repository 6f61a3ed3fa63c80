// A thread of test/store/sqlite-processes.test.ts. To SQLite it is a process of its own.
import { parentPort, workerData } from 'node:worker_threads'
import { openSqliteStore } from '../../src/store/sqlite/store.ts'
import type { SettleResult } from '../../src/store/store.ts'
import { success } from '../contract/fixtures.ts'
import { until } from '../support/until.ts'

const DAY_MS = 86_400_000

export interface Claimed {
  jobIds: string[]
  results: SettleResult[]
}

const { path, endpoint, workerId } = workerData as Record<string, string>

/** Claims and settles until a claim of the endpoint returns nothing. */
async function work(): Promise<Claimed> {
  const store = await openSqliteStore(path as string, {
    retentionMs: DAY_MS,
    retentionDeadMs: DAY_MS,
    encryptionKeys: null,
    warn: () => {},
  })
  const all: Claimed = { jobIds: [], results: [] }
  const share = { endpoint: endpoint as string, limit: 10 }
  await until(async () => {
    const holder = { workerId: workerId as string, leaseMs: DAY_MS, pulls: false }
    const { jobs } = await store.claim([share], 10, holder)
    all.jobIds.push(...jobs.map(({ jobId }) => jobId))
    all.results.push(...(await store.settle(jobs.map((job) => success(store, job)))))
    return jobs.length === 0
  })
  await store.close()
  return all
}

parentPort?.postMessage(await work())
