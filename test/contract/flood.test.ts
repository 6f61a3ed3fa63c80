// The promises of fairness keys beside a flood, in small sizes. test/long/flood.test.ts has large
// ones.
import { testFloods } from './flood-cases.ts'

testFloods({
  sqlite: { flood: 3_000, keys: 50, paused: 1_000, once: 400, plain: 20_000 },
  mongo: { flood: 600, keys: 10, paused: 300, once: 100, plain: 1_000 },
})
