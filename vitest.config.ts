// Two at once: most tests wait more than they work. More would make the timing of real processes
// suffer on two cores.
import { defineConfig } from 'vitest/config'
import { BaseSequencer, type TestSpecification } from 'vitest/node'

/**
 * Those that take longest, begun first: vitest sorts by size of the file, and one of these that
 * begins last leaves the other worker idle for a minute.
 */
const SLOWEST = [
  'test/model/store-model.test.ts',
  'test/contract/lifecycle-grid.test.ts',
  'test/store/same-records.test.ts',
  'test/model/lease-model.test.ts',
  'test/end-to-end/observability.test.ts',
  'test/contract/ordering.test.ts',
  'test/cli/apply.test.ts',
  'test/api/job-commands.test.ts',
]

class SlowestFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const rank = ({ moduleId }: TestSpecification) => {
      const at = SLOWEST.findIndex((name) => moduleId.endsWith(name))
      return at === -1 ? SLOWEST.length : at
    }
    return (await super.sort(files)).sort((a, b) => rank(a) - rank(b))
  }
}

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    // npm run test:long.
    exclude: ['test/long/**'],
    globalSetup: ['test/support/global-setup.ts'],
    testTimeout: 20_000,
    hookTimeout: 60_000,
    pool: 'forks',
    maxWorkers: 2,
    // Files share a process: to load the code again for each would take a tenth of the time.
    isolate: false,
    sequence: { sequencer: SlowestFirst },
  },
})
