// What the races of a round share: one fixture, and one receiver for all their endpoints.
import type { Fixture } from '../../fixture.ts'
import type { Delivery } from '../../history.ts'
import type { WorkReceiver } from '../../work-receiver.ts'

type Script = Parameters<WorkReceiver['answerWith']>[0]

export interface Stage {
  fixture: Fixture
  /** How the receiver responds at each endpoint. */
  scripts: Map<string, Script>
}

/** A check that is only possible when all work is done. */
export type Check = () => Promise<void>

/** All processes of a round share two cores. */
export const NOISE_MS = 500
/** A change to an endpoint reaches every worker within this time. */
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
