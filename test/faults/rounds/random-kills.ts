// Any process killed at any time, again and again, under load.
import { setTimeout as sleep } from 'node:timers/promises'
import type { Ground, Member } from '../ground.ts'
import { nowMs } from '../history.ts'
import { BOTH, type Form, type Round, SLOW_STORE } from '../round.ts'
import { keepLoaded } from '../work-load.ts'

const WORKERS = 3
const KILL_EVERY_MS = [500, 3_000] as const
/** The stand-in for MongoDB takes some 10 ms for each write. */
const SHORT_JOBS = { sqlite: 16_000, mongo: 400 }
const MOST_TIMES = 8
/** In the long form the load is what the time allows, but no more than memory does. */
const LONG_JOBS = { sqlite: 500_000, mongo: 50_000 }
const WORKER_KILLED = 'a worker killed with attempts in hand'
const API_KILLED = 'the API killed under load'

export const randomKills: Round = {
  name: 'random-kills',
  title: 'random kill −9 of any process',
  engines: BOTH,
  settings: { leaseMs: 2_000, sweepMs: 250, pollMs: 100 },
  settingsOf: { mongo: SLOW_STORE },
  windows: [WORKER_KILLED, API_KILLED],
  async play(ground, form) {
    let api = ground.api()
    const workers: Member[] = []
    for (let i = 0; i < WORKERS; i++) workers.push(await ground.startWorker())

    let isOver = false
    const breaking = (async () => {
      // Both kinds at least once, whatever the dice say.
      for (let kills = 0; !isOver || kills < 2; kills++) {
        await sleep(ground.dice.between(...KILL_EVERY_MS))
        if (kills === 1 || (kills !== 0 && ground.dice.chance(0.25))) {
          ground.hit(API_KILLED)
          await ground.kill(api)
          api = await ground.startApi()
        } else {
          const victim = ground.dice.pick(workers)
          const inHand = await victim.metric('posthorn_attempts_in_flight').catch(() => 0)
          await ground.kill(victim)
          ground.hit(WORKER_KILLED, inHand > 0 ? 1 : 0)
          workers[workers.indexOf(victim)] = await ground.startWorker()
        }
      }
    })()
    await keepLoaded(ground, load(ground, form))
    isOver = true
    await breaking
    await ground.drained()
  },
}

/** The short form goes on until each moment was met, but not for ever. */
function load(ground: Ground, { isLong, minutes }: Form) {
  const endsAtMs = nowMs() + minutes * 60_000
  if (isLong) return { jobs: LONG_JOBS[ground.engine], isOver: () => nowMs() > endsAtMs }
  const jobs = SHORT_JOBS[ground.engine]
  const isMet = () => [WORKER_KILLED, API_KILLED].every((window) => ground.windows.get(window))
  return { jobs: MOST_TIMES * jobs, isOver: (count: number) => count >= jobs && isMet() }
}
