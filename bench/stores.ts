// The store that a row of the benchmark uses: a file in the folder of the run, or a database in the
// MongoDB of the run.
import { randomBytes } from 'node:crypto'
import { mkdtempSync } from 'node:fs'
import { join } from 'node:path'
import { databaseUrl, type RunningMongo, startMongo } from '../test/support/mongo.ts'
import type { Bench, StoreEngine } from './row.ts'

export interface BenchStore {
  /** Name, with the engine if it is not mongod. */
  name: string
  url: string
  close(): Promise<void>
}

let mongo: Promise<RunningMongo> | null = null

export async function openStore({ folder }: Bench, engine: StoreEngine): Promise<BenchStore> {
  if (engine === 'sqlite') {
    const own = mkdtempSync(join(folder, 'store-'))
    return { name: 'SQLite', url: `sqlite:${join(own, 'posthorn.db')}`, close: async () => {} }
  }
  const running = await sharedMongo()
  return {
    name: nameOf(running),
    url: databaseUrl(running.url, `bench-${randomBytes(4).toString('hex')}`),
    close: async () => {},
  }
}

/** One server for the whole run, started when it is first needed. */
export function sharedMongo(): Promise<RunningMongo> {
  mongo ??= startMongo()
  return mongo
}

const nameOf = ({ engine }: RunningMongo) =>
  engine === 'mongod' ? 'MongoDB' : `MongoDB (${engine})`

export async function stopStores(): Promise<void> {
  const running = await mongo
  mongo = null
  await running?.stop()
}
