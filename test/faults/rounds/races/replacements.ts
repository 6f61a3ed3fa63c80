// An endpoint is replaced again and again under load: each attempt uses exactly one version of it.
import { setTimeout as sleep } from 'node:timers/promises'
import type { Fixture } from '../../fixture.ts'
import { nowMs } from '../../history.ts'
import { startSteadyLoad } from '../../steady-load.ts'
import { openVersionGate, type VersionGate, type VersionSeen } from '../../version-gate.ts'
import {
  type Check,
  deliveriesTo,
  isUnderWay,
  KNOWN_AFTER_MS,
  NOISE_MS,
  type Stage,
} from './race-fixture.ts'

const ENDPOINT = 'replaced'
const ANSWER_AFTER_MS = [50, 300] as const
const PAUSE_MS = [50, 300] as const
const RETRY = { maxAttempts: 20, backoff: { type: 'fixed', delay: '200ms', jitter: 0.2 } }

const IN_FLIGHT = 'endpoint replaced while its attempts were in flight'
const AT_WORK = 'attempts begun with a version that had just been replaced'

export const REPLACEMENT_WINDOWS = [IN_FLIGHT]

/** When the response to the change to each version was received. */
type AnsweredAtMs = number[]

export async function raceReplacements({ fixture }: Stage, repeats: number): Promise<Check> {
  const gate = await openVersionGate(`${fixture.receiver.url}/${ENDPOINT}`)
  await fixture.register(ENDPOINT, gate.settingsOf(0))
  const answeredAtMs: AnsweredAtMs = [nowMs()]
  const load = startSteadyLoad(
    fixture,
    () => ({
      endpoint: ENDPOINT,
      answerAfterMs: Math.round(fixture.random.between(...ANSWER_AFTER_MS)),
    }),
    2,
  )
  for (let version = 1; version <= repeats; version++) {
    await sleep(fixture.random.between(...PAUSE_MS))
    await replace(fixture, gate, version)
    answeredAtMs.push(nowMs())
    fixture.hit(IN_FLIGHT, deliveriesTo(fixture, ENDPOINT).some(isUnderWay) ? 1 : 0)
  }
  // The last version must be used as well.
  await sleep(KNOWN_AFTER_MS + NOISE_MS)
  await load.stop()
  return async () => {
    for (const one of gate.seen) check(fixture, one, answeredAtMs)
    await gate.close()
  }
}

async function replace(fixture: Fixture, gate: VersionGate, version: number): Promise<void> {
  const answer = await fixture.client.request('PUT', `/endpoints/${ENDPOINT}`, {
    ...{ ...gate.settingsOf(version), retry: RETRY, circuitBreaker: null },
  })
  if (answer?.status !== 200) {
    fixture.complain(`${ENDPOINT} was replaced and that answered by ${answer?.status}`)
  }
}

function check(fixture: Fixture, seen: VersionSeen, answeredAtMs: AnsweredAtMs): void {
  const { jobId, beganAtMs, byPath, byHeader, byTimeout } = seen
  if (byHeader !== byPath || byTimeout !== byPath) {
    fixture.complain(
      `${jobId} was sent to version ${byPath} with header ${byHeader} and timeout ${byTimeout}`,
    )
  }
  const replacedAtMs = answeredAtMs[byPath + 1]
  if (replacedAtMs === undefined || beganAtMs < replacedAtMs) return
  const lateMs = Math.round(beganAtMs - replacedAtMs)
  fixture.hit(AT_WORK)
  fixture.measure('endpoint', 'latest start with a replaced version after the answer, ms', lateMs)
  if (lateMs > KNOWN_AFTER_MS + NOISE_MS) {
    fixture.complain(`${jobId} began with version ${byPath} ${lateMs} ms after it was replaced`)
  }
}
