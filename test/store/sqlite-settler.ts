// A process of test/store/sqlite-crashes.test.ts. It claims and settles until it is killed.
import { once } from 'node:events'
import { flushCompileCache } from 'node:module'
import { openSqliteStore } from '../../src/store/sqlite/store.ts'
import { burial, success } from '../contract/fixtures.ts'

const DAY_MS = 86_400_000
/** A lease that ends soon after the process was killed. */
const LEASE_MS = 100
const BATCH = 12

const [path, endpoint, keptAlive] = process.argv.slice(2) as [string, string, string]
const store = await openSqliteStore(path, {
  retentionMs: DAY_MS,
  retentionDeadMs: DAY_MS,
  encryptionKeys: null,
  warn: () => {},
})
// Node would do so at the end of a process that is not killed.
flushCompileCache()
const holder = { workerId: `settler-${process.pid}`, leaseMs: LEASE_MS, pulls: false }

for (;;) {
  const { jobs } = await store.claim([{ endpoint, limit: BATCH }], BATCH, holder)
  if (jobs.length === 0) break
  // Some attempts fail for good, but not that of the job that all others depend on.
  const settlements = jobs.map((job) =>
    job.jobId !== keptAlive && job.jobId.charCodeAt(job.jobId.length - 1) % 5 === 0
      ? burial(store, job)
      : success(store, job),
  )
  // The message comes before the write, so that the test kills this process during the write. After
  // the write the process waits for a message: otherwise it could end on a busy machine before it
  // is killed.
  const goOn = once(process, 'message')
  process.send?.('settling')
  await store.settle(settlements)
  await goOn
}
await store.close()
process.disconnect?.()
