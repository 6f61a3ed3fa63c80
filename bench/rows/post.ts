// Row a1: POST /jobs, durable, compared with a Fastify application that stores nothing: with the
// usual response, which is the whole job, and with the minimal one.
import { compare, type Sample, type Terms } from '../compare.ts'
import { ENDPOINT, MINIMAL, PAYLOAD_BYTES, USUAL_BYTES } from '../load.ts'
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

type Bounds = Pick<Terms, 'mustReach' | 'aim'>
/** The goals are those of the usual response. */
const NO_BOUNDS: Bounds = { mustReach: null, aim: null }

export const postRow: Row = {
  name: 'a1',
  title: 'POST /jobs, one job each, 64 connections',
  async play(bench) {
    const results: Result[] = []
    for (const engine of bench.stores) results.push(...(await playOn(bench, engine)))
    return results
  },
}

async function playOn(bench: Bench, engine: StoreEngine): Promise<Result[]> {
  const store = await openStore(bench, engine)
  const posthorn = await startPosthorn({ storeUrl: store.url, folder: bench.folder, workers: 0 })
  await posthorn.register(ENDPOINT, { url: 'http://127.0.0.1:9999/' })
  const noop = startChild('noop.ts', [])
  const noopUrl: string = (await nextMessage(noop)).url
  const posts = Math.ceil(POSTS[engine] * bench.scale)
  const against = (what: string, bounds: Bounds, ...prefer: string[]) =>
    compare(
      bench,
      {
        ...{ row: 'a1', what: `${what} on ${store.name}`, unit: 'requests/s', better: 'more' },
        ...bounds,
      },
      {
        ...{ name: 'Posthorn', durability: 'every commit' },
        measure: () => post(posthorn.api, posthorn.apiUrl, posts, prefer),
      },
      {
        ...{ name: 'a Fastify that stores nothing', durability: 'none' },
        measure: () => post(noop, noopUrl, posts, prefer),
      },
    )
  try {
    return [
      await against('POST /jobs', BOUNDS[engine]),
      await against(`POST /jobs, ${MINIMAL},`, NO_BOUNDS, MINIMAL),
    ]
  } finally {
    noop.process.disconnect()
    await posthorn.stop()
    await store.close()
  }
}

async function post(child: Child, url: string, amount: number, prefer: string[]): Promise<Sample> {
  const cpuBeforeUs = cpuUsOf(child)
  const poster = startChild('poster.ts', [url, String(amount), ...prefer])
  const { seconds, refused } = await nextMessage(poster)
  if (refused > 0) throw new Error(`${refused} of ${amount} were refused`)
  return { value: amount / seconds, cpuUs: { api: (cpuUsOf(child) - cpuBeforeUs) / amount } }
}
