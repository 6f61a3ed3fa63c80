// A rotation of the secret races deliveries. Each delivery is signed with the secrets that were
// valid when it was sent.
import { randomBytes } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { until } from '../../../support/until.ts'
import type { Fixture } from '../../fixture.ts'
import { nowMs } from '../../history.ts'
import { startSteadyLoad } from '../../steady-load.ts'
import { deliveriesTo, KNOWN_AFTER_MS, NOISE_MS, type Stage } from './race-fixture.ts'

const FIRST_SECRET = 'whsec_Zmlyc3Qtb2YtYS1yb3RhdGlvbi1yYWNlLXNlY3JldA=='
const ANSWER_AFTER_MS = 20
const SENT_DEADLINE_MS = 60_000

const AT_ONCE = 'deliveries while a secret was replaced at once'
const IN_OVERLAP = 'deliveries in an overlap, signed by both secrets'

export const ROTATION_WINDOWS = [AT_ONCE, IN_OVERLAP]

/**
 * Rotates secrets under load. The checker reports a delivery that none of the trusted secrets
 * signs.
 */
export async function raceRotations({ fixture }: Stage, repeats: number): Promise<void> {
  await Promise.all([
    rotateOften(fixture, 'rotated-at-once', '0s', repeats),
    rotateOften(fixture, 'rotated-with-overlap', '1m', repeats),
  ])
}

async function rotateOften(
  fixture: Fixture,
  name: string,
  overlap: string,
  repeats: number,
): Promise<void> {
  await fixture.register(name, { secret: FIRST_SECRET })
  const load = startSteadyLoad(
    fixture,
    () => ({ endpoint: name, answerAfterMs: ANSWER_AFTER_MS }),
    1,
  )
  let old = FIRST_SECRET
  for (let i = 0; i < repeats; i++) {
    const secret = `whsec_${randomBytes(32).toString('base64')}`
    await rotate(fixture, name, overlap, old, secret)
    old = secret
  }
  await load.stop()
}

async function rotate(
  fixture: Fixture,
  name: string,
  overlap: string,
  old: string,
  secret: string,
): Promise<void> {
  const { client, receiver } = fixture
  await nextDelivery(fixture, name)
  receiver.trust(name, old, secret)
  const countBefore = deliveriesTo(fixture, name).length
  const answer = await client.request('POST', `/endpoints/${name}/rotate-secret`, {
    secret,
    overlap,
  })
  if (answer?.status !== 200 || answer.body.secret !== secret) {
    fixture.complain(`a rotation of ${name} was answered by ${answer?.status}`)
  }
  await sleep(KNOWN_AFTER_MS + NOISE_MS)
  if (overlap === '0s') fixture.hit(AT_ONCE, deliveriesTo(fixture, name).length - countBefore)
  else {
    // A receiver that only knows the old secret can still verify.
    receiver.trust(name, old)
    fixture.hit(IN_OVERLAP, await nextDelivery(fixture, name))
  }
  receiver.trust(name, secret)
  await nextDelivery(fixture, name)
}

/** Resolves once a delivery has begun from now on, with the number of such deliveries. */
async function nextDelivery(fixture: Fixture, name: string): Promise<number> {
  const fromMs = nowMs()
  const since = () => deliveriesTo(fixture, name).filter(({ beganAtMs }) => beganAtMs >= fromMs)
  await until(() => since().length > 0, SENT_DEADLINE_MS)
  return since().length
}
