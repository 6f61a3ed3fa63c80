// Row a2: POST /jobs/batch of 100 jobs, durable, compared with raw inserts of the same rows: SQLite
// in this process, without HTTP, in a transaction for each 100.
import { DatabaseSync } from 'node:sqlite'
import { Client } from 'undici'
import { newJobId } from '../../src/job/job-id.ts'
import { INSERT_PAYLOAD, INSERT_PLAIN } from '../../src/store/sqlite/job-row.ts'
import { compare, type Sample } from '../compare.ts'
import { ENDPOINT, JOB_BODY } from '../load.ts'
import { type Posthorn, startPosthorn } from '../posthorn.ts'
import type { Bench, Row } from '../row.ts'
import { addEndpoints, enqueueFor, openForLoad } from '../store-load.ts'
import { openStore } from '../stores.ts'

const JOBS = 40_000
const BATCH = 100
/** Enough that the API always has a request. */
const CONNECTIONS = 8
const BODY = `{"jobs":[${Array(BATCH).fill(JOB_BODY).join(',')}]}`

export const batchRow: Row = {
  name: 'a2',
  title: 'POST /jobs/batch of 100, against the same rows inserted raw',
  async play(bench) {
    const batches = Math.ceil((JOBS * bench.scale) / BATCH)
    const { url } = await openStore(bench, 'sqlite')
    const posthorn = await startPosthorn({ storeUrl: url, folder: bench.folder, workers: 0 })
    await posthorn.register(ENDPOINT, { url: 'http://127.0.0.1:9999/' })
    const raw = await openRaw(bench)
    try {
      const result = await compare(
        bench,
        {
          ...{ row: 'a2', what: `POST /jobs/batch of ${BATCH} on SQLite`, unit: 'jobs/s' },
          ...{ better: 'more', mustReach: 0.7, aim: 0.9 },
        },
        {
          ...{ name: `Posthorn, ${CONNECTIONS} connections`, durability: 'every commit' },
          measure: () => postBatches(posthorn, batches),
        },
        {
          ...{ name: `node:sqlite, ${BATCH} rows a transaction`, durability: 'every commit' },
          measure: async () => raw.insert(batches),
        },
      )
      return [result]
    } finally {
      raw.close()
      await posthorn.stop()
    }
  },
}

async function postBatches(posthorn: Posthorn, batches: number): Promise<Sample> {
  const clients = Array.from({ length: CONNECTIONS }, () => new Client(posthorn.apiUrl))
  let left = batches
  async function postUntilDone(client: Client): Promise<void> {
    while (left-- > 0) {
      const { statusCode, body } = await client.request({
        ...{ method: 'POST', path: '/jobs/batch', body: BODY },
        headers: { 'content-type': 'application/json' },
      })
      await body.dump({ limit: Number.MAX_SAFE_INTEGER })
      if (statusCode >= 300) throw new Error(`a batch got the status ${statusCode}`)
    }
  }
  const cpuBeforeUs = posthorn.cpuUs().api
  const startedAtMs = performance.now()
  await Promise.all(clients.map(postUntilDone))
  const seconds = (performance.now() - startedAtMs) / 1_000
  const cpuUs = posthorn.cpuUs().api - cpuBeforeUs
  await Promise.all(clients.map((client) => client.close()))
  const jobs = batches * BATCH
  return { value: jobs / seconds, cpuUs: { api: cpuUs / jobs } }
}

/**
 * A file with the schema and settings of the store. Its rows are copies of the first one, which the
 * store wrote.
 */
async function openRaw(bench: Bench) {
  const { url } = await openStore(bench, 'sqlite')
  const store = await openForLoad(url)
  await enqueueFor(store, await addEndpoints(store, 1), 1)
  await store.close()
  const db = new DatabaseSync(url.slice('sqlite:'.length))
  db.exec('pragma cache_size = -16384; pragma wal_autocheckpoint = 4000; pragma synchronous = full')
  const columns = /\(([^)]*)\)/.exec(INSERT_PLAIN)?.[1] as string
  const pattern = db.prepare(`select ${columns} from jobs`).get() as Record<string, string>
  const { bytes } = db.prepare('select bytes from payloads').get() as { bytes: Uint8Array }
  const [insertJob, insertPayload] = [db.prepare(INSERT_PLAIN), db.prepare(INSERT_PAYLOAD)]
  const [begin, commit] = [db.prepare('begin immediate'), db.prepare('commit')]

  function insertBatch(): void {
    begin.run()
    for (let i = 0; i < BATCH; i++) {
      const row = { ...pattern, id: newJobId(Date.now()) }
      const { lastInsertRowid } = insertJob.run(...Object.values(row))
      insertPayload.run(lastInsertRowid, bytes)
    }
    commit.run()
  }

  return {
    insert(batches: number): Sample {
      const before = process.cpuUsage()
      const startedAtMs = performance.now()
      for (let i = 0; i < batches; i++) insertBatch()
      const seconds = (performance.now() - startedAtMs) / 1_000
      const { user, system } = process.cpuUsage(before)
      const jobs = batches * BATCH
      return { value: jobs / seconds, cpuUs: { inserts: (user + system) / jobs } }
    },
    close: () => db.close(),
  }
}
