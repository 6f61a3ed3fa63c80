// What the races of a round share: one ground, one receiver that each has its endpoints at.
import type { Ground } from '../../ground.ts'
import type { Delivery } from '../../history.ts'
import type { WorkReceiver } from '../../work-receiver.ts'

export type Script = Parameters<WorkReceiver['answerWith']>[0]

export interface Stage {
  ground: Ground
  /** By endpoint: what is answered there. */
  scripts: Map<string, Script>
}

/** Judges what can be told only when all is done. */
export type Judge = () => Promise<void>

/** Two cores are shared by all processes of a round. */
export const NOISE_MS = 500
/** A change to an endpoint reaches every worker within this. */
export const KNOWN_AFTER_MS = 1_000

export function openStage(ground: Ground): Stage {
  const scripts = new Map<string, Script>()
  ground.receiver.answerWith((delivery) => scripts.get(delivery.endpoint)?.(delivery))
  return { ground, scripts }
}

export function deliveriesTo({ receiver }: Ground, name: string): Delivery[] {
  return receiver.deliveries.filter(({ endpoint }) => endpoint === name)
}

export function isUnderWay({ answeredAtMs, brokenOffAtMs }: Delivery): boolean {
  return answeredAtMs === null && brokenOffAtMs === null
}
