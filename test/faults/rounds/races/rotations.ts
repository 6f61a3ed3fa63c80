// A rotation of the secret races deliveries: each is signed by what was valid when it left.
import { randomBytes } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { until } from '../../../support/until.ts'
import type { Ground } from '../../ground.ts'
import { nowMs } from '../../history.ts'
import { startSteadyLoad } from '../../steady-load.ts'
import { deliveriesTo, KNOWN_AFTER_MS, NOISE_MS, type Stage } from './stage.ts'

const FIRST_SECRET = 'whsec_Zmlyc3Qtb2YtYS1yb3RhdGlvbi1yYWNlLXNlY3JldA=='
const ANSWER_AFTER_MS = 20
const SENT_DEADLINE_MS = 60_000

const AT_ONCE = 'deliveries while a secret was replaced at once'
const IN_OVERLAP = 'deliveries in an overlap, signed by both secrets'

export const ROTATION_WINDOWS = [AT_ONCE, IN_OVERLAP]

/** Whatever is signed by none of those that the receiver trusts is told by the checker. */
export async function raceRotations({ ground }: Stage, repeats: number): Promise<void> {
  await Promise.all([
    rotateOften(ground, 'rotated-at-once', '0s', repeats),
    rotateOften(ground, 'rotated-with-overlap', '1m', repeats),
  ])
}

async function rotateOften(
  ground: Ground,
  name: string,
  overlap: string,
  repeats: number,
): Promise<void> {
  await ground.register(name, { secret: FIRST_SECRET })
  const load = startSteadyLoad(
    ground,
    () => ({ endpoint: name, answerAfterMs: ANSWER_AFTER_MS }),
    1,
  )
  let old = FIRST_SECRET
  for (let i = 0; i < repeats; i++) {
    const secret = `whsec_${randomBytes(32).toString('base64')}`
    await rotate(ground, name, overlap, old, secret)
    old = secret
  }
  await load.stop()
}

async function rotate(
  ground: Ground,
  name: string,
  overlap: string,
  old: string,
  secret: string,
): Promise<void> {
  const { client, receiver } = ground
  await nextDelivery(ground, name)
  receiver.trust(name, old, secret)
  const countBefore = deliveriesTo(ground, name).length
  const answer = await client.request('POST', `/endpoints/${name}/rotate-secret`, {
    secret,
    overlap,
  })
  if (answer?.status !== 200 || answer.body.secret !== secret) {
    ground.complain(`a rotation of ${name} was answered by ${answer?.status}`)
  }
  await sleep(KNOWN_AFTER_MS + NOISE_MS)
  if (overlap === '0s') ground.hit(AT_ONCE, deliveriesTo(ground, name).length - countBefore)
  else {
    // Whoever knows only the old one can still verify.
    receiver.trust(name, old)
    ground.hit(IN_OVERLAP, await nextDelivery(ground, name))
  }
  receiver.trust(name, secret)
  await nextDelivery(ground, name)
}

/** Resolves with how many began from now on, at least one, when there is one. */
async function nextDelivery(ground: Ground, name: string): Promise<number> {
  const fromMs = nowMs()
  const since = () => deliveriesTo(ground, name).filter(({ beganAtMs }) => beganAtMs >= fromMs)
  await until(() => since().length > 0, SENT_DEADLINE_MS)
  return since().length
}
