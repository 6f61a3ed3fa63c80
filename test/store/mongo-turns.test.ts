// The turns of fairness keys on MongoDB, where writers do not wait for each other: a key whose
// turns were lost is found, and the number of commands does not grow with the number of keys.
import { MongoClient } from 'mongodb'
import { expect, it, onTestFinished } from 'vitest'
import type { NewJob } from '../../src/job/job.ts'
import type { JobDocument } from '../../src/store/mongo/job-document.ts'
import { addEndpoint, claimFrom, enqueueOne, newJob, sweep } from '../contract/fixtures.ts'
import { useStore } from '../support/stores.ts'

const place = useStore('mongo')
/** Lanes, claim, claimed jobs, lanes, and what is read and written to give turns. */
const MOST_COMMANDS = 7

function jobsOf(endpoint: string, count: number, fields: (i: number) => Partial<NewJob>) {
  return Array.from({ length: count }, (_, i) => newJob(place.store, endpoint, fields(i)))
}

it('a sweep finds keys whose jobs are all outside', async () => {
  const lanes = [
    { endpoint: await addEndpoint(place.store), priority: 5, fairnessKey: 'a' },
    { endpoint: await addEndpoint(place.store), priority: 3, fairnessKey: 'a' },
    { endpoint: await addEndpoint(place.store), priority: 8, fairnessKey: 'b' },
  ]
  const [, second] = lanes as [(typeof lanes)[number], (typeof lanes)[number]]
  lanes.push({ ...second, priority: 7 }, { ...second, fairnessKey: 'c' })
  const ids: string[] = []
  for (const { endpoint, ...fields } of lanes) {
    ids.push((await enqueueOne(place.store, endpoint, fields)).id)
  }
  // As if their writers had died before they gave turns to the next jobs.
  const client = await MongoClient.connect(place.url)
  onTestFinished(() => client.close())
  const raw = client.db().collection<JobDocument>('posthorn_jobs')
  await raw.updateMany({ _id: { $in: ids } }, { $set: { state: 'waiting', turn: -1 } })
  const endpoints = [...new Set(lanes.map(({ endpoint }) => endpoint))]
  const claimAll = async () => {
    const parts = await Promise.all(endpoints.map((name) => claimFrom(place.store, name, 10)))
    return parts.flat().map(({ jobId }) => jobId)
  }
  expect(await claimAll()).toEqual([])

  for (let i = 0; i <= lanes.length; i++) await sweep(place.store)

  expect((await claimAll()).sort()).toEqual(ids.sort())
})

it('the commands of a claim do not grow with the number of keys', async () => {
  const counts: number[] = []
  for (const keyCount of [1, 100]) {
    const endpoint = await addEndpoint(place.store)
    await place.store.enqueue(
      jobsOf(endpoint, 300, (i) => ({ fairnessKey: `key ${i % keyCount}` })),
    )
    for (let i = 0; i < 3; i++) {
      const before = place.store.commandCount
      expect(await claimFrom(place.store, endpoint, 20)).toHaveLength(20)
      counts.push(place.store.commandCount - before)
    }
  }
  expect(Math.max(...counts)).toBeLessThanOrEqual(MOST_COMMANDS)
})
