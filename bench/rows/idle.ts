// Row idle: the cost of an API and a worker without work, in percent of one core.
import { setTimeout as sleep } from 'node:timers/promises'
import { figureOf, type Sample } from '../compare.ts'
import { ENDPOINT } from '../load.ts'
import { startPosthorn } from '../posthorn.ts'
import type { Bench, Result, Row, StoreEngine } from '../row.ts'
import { openStore } from '../stores.ts'

const MEASURED_S = 20
/**
 * In a shorter time, one tick of the system's CPU counter would be a fifth of the promised value.
 */
const LEAST_MEASURED_S = 5
/** The time after the start until one-time code has run and caches are full. */
const SETTLE_MS = 5_000

export const idleRow: Row = {
  name: 'idle',
  title: 'CPU of an API and a worker with nothing to do',
  async play(bench) {
    const results: Result[] = []
    for (const engine of bench.stores) results.push(await playOn(bench, engine))
    return results
  },
}

async function playOn(bench: Bench, engine: StoreEngine): Promise<Result> {
  const seconds = Math.max(LEAST_MEASURED_S, MEASURED_S * bench.scale)
  const store = await openStore(bench, engine)
  const posthorn = await startPosthorn({ storeUrl: store.url, folder: bench.folder })
  const samples: Sample[] = []
  const shares: { api: number; worker: number }[] = []
  await posthorn.register(ENDPOINT, { url: 'http://127.0.0.1:9999/' })
  await sleep(SETTLE_MS)
  for (let i = 0; i < bench.pairs; i++) {
    const startedAtMs = performance.now()
    const before = posthorn.cpuUs()
    await sleep(seconds * 1_000)
    const after = posthorn.cpuUs()
    const percentOf = (cpuUs: number) => cpuUs / 10 / (performance.now() - startedAtMs)
    const share = {
      api: percentOf(after.api - before.api),
      worker: percentOf(after.worker - before.worker),
    }
    samples.push({ value: share.api + share.worker })
    shares.push(share)
    bench.say(
      `  ${i + 1}/${bench.pairs} ${store.name}: API ${share.api.toFixed(2)} %, ` +
        `worker ${share.worker.toFixed(2)} %`,
    )
  }
  const commands = await posthorn.stop()
  await store.close()
  const result = figureOf(
    {
      ...{ row: 'idle', what: `CPU of an idle API and worker on ${store.name}`, of: 'figure' },
      ...{ unit: '% of one core', better: 'less', mustReach: 1, aim: null },
    },
    { name: `Posthorn on ${store.name}`, durability: 'every commit' },
    samples,
  )
  const mean = (who: 'api' | 'worker') =>
    (shares.slice(1).reduce((sum, share) => sum + share[who], 0) / (shares.length - 1)).toFixed(2)
  const idleS = SETTLE_MS / 1_000 + bench.pairs * seconds
  return {
    ...result,
    notes: [
      `API ${mean('api')} %, worker ${mean('worker')} %, over ${seconds} s each time; commands a ` +
        `second, start and end included: API ${(commands.api / idleS).toFixed(1)}, worker ` +
        `${(commands.worker / idleS).toFixed(1)}`,
    ],
  }
}
