// Clients without a key do what costs a server most, beside a client with a key. The client with
// the key is served, and the others cost little CPU and memory.
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { request } from 'undici'
import { BODIES, cpuMs, JUNK, sendAlone } from '../../hostile/strangers.ts'
import type { Fixture } from '../fixture.ts'
import { nowMs } from '../history.ts'
import { BOTH, type Form, type Round, SLOW_STORE } from '../round.ts'
import { startSteadyLoad } from '../steady-load.ts'
import type { StrangerKind, StrangerOrder, StrangerReport } from '../stranger-offer.ts'

/** The limit of D17. */
const MOST_CPU_MS = 5
const MOST_MEMORY_BYTES = 200 * 1_048_576
const LEAST_SHARE = 0.7
/** The limit of CI, where the work of the strangers themselves takes its part of two busy cores. */
const LEAST_SHARE_SHORT = 0.35
const MOST_SILENCE_MS = 2_000
/** Client, strangers, API, worker and receiver share two cores. */
const NOISE_FACTOR = 4
const TRIES = 3
/**
 * How many requests are sent with each body. The first requests include the compilation of the
 * code, and some include a garbage collection.
 */
const CPU_TRIES = { short: { warmUp: 4, counted: 5 }, long: { warmUp: 10, counted: 11 } }
const GIVEN_UP_MS = 30_000

const ATTACK_MS = { short: 2_000, long: 20_000 }
/** Each client sends its next request after the response to the last one. */
const CLIENTS = { sqlite: 8, mongo: 3 } as const
const LOOK_EVERY_MS = 50
/** Limit for all jobs that were accepted meanwhile, with one worker. */
const DRAIN_DEADLINE_MS = 600_000
const MEGABYTE = 1_048_576

const KINDS: readonly StrangerKind[] = [
  ...(['bodies', 'unfinished bodies', 'pipelines'] as const),
  ...(['unread answers', 'junk', 'connections'] as const),
]
const windowOf = (kind: StrangerKind) => `${kind} of strangers met by the API`
const ACCEPTED = 'jobs accepted in the midst of it'

export const strangers: Round = {
  name: 'strangers',
  title:
    'unfinished bodies, pipelines, unread answers, large junk and many connections without a key',
  engines: BOTH,
  shortOn: ['sqlite'],
  isAlone: true,
  settings: { pollMs: 100, leaseMs: 5_000 },
  settingsOf: { mongo: SLOW_STORE },
  windows: [...KINDS.map(windowOf), ACCEPTED],
  async play(fixture, form) {
    await fixture.startWorker()
    await checkCpu(fixture, form)
    const memoryBefore = memoryOf(fixture)
    const calm = form.isLong ? null : await rate(fixture, form)
    for (const kind of KINDS) await playKind(fixture, form, kind, calm)
    const after = await rate(fixture, form)
    await fixture.drained(DRAIN_DEADLINE_MS)
    fixture.measure('D17', 'enqueues/s once they are gone', Math.round(after.perSecond))
    fixture.measure('D17', 'memory before, MB', Math.round(memoryBefore / MEGABYTE))
  },
}

/** Measures what a megabyte costs while nothing else happens. */
async function checkCpu(fixture: Fixture, { isLong }: Form): Promise<void> {
  const { warmUp, counted } = isLong ? CPU_TRIES.long : CPU_TRIES.short
  const pid = fixture.api().process.child.pid as number
  const lines = ['POST /jobs/none/complete', 'POST /jobs', 'GET /health/live']
  const bodies = lines.flatMap((line) => Object.values(BODIES).map((build) => build(line)))
  for (const bytes of [...bodies, ...Object.values(JUNK)]) {
    const costs: number[] = []
    for (let i = 0; i < warmUp + counted; i++) {
      const before = cpuMs(pid)
      await sendAlone(fixture.client.url, bytes)
      await fixture.client.request('GET', '/health/live')
      costs.push(cpuMs(pid) - before)
    }
    const median = costs.slice(warmUp).sort((a, b) => a - b)[counted >> 1] as number
    const ms = Math.round(median * 10) / 10
    fixture.measure('D17', 'CPU of the API for a megabyte, ms', ms)
    if (ms > MOST_CPU_MS * NOISE_FACTOR) fixture.complain(`${ms} ms of CPU for a megabyte`)
  }
}

/**
 * Measures the share of enqueues that still succeed. It is measured several times, because the
 * machine has other work as well.
 *
 * @param calm the rate without strangers for the first try; null: it is measured again
 */
async function playKind(
  fixture: Fixture,
  form: Form,
  kind: StrangerKind,
  calm: Rate | null,
): Promise<void> {
  const memoryBefore = memoryOf(fixture)
  const least = form.isLong ? LEAST_SHARE : LEAST_SHARE_SHORT
  let best = 0
  for (let i = 0; i < TRIES && best < least; i++) {
    const before = i === 0 && calm !== null ? calm : await rate(fixture, form)
    const attacking = attack(fixture, form, kind)
    const during = await rate(fixture, form)
    const report = await attacking
    best = Math.max(best, during.perSecond / before.perSecond)
    fixture.hit(windowOf(kind), hitsOf(kind, report))
    fixture.hit(ACCEPTED, during.count)
    const grownBytes = during.memoryBytes - memoryBefore
    fixture.measure('D17', 'memory taken by strangers, MB', Math.round(grownBytes / MEGABYTE))
    fixture.measure('D17', 'longest silence of /health/live, ms', Math.round(during.silenceMs))
    if (grownBytes > MOST_MEMORY_BYTES) {
      fixture.complain(`${kind} took ${Math.round(grownBytes / MEGABYTE)} MB of memory`)
    }
    if (during.silenceMs > MOST_SILENCE_MS * NOISE_FACTOR) {
      fixture.complain(`with ${kind} /health/live was silent for ${during.silenceMs} ms`)
    }
  }
  fixture.measure('D17', 'enqueues lost to strangers, %', Math.max(0, Math.round((1 - best) * 100)))
  if (best < least) fixture.complain(`with ${kind} only ${best} of the enqueues went on`)
}

/** How often the API met the attack of this kind. */
function hitsOf(kind: StrangerKind, { opened, answered, ended }: StrangerReport): number {
  if (kind === 'pipelines' || kind === 'connections') return ended
  if (kind === 'unread answers') return opened
  return Object.values(answered).reduce((sum, count) => sum + count, 0)
}

interface Rate {
  count: number
  perSecond: number
  /** The most memory of the API. */
  memoryBytes: number
  /** The longest time that /health/live took. */
  silenceMs: number
}

async function rate(fixture: Fixture, { isLong }: Form): Promise<Rate> {
  const durationMs = isLong ? ATTACK_MS.long : ATTACK_MS.short
  const beganAtMs = nowMs()
  const load = startSteadyLoad(fixture, () => ({}), CLIENTS[fixture.engine], [0, 1])
  let memoryBytes = 0
  let silenceMs = 0
  while (nowMs() - beganAtMs < durationMs) {
    silenceMs = Math.max(silenceMs, await silenceOf(fixture))
    memoryBytes = Math.max(memoryBytes, memoryOf(fixture))
    await sleep(LOOK_EVERY_MS)
  }
  const count = load.accepted.length
  const perSecond = (count / (nowMs() - beganAtMs)) * 1_000
  await load.stop()
  return { count, perSecond, memoryBytes, silenceMs }
}

/**
 * How long /health/live takes to respond. Each probe has a new connection, like the probes of an
 * orchestrator. A kept connection has shown no key, so it may be closed in favour of newer ones.
 */
async function silenceOf({ client }: Fixture): Promise<number> {
  const askedAtMs = nowMs()
  while (nowMs() - askedAtMs < GIVEN_UP_MS) {
    const answered = await request(`${client.url}/health/live`, { reset: true })
      .then(({ body }) => body.text())
      .catch(() => null)
    if (answered !== null) break
    await sleep(LOOK_EVERY_MS)
  }
  return nowMs() - askedAtMs
}

function memoryOf(fixture: Fixture): number {
  const status = readFileSync(`/proc/${fixture.api().process.child.pid}/status`, 'latin1')
  return Number(/VmRSS:\s+(\d+)/.exec(status)?.[1]) * 1_024
}

async function attack(fixture: Fixture, { isLong }: Form, kind: StrangerKind) {
  const child = fork(join(import.meta.dirname, '../stranger-offer.ts'))
  const reported = once(child, 'message')
  const died = once(child, 'exit').then(() => null)
  const port = Number(new URL(fixture.client.url).port)
  const durationMs = isLong ? ATTACK_MS.long : ATTACK_MS.short
  child.send({ kind, port, durationMs } satisfies StrangerOrder)
  const report: StrangerReport | null = await Promise.race([
    reported.then(([first]) => first),
    died,
  ])
  if (report === null) throw new Error(`the strangers ended with ${child.exitCode}`)
  return report
}
