// npm run test:long: the tests that take too long for every run.
import { defineConfig } from 'vitest/config'

export default defineConfig({
  test: {
    // Every run does a part of all files but the first; RUN_LONG adds the rest of them.
    include: [
      'test/long/**/*.test.ts',
      'test/api/{answers,batch,completion,endpoint-answers,endpoint-fields}.test.ts',
      'test/api/{endpoint-routes,errors,explain,group-routes,job-commands,job-fields}.test.ts',
      'test/api/{keys,limit-routes,needs,pull,rest}.test.ts',
      'test/end-to-end/{client,completion,dead-worker,health,limits,minute-stats}.test.ts',
      'test/end-to-end/{observability,other-key,retries,schedules,shared-limits}.test.ts',
      'test/examples/handlers.test.ts',
      'test/hostile/{fields,heavy-bodies,json-suite,key-matrix}.test.ts',
      'test/hostile/{log-injection,names,parameters}.test.ts',
      'test/dashboard/overview.test.ts',
      'test/model/{lease-model,store-model,turn-sequences}.test.ts',
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
