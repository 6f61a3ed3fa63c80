// Relays that are killed in the middle of their work: each document becomes exactly one job.
import { expect, it } from 'vitest'
import { COLLECTIONS } from '../../src/store/collection-names.ts'
import { until } from '../support/until.ts'
import { SLOW_MS, useOutbox } from './fixture.ts'

const DOCUMENTS = 400
const KILLS = 3
/** The documents that a killed relay held are free again after ten seconds. */
const DEADLINE_MS = 90_000

const fixture = useOutbox()

it(
  'documents become one job each, however often the workers that move them are killed',
  async () => {
    const { posthorn, outbox, store, receiver } = fixture
    // The endpoint is paused, so that a killed process holds documents, and no jobs.
    await posthorn.request('POST', '/endpoints/work/pause')
    const workers = [await posthorn.startWorker(), await posthorn.startWorker()]
    const documents = Array.from({ length: DOCUMENTS }, (_, n) => ({
      endpoint: 'work',
      payload: n,
    }))
    for (let at = 0; at < DOCUMENTS; at += 50) {
      await outbox.insertMany(documents.slice(at, at + 50))
      // The kill comes in the middle of a move: some of the documents are jobs already.
      if (at % 100 === 50 && workers.length <= KILLS + 1) {
        const jobs = await fixture.jobCount()
        await until(async () => (await fixture.jobCount()) > jobs, SLOW_MS)
        await workers.at(-2)?.stop('SIGKILL')
        workers.push(await posthorn.startWorker())
      }
    }
    await until(async () => (await outbox.countDocuments()) === 0, DEADLINE_MS)
    const jobs = store.collection(COLLECTIONS.jobs)
    const stored = await jobs.find({}, { projection: { payload: 1 } }).toArray()
    const numbers = stored.map(({ payload }) => Number(Buffer.from(payload.buffer).toString()))
    expect(numbers.toSorted((a, b) => a - b)).toEqual([...Array(DOCUMENTS).keys()])
    // A busy machine may be late with an attempt. It is then retried soon, as another attempt of
    // the same job.
    const patient = { maxAttempts: 50, backoff: { type: 'fixed', delay: '1s' } }
    await posthorn.endpoint('work', receiver.url, { timeout: '5s', retry: patient })
    await posthorn.request('POST', '/endpoints/work/resume')
    const bodies = () => new Set(receiver.requests.map(({ body }) => String(body)))
    await receiver.waitFor(() => bodies().size === DOCUMENTS, DEADLINE_MS)
    const ids = new Set(receiver.requests.map(({ headers }) => headers['webhook-id']))
    expect(ids.size).toBe(DOCUMENTS)
  },
  3 * DEADLINE_MS,
)
