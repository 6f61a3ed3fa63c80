// The promises of fairness keys beside a flood, in the sizes of a large customer.
import { testFloods } from '../contract/flood-cases.ts'

testFloods({
  sqlite: { flood: 200_000, keys: 1_000, paused: 10_000, once: 4_000, plain: 1_000_000 },
  mongo: { flood: 4_000, keys: 100, paused: 10_000, once: 800, plain: 20_000 },
})
