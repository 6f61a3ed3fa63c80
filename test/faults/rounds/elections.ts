// Elections of the replica set while three workers deliver. Each begins at a write whose outcome
// its process does not learn. Elections are shorter than a lease: they explain no second delivery
// and no lost attempt.
import { setTimeout as sleep } from 'node:timers/promises'
import { until } from '../../support/until.ts'
import type { Fixture } from '../fixture.ts'
import { type Delivery, nowMs } from '../history.ts'
import type { Round } from '../round.ts'
import { startSteadyLoad } from '../steady-load.ts'
import type { Elections } from '../store-fixture.ts'

const WORKERS = 3
const ANSWER_AFTER_MS = [50, 400] as const
const ELECTION_MS = [300, 2_000] as const
/** The work that one election interrupts is done before the next election. */
const PAUSE_MS = 4_000
const MOMENT_DEADLINE_MS = 60_000
const RECOVERY_DEADLINE_MS = 60_000

/** Texts that a request contains at such a moment, and which side sends that request. */
const MOMENTS = [
  { name: 'an election at a claim', side: 'worker', text: '$min' },
  { name: 'an election at a settlement', side: 'worker', text: 'finishes' },
  { name: 'an election at an enqueue', side: 'api', text: 'firstRunAt' },
] as const
const CRASH = 'the old primary crashed'
const STEP_DOWN = 'the old primary stepped down'

export const elections: Round = {
  name: 'elections',
  title: 'elections of the replica set at a claim, a settlement, an enqueue',
  engines: ['mongo'],
  settings: {
    ...{ isReplicaSet: true, leaseMs: 8_000, sweepMs: 250, pollMs: 100 },
    env: { WORKER_CONCURRENCY: '16' },
  },
  windows: [...MOMENTS.map(({ name }) => name), CRASH, STEP_DOWN],
  async play(fixture, form) {
    const { store, random } = fixture
    if (store.elections === null) throw new Error('this round needs a replica set')
    for (let i = 0; i < WORKERS; i++) await fixture.startWorker()
    const load = startSteadyLoad(fixture, () => ({
      answerAfterMs: Math.round(random.between(...ANSWER_AFTER_MS)),
    }))
    await until(() => load.accepted.length > 0)
    const endsAtMs = nowMs() + (form.isLong ? form.minutes * 60_000 : 0)
    try {
      for (let i = 0; i < 2 * MOMENTS.length || nowMs() < endsAtMs; i++) {
        await playElection(fixture, store.elections, i)
        await sleep(PAUSE_MS)
      }
    } finally {
      await load.stop()
    }
    await fixture.drained()
  },
}

async function playElection(fixture: Fixture, set: Elections, index: number): Promise<void> {
  const { random, client, receiver } = fixture
  const moment = MOMENTS[index % MOMENTS.length] as (typeof MOMENTS)[number]
  const isCrash = Math.floor(index / MOMENTS.length) % 2 === 0
  const forMs = Math.round(random.between(...ELECTION_MS))
  await until(() => receiver.deliveries.slice(-100).some(isUnderWay), MOMENT_DEADLINE_MS)
  await fixture.during('election', 'store', async () => {
    await set.beginAt(moment.side, moment.text, forMs, isCrash)
    await sleep(forMs)
  })
  fixture.hit(moment.name)
  fixture.hit(isCrash ? CRASH : STEP_DOWN)
  const overAtMs = nowMs()
  const isAccepted = () =>
    client.calls.some(({ endedAtMs, status }) => endedAtMs >= overAtMs && status === 201)
  await until(isAccepted, RECOVERY_DEADLINE_MS)
  fixture.measure('D9', 'from an election to the first job accepted, ms', sinceMs(overAtMs))
  const isDelivered = () => (receiver.deliveries.at(-1)?.beganAtMs ?? 0) >= overAtMs
  await until(isDelivered, RECOVERY_DEADLINE_MS)
  fixture.measure('D9', 'from an election to the first job delivered, ms', sinceMs(overAtMs))
}

const sinceMs = (atMs: number) => Math.round(nowMs() - atMs)

const isUnderWay = ({ answeredAtMs, brokenOffAtMs }: Delivery) =>
  answeredAtMs === null && brokenOffAtMs === null
