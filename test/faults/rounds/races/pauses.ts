// An endpoint is paused under load: soon nothing more is sent, and after the resume everything is
// sent.
import { setTimeout as sleep } from 'node:timers/promises'
import { until } from '../../../support/until.ts'
import type { Fixture } from '../../fixture.ts'
import { nowMs } from '../../history.ts'
import { startSteadyLoad } from '../../steady-load.ts'
import { deliveriesTo, isUnderWay, KNOWN_AFTER_MS, NOISE_MS, type Stage } from './race-fixture.ts'

const ENDPOINT = 'paused'
const ANSWER_AFTER_MS = [50, 300] as const
const PAUSED_MS = 2_200
const START_DEADLINE_MS = 60_000

const UNDER_LOAD = 'paused with attempts in flight'
const LATEST = 'latest start after the answer to a pause, ms'
const HELD_BACK = 'jobs enqueued during a pause'

export const PAUSE_WINDOWS = [UNDER_LOAD, HELD_BACK]

export async function racePauses({ fixture }: Stage, repeats: number): Promise<void> {
  await fixture.register(ENDPOINT)
  const { random } = fixture
  const load = startSteadyLoad(
    fixture,
    () => ({ endpoint: ENDPOINT, answerAfterMs: Math.round(random.between(...ANSWER_AFTER_MS)) }),
    2,
  )
  for (let i = 0; i < repeats; i++) {
    await until(() => deliveriesTo(fixture, ENDPOINT).some(isUnderWay), START_DEADLINE_MS)
    const acceptedBefore = load.accepted.length
    await pause(fixture)
    fixture.hit(HELD_BACK, load.accepted.length - acceptedBefore)
  }
  await load.stop()
}

async function pause(fixture: Fixture): Promise<void> {
  fixture.hit(UNDER_LOAD)
  await change(fixture, 'pause')
  const pausedAtMs = nowMs()
  await sleep(PAUSED_MS)
  const resumedAtMs = nowMs()
  fixture.measure('endpoint', LATEST, 0)
  await change(fixture, 'resume')
  for (const { jobId, beganAtMs } of deliveriesTo(fixture, ENDPOINT)) {
    if (beganAtMs < pausedAtMs || beganAtMs > resumedAtMs) continue
    const lateMs = Math.round(beganAtMs - pausedAtMs)
    fixture.measure('endpoint', LATEST, lateMs)
    if (lateMs > KNOWN_AFTER_MS + NOISE_MS) {
      fixture.complain(`${jobId} was sent ${lateMs} ms after its endpoint was paused`)
    }
  }
  const seen = () =>
    deliveriesTo(fixture, ENDPOINT).some(({ beganAtMs }) => beganAtMs > resumedAtMs)
  await until(seen, START_DEADLINE_MS)
}

async function change(fixture: Fixture, verb: 'pause' | 'resume'): Promise<void> {
  const answer = await fixture.client.request('POST', `/endpoints/${ENDPOINT}/${verb}`)
  if (answer?.status !== 200) fixture.complain(`a ${verb} was answered by ${answer?.status}`)
}
