// The bytes of a store, as someone who steals the disk could read them.
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { MongoClient } from 'mongodb'

/** Reads all files in the folder of a SQLite store. */
export function rawTextOf(folder: string): string {
  return readdirSync(folder)
    .map((name) => readFileSync(join(folder, name), 'latin1'))
    .join('\n')
}

/** Reads all collections of a MongoDB database. */
export function rawTextOfDatabase(url: string): Promise<string> {
  return withClient(url, async (client) => {
    const collections = await client.db().collections()
    const documents = await Promise.all(collections.map((one) => one.find().toArray()))
    return JSON.stringify(documents)
  })
}

export async function dropDatabase(url: string): Promise<void> {
  await withClient(url, (client) => client.db().dropDatabase())
}

async function withClient<T>(url: string, work: (client: MongoClient) => Promise<T>): Promise<T> {
  const client = new MongoClient(url)
  try {
    return await work(client)
  } finally {
    await client.close()
  }
}
