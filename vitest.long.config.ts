// npm run test:long: the tests that take too long for every run.
import { defineConfig } from 'vitest/config'

export default defineConfig({
  test: {
    // Every run does a part of all files but the first; RUN_LONG adds the rest of them.
    include: [
      'test/long/**/*.test.ts',
      'test/api/{answers,endpoint-answers,endpoint-fields,job-fields}.test.ts',
      'test/end-to-end/{dead-worker,health,minute-stats,schedules}.test.ts',
      'test/hostile/{fields,json-suite,key-matrix,log-injection,names,parameters}.test.ts',
      'test/dashboard/overview.test.ts',
      'test/model/{lease-model,store-model}.test.ts',
      'test/routes/prefer.test.ts',
      'test/store/{mongo-elections,same-records}.test.ts',
    ],
    env: { RUN_LONG: '1' },
    globalSetup: ['test/support/global-setup.ts'],
    testTimeout: 600_000,
    hookTimeout: 60_000,
    pool: 'forks',
    maxWorkers: 1,
  },
})
