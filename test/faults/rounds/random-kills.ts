// Any process is killed at any time, again and again, under load.
import { setTimeout as sleep } from 'node:timers/promises'
import type { Fixture, Member } from '../fixture.ts'
import { nowMs } from '../history.ts'
import { BOTH, type Form, type Round, SLOW_STORE } from '../round.ts'
import type { WorkRequest } from '../work-client.ts'
import { keepLoaded, mixedWork } from '../work-load.ts'

const WORKERS = 3
const KILL_EVERY_MS = [500, 3_000] as const
/** The stand-in for MongoDB takes about 10 ms for each write. */
const SHORT_JOBS = { sqlite: 8_000, mongo: 400 }
const MOST_TIMES = 8
/** In the long form the load depends on the time, but is limited by memory. */
const LONG_JOBS = { sqlite: 500_000, mongo: 50_000 }
const WORKER_KILLED = 'a worker killed with attempts in hand'
const API_KILLED = 'the API killed under load'

export const randomKills: Round = {
  name: 'random-kills',
  title: 'random kill −9 of any process',
  engines: BOTH,
  isAlone: true,
  settings: { leaseMs: 2_000, sweepMs: 250, pollMs: 100 },
  settingsOf: { mongo: SLOW_STORE },
  windows: [WORKER_KILLED, API_KILLED],
  async play(fixture, form) {
    let api = fixture.api()
    const workers: Member[] = []
    for (let i = 0; i < WORKERS; i++) workers.push(await fixture.startWorker())

    let isOver = false
    const breaking = (async () => {
      // Each kind of process is killed at least once, whatever the random numbers are.
      for (let kills = 0; !isOver || kills < 2; kills++) {
        await sleep(fixture.random.between(...KILL_EVERY_MS))
        if (kills === 1 || (kills !== 0 && fixture.random.chance(0.25))) {
          fixture.hit(API_KILLED)
          await fixture.kill(api)
          api = await fixture.startApi()
        } else {
          const victim = fixture.random.pick(workers)
          const inHand = await victim.metric('posthorn_attempts_in_flight').catch(() => 0)
          await fixture.kill(victim)
          fixture.hit(WORKER_KILLED, inHand > 0 ? 1 : 0)
          workers[workers.indexOf(victim)] = await fixture.startWorker()
        }
      }
    })()
    await keepLoaded(fixture, load(fixture, form))
    isOver = true
    await breaking
    await fixture.drained()
  },
}

/** The short form continues until each moment was met, within a limit. */
function load(fixture: Fixture, { isLong, minutes }: Form) {
  const endsAtMs = nowMs() + minutes * 60_000
  const keyedFrom = SHORT_JOBS[fixture.engine] / 2
  const workOf = (index: number) => ({
    ...mixedWork(fixture),
    ...(index < keyedFrom ? {} : keyedFields(fixture)),
  })
  if (isLong) return { jobs: LONG_JOBS[fixture.engine], isOver: () => nowMs() > endsAtMs, workOf }
  const jobs = SHORT_JOBS[fixture.engine]
  const isMet = () => [WORKER_KILLED, API_KILLED].every((window) => fixture.windows.get(window))
  const isOver = (count: number) => count >= jobs && isMet()
  return { jobs: MOST_TIMES * jobs, isOver, workOf }
}

/** One key has most of the jobs. Some have none, so that a claim takes both in turn. */
function keyedFields({ random }: Fixture): Pick<WorkRequest, 'fields'> {
  if (random.chance(0.1)) return {}
  const isFlood = random.chance(0.8)
  return { fields: { fairnessKey: isFlood ? 'flood' : `key ${Math.floor(random.between(0, 5))}` } }
}
