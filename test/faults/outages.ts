// One outage of the store. It begins while work is in progress, and ends when everything continues.
import { setTimeout as sleep } from 'node:timers/promises'
import { until } from '../support/until.ts'
import type { Fixture } from './fixture.ts'
import { type Delivery, type FaultKind, nowMs } from './history.ts'
import type { SteadyLoad } from './steady-load.ts'
import type { Restore } from './store-fixture.ts'

export interface Outage {
  name: string
  kind: FaultKind
  /** `api`: deliveries are not affected, so the outage explains no second delivery. */
  target: 'store' | 'api'
  begin(): Promise<Restore>
}

/**
 * How often the moment is checked. Work in progress lasts some hundred milliseconds, so a few
 * checks in that time are enough.
 */
const LOOKED_AT = 500
const LATECOMER_AFTER_MS = 1_100
const START_DEADLINE_MS = 60_000
/** Far longer than promised: the round measures the time and checks it. */
const RECOVERY_DEADLINE_MS = 60_000

export const whileSending = (name: string) => `${name}: began while attempts were in flight`
export const whileEnqueueing = (name: string) => `${name}: began while enqueues were in flight`

/** Resolves when a job was accepted and one was delivered after the repair. */
export async function playOutage(
  fixture: Fixture,
  load: SteadyLoad,
  outage: Outage,
  holdMs: number,
): Promise<void> {
  const { name, kind, target } = outage
  const { client, receiver } = fixture
  await until(
    () => load.pendingCount() > 0 && receiver.deliveries.slice(-LOOKED_AT).some(isUnderWay),
    START_DEADLINE_MS,
  )
  fixture.hit(whileEnqueueing(name))
  fixture.hit(whileSending(name))
  let latecomer: Promise<unknown> = Promise.resolve()
  await fixture.during(kind, target, async () => {
    const restore = await outage.begin()
    await sleep(Math.min(holdMs, LATECOMER_AFTER_MS))
    // A request that comes while others wait has its own deadline. It must not wait for the others
    // first.
    latecomer = client.enqueue()
    await sleep(Math.max(0, holdMs - LATECOMER_AFTER_MS))
    await restore()
  })
  const mendedAtMs = nowMs()
  const accepted = () =>
    client.calls.findLast(
      ({ endedAtMs, status }) => endedAtMs >= mendedAtMs && (status === 201 || status === 200),
    )
  const delivered = () => receiver.deliveries.findLast(({ beganAtMs }) => beganAtMs >= mendedAtMs)
  await Promise.all([
    firstAfter(fixture, mendedAtMs, 'accepted', () => accepted() !== undefined),
    firstAfter(fixture, mendedAtMs, 'delivered', () => delivered() !== undefined),
    latecomer,
  ])
}

async function firstAfter(
  fixture: Fixture,
  mendedAtMs: number,
  what: string,
  isThere: () => boolean,
): Promise<void> {
  await until(isThere, RECOVERY_DEADLINE_MS)
  fixture.measure('D9', `from the recovery to the first job ${what}, ms`, sinceMs(mendedAtMs))
}

const sinceMs = (atMs: number) => Math.round(nowMs() - atMs)

const isUnderWay = ({ answeredAtMs, brokenOffAtMs }: Delivery) =>
  answeredAtMs === null && brokenOffAtMs === null
