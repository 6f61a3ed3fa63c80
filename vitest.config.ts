// Two groups, one after the other: what keeps to itself may run side by side, what starts processes
// and looks at their timing has the machine alone.
import { defineConfig } from 'vitest/config'

const WITH_THE_MACHINE_ALONE = ['test/end-to-end/**/*.test.ts', 'test/hostile/slow-clients.test.ts']

export default defineConfig({
  test: {
    globalSetup: ['test/support/global-setup.ts'],
    testTimeout: 20_000,
    hookTimeout: 60_000,
    pool: 'forks',
    projects: [
      {
        extends: true,
        test: {
          name: 'rooms',
          include: ['test/**/*.test.ts'],
          exclude: WITH_THE_MACHINE_ALONE,
          maxWorkers: 2,
          sequence: { groupOrder: 1 },
        },
      },
      {
        extends: true,
        test: {
          name: 'processes',
          include: WITH_THE_MACHINE_ALONE,
          maxWorkers: 1,
          sequence: { groupOrder: 2 },
        },
      },
    ],
  },
})
