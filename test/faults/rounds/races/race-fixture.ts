// What the races of a round share: one fixture, one receiver that each has its endpoints at.
import type { Fixture } from '../../fixture.ts'
import type { Delivery } from '../../history.ts'
import type { WorkReceiver } from '../../work-receiver.ts'

export type Script = Parameters<WorkReceiver['answerWith']>[0]

export interface Stage {
  fixture: Fixture
  /** By endpoint: what is answered there. */
  scripts: Map<string, Script>
}

/** Judges what can be told only when all is done. */
export type Judge = () => Promise<void>

/** Two cores are shared by all processes of a round. */
export const NOISE_MS = 500
/** A change to an endpoint reaches every worker within this. */
export const KNOWN_AFTER_MS = 1_000

export function openStage(fixture: Fixture): Stage {
  const scripts = new Map<string, Script>()
  fixture.receiver.answerWith((delivery) => scripts.get(delivery.endpoint)?.(delivery))
  return { fixture, scripts }
}

export function deliveriesTo({ receiver }: Fixture, name: string): Delivery[] {
  return receiver.deliveries.filter(({ endpoint }) => endpoint === name)
}

export function isUnderWay({ answeredAtMs, brokenOffAtMs }: Delivery): boolean {
  return answeredAtMs === null && brokenOffAtMs === null
}
