// Without faults no job is delivered twice, and at 70 % of the workers' rate each job starts in
// time.
import { setTimeout as sleep } from 'node:timers/promises'
import { until } from '../../support/until.ts'
import type { Fixture } from '../fixture.ts'
import { nowMs } from '../history.ts'
import { percentile } from '../percentile.ts'
import { BOTH, type Form, type Round, SLOW_STORE } from '../round.ts'
import type { WorkRequest } from '../work-client.ts'

/** How many jobs measure the rate; the first third of them warms up the processes. */
const RATE_JOBS = { sqlite: 1_500, mongo: 200 }
const WARM_SHARE = 1 / 3
const RATE_STEP = 50
const MOST_OPEN = 200
const SHORT_JOBS = { sqlite: 3_000, mongo: 600 }
/** In the long form the load depends on the time, but is limited by memory. */
const LONG_JOBS = { sqlite: 500_000, mongo: 50_000 }
const LOAD_SHARE = 0.7
const TICK_MS = 10
const POLL_MS = 100
/** The limit of D11, in addition to the poll interval. */
const START_MS = 250
/**
 * The delay counts from the call of the client, so it includes the request, the durable write and
 * the delivery. The client, the receiver and everything else share two cores with the three
 * processes.
 */
const NOISE_MS = 5_000
const DONE_DEADLINE_MS = 120_000

const AT_70 = 'jobs offered at 70 % of the rate'
const DELAYED = 'jobs that were due later'

export const calm: Round = {
  name: 'calm',
  title: 'nothing at all, at 70 % load',
  engines: BOTH,
  shortOn: ['sqlite'],
  isAlone: true,
  settings: { pollMs: POLL_MS, leaseMs: 5_000 },
  settingsOf: { mongo: { ...SLOW_STORE, pollMs: POLL_MS } },
  windows: [AT_70, DELAYED],
  async play(fixture, form) {
    for (let i = 0; i < 2; i++) await fixture.startWorker()
    const ratePerSecond = await measureRate(fixture)
    fixture.measure(
      'D11',
      'rate of two workers, client and receiver on one machine, jobs/s',
      ratePerSecond,
    )
    const before = fixture.receiver.deliveries.length
    await offer(fixture, form, ratePerSecond * LOAD_SHARE)
    await fixture.drained()
    checkStarts(fixture, before)
    checkDoubles(fixture)
  },
}

/**
 * Measures jobs a second. They are sent in the same ways, with few enough in flight that none waits
 * for another.
 */
async function measureRate(fixture: Fixture): Promise<number> {
  const jobs = RATE_JOBS[fixture.engine]
  const { deliveries } = fixture.receiver
  for (let count = 0; count < jobs; count += RATE_STEP) {
    await send(fixture, RATE_STEP, () => ({}))
    await until(() => count - deliveries.length < MOST_OPEN, DONE_DEADLINE_MS)
  }
  await until(() => deliveries.length >= jobs, DONE_DEADLINE_MS)
  const warm = Math.floor(jobs * WARM_SHARE)
  const from = deliveries[warm]?.beganAtMs ?? 0
  const to = deliveries.at(-1)?.beganAtMs ?? 0
  return Math.round(((jobs - warm) / (to - from)) * 1_000)
}

/** Single enqueues and batches, so that both routes are used. */
async function send(fixture: Fixture, count: number, workOf: () => WorkRequest): Promise<void> {
  const { client, random } = fixture
  if (random.chance(0.2)) await client.enqueueMany(count, workOf)
  else await Promise.all(Array.from({ length: count }, () => client.enqueue(workOf())))
}

/** Sends jobs at a rate. It does not wait for earlier jobs, so that a late job stays late. */
async function offer(
  fixture: Fixture,
  { isLong, minutes }: Form,
  perSecond: number,
): Promise<void> {
  const most = (isLong ? LONG_JOBS : SHORT_JOBS)[fixture.engine]
  const beganAtMs = nowMs()
  const endsAtMs = isLong ? beganAtMs + minutes * 60_000 : Number.POSITIVE_INFINITY
  const answered: Promise<unknown>[] = []
  let count = 0
  while (count < most && nowMs() < endsAtMs) {
    const owed = Math.min(most, Math.floor(((nowMs() - beganAtMs) / 1_000) * perSecond)) - count
    if (owed > 0) answered.push(send(fixture, owed, () => workOf(fixture)))
    count += Math.max(0, owed)
    await sleep(TICK_MS)
  }
  await Promise.all(answered)
  fixture.hit(AT_70, count)
}

function workOf({ random, hit }: Fixture): WorkRequest {
  if (!random.chance(0.2)) return {}
  hit(DELAYED)
  return { delayMs: Math.round(random.between(50, 2_000)) }
}

function checkStarts(fixture: Fixture, before: number): void {
  const dueAtMs = new Map<number, number>()
  for (const { kind, workNumber, sentAtMs, delayMs } of fixture.client.calls) {
    // Only the first call for each job counts: a repeat does not change when it is due.
    if (kind !== 'enqueue' || dueAtMs.has(workNumber)) continue
    dueAtMs.set(workNumber, sentAtMs + delayMs)
  }
  const latenessMs = fixture.receiver.deliveries
    .slice(before)
    .map(({ workNumber, beganAtMs }) => beganAtMs - (dueAtMs.get(workNumber) as number))
  for (const [name, share] of [
    ['p50', 0.5],
    ['p99', 0.99],
    ['longest', 1],
  ] as const) {
    fixture.measure('D11', `from due to delivery, ${name}, ms`, percentile(latenessMs, share))
  }
  const p99Ms = percentile(latenessMs, 0.99)
  if (p99Ms > POLL_MS + START_MS + NOISE_MS) {
    fixture.complain(`a hundredth of the jobs began ${p99Ms} ms or more after they were due`)
  }
}

/** Checks D2. Without faults there must also be no failed attempt. */
function checkDoubles({ receiver, complain }: Fixture): void {
  const seen = new Set<string>()
  for (const { jobId } of receiver.deliveries) {
    if (seen.has(jobId)) complain(`${jobId} was delivered again`)
    seen.add(jobId)
  }
}
