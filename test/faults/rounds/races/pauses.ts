// An endpoint is paused under load: soon nothing more is sent, and all of it after the resume.
import { setTimeout as sleep } from 'node:timers/promises'
import { until } from '../../../support/until.ts'
import type { Ground } from '../../ground.ts'
import { nowMs } from '../../history.ts'
import { startSteadyLoad } from '../../steady-load.ts'
import { deliveriesTo, isUnderWay, KNOWN_AFTER_MS, NOISE_MS, type Stage } from './stage.ts'

const ENDPOINT = 'paused'
const ANSWER_AFTER_MS = [50, 300] as const
const PAUSED_MS = 2_200
const START_DEADLINE_MS = 60_000

const UNDER_LOAD = 'paused with attempts in flight'
const LATEST = 'latest start after the answer to a pause, ms'
const HELD_BACK = 'jobs enqueued during a pause'

export const PAUSE_WINDOWS = [UNDER_LOAD, HELD_BACK]

export async function racePauses({ ground }: Stage, repeats: number): Promise<void> {
  await ground.register(ENDPOINT)
  const { dice } = ground
  const load = startSteadyLoad(
    ground,
    () => ({ endpoint: ENDPOINT, answerAfterMs: Math.round(dice.between(...ANSWER_AFTER_MS)) }),
    2,
  )
  for (let i = 0; i < repeats; i++) {
    await until(() => deliveriesTo(ground, ENDPOINT).some(isUnderWay), START_DEADLINE_MS)
    const acceptedBefore = load.accepted.length
    await pause(ground)
    ground.hit(HELD_BACK, load.accepted.length - acceptedBefore)
  }
  await load.stop()
}

async function pause(ground: Ground): Promise<void> {
  ground.hit(UNDER_LOAD)
  await change(ground, 'pause')
  const pausedAtMs = nowMs()
  await sleep(PAUSED_MS)
  const resumedAtMs = nowMs()
  ground.measure('endpoint', LATEST, 0)
  await change(ground, 'resume')
  for (const { jobId, beganAtMs } of deliveriesTo(ground, ENDPOINT)) {
    if (beganAtMs < pausedAtMs || beganAtMs > resumedAtMs) continue
    const lateMs = Math.round(beganAtMs - pausedAtMs)
    ground.measure('endpoint', LATEST, lateMs)
    if (lateMs > KNOWN_AFTER_MS + NOISE_MS) {
      ground.complain(`${jobId} was sent ${lateMs} ms after its endpoint was paused`)
    }
  }
  const seen = () => deliveriesTo(ground, ENDPOINT).some(({ beganAtMs }) => beganAtMs > resumedAtMs)
  await until(seen, START_DEADLINE_MS)
}

async function change(ground: Ground, verb: 'pause' | 'resume'): Promise<void> {
  const answer = await ground.client.request('POST', `/endpoints/${ENDPOINT}/${verb}`)
  if (answer?.status !== 200) ground.complain(`a ${verb} was answered by ${answer?.status}`)
}
