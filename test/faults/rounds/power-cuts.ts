// The machine loses power under load, again and again. SQLite does not flush claims, so the last
// ones are undone although their requests were sent. The disk then has what it had after the last
// flush: a copy of the file, made after an acknowledged enqueue, takes its place.
import { setTimeout as sleep } from 'node:timers/promises'
import { keepFlushedState } from '../../support/power-loss.ts'
import type { Fixture, Member } from '../fixture.ts'
import { type Delivery, nowMs } from '../history.ts'
import type { Round } from '../round.ts'
import type { WorkRequest } from '../work-client.ts'

const WORKERS = 2
const SHORT_CUTS = 2
/** More than the workers deliver until the cut, so that some are not delivered before it. */
const JOBS_PER_CUT = 300
/** How long the workers continue after the last flush. */
const UNFLUSHED_MS = [100, 400] as const

const SENT_AGAIN = 'answered with 200, undone by the cut, delivered again'
const UNDER_WAY = 'power cut with a request under way'

/** From before the last flush until the machine has started again. */
interface Cut {
  fromMs: number
  toMs: number
}

export const powerCuts: Round = {
  name: 'power-cuts',
  title: 'the machine loses power, and what was not flushed is undone',
  engines: ['sqlite'],
  settings: { leaseMs: 2_000, sweepMs: 250, pollMs: 100 },
  windows: [SENT_AGAIN, UNDER_WAY],
  async play(fixture, { isLong, minutes }) {
    const cuts: Cut[] = []
    const endsAtMs = nowMs() + minutes * 60_000
    const isOver = () => (isLong ? nowMs() > endsAtMs : cuts.length >= SHORT_CUTS)
    let workers = await startWorkers(fixture)
    while (!isOver()) {
      await fixture.client.enqueueMany(JOBS_PER_CUT, () => mixedWork(fixture))
      const fromMs = nowMs()
      await fixture.during('power_cut', 'store', () => cutPower(fixture, workers))
      cuts.push({ fromMs, toMs: nowMs() })
      workers = await startWorkers(fixture)
    }
    await fixture.drained()
    const sentAgain = countSentAgain(fixture.receiver.deliveries, cuts)
    fixture.hit(SENT_AGAIN, sentAgain)
    fixture.measure('D19', 'power cuts', cuts.length)
    fixture.measure('D19', 'jobs answered with 200, undone and delivered again', sentAgain)
  },
}

function startWorkers(fixture: Fixture): Promise<Member[]> {
  return Promise.all(Array.from({ length: WORKERS }, () => fixture.startWorker()))
}

function mixedWork({ random }: Fixture): WorkRequest {
  return {
    failures: random.chance(0.1) ? 1 : 0,
    ...(random.chance(0.2) ? { answerAfterMs: Math.round(random.between(10, 300)) } : {}),
  }
}

async function cutPower(fixture: Fixture, workers: Member[]): Promise<void> {
  const path = fixture.store.filePath as string
  const restore = await keepFlushedState(path, () => fixture.client.enqueue())
  const flushedAtMs = nowMs()
  await sleep(fixture.random.between(...UNFLUSHED_MS))
  const isUnderWay = ({ beganAtMs, status }: Delivery) => beganAtMs > flushedAtMs && status === null
  fixture.hit(UNDER_WAY, fixture.receiver.deliveries.filter(isUnderWay).length)
  await Promise.all([fixture.api(), ...workers].map((member) => fixture.kill(member)))
  restore()
  await fixture.startApi()
}

/** How many jobs got a 200 during a cut, and were delivered again after it. */
function countSentAgain(deliveries: Delivery[], cuts: Cut[]): number {
  const byJob = Map.groupBy(deliveries, ({ jobId }) => jobId)
  return [...byJob.values()].filter((ofJob) =>
    cuts.some(
      ({ fromMs, toMs }) =>
        ofJob.some((one) => one.status === 200 && one.beganAtMs > fromMs && one.beganAtMs < toMs) &&
        ofJob.some(({ beganAtMs }) => beganAtMs > toMs),
    ),
  ).length
}
