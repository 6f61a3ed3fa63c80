// Wrong and jumping clocks. On MongoDB the clocks of the workers change, which must have no effect.
// On SQLite the clock of the machine changes: it decides when a job is due, but must not end a
// lease.
import { existsSync, mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Fixture, Member } from '../fixture.ts'
import { BOTH, type Form, type Round, SLOW_STORE } from '../round.ts'
import { keepLoaded } from '../work-load.ts'

const LIBRARIES = ['x86_64', 'aarch64'].map(
  (machine) => `/usr/lib/${machine}-linux-gnu/faketime/libfaketime.so.1`,
)
const STEPS = ['+2h', '-2h', '+24h', '-24h', '+0'] as const
const STEP_HOURS = [2, 24] as const
const STEP_EVERY_MS = [300, 900] as const
/**
 * Seconds. A lease by this clock would end before it began, but not so long ago that the sweep,
 * which searches for leases that ended lately, would not find it for some time.
 */
const LATE = '-5'
const SHORT_STEPS = 6
const SHORT_JOBS = { sqlite: 600, mongo: 300 }
const LONG_STEPS = 120
const LONG_JOBS = { sqlite: 12_000, mongo: 3_000 }
/**
 * Workers have few slots, and responses take longer than a sweep. So every step of the clock meets
 * attempts, and a sweep follows every step.
 */
const ANSWER_AFTER_MS = [150, 1_000] as const

const STEPPED = 'clock stepped while attempts were in flight'

export const clocks: Round = {
  name: 'clocks',
  title: 'clock wrong by 24 h, or jumping by 2 h',
  engines: BOTH,
  shortOn: ['sqlite'],
  settings: { leaseMs: 2_000, sweepMs: 200, pollMs: 50, env: { WORKER_CONCURRENCY: '32' } },
  settingsOf: { mongo: SLOW_STORE },
  // Met only if the library is installed; the round itself checks that.
  windows: [],
  async play(fixture, form) {
    const library = LIBRARIES.find(existsSync)
    if (library === undefined) {
      // The short form may run without the library, because CI runs it on any machine.
      if (form.isLong) fixture.complain('libfaketime is missing: apt-get install libfaketime')
      else console.log('    clocks were left alone: libfaketime is not installed')
      return
    }
    const folder = mkdtempSync(join(tmpdir(), 'posthorn-clock-'))
    try {
      await playWith(fixture, form, library, folder)
    } finally {
      rmSync(folder, { recursive: true })
    }
  },
}

/** The clock of all processes with this environment. Writing a file sets it. */
function fakeClock(library: string, folder: string, name: string) {
  const path = join(folder, name)
  const set = (offset: string) => {
    // The file is renamed into place, so that no process reads half a line.
    writeFileSync(`${path}.new`, `${offset}\n`)
    renameSync(`${path}.new`, path)
  }
  set('+0')
  const env = {
    ...{ LD_PRELOAD: library, FAKETIME_TIMESTAMP_FILE: path, FAKETIME_NO_CACHE: '1' },
    FAKETIME_DONT_FAKE_MONOTONIC: '1',
  }
  return { set, env }
}

/**
 * The next steps of the workers' clocks, and the last step. If these clocks are also the clock of
 * the store, a step back makes earlier jobs wait. The next step then goes forward by the same time
 * and a minute more.
 */
function stepsOf({ engine, random }: Fixture) {
  if (engine === 'mongo') return { anywhere: () => random.pick(STEPS), furthest: () => '+25h' }
  let aheadMinutes = 0
  let isBack = false
  const furthest = () => `+${++aheadMinutes}m`
  const anywhere = () => {
    isBack = !isBack
    return isBack ? `${aheadMinutes - random.pick(STEP_HOURS) * 60}m` : furthest()
  }
  return { anywhere, furthest }
}

async function playWith(fixture: Fixture, form: Form, library: string, folder: string) {
  const clock = (name: string) => fakeClock(library, folder, name)
  const stepping = clock('stepping')
  const workers: Member[] = []
  if (fixture.engine === 'mongo') {
    const ahead = clock('ahead')
    ahead.set('+24h')
    const behind = clock('behind')
    behind.set('-24h')
    const late = clock('late')
    late.set(LATE)
    for (const { env } of [ahead, behind, late, stepping])
      workers.push(await fixture.startWorker(env))
  } else {
    // One machine has one clock, so all processes are restarted with it.
    await fixture.terminate(fixture.api())
    await fixture.startApi(stepping.env)
    for (let i = 0; i < 2; i++) workers.push(await fixture.startWorker(stepping.env))
  }
  await fixture.during('clock', fixture.engine === 'mongo' ? 'workers' : 'machine', async () => {
    let isOver = false
    const jobs = (form.isLong ? LONG_JOBS : SHORT_JOBS)[fixture.engine]
    const load = keepLoaded(fixture, {
      jobs,
      isOver: () => isOver,
      workOf: () => ({ answerAfterMs: Math.round(fixture.random.between(...ANSWER_AFTER_MS)) }),
    })
    const { anywhere, furthest } = stepsOf(fixture)
    for (let i = 0; i < (form.isLong ? LONG_STEPS : SHORT_STEPS); i++) {
      await sleep(fixture.random.between(...STEP_EVERY_MS))
      const counts = await Promise.all(
        workers.map((worker) => worker.metric('posthorn_attempts_in_flight')),
      )
      stepping.set(anywhere())
      fixture.hit(STEPPED, counts.some((count) => count > 0) ? 1 : 0)
    }
    isOver = true
    stepping.set(furthest())
    await load
    await fixture.drained()
  })
  if (!fixture.windows.get(STEPPED)) fixture.complain(`void: never met: ${STEPPED}`)
  expectNoDoubles(fixture)
}

/**
 * Checks that no job was delivered twice. The checker accepts a second delivery that a fault
 * explains, but a clock must not cause one.
 */
function expectNoDoubles(fixture: Fixture): void {
  const seen = new Set<string>()
  for (const { jobId } of fixture.receiver.deliveries) {
    if (seen.has(jobId)) fixture.complain(`${jobId} was delivered twice`)
    seen.add(jobId)
  }
  fixture.measure('D7', 'jobs delivered twice', fixture.receiver.deliveries.length - seen.size)
}
