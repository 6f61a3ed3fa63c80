// Starts one MongoDB for the whole test run and hands its URL to every test file.
import type { TestProject } from 'vitest/node'
import { type MongoEngine, startMongo } from './mongo.ts'

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
  return running.stop
}
