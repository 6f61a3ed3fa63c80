// Row a1: POST /jobs, durable, compared with a Fastify application that stores nothing.
import { compare, type Sample } from '../compare.ts'
import { ENDPOINT, PAYLOAD_BYTES, USUAL_BYTES } from '../load.ts'
import { startPosthorn } from '../posthorn.ts'
import { type Child, cpuUsOf, nextMessage, startChild } from '../processes.ts'
import type { Bench, Result, Row, StoreEngine } from '../row.ts'
import { openStore } from '../stores.ts'

const POSTS = { sqlite: 40_000, mongo: 3_000 }
const BOUNDS = {
  // Each byte of a payload is also written to the log and from there to the file.
  sqlite: { mustReach: PAYLOAD_BYTES > USUAL_BYTES ? 0.75 : 0.85, aim: 1 },
  mongo: { mustReach: 0.35, aim: 0.6 },
}

export const postRow: Row = {
  name: 'a1',
  title: 'POST /jobs, one job each, 64 connections',
  async play(bench) {
    const results: Result[] = []
    for (const engine of bench.stores) results.push(await playOn(bench, engine))
    return results
  },
}

async function playOn(bench: Bench, engine: StoreEngine): Promise<Result> {
  const posts = Math.ceil(POSTS[engine] * bench.scale)
  const store = await openStore(bench, engine)
  const posthorn = await startPosthorn({ storeUrl: store.url, folder: bench.folder, workers: 0 })
  await posthorn.register(ENDPOINT, { url: 'http://127.0.0.1:9999/' })
  const noop = startChild('noop.ts', [])
  const noopUrl: string = (await nextMessage(noop)).url
  try {
    return await compare(
      bench,
      {
        ...{ row: 'a1', what: `POST /jobs on ${store.name}`, unit: 'requests/s', better: 'more' },
        ...BOUNDS[engine],
      },
      {
        ...{ name: 'Posthorn', durability: 'every commit' },
        measure: () => post(posthorn.api, posthorn.apiUrl, posts),
      },
      {
        ...{ name: 'a Fastify that stores nothing', durability: 'none' },
        measure: () => post(noop, noopUrl, posts),
      },
    )
  } finally {
    noop.process.disconnect()
    await posthorn.stop()
    await store.close()
  }
}

async function post(child: Child, url: string, amount: number): Promise<Sample> {
  const cpuBeforeUs = cpuUsOf(child)
  const poster = startChild('poster.ts', [url, String(amount)])
  const { seconds, refused } = await nextMessage(poster)
  if (refused > 0) throw new Error(`${refused} of ${amount} were refused`)
  return { value: amount / seconds, cpuUs: { api: (cpuUsOf(child) - cpuBeforeUs) / amount } }
}
