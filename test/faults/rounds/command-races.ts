// Commands race the workers. The responses to the commands must be true.
import { nowMs } from '../history.ts'
import { BOTH, type Form, type Round, SLOW_STORE } from '../round.ts'
import { CANCEL_WINDOWS, raceCancels } from './races/cancels.ts'
import { DELETION_WINDOWS, raceDeletion } from './races/deletions.ts'
import { PAUSE_WINDOWS, racePauses } from './races/pauses.ts'
import { PURGE_WINDOWS, racePurges } from './races/purges.ts'
import { type Check, openStage, type Stage } from './races/race-fixture.ts'
import { REPLACEMENT_WINDOWS, raceReplacements } from './races/replacements.ts'
import { ROTATION_WINDOWS, raceRotations } from './races/rotations.ts'

const WORKERS = 2
const CANCELS = { sqlite: 90, mongo: 45 }
const PURGES = { sqlite: 40, mongo: 20 }
const REPLACEMENTS = 10
const SHORT_REPEATS = 1
const LONG_REPEATS = { sqlite: 12, mongo: 4 }
/** The long form repeats until this time has passed. */
const LONGEST_MS = 150_000

export const commandRaces: Round = {
  name: 'command-races',
  title: 'cancel, retry, delete, rotate, replace and pause racing deliveries',
  engines: BOTH,
  shortOn: ['sqlite'],
  isAlone: true,
  settings: { leaseMs: 2_000, sweepMs: 250, pollMs: 50 },
  settingsOf: { mongo: { ...SLOW_STORE, env: { WORKER_CONCURRENCY: '32' } } },
  windows: [
    ...[CANCEL_WINDOWS, PURGE_WINDOWS, ROTATION_WINDOWS].flat(),
    ...[REPLACEMENT_WINDOWS, DELETION_WINDOWS, PAUSE_WINDOWS].flat(),
  ],
  async play(fixture, form) {
    for (let i = 0; i < WORKERS; i++) await fixture.startWorker()
    const checks = await raceAll(openStage(fixture), form)
    await fixture.drained()
    for (const check of checks) await check()
  },
}

async function raceAll(stage: Stage, { isLong, minutes }: Form): Promise<Check[]> {
  const { engine } = stage.fixture
  const repeats = isLong ? LONG_REPEATS[engine] : SHORT_REPEATS
  const endsAtMs = nowMs() + Math.min(minutes * 60_000, LONGEST_MS)
  const repeated = async (race: (i: number) => Promise<Check>) => {
    const checks: Check[] = []
    for (let i = 0; i < repeats && (i === 0 || nowMs() < endsAtMs); i++) checks.push(await race(i))
    return checks
  }
  const [cancels, purges, deletions, replacements] = await Promise.all([
    raceCancels(stage, CANCELS[engine] * repeats).then((check) => [check]),
    racePurges(stage, PURGES[engine] * repeats).then((check) => [check]),
    repeated((i) => raceDeletion(stage, i)),
    raceReplacements(stage, REPLACEMENTS * repeats).then((check) => [check]),
    raceRotations(stage, repeats),
    racePauses(stage, repeats),
  ])
  return [...cancels, ...purges, ...deletions, ...replacements]
}
