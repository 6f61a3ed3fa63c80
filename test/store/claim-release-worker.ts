// A thread of test/store/sqlite-processes.test.ts. It claims the only job and releases it, again
// and again, until the test ends it.
import { workerData } from 'node:worker_threads'
import { openSqliteStore } from '../../src/store/sqlite/store.ts'

const DAY_MS = 86_400_000

const { path, endpoint } = workerData as Record<'path' | 'endpoint', string>
const store = await openSqliteStore(path, {
  retentionMs: DAY_MS,
  retentionDeadMs: DAY_MS,
  encryptionKeys: null,
  warn: () => {},
})
const holder = { workerId: 'claim-release', leaseMs: DAY_MS, pulls: false }
for (;;) {
  const { jobs } = await store.claim([{ endpoint, limit: 1 }], 1, holder)
  await store.release(jobs)
}
