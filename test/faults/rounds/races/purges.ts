// A retry by hand races the deletion of the same final job. One of them wins, and both responses
// show which.
import { setTimeout as sleep } from 'node:timers/promises'
import { until } from '../../../support/until.ts'
import type { Fixture } from '../../fixture.ts'
import type { Engine } from '../../history.ts'
import type { Accepted } from '../../work-client.ts'
import type { Check, Stage } from './race-fixture.ts'

/** The jobs of this endpoint become dead in their first attempt. */
const OF_DEAD = 'purged-dead'
const OF_CANCELLED = 'purged-cancelled'
/**
 * Few races run at the same time: a request that waits for a connection of the client does not
 * race.
 */
const PORTION = 10
const DEAD_DEADLINE_MS = 60_000
const FAR_AHEAD_MS = 3_600_000
/**
 * Either request may be sent this much later than the other: a retry takes more commands than a
 * deletion.
 */
const APART_MS: Record<Engine, number> = { sqlite: 3, mongo: 60 }

const RETRY_FIRST = 'the retry came before the deletion'
const DELETION_FIRST = 'the deletion came before the retry'
/** Only chance meets this moment. */
const DONE_BEFORE = 'retried, done, and only then deleted'

export const PURGE_WINDOWS = [RETRY_FIRST, DELETION_FIRST]

export async function racePurges({ fixture, scripts }: Stage, jobCount: number): Promise<Check> {
  await fixture.register(OF_DEAD)
  await fixture.register(OF_CANCELLED)
  scripts.set(OF_DEAD, ({ attempt }) => (attempt === 1 ? 400 : undefined))
  const races: Race[] = []
  for (let portion = 0; races.length < jobCount; portion++) {
    const jobs = await (portion % 2 === 0 ? deadJobs(fixture) : cancelledJobs(fixture))
    races.push(...(await Promise.all(jobs.map((job) => race(fixture, job)))))
  }
  return async () => {
    for (const one of races) await check(fixture, one)
  }
}

async function deadJobs({ client }: Fixture): Promise<Accepted[]> {
  const jobs = await client.enqueueMany(PORTION, () => ({ endpoint: OF_DEAD }))
  for (const { id } of jobs) {
    await until(async () => (await client.look(id))?.body.state === 'dead', DEAD_DEADLINE_MS)
  }
  return jobs
}

async function cancelledJobs({ client }: Fixture): Promise<Accepted[]> {
  const work = { endpoint: OF_CANCELLED, delayMs: FAR_AHEAD_MS }
  const jobs = await client.enqueueMany(PORTION, () => work)
  await Promise.all(jobs.map((job) => client.command('cancel', job)))
  return jobs
}

async function race({ client, random, engine }: Fixture, job: Accepted) {
  const later = async (kind: 'retry' | 'delete') => {
    await sleep(random.between(0, APART_MS[engine]))
    return (await client.command(kind, job))?.status ?? null
  }
  const [retried, deleted] = await Promise.all([later('retry'), later('delete')])
  return { job, retried, deleted }
}

type Race = Awaited<ReturnType<typeof race>>

async function check(fixture: Fixture, { job, retried, deleted }: Race): Promise<void> {
  const found = await fixture.client.look(job.id)
  const state = found?.status === 404 ? 'gone' : found?.body.state
  const summary = `${job.id}: a retry got ${retried}, a deletion by ${deleted}`
  const deliveryCount = fixture.receiver.deliveries.filter(
    ({ jobId, status }) => jobId === job.id && status === 200,
  ).length
  const truth = `${summary}; it is ${state}, delivered with success ${deliveryCount} times`
  if (retried === 200 && deleted === 409) {
    fixture.hit(RETRY_FIRST)
    if (state !== 'succeeded' || deliveryCount !== 1) fixture.complain(truth)
  } else if (retried === 404 && deleted === 204) {
    fixture.hit(DELETION_FIRST)
    if (state !== 'gone' || deliveryCount !== 0) fixture.complain(truth)
  } else if (retried === 200 && deleted === 204) {
    fixture.hit(DONE_BEFORE)
    if (state !== 'gone' || deliveryCount !== 1) fixture.complain(truth)
  } else {
    fixture.complain(truth)
  }
}
