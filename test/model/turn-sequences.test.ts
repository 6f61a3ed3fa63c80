// Random sequences of commands about jobs with fairness keys: no key starts more than its turns
// while another one waits, and every job begins. MODEL_RUNS runs more sequences, and MODEL_SEED
// repeats a run.
import fc from 'fast-check'
import { describe, test } from 'vitest'
import type { Store } from '../../src/store/store.ts'
import { addEndpoint, enqueueOne, passed } from '../contract/fixtures.ts'
import { ENGINES, type Engine, RUN_LONG } from '../support/engines.ts'
import { useStore } from '../support/stores.ts'
import { KEYS, type Step, TurnSequence } from './turn-commands.ts'

const RUNS: Record<Engine, number> = RUN_LONG
  ? { sqlite: 300, mongo: 30 }
  : { sqlite: 10, mongo: 2 }
const MAX_STEPS = 60
/** A claim on MongoDB may remember for 0.4 s that an endpoint has no keys. */
const KEYS_KNOWN_MS = 450
const TIMEOUT_MS = 3_600_000

const rarely = <T>(arbitrary: fc.Arbitrary<T>) =>
  fc.oneof({ weight: 6, arbitrary: fc.constant(null) }, { weight: 1, arbitrary })

interface Mix {
  times: boolean
  costs: boolean
}

function steps({ times, costs }: Mix): fc.Arbitrary<Step> {
  const at = fc.nat(1_000)
  const some = fc.oneof(fc.constant(1), fc.integer({ min: 1, max: 100 }))
  const priority = fc.constantFrom<5 | 9>(5, 5, 5, 9)
  const cost = costs ? fc.constantFrom(1, 1, 3, 20, 1_000) : fc.constant(1)
  const when = times
    ? fc.constantFrom<'now' | 'soon' | 'much later'>('now', 'now', 'soon', 'much later')
    : fc.constant('now' as const)
  const enqueue = fc.record({
    ...{ kind: fc.constant('enqueue' as const), key: fc.constantFrom(...KEYS), count: some },
    ...{ priority, cost, when, expires: times ? fc.boolean() : fc.constant(false) },
    dedupe: rarely(fc.nat(2)),
    ordering: rarely(fc.nat(2)),
  })
  const hows = ['succeed', 'succeed', 'retry', 'postpone', 'bury', 'release'] as const
  const how = fc.constantFrom<(typeof hows)[number] | 'retry soon'>(
    ...hows,
    ...(times ? (['retry soon'] as const) : []),
  )
  const to = times
    ? fc.constantFrom<'priority' | 'now' | 'soon' | 'early'>('priority', 'now', 'soon', 'early')
    : fc.constant('priority' as const)
  return fc.oneof(
    { weight: 5, arbitrary: enqueue },
    {
      weight: 7,
      arbitrary: fc.record({
        kind: fc.constant('claim' as const),
        count: fc.integer({ min: 1, max: 8 }),
      }),
    },
    { weight: 5, arbitrary: fc.record({ kind: fc.constant('settle' as const), how }) },
    { weight: 2, arbitrary: fc.record({ kind: fc.constant('cancel' as const), at, count: some }) },
    { weight: 1, arbitrary: fc.record({ kind: fc.constant('retry' as const), at }) },
    {
      weight: 2,
      arbitrary: fc.record({
        ...{ kind: fc.constant('edit' as const), at, to },
        count: fc.constantFrom(1, 1, 10),
      }),
    },
    { weight: 1, arbitrary: fc.record({ kind: fc.constant('delete' as const), at }) },
    {
      weight: 3,
      arbitrary: fc.record({
        kind: fc.constantFrom<'pause' | 'resume' | 'sweep' | 'wait'>(
          ...(['pause', 'resume', 'resume', 'sweep', 'wait'] as const),
        ),
      }),
    },
  )
}

/** An endpoint of which the store knows that it has fairness keys. */
async function openEndpoint(store: Store): Promise<string> {
  const endpoint = await addEndpoint(store)
  const { id } = await enqueueOne(store, endpoint, { fairnessKey: 'first' })
  await passed(store, store.clock.now() + KEYS_KNOWN_MS)
  await store.cancel([id])
  return endpoint
}

const OPEN: Record<Engine, (store: Store) => Promise<string>> = {
  sqlite: (store) => addEndpoint(store),
  mongo: openEndpoint,
}

describe.each(ENGINES)('on %s', (engine) => {
  const place = useStore(engine)

  test.each([
    { name: 'all due at once', times: false, costs: false },
    { name: 'with costs', times: false, costs: true },
    { name: 'with delays and expiry', times: true, costs: false },
  ])('keys keep to their turns, $name', { timeout: TIMEOUT_MS }, async (mix) => {
    const numRuns = Number(process.env.MODEL_RUNS ?? RUNS[engine])
    const seed = process.env.MODEL_SEED
    await fc.assert(
      fc.asyncProperty(fc.array(steps(mix), { maxLength: MAX_STEPS, size: 'max' }), async (all) => {
        const endpoint = await OPEN[engine](place.store)
        const sequence = new TurnSequence(place.store, endpoint, mix.times ? 1 : 0)
        for (const step of all) await sequence.play(step)
        await sequence.finish()
      }),
      { numRuns, ...(seed === undefined ? {} : { seed: Number(seed) }) },
    )
  })
})
