// Random sequences of calls to a store by clients, workers, handlers and sweepers, some with leases
// that expired long ago. Each result must be the one that the model predicts, and so must each job
// after each call. MODEL_RUNS runs more sequences, and MODEL_SEED repeats a run.
import fc from 'fast-check'
import { describe, test } from 'vitest'
import { ENGINES, type Engine, RUN_LONG } from '../support/engines.ts'
import { useStore } from '../support/stores.ts'
import { clearAway, compare, type Fixture, openFixture } from './fixture.ts'
import * as holders from './holder-commands.ts'
import * as requests from './request-commands.ts'

/** The longest sequence. The mean length is a third of this. */
const MAX_COMMANDS = 80
const RUNS: Record<Engine, number> = RUN_LONG
  ? { sqlite: 1_000, mongo: 100 }
  : { sqlite: 60, mongo: 12 }
const FLOW_RUNS: Record<Engine, number> = RUN_LONG
  ? { sqlite: 600, mongo: 50 }
  : { sqlite: 40, mongo: 6 }
const TIMEOUT_MS = 3_600_000

type Step = fc.AsyncCommand<Fixture, Fixture>

/** One command of a sequence. It is skipped while there is nothing that it could apply to. */
function step<Plan>(
  name: string,
  needs: 'nothing' | 'jobs' | 'hands' | 'overdue',
  plans: fc.Arbitrary<Plan>,
  play: (fixture: Fixture, plan: Plan) => Promise<void>,
): fc.Arbitrary<Step> {
  const hasAny = ({ world, hands, overdue }: Fixture) =>
    ({ nothing: 1, jobs: world.jobs.size, hands: hands.length, overdue: overdue.length })[needs] > 0
  return plans.map((plan) => ({
    check: hasAny,
    async run(fixture) {
      await play(fixture, plan)
      await compare(fixture)
    },
    toString: () => `${name}(${fc.stringify(plan)})`,
  }))
}

const oftenTrue = fc.constantFrom(true, true, true, false)
const back = fc.nat({ max: 12 })
const pick = fc.record({ back, fits: oftenTrue })
/** The second value is rare: few different keys make jobs share them. */
const few = fc.constantFrom(0, 0, 0, 1)
const endpointPick = fc.constantFrom(0, 0, 1)
/** null three times of four, because most jobs do not share a key. */
const rarely = <T>(arbitrary: fc.Arbitrary<T>) =>
  fc.oneof({ weight: 3, arbitrary: fc.constant(null) }, { weight: 1, arbitrary })
const nothing = fc.constant(null)

const enqueuePlan: fc.Arbitrary<requests.EnqueuePlan> = fc.record({
  endpoint: endpointPick,
  isDue: oftenTrue,
  expiry: fc.oneof(
    { weight: 4, arbitrary: fc.constant('none' as const) },
    fc.constantFrom('far', 'over'),
  ),
  maxAttempts: fc.integer({ min: 1, max: 3 }),
  priority: fc.constantFrom(5, 5, 9),
  key: rarely(few),
  request: few,
  dedupe: rarely(
    fc.record({ key: few, mode: fc.constantFrom('keep' as const, 'replace', 'replace', 'reject') }),
  ),
  orderingKey: rarely(few),
  dependsOn: fc.array(back, { maxLength: 2 }),
})

const editPlan: fc.Arbitrary<requests.EditPlan> = fc.record({
  runAt: fc.constantFrom('stays', 'due', 'far'),
  expiresInMs: fc.constantFrom(undefined, null, 1_000, 36_000_000),
  priority: fc.constantFrom(undefined, 1, 9),
  withPayload: fc.boolean(),
  version: fc.constantFrom('any', 'right', 'stale'),
})

const PLAIN: requests.EnqueuePlan = {
  ...{ endpoint: 0, isDue: true, expiry: 'none', maxAttempts: 2, priority: 5, key: null },
  ...{ request: 0, dedupe: null, orderingKey: null, dependsOn: [] },
}

const claim = step(
  'claim',
  'nothing',
  fc.tuple(endpointPick, fc.integer({ min: 1, max: 3 }), fc.boolean()),
  (fixture, [endpoint, limit, isShort]) => holders.claim(fixture, endpoint, limit, isShort),
)
const enqueue = step('enqueue', 'nothing', enqueuePlan, requests.enqueue)
const settle = step(
  'settle',
  'hands',
  fc.tuple(
    pick,
    fc.constantFrom<holders.Reported>('succeed', 'reschedule', 'reschedule', 'postpone', 'bury'),
    fc.nat({ max: 1 }),
    oftenTrue,
  ),
  (fixture, [lease, event, outcome, isDue]) =>
    holders.settle(fixture, lease, event, outcome, isDue),
)

/** Commands that lead to many others occur more than once in this list. */
const STEPS = [
  enqueue,
  enqueue,
  enqueue,
  enqueue,
  enqueue,
  enqueue,
  claim,
  claim,
  claim,
  claim,
  settle,
  settle,
  settle,
  step('accept', 'hands', fc.tuple(pick, fc.boolean()), (fixture, [lease, isPast]) =>
    holders.accept(fixture, lease, isPast),
  ),
  step('renew', 'hands', pick, holders.renew),
  step('heartbeat', 'hands', fc.tuple(pick, fc.nat({ max: 100 })), (fixture, [lease, value]) =>
    holders.heartbeat(fixture, lease, value),
  ),
  step('release', 'hands', pick, holders.release),
  step('sweep', 'nothing', nothing, holders.sweep),
  step('lookForOverdue', 'nothing', nothing, holders.lookForOverdue),
  step(
    'endOverdue',
    'overdue',
    fc.tuple(back, fc.constantFrom('time_out' as const, 'bury_timed_out')),
    (fixture, [seen, event]) => holders.endOverdue(fixture, seen, event),
  ),
  step('cancel', 'jobs', pick, requests.cancel),
  step('retry', 'jobs', pick, requests.retry),
  step('retryMany', 'jobs', fc.integer({ min: 1, max: 3 }), requests.retryMany),
  step('edit', 'jobs', fc.tuple(pick, editPlan), (fixture, [job, plan]) =>
    requests.edit(fixture, job, plan),
  ),
  step(
    'switchEndpoint',
    'nothing',
    fc.tuple(endpointPick, fc.constantFrom('active' as const, 'active', 'paused', 'disabled')),
    (fixture, [endpoint, to]) => requests.switchEndpoint(fixture, endpoint, to),
  ),
]

/** Commands for dependencies: most jobs depend on others, many die, and dead jobs are retried. */
const FLOW_STEPS = [
  ...[1, 2, 3].map(() =>
    step(
      'enqueue',
      'nothing',
      fc.tuple(endpointPick, rarely(few), fc.array(fc.nat({ max: 4 }), { maxLength: 3 })),
      (fixture, [endpoint, orderingKey, dependsOn]) =>
        requests.enqueue(fixture, { ...PLAIN, endpoint, orderingKey, dependsOn }),
    ),
  ),
  claim,
  claim,
  step(
    'settle',
    'hands',
    fc.tuple(pick, fc.constantFrom<holders.Reported>('succeed', 'bury', 'bury', 'reschedule')),
    (fixture, [lease, event]) => holders.settle(fixture, lease, event, 0, true),
  ),
  step('sweep', 'nothing', nothing, holders.sweep),
  step('cancel', 'jobs', pick, requests.cancel),
  step('retry', 'jobs', pick, requests.retry),
  step('retryMany', 'jobs', fc.integer({ min: 1, max: 3 }), requests.retryMany),
]

describe.each(ENGINES)('on %s', (engine) => {
  const place = useStore(engine)
  const { MODEL_RUNS, MODEL_SEED } = process.env

  test.each([
    ['a store does in any order of commands what the model does', STEPS, RUNS],
    ['no job runs before what it depends on, whatever fails and is retried', FLOW_STEPS, FLOW_RUNS],
  ])('%s', { timeout: TIMEOUT_MS }, async (_, steps, runs) => {
    const sequences = fc.commands<Fixture, Fixture, false>(steps, {
      maxCommands: MAX_COMMANDS,
      size: 'max',
    })
    const property = fc.asyncProperty(sequences, async (sequence) => {
      const fixture = await openFixture(place.store)
      await fc.asyncModelRun(() => ({ model: fixture, real: fixture }), sequence)
      await clearAway(fixture)
    })
    await fc.assert(property, {
      numRuns: MODEL_RUNS === undefined ? runs[engine] : Number(MODEL_RUNS),
      ...(MODEL_SEED === undefined ? {} : { seed: Number(MODEL_SEED) }),
    })
  })
})
