// The turns of fairness keys on MongoDB, where writers do not wait for each other: a key whose
// turns were lost is found, and the number of commands does not grow with the number of keys.
import { MongoClient } from 'mongodb'
import { expect, it, onTestFinished } from 'vitest'
import type { ClaimedJob, NewJob } from '../../src/job/job.ts'
import type { JobDocument } from '../../src/store/mongo/job-document.ts'
import { addEndpoint, claimFrom, enqueueOne, newJob, success, sweep } from '../contract/fixtures.ts'
import { useStore } from '../support/stores.ts'

const place = useStore('mongo')
/**
 * Candidates, claim, claimed jobs, lanes, and one read and one write to give turns; every 0.4 s
 * also which endpoints hand out jobs.
 */
const MOST_COMMANDS = 7
/** Also what has ended, the admission, what is stored of the keys and runs, and the next parks. */
const MOST_COMMANDS_WITH_LIMITS = 19

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

it('an enqueue of jobs with keys costs two commands more than one without', async () => {
  const endpoint = await addEndpoint(place.store)
  const enqueue = async (keyCount: number, ofKey: number) => {
    const before = place.store.commandCount
    await place.store.enqueue(
      jobsOf(endpoint, keyCount * ofKey, (i) => ({ fairnessKey: `key ${i % keyCount}` })),
    )
    return place.store.commandCount - before
  }
  // The first job with a key marks the endpoint.
  await enqueue(1, 1)
  const before = place.store.commandCount
  await place.store.enqueue(jobsOf(endpoint, 100, () => ({})))
  const without = place.store.commandCount - before

  // The second command marks the turns before jobs that are outside.
  expect(await enqueue(100, 1)).toBe(without + 1)
  expect(await enqueue(4, 100)).toBe(without + 2)
  expect(await enqueue(100, 4)).toBeLessThanOrEqual(without + 2)
})

it('those of a claim with limits of keys do not either, while most keys are at their limit', async () => {
  const counts: number[] = []
  for (const keyCount of [1, 100]) {
    const perKey = { concurrency: 2, rateLimit: { count: 1_000, perMs: 1_000 } }
    const endpoint = await addEndpoint(place.store, { perKey })
    await place.store.enqueue(
      jobsOf(endpoint, 300, (i) => ({ fairnessKey: `key ${i % keyCount}` })),
    )
    // Until each key is at its limit.
    const running: ClaimedJob[] = []
    for (let jobs = await claimFrom(place.store, endpoint, 50); jobs.length > 0; ) {
      running.push(...jobs)
      jobs = await claimFrom(place.store, endpoint, 50)
    }
    expect(running).toHaveLength(2 * keyCount)
    for (let i = 0; i < Math.min(2, keyCount + 1); i++) {
      await place.store.settle([success(place.store, running[i] as ClaimedJob)])
      const before = place.store.commandCount
      expect(await claimFrom(place.store, endpoint, 20)).toHaveLength(1)
      counts.push(place.store.commandCount - before)
    }
  }
  expect(Math.max(...counts)).toBeLessThanOrEqual(MOST_COMMANDS_WITH_LIMITS)
})
