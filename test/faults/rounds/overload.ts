// Ten times the load that the API can accept: the excess is refused, memory stays constant, and
// accepted jobs are delivered.
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Fixture } from '../fixture.ts'
import { nowMs } from '../history.ts'
import type { OfferOrder, OfferReport } from '../overload-offer.ts'
import { percentile } from '../percentile.ts'
import { BOTH, type Form, type Round, SLOW_STORE } from '../round.ts'
import { hashOf, payloadText } from '../work-payload.ts'

const TIMES = 10
const LONG_OVERLOAD_MS = 60_000
/**
 * Short on the stand-in for MongoDB: a worker needs many seconds to deliver the jobs that it
 * accepts in one.
 */
const SHORT_OVERLOAD_MS = { sqlite: 4_000, mongo: 1_500 }
const CAPACITY_MS = { short: 1_500, long: 5_000 }
const CAPACITY_CONNECTIONS = 64
const CONNECTIONS = 500
/**
 * More requests in flight than two writes can hold, but few enough that the API can refuse them
 * soon.
 */
const OPEN_ON_EACH = 8
const PATIENCE_MS = 15_000
/** Larger than all work numbers of the client. */
const FIRST_WORK_NUMBER = 2_000_000_000
const WORK_NUMBERS_OF_A_RUN = 100_000_000
const DRAIN_DEADLINE_MS = 600_000

const SAMPLE_EVERY_MS = 250
const MEGABYTE = 1_048_576
/**
 * Limit of the memory of the API: what it keeps for all clients is bounded, and so is the memory
 * that V8 keeps.
 */
const MOST_RSS_BYTES = 600 * MEGABYTE
const FLAT_FACTOR = 1.25
const FLAT_SLACK_BYTES = 32 * MEGABYTE
/** Limit for an accepted request: after a longer time its client has given up. */
const MOST_LATENCY_MS = 5_000
/** Within a second after the overload, a request gets its response this fast again. */
const NORMAL_MS = 250
const RECOVERY_MS = 1_000
/** Generator, API, worker and receiver share two cores. */
const NOISE_MS = 5_000

const REFUSED = 'requests refused with Retry-After'
const ACCEPTED = 'requests accepted in the midst of it'

export const overload: Round = {
  name: 'overload',
  title: 'ten times the load the API can take',
  engines: BOTH,
  shortOn: [],
  isAlone: true,
  settings: { pollMs: 100, leaseMs: 5_000 },
  settingsOf: { mongo: SLOW_STORE },
  windows: [REFUSED, ACCEPTED],
  async play(fixture, form) {
    await fixture.startWorker()
    const perSecond = await measureCapacity(fixture, form)
    fixture.measure('D13', 'capacity of the API, enqueues/s', perSecond)
    const memory = watchMemory(fixture)
    const report = await order(fixture, {
      ...{ connections: CONNECTIONS, mostOpen: OPEN_ON_EACH, perSecond: perSecond * TIMES },
      durationMs: form.isLong ? LONG_OVERLOAD_MS : SHORT_OVERLOAD_MS[fixture.engine],
      firstWorkNumber: FIRST_WORK_NUMBER + WORK_NUMBERS_OF_A_RUN,
    })
    const samples = memory.stop()
    await checkRecovery(fixture)
    checkAnswers(fixture, report)
    checkMemory(fixture, samples)
    const overAtMs = nowMs()
    await fixture.drained(DRAIN_DEADLINE_MS)
    fixture.measure('D13', 'backlog drained, ms', Math.round(nowMs() - overAtMs))
  },
}

async function measureCapacity(fixture: Fixture, { isLong }: Form): Promise<number> {
  const report = await order(fixture, {
    ...{ connections: CAPACITY_CONNECTIONS, mostOpen: 1, perSecond: null },
    durationMs: isLong ? CAPACITY_MS.long : CAPACITY_MS.short,
    firstWorkNumber: FIRST_WORK_NUMBER,
  })
  const tookMs = report.endedAtMs - report.beganAtMs
  return Math.max(1, Math.round((report.accepted.length / tookMs) * 1_000))
}

/** Sends the requests from another process, and logs the responses as calls. */
async function order(
  { client }: Fixture,
  more: Omit<OfferOrder, 'port' | 'apiKey' | 'endpoint' | 'patienceMs'>,
): Promise<OfferReport> {
  const child = fork(join(import.meta.dirname, '../overload-offer.ts'), {
    serialization: 'advanced',
  })
  const port = Number(new URL(client.url).port)
  const given = { port, apiKey: client.apiKey, endpoint: 'work', patienceMs: PATIENCE_MS }
  const reported = once(child, 'message')
  child.send({ ...given, ...more } satisfies OfferOrder)
  const died = once(child, 'exit').then(() => null)
  const report: OfferReport | null = await Promise.race([reported.then(([first]) => first), died])
  if (report === null) throw new Error(`the generator ended with ${child.exitCode}`)
  const common = {
    kind: 'enqueue' as const,
    endpoint: 'work',
    delayMs: 0,
    groupId: null,
    needs: [],
  }
  for (const { workNumber, ...one } of [...report.accepted, ...report.unanswered]) {
    client.calls.push({
      ...{ ...common, jobId: null, ...one, workNumber, status: 'jobId' in one ? 201 : null },
      idempotencyKey: `work-${workNumber}`,
      bodyHash: hashOf(payloadText(workNumber, {})),
    })
  }
  return report
}

function checkAnswers(fixture: Fixture, report: OfferReport): void {
  const { accepted, refusedCount, curtCount, otherStatuses, unanswered, unsentCount } = report
  fixture.hit(REFUSED, refusedCount - curtCount)
  fixture.hit(ACCEPTED, accepted.length)
  fixture.measure('D13', 'offered and not even read by the API', unsentCount)
  fixture.measure('D13', 'sent and not answered', unanswered.length)
  if (curtCount > 0) fixture.complain(`${curtCount} were refused without Retry-After`)
  if (otherStatuses.length > 0) fixture.complain(`answered by ${otherStatuses.join(', ')}`)
  const latencyMs = accepted.map(({ sentAtMs, endedAtMs }) => endedAtMs - sentAtMs)
  const p99Ms = percentile(latencyMs, 0.99)
  fixture.measure('D13', 'accepted ones answered, p50, ms', percentile(latencyMs, 0.5))
  fixture.measure('D13', 'accepted ones answered, p99, ms', p99Ms)
  if (p99Ms > MOST_LATENCY_MS + NOISE_MS) fixture.complain(`accepted ones took ${p99Ms} ms`)
}

function watchMemory(fixture: Fixture): { stop: () => number[] } {
  const { pid } = fixture.api().process.child
  const samples: number[] = []
  const timer = setInterval(() => {
    const status = readFileSync(`/proc/${pid}/status`, 'latin1')
    samples.push(Number(/VmRSS:\s+(\d+)/.exec(status)?.[1]) * 1_024)
  }, SAMPLE_EVERY_MS)
  return {
    stop() {
      clearInterval(timer)
      return samples
    },
  }
}

function checkMemory(fixture: Fixture, samples: number[]): void {
  const third = Math.floor(samples.length / 3)
  const middle = Math.max(...samples.slice(third, 2 * third))
  const last = Math.max(...samples.slice(2 * third))
  const most = Math.max(...samples)
  fixture.measure('D13', 'memory of the API at most, MB', Math.round(most / MEGABYTE))
  const growth = `${Math.round(middle / MEGABYTE)} MB, then ${Math.round(last / MEGABYTE)} MB`
  if (last > middle * FLAT_FACTOR + FLAT_SLACK_BYTES) fixture.complain(`memory grows: ${growth}`)
  if (most > MOST_RSS_BYTES) fixture.complain(`the API took ${Math.round(most / MEGABYTE)} MB`)
}

/** Measures how long it takes until a request gets its response as fast as before. */
async function checkRecovery(fixture: Fixture): Promise<void> {
  const overAtMs = nowMs()
  for (;;) {
    const sentAtMs = nowMs()
    await fixture.client.enqueue()
    const tookMs = Math.round(nowMs() - overAtMs)
    const isNormal = nowMs() - sentAtMs < NORMAL_MS
    if (!isNormal && tookMs < DRAIN_DEADLINE_MS) continue
    fixture.measure('D13', 'back to normal, ms', tookMs)
    if (tookMs > RECOVERY_MS + NOISE_MS) fixture.complain(`back to normal only after ${tookMs} ms`)
    return
  }
}
