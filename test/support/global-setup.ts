// Starts one MongoDB for the whole test run and hands its URL to every test file. Makes the bundle
// from which all files start the posthorn command.
import type { TestProject } from 'vitest/node'
import { bundleCommand } from './bundle.ts'
import { databaseUrl, type MongoEngine, startMongo } from './mongo.ts'

declare module 'vitest' {
  export interface ProvidedContext {
    mongoUrl: string
    mongoEngine: MongoEngine
  }
}

export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  // Each test file creates a database, and each of its indexes is a file that is synced to disk.
  const running = await startMongo({ inMemory: true })
  project.provide('mongoUrl', running.url)
  project.provide('mongoEngine', running.engine)
  const removeBundle = await bundleCommand(databaseUrl(running.url, 'test-bundle'))
  return async () => {
    await running.stop()
    await removeBundle()
  }
}
