// An endpoint is deleted while it has attempts in flight, queued jobs and enqueues in flight.
import { until } from '../../../support/until.ts'
import type { Fixture } from '../../fixture.ts'
import { nowMs } from '../../history.ts'
import type { Accepted } from '../../work-client.ts'
import {
  type Check,
  deliveriesTo,
  isUnderWay,
  KNOWN_AFTER_MS,
  NOISE_MS,
  type Stage,
} from './race-fixture.ts'

const JOBS = 10
const HANDLER_MS = 1_500
const FAR_AHEAD_MS = 60_000
const GONE_DEADLINE_MS = 60_000
const START_DEADLINE_MS = 60_000

const IN_FLIGHT = 'endpoint deleted with attempts in flight'
const REFUSED = 'an enqueue that raced the deletion was refused'
const BURIED = 'jobs buried as endpoint_gone'

export const DELETION_WINDOWS = [IN_FLIGHT, REFUSED, BURIED]

export async function raceDeletion({ fixture }: Stage, number: number): Promise<Check> {
  const { client } = fixture
  const name = `deleted-${number}`
  await fixture.register(name)
  const jobs = await client.enqueueMany(2 * JOBS, (i) => ({
    endpoint: name,
    answerAfterMs: HANDLER_MS,
    ...(i < JOBS ? {} : { delayMs: FAR_AHEAD_MS }),
  }))
  const late = enqueueUntilRefused(fixture, name)
  await until(() => deliveriesTo(fixture, name).some(isUnderWay), START_DEADLINE_MS)
  const answer = await client.request('DELETE', `/endpoints/${name}?force=true`)
  const deletedAtMs = nowMs()
  if (answer?.status !== 202) fixture.complain(`a deletion was answered by ${answer?.status}`)
  fixture.hit(IN_FLIGHT, deliveriesTo(fixture, name).some(isUnderWay) ? 1 : 0)
  jobs.push(...(await late))
  await until(
    async () => (await client.request('GET', `/endpoints/${name}`))?.status === 404,
    GONE_DEADLINE_MS,
  )
  const took = Math.round(nowMs() - deletedAtMs)
  fixture.measure('endpoint', 'from the answer to a deletion until it was gone, ms', took)
  return async () => {
    checkSends(fixture, name, deletedAtMs)
    for (const job of jobs) await checkJob(fixture, job)
  }
}

/**
 * Enqueues one job after another until the first one is refused. Jobs accepted before that are
 * stored and later made dead. All jobs after it are refused.
 */
async function enqueueUntilRefused(fixture: Fixture, endpoint: string): Promise<Accepted[]> {
  const { client } = fixture
  const accepted: Accepted[] = []
  for (;;) {
    try {
      accepted.push(await client.enqueue({ endpoint, answerAfterMs: HANDLER_MS }))
    } catch (error) {
      if (!String(error).includes('not accepted: 422')) throw error
      fixture.hit(REFUSED)
      return accepted
    }
  }
}

/**
 * Checks the sends: a job that was claimed before the deletion is sent within a second or not at
 * all, as after a cancel.
 */
function checkSends(fixture: Fixture, name: string, deletedAtMs: number): void {
  for (const { jobId, beganAtMs } of deliveriesTo(fixture, name)) {
    const lateMs = Math.round(beganAtMs - deletedAtMs)
    fixture.measure('endpoint', 'latest start after the answer to a deletion, ms', lateMs)
    if (lateMs <= KNOWN_AFTER_MS + NOISE_MS) continue
    fixture.complain(`${jobId} was sent ${lateMs} ms after its endpoint was deleted`)
  }
}

async function checkJob(fixture: Fixture, { id }: Accepted): Promise<void> {
  const job = (await fixture.client.look(id))?.body
  if (job?.state === 'succeeded') return
  const reason = job?.failure?.reason
  fixture.hit(BURIED, reason === 'endpoint_gone' ? 1 : 0)
  if (job?.state !== 'dead' || reason !== 'endpoint_gone') {
    fixture.complain(`${id} of a deleted endpoint is ${job?.state} (${reason})`)
  }
}
