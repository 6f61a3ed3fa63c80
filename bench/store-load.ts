// Fills stores for the rows that measure a claim: through the port, in this process.
import { randomBytes } from 'node:crypto'
import { DatabaseSync } from 'node:sqlite'
import { newSecret } from '../src/endpoint/endpoint.ts'
import type { NewJob } from '../src/job/job.ts'
import { openStore } from '../src/store/open-store.ts'
import { MAX_ENQUEUE_BATCH, type Store } from '../src/store/store.ts'
import { holderOf, newJob, settingsOf, success } from '../test/contract/fixtures.ts'
import { PAYLOAD } from './load.ts'

const DAY_MS = 86_400_000
const SQLITE_SCHEME = 'sqlite:'
/** Writes at the same time share a transaction. */
const PUTS_AT_ONCE = 100
/** The last characters of an id, which are different in each copy. */
const ID_END = 8
const ID_LENGTH = 30
const payload = Buffer.from(PAYLOAD)

export function openForLoad(url: string): Promise<Store> {
  return openStore(url, {
    ...{ retentionMs: 7 * DAY_MS, retentionDeadMs: 30 * DAY_MS },
    ...{ encryptionKeys: [randomBytes(32)], warn: () => {} },
  })
}

export async function addEndpoints(store: Store, count: number): Promise<string[]> {
  const names = Array.from({ length: count }, (_, i) => `endpoint-${i}`)
  for (let done = 0; done < count; done += PUTS_AT_ONCE) {
    await Promise.all(
      names
        .slice(done, done + PUTS_AT_ONCE)
        .map((name) =>
          store.putEndpoint(settingsOf({ name }), { given: null, fresh: newSecret() }, null),
        ),
    )
  }
  return names
}

/** Enqueues this many jobs of 250 bytes, distributed over the endpoints. */
export function enqueueFor(
  store: Store,
  endpoints: string[],
  count: number,
  fields: Partial<NewJob> = {},
): Promise<void> {
  return enqueueWith(store, endpoints, count, () => fields)
}

/** The same, with the fields of each job by its number. */
export async function enqueueWith(
  store: Store,
  endpoints: string[],
  count: number,
  fieldsOf: (index: number) => Partial<NewJob>,
): Promise<void> {
  for (let done = 0; done < count; done += MAX_ENQUEUE_BATCH) {
    const size = Math.min(MAX_ENQUEUE_BATCH, count - done)
    const jobs = Array.from({ length: size }, (_, i) => {
      const endpoint = endpoints[(done + i) % endpoints.length] as string
      return newJob(store, endpoint, { payload, ...fieldsOf(done + i) })
    })
    const results = await store.enqueue(jobs)
    if (results.some(({ kind }) => kind !== 'inserted')) throw new Error('not all were inserted')
  }
}

/**
 * Claims from these endpoints, at most `perEndpoint` of each, and settles all as delivered; returns
 * how many.
 */
export async function claimAndSettle(
  store: Store,
  endpoints: string[],
  perEndpoint: number,
  limit: number,
): Promise<number> {
  const shares = endpoints.map((endpoint) => ({ endpoint, limit: perEndpoint }))
  const { jobs } = await store.claim(shares, limit, holderOf())
  const results = await store.settle(jobs.map((job) => success(store, job)))
  if (results.some((result) => result !== 'applied')) throw new Error('not all were settled')
  return jobs.length
}

/**
 * Adds this many succeeded jobs on SQLite. The first ones are delivered through the port. The
 * others are copies of their rows with other ids, made by SQL, because a million deliveries take
 * too long.
 */
export async function keepFinal(store: Store, url: string, count: number): Promise<void> {
  const [endpoint] = (await addEndpoints(store, 1)) as [string]
  const originals = Math.min(count, MAX_ENQUEUE_BATCH)
  await enqueueFor(store, [endpoint], originals)
  await claimAndSettle(store, [endpoint], originals, originals)
  const db = new DatabaseSync(url.slice(SQLITE_SCHEME.length))
  try {
    db.exec('pragma synchronous = off')
    const columns = columnsOf(db)
    const values = columns.map((column) => COPIED[column] ?? column)
    const copyJobs = db.prepare(
      `insert into jobs (${columns}) select ${values} from jobs where seq <= :count order by seq`,
    )
    const copyPayloads = db.prepare(
      `insert into payloads (seq, bytes)
      select seq + :offset, bytes from payloads where seq <= :count order by seq`,
    )
    for (let offset = originals; offset < count; offset += originals) {
      const copies = { offset, count: Math.min(originals, count - offset) }
      db.exec('begin immediate')
      copyJobs.run(copies)
      copyPayloads.run(copies)
      db.exec('commit')
    }
  } finally {
    db.close()
  }
}

/** Columns that a copy does not take from its original. */
const COPIED: Record<string, string> = {
  seq: 'seq + :offset',
  id: `substr(id, 1, ${ID_LENGTH - ID_END}) || printf('%0${ID_END}x', seq + :offset)`,
}

function columnsOf(db: DatabaseSync): string[] {
  return db
    .prepare("select name from pragma_table_info('jobs')")
    .all()
    .map(({ name }) => name as string)
}
