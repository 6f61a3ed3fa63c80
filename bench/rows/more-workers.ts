// Row workers: a backlog on SQLite with 1, 2 and 4 workers on one machine. More workers cannot make
// a machine faster than its cores allow, but they must not make it slower.
import { compare, type Side } from '../compare.ts'
import { ENDPOINT } from '../load.ts'
import { type Posthorn, startPosthorn } from '../posthorn.ts'
import type { Bench, DeliveryCheck, Result, Row } from '../row.ts'
import { type Sink, startSink } from '../sink-child.ts'
import { openStore } from '../stores.ts'
import { deliverBacklog } from './backlog.ts'

const BACKLOG = 20_000
const WORKER_COUNTS = [2, 4]

export const moreWorkersRow: Row = {
  name: 'workers',
  title: 'a backlog on SQLite with 2 and 4 workers, against one',
  async play(bench) {
    const results: Result[] = []
    const sink = await startSink()
    try {
      for (const count of WORKER_COUNTS) results.push(await againstOne(bench, sink, count))
    } finally {
      sink.stop()
    }
    return results
  },
}

async function againstOne(bench: Bench, sink: Sink, workers: number): Promise<Result> {
  const jobs = Math.ceil(BACKLOG * bench.scale)
  const delivery: DeliveryCheck = { accepted: 0, delivered: 0, doubles: 0 }
  // Two deployments side by side; the one that is not measured is idle.
  const many = await startOn(bench, sink, workers)
  const one = await startOn(bench, sink, 1)
  const sideOf = (name: string, posthorn: Posthorn): Side => ({
    ...{ name, durability: 'every commit' },
    async measure() {
      const sample = await deliverBacklog(posthorn, sink, jobs, delivery)
      await posthorn.untilDone()
      return sample
    },
  })
  const result = await compare(
    bench,
    {
      ...{ row: 'workers', what: `${jobs} jobs on SQLite, ${workers} workers`, unit: 'jobs/s' },
      ...{ better: 'more', mustReach: 1, aim: 1.2 },
    },
    sideOf(`${workers} workers`, many),
    sideOf('1 worker', one),
  )
  const commands = { many: await many.stop(), one: await one.stop() }
  const perJob = (count: number) => (count / (delivery.accepted / 2)).toFixed(3)
  return {
    ...result,
    delivery,
    notes: [
      `commands of the workers per job: ${perJob(commands.many.worker)}, of the one ` +
        `${perJob(commands.one.worker)}`,
    ],
  }
}

async function startOn(bench: Bench, sink: Sink, workers: number): Promise<Posthorn> {
  const store = await openStore(bench, 'sqlite')
  const posthorn = await startPosthorn({ storeUrl: store.url, folder: bench.folder, workers })
  await posthorn.register(ENDPOINT, { url: sink.url })
  return posthorn
}
