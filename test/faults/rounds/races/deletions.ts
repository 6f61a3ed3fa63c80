// An endpoint is deleted with attempts in flight, jobs queued and enqueues on the way.
import { until } from '../../../support/until.ts'
import type { Ground } from '../../ground.ts'
import { nowMs } from '../../history.ts'
import type { Accepted } from '../../work-client.ts'
import {
  deliveriesTo,
  isUnderWay,
  type Judge,
  KNOWN_AFTER_MS,
  NOISE_MS,
  type Stage,
} from './stage.ts'

const JOBS = 10
const HANDLER_MS = 1_500
const FAR_AHEAD_MS = 60_000
const GONE_DEADLINE_MS = 60_000
const START_DEADLINE_MS = 60_000

const IN_FLIGHT = 'endpoint deleted with attempts in flight'
const REFUSED = 'an enqueue that raced the deletion was refused'
const BURIED = 'jobs buried as endpoint_gone'

export const DELETION_WINDOWS = [IN_FLIGHT, REFUSED, BURIED]

export async function raceDeletion({ ground }: Stage, number: number): Promise<Judge> {
  const { client } = ground
  const name = `deleted-${number}`
  await ground.register(name)
  const jobs = await client.enqueueMany(2 * JOBS, (i) => ({
    endpoint: name,
    answerAfterMs: HANDLER_MS,
    ...(i < JOBS ? {} : { delayMs: FAR_AHEAD_MS }),
  }))
  const late = enqueueUntilRefused(ground, name)
  await until(() => deliveriesTo(ground, name).some(isUnderWay), START_DEADLINE_MS)
  const answer = await client.request('DELETE', `/endpoints/${name}?force=true`)
  const deletedAtMs = nowMs()
  if (answer?.status !== 202) ground.complain(`a deletion was answered by ${answer?.status}`)
  ground.hit(IN_FLIGHT, deliveriesTo(ground, name).some(isUnderWay) ? 1 : 0)
  jobs.push(...(await late))
  await until(
    async () => (await client.request('GET', `/endpoints/${name}`))?.status === 404,
    GONE_DEADLINE_MS,
  )
  const took = Math.round(nowMs() - deletedAtMs)
  ground.measure('endpoint', 'from the answer to a deletion until it was gone, ms', took)
  return async () => {
    judgeSends(ground, name, deletedAtMs)
    for (const job of jobs) await judgeJob(ground, job)
  }
}

/** One after the other: each is stored and buried, or refused, and then so is every later one. */
async function enqueueUntilRefused(ground: Ground, endpoint: string): Promise<Accepted[]> {
  const { client } = ground
  const accepted: Accepted[] = []
  for (;;) {
    try {
      accepted.push(await client.enqueue({ endpoint, answerAfterMs: HANDLER_MS }))
    } catch (error) {
      if (!String(error).includes('not accepted: 422')) throw error
      ground.hit(REFUSED)
      return accepted
    }
  }
}

/** What was claimed before leaves within a second or not at all, as after a cancel. */
function judgeSends(ground: Ground, name: string, deletedAtMs: number): void {
  for (const { jobId, beganAtMs } of deliveriesTo(ground, name)) {
    const lateMs = Math.round(beganAtMs - deletedAtMs)
    ground.measure('endpoint', 'latest start after the answer to a deletion, ms', lateMs)
    if (lateMs <= KNOWN_AFTER_MS + NOISE_MS) continue
    ground.complain(`${jobId} was sent ${lateMs} ms after its endpoint was deleted`)
  }
}

async function judgeJob(ground: Ground, { id }: Accepted): Promise<void> {
  const job = (await ground.client.look(id))?.body
  if (job?.state === 'succeeded') return
  const reason = job?.failure?.reason
  ground.hit(BURIED, reason === 'endpoint_gone' ? 1 : 0)
  if (job?.state !== 'dead' || reason !== 'endpoint_gone') {
    ground.complain(`${id} of a deleted endpoint is ${job?.state} (${reason})`)
  }
}
