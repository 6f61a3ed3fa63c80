// Both stores make the same records of the same script: states, counts, versions, attempts, texts,
// answers. What a second store would have to repeat belongs to src/job and src/endpoint; where one
// of two stores decides by itself, they drift apart, and this shows it.
import { describe, expect, test } from 'vitest'
import { useStore } from '../support/stores.ts'
import { completing, lapsing, purging, settling } from './parity/attempt-scripts.ts'
import { differencesOf } from './parity/differences.ts'
import { admitting, endpoints } from './parity/endpoint-scripts.ts'
import { play, type Script } from './parity/fixture.ts'
import { deleting, depending, noticing, ordering } from './parity/flow-scripts.ts'
import { commanding, deduplicating, enqueueing } from './parity/request-scripts.ts'

/** On a machine that has other work. */
const DEADLINE_MS = 120_000

const SCRIPTS: Record<string, Script> = {
  ...{ enqueueing, deduplicating, commanding, settling, completing, lapsing, purging },
  ...{ depending, ordering, noticing, deleting, endpoints, admitting },
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
