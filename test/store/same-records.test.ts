// Both stores make the same records from the same script: states, counts, versions, attempts,
// texts, results. Decisions belong to src/job and src/endpoint. If one of the stores decides
// something by itself, the stores drift apart, and this test shows it.
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { RUN_LONG } from '../support/engines.ts'
import { useStore, withStore } from '../support/stores.ts'
import { completing, expiring, purging, settling } from './parity/attempt-scripts.ts'
import { differencesOf } from './parity/differences.ts'
import { admitting, endpoints } from './parity/endpoint-scripts.ts'
import { play, type Recorded, type Script } from './parity/fixture.ts'
import { deleting, depending, needing, noticing, ordering } from './parity/flow-scripts.ts'
import { randomScripts, scriptOf } from './parity/random-script.ts'
import { commanding, deduplicating, enqueueing } from './parity/request-scripts.ts'

/** The deadline on a machine that has other work. */
const DEADLINE_MS = 120_000
/**
 * Each script has thirty commands. The short form plays the same ones each time. PARITY_RUNS runs
 * more scripts. PARITY_SEED and PARITY_PATH, as a failed run prints them, play a script again.
 */
const RANDOM_SCRIPTS = RUN_LONG ? 200 : 3
const SHORT_SEED = 2
const RANDOM_DEADLINE_MS = 3_600_000

const SCRIPTS: Record<string, Script> = {
  ...{ enqueueing, deduplicating, commanding, settling, completing, expiring, purging },
  ...{ depending, needing, ordering, noticing, deleting, endpoints, admitting },
}

describe.each(Object.entries(SCRIPTS))('%s', (_, script) => {
  const sqlite = useStore('sqlite')
  const mongo = useStore('mongo')

  test(
    'leaves the same records in both stores',
    async () => {
      const [one, other] = await Promise.all([
        play(sqlite.store, sqlite.warnings, script),
        play(mongo.store, mongo.warnings, script),
      ])
      expect(one.length).toBeGreaterThan(10)
      expect(differencesOf(one, other)).toEqual([])
    },
    DEADLINE_MS,
  )
})

test(
  'random scripts leave the same records in both stores',
  async () => {
    const { PARITY_RUNS, PARITY_SEED, PARITY_PATH } = process.env
    const isShort = PARITY_RUNS === undefined && !RUN_LONG
    const seed = PARITY_SEED ?? (isShort ? SHORT_SEED : undefined)
    const property = fc.asyncProperty(randomScripts, async (draws) => {
      const script = scriptOf(draws)
      const [one, other] = await Promise.all([
        withStore('sqlite', (store, warnings) => play(store, warnings, script)),
        withStore('mongo', (store, warnings) => play(store, warnings, script)),
      ])
      expect(differencesOf(anyFailed(one), anyFailed(other))).toEqual([])
    })
    await fc.assert(property, {
      numRuns: PARITY_RUNS === undefined ? RANDOM_SCRIPTS : Number(PARITY_RUNS),
      // Scripts are not shrunk: each smaller script would take a second on both stores, and the
      // steps show enough.
      endOnFailure: true,
      ...(seed === undefined ? {} : { seed: Number(seed) }),
      ...(PARITY_PATH === undefined ? {} : { path: PARITY_PATH }),
    })
  },
  RANDOM_DEADLINE_MS,
)

/**
 * Two dependencies of a job can fail at once, or one can fail because of another. It depends on the
 * order of the effects in a store which of them the job died of, and which had failed by then.
 */
function anyFailed(recorded: Recorded[]): Recorded[] {
  const text = JSON.stringify(recorded, (_, value) => {
    if (value?.failure?.reason !== 'dependency_failed') return value
    const { waitingFor, ...job } = value
    return { ...job, failure: { ...value.failure, jobId: 'one of them' } }
  })
  return JSON.parse(text.replaceAll(/it depends on [^,]+,/g, 'it depends on one of them,'))
}
