// The store is away and comes back. Meanwhile every request gets a response and no process ends.
// Then the work continues by itself.
import { setTimeout as sleep } from 'node:timers/promises'
import { until } from '../../support/until.ts'
import type { Fixture, Member } from '../fixture.ts'
import { nowMs } from '../history.ts'
import { type Outage, playOutage, whileEnqueueing, whileSending } from '../outages.ts'
import { BOTH, type Form, type Round, SLOW_STORE } from '../round.ts'
import { type SteadyLoad, startSteadyLoad } from '../steady-load.ts'
import { startStoreProbes } from '../store-probes.ts'
import type { Accepted } from '../work-client.ts'

const WORKERS = 2
const ANSWER_AFTER_MS = [50, 400] as const
const LONG_HOLD_MS = [1_000, 5_000] as const
/**
 * In the short form one outage lasts longer than any deadline of Posthorn, so that a 503 occurs.
 */
const SHORT_HOLD_MS = { first: 5_600, further: 800 }
const SLOW_MS = [100, 400] as const
const LOST_ANSWERS = { short: 2, long: 10 }
const LOSS_DEADLINE_MS = 30_000
/** The limit of D9. */
const LONGEST_ANSWER_MS = 3_000
/** All processes of a round, this one included, share two cores. */
const NOISE_MS = 1_000

const LOCKED = 'a long writer holds the lock'
const KILLED = 'killed and restarted'
const SLOWED = 'slowed'
const CUT_FOR_ALL = 'cut off for all'
const CUT_FOR_API = 'cut off for the API'
const CUT_FOR_WORKERS = 'cut off for workers'
const REFUSED = 'requests that got a 503'
const WORKER_ANSWER_LOST = 'the answer to a write of a worker lost'
const API_ANSWER_LOST = 'the answer to a write of the API lost'

const bothMoments = (name: string) => [whileSending(name), whileEnqueueing(name)]

export const storeOutages: Round = {
  name: 'store-outages',
  title: 'store killed, slowed, cut off; the lock held; an answer lost',
  engines: BOTH,
  shortOn: ['sqlite'],
  settings: { leaseMs: 2_000, sweepMs: 250, pollMs: 100 },
  settingsOf: { mongo: SLOW_STORE },
  windows: [REFUSED],
  windowsOf: {
    sqlite: bothMoments(LOCKED),
    // The round cannot kill a server that MONGODB_URL names, so it cannot meet that moment there.
    mongo: [
      ...[CUT_FOR_ALL, SLOWED, CUT_FOR_API, CUT_FOR_WORKERS].flatMap(bothMoments),
      ...[WORKER_ANSWER_LOST, API_ANSWER_LOST],
    ],
  },
  async play(fixture, form) {
    await withLoad(fixture, async (load) => {
      for (const [i, outage] of outagesOf(fixture).entries()) {
        await playOutage(fixture, load, outage, holdMs(fixture, form, i === 0))
      }
      await loseAnswers(fixture, form.isLong ? LOST_ANSWERS.long : LOST_ANSWERS.short)
      const endsAtMs = nowMs() + (form.isLong ? form.minutes * 60_000 : 0)
      while (nowMs() < endsAtMs) {
        const outage = fixture.random.pick(outagesOf(fixture))
        await playOutage(fixture, load, outage, holdMs(fixture, form, false))
      }
    })
  },
}

function holdMs({ random }: Fixture, { isLong }: Form, isFirst: boolean): number {
  if (isLong) return random.between(...LONG_HOLD_MS)
  return isFirst ? SHORT_HOLD_MS.first : SHORT_HOLD_MS.further
}

function outagesOf({ engine, store, random }: Fixture): Outage[] {
  const target = 'store'
  if (engine === 'sqlite') {
    return [{ name: LOCKED, kind: 'store_locked', target, begin: store.cutOffAll }]
  }
  const { slow, crash, apiProxy } = store
  if (slow === null || apiProxy === null) throw new Error('MongoDB is reached through proxies')
  return [
    { name: CUT_FOR_ALL, kind: 'store_cut', target, begin: store.cutOffAll },
    ...(crash === null
      ? []
      : [{ name: KILLED, kind: 'store_kill', target, begin: crash } satisfies Outage]),
    {
      ...{ name: SLOWED, kind: 'store_slow', target },
      begin: () => slow(random.between(...SLOW_MS)),
    },
    { name: CUT_FOR_WORKERS, kind: 'store_cut', target, begin: store.cutOffWorkers },
    {
      ...{ name: CUT_FOR_API, kind: 'store_cut', target: 'api' },
      // This is like a network that refuses connections, not like a network that drops packets.
      async begin() {
        apiProxy.cut()
        return async () => apiProxy.restore()
      },
    },
  ]
}

/**
 * Runs `work` under load and with requests of all kinds. Afterwards each of them must have had its
 * response in time.
 */
export async function withLoad(
  fixture: Fixture,
  work: (load: SteadyLoad) => Promise<void>,
): Promise<void> {
  const members = [fixture.api()]
  for (let i = 0; i < WORKERS; i++) members.push(await fixture.startWorker())
  const load = startSteadyLoad(fixture, () => ({
    answerAfterMs: Math.round(fixture.random.between(...ANSWER_AFTER_MS)),
  }))
  await until(() => load.accepted.length > 0)
  const probes = await startStoreProbes(fixture, (load.accepted[0] as Accepted).id)
  try {
    await work(load)
  } finally {
    await load.stop()
    await probes.stop()
  }
  const beganAtMs = nowMs()
  await fixture.drained()
  fixture.measure(
    'D9',
    'from the last recovery until all was done, ms',
    Math.round(nowMs() - beganAtMs),
  )
  expectAnswers(fixture, probes.longestMs)
  fixture.hit(REFUSED, probes.refusedCount())
  expectAlive(fixture, members)
}

/** Checks that every response came in time, and was a success or a 503. */
export function expectAnswers(
  fixture: Fixture,
  longestMs: Map<string, number>,
  promise = 'D9',
): void {
  const enqueue = 'POST /jobs'
  for (const { sentAtMs, endedAtMs, status } of fixture.client.calls) {
    longestMs.set(enqueue, Math.max(longestMs.get(enqueue) ?? 0, endedAtMs - sentAtMs))
    if (status === null) fixture.complain(`${enqueue} was not answered`)
    else if (status === 503) fixture.hit(REFUSED)
    else if (status !== 200 && status !== 201) {
      fixture.complain(`${enqueue} was answered by ${status}`)
    }
  }
  for (const [request, waitedMs] of longestMs) {
    fixture.measure(promise, 'longest wait for an answer, ms', Math.round(waitedMs))
    if (waitedMs > LONGEST_ANSWER_MS + NOISE_MS) {
      fixture.complain(`${request} was answered only after ${Math.round(waitedMs)} ms`)
    }
  }
}

function expectAlive(fixture: Fixture, members: Member[]): void {
  for (const { name, process } of members) {
    const { exitCode, signalCode } = process.child
    if (exitCode === null && signalCode === null) continue
    fixture.complain(`${name} ended by itself: ${exitCode ?? signalCode} ${process.stderr()}`)
  }
}

/** MongoDB only: single writes are made, but the process that requested them gets no response. */
async function loseAnswers(fixture: Fixture, times: number): Promise<void> {
  const { apiProxy, workerProxy } = fixture.store
  for (let i = 0; i < times; i++) {
    for (const [proxy, text, target, window] of [
      [workerProxy, 'update', 'store', WORKER_ANSWER_LOST],
      [apiProxy, 'insert', 'api', API_ANSWER_LOST],
    ] as const) {
      if (proxy === null) continue
      const before = proxy.lostAnswers()
      await fixture.during('store_cut', target, async () => {
        proxy.loseAnswerTo(text)
        await until(() => proxy.lostAnswers() > before, LOSS_DEADLINE_MS)
      })
      fixture.hit(window)
      await sleep(fixture.random.between(0, 300))
    }
  }
}
