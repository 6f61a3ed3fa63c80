// A retry by hand races the deletion of the same final job: one of them wins, and both know who.
import { setTimeout as sleep } from 'node:timers/promises'
import { until } from '../../../support/until.ts'
import type { Ground } from '../../ground.ts'
import type { Engine } from '../../history.ts'
import type { Accepted } from '../../work-client.ts'
import type { Judge, Stage } from './stage.ts'

/** Whose jobs die in their first attempt. */
const OF_DEAD = 'purged-dead'
const OF_CANCELLED = 'purged-cancelled'
/** Few at once: what waits for a connection of the client does not race. */
const PORTION = 10
const DEAD_DEADLINE_MS = 60_000
const FAR_AHEAD_MS = 3_600_000
/** Either may be sent so much later than the other: a retry takes more commands than a deletion. */
const APART_MS: Record<Engine, number> = { sqlite: 3, mongo: 60 }

const RETRY_FIRST = 'the retry came before the deletion'
const DELETION_FIRST = 'the deletion came before the retry'
/** Met by chance only. */
const DONE_BEFORE = 'retried, done, and only then deleted'

export const PURGE_WINDOWS = [RETRY_FIRST, DELETION_FIRST]

export async function racePurges({ ground, scripts }: Stage, jobCount: number): Promise<Judge> {
  await ground.register(OF_DEAD)
  await ground.register(OF_CANCELLED)
  scripts.set(OF_DEAD, ({ attempt }) => (attempt === 1 ? 400 : undefined))
  const races: Race[] = []
  for (let portion = 0; races.length < jobCount; portion++) {
    const jobs = await (portion % 2 === 0 ? deadJobs(ground) : cancelledJobs(ground))
    races.push(...(await Promise.all(jobs.map((job) => race(ground, job)))))
  }
  return async () => {
    for (const one of races) await judge(ground, one)
  }
}

async function deadJobs({ client }: Ground): Promise<Accepted[]> {
  const jobs = await client.enqueueMany(PORTION, () => ({ endpoint: OF_DEAD }))
  for (const { id } of jobs) {
    await until(async () => (await client.look(id))?.body.state === 'dead', DEAD_DEADLINE_MS)
  }
  return jobs
}

async function cancelledJobs({ client }: Ground): Promise<Accepted[]> {
  const work = { endpoint: OF_CANCELLED, delayMs: FAR_AHEAD_MS }
  const jobs = await client.enqueueMany(PORTION, () => work)
  await Promise.all(jobs.map((job) => client.command('cancel', job)))
  return jobs
}

async function race({ client, dice, engine }: Ground, job: Accepted) {
  const later = async (kind: 'retry' | 'delete') => {
    await sleep(dice.between(0, APART_MS[engine]))
    return (await client.command(kind, job))?.status ?? null
  }
  const [retried, deleted] = await Promise.all([later('retry'), later('delete')])
  return { job, retried, deleted }
}

type Race = Awaited<ReturnType<typeof race>>

async function judge(ground: Ground, { job, retried, deleted }: Race): Promise<void> {
  const found = await ground.client.look(job.id)
  const state = found?.status === 404 ? 'gone' : found?.body.state
  const told = `${job.id}: a retry was answered by ${retried}, a deletion by ${deleted}`
  const deliveryCount = ground.receiver.deliveries.filter(
    ({ jobId, status }) => jobId === job.id && status === 200,
  ).length
  const truth = `${told}; it is ${state}, delivered with success ${deliveryCount} times`
  if (retried === 200 && deleted === 409) {
    ground.hit(RETRY_FIRST)
    if (state !== 'succeeded' || deliveryCount !== 1) ground.complain(truth)
  } else if (retried === 404 && deleted === 204) {
    ground.hit(DELETION_FIRST)
    if (state !== 'gone' || deliveryCount !== 0) ground.complain(truth)
  } else if (retried === 200 && deleted === 204) {
    ground.hit(DONE_BEFORE)
    if (state !== 'gone' || deliveryCount !== 1) ground.complain(truth)
  } else {
    ground.complain(truth)
  }
}
