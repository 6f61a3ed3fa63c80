// What is too long for every run: npm run test:long.
import { defineConfig } from 'vitest/config'

export default defineConfig({
  test: {
    // Of the last two every run plays a part: RUN_LONG adds what takes long.
    include: ['test/long/**/*.test.ts', 'test/end-to-end/{health,figures}.test.ts'],
    env: { RUN_LONG: '1' },
    globalSetup: ['test/support/global-setup.ts'],
    testTimeout: 600_000,
    hookTimeout: 60_000,
    pool: 'forks',
    maxWorkers: 1,
  },
})
