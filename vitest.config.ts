// Two cores serve four test files at a time, because most files wait more than they work. Those
// that measure times, or keep both cores busy, run three at a time when the others are done.
import { defineConfig } from 'vitest/config'
import { BaseSequencer, type TestSpecification } from 'vitest/node'

const TIMED = [
  'test/end-to-end/{dead-worker,first-job,hostile-receivers,many-endpoints,no-worker}.test.ts',
  'test/end-to-end/{restarts,retries,stop-without-store,store-outage,store-removed}.test.ts',
  'test/end-to-end/{throttling,upkeep}.test.ts',
  'test/hostile/{heavy-bodies,slow-clients,strangers}.test.ts',
  'test/metrics/tracing.test.ts',
  'test/routes/{overload,slow-store}.test.ts',
  'test/schedule/{cron,scheduler-outage,timing}.test.ts',
  'test/store/{mongo-clock,mongo-outage,sqlite-sharing}.test.ts',
  'test/webhook/{reused-lines,send,torture}.test.ts',
  'test/workers/{slow-store,write-pacer}.test.ts',
]

/**
 * Those that take more than 12 s, begun first, and those with the longest first: vitest sorts by
 * size of the file, and one of these that begins last leaves the other workers idle meanwhile.
 */
const SLOWEST = [
  'test/end-to-end/start-command.test.ts',
  'test/store/mongo-elections.test.ts',
  'test/end-to-end/idle-workers.test.ts',
  'test/end-to-end/minute-stats.test.ts',
  'test/contract/lifecycle-grid.test.ts',
  'test/store/same-records.test.ts',
  'test/outbox/idle.test.ts',
  'test/dashboard/overview.test.ts',
  'test/end-to-end/clock-ahead.test.ts',
  'test/contract/endpoint-health.test.ts',
  'test/store/mongo-doctor.test.ts',
  'test/store/mongo-migration.test.ts',
  'test/cli/listen.test.ts',
  'test/store/mongo-in-place.test.ts',
  'test/examples/excel-import.test.ts',
  'test/model/store-model.test.ts',
  'test/dashboard/job.test.ts',
  'test/store/mongo-crashes.test.ts',
  'test/contract/fairness.test.ts',
  'test/examples/handlers.test.ts',
  'test/end-to-end/health.test.ts',
  'test/outbox/kill-windows.test.ts',
  'test/dashboard/jobs.test.ts',
  'test/contract/endpoints.test.ts',
  'test/schedule/scheduler.test.ts',
  'test/api/rest.test.ts',
  'test/end-to-end/other-key.test.ts',
  'test/end-to-end/pull-to-push.test.ts',
  'test/end-to-end/completion.test.ts',
  'test/end-to-end/store-outage.test.ts',
  'test/workers/slow-store.test.ts',
  'test/end-to-end/many-endpoints.test.ts',
  'test/hostile/heavy-bodies.test.ts',
  'test/end-to-end/restarts.test.ts',
  'test/end-to-end/store-removed.test.ts',
  'test/end-to-end/first-job.test.ts',
  'test/end-to-end/throttling.test.ts',
  'test/end-to-end/upkeep.test.ts',
  'test/end-to-end/hostile-receivers.test.ts',
  'test/end-to-end/stop-without-store.test.ts',
  'test/routes/slow-store.test.ts',
  'test/store/mongo-outage.test.ts',
  'test/end-to-end/dead-worker.test.ts',
  'test/end-to-end/no-worker.test.ts',
  'test/store/mongo-clock.test.ts',
]

/** Vitest calls it once for each project. */
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
    globalSetup: ['test/support/global-setup.ts'],
    testTimeout: 40_000,
    hookTimeout: 60_000,
    pool: 'forks',
    // Files share a process: to load the code again for each would take a tenth of the time.
    isolate: false,
    sequence: { sequencer: SlowestFirst },
    projects: [
      {
        test: {
          name: 'all',
          include: ['test/**/*.test.ts'],
          // test/long: npm run test:long.
          exclude: ['test/long/**', ...TIMED],
          maxWorkers: 4,
          sequence: { groupOrder: 0 },
        },
      },
      { test: { name: 'timed', include: TIMED, maxWorkers: 3, sequence: { groupOrder: 1 } } },
    ],
  },
})
