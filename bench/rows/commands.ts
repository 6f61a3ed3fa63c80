// Rows h and i: the cost of a job at saturation, from its POST to its stored end: store commands,
// and CPU of API and worker. Both figures come from the same runs.
import { figureOf, shown } from '../compare.ts'
import { ENDPOINT } from '../load.ts'
import { type Posthorn, startPosthorn } from '../posthorn.ts'
import { nextMessage, startChild } from '../processes.ts'
import {
  type Bench,
  type DeliveryCheck,
  type Result,
  type Row,
  type StoreEngine,
  spread,
} from '../row.ts'
import { type Sink, startSink } from '../sink-child.ts'
import { openStore } from '../stores.ts'

const JOBS = { sqlite: 20_000, mongo: 2_000 }
/** A warm-up before the measurement, so that code is compiled and connections are open. */
const WARM_UP_SHARE = 0.2

/** The measurement of one deployment, per job. */
interface Run {
  storeName: string
  /** CPU of a loop that signs and sends a request, with no queue, just after. */
  bareUs: number
  commands: { api: number; worker: number }
  cpuUs: { api: number; worker: number }
}

export const commandsRow: Row = {
  name: 'h',
  title: 'store commands, and CPU (row i), of a job from its POST to its recorded end',
  async play(bench) {
    const results: Result[] = []
    const sink = await startSink()
    try {
      for (const engine of bench.stores) results.push(...(await playOn(bench, engine, sink)))
    } finally {
      sink.stop()
    }
    return results
  },
}

async function playOn(bench: Bench, engine: StoreEngine, sink: Sink): Promise<Result[]> {
  const count = Math.ceil(JOBS[engine] * bench.scale)
  const delivery: DeliveryCheck = { accepted: 0, delivered: 0, doubles: 0 }
  const runs: Run[] = []
  for (let i = 0; i < bench.pairs; i++) {
    const played = await playOnce(bench, engine, sink, count, delivery)
    const run = { ...played, bareUs: await bareLoopUs(sink, count) }
    runs.push(run)
    const { storeName, commands, cpuUs, bareUs } = run
    bench.say(
      `  ${i + 1}/${bench.pairs} ${storeName}: ${shown(commands.api + commands.worker)} commands, ` +
        `${shown(cpuUs.api + cpuUs.worker)} µs a job, ${shown(bareUs)} to sign and send`,
    )
  }
  const [{ storeName }] = runs as [Run]
  const side = { name: `Posthorn on ${storeName}`, durability: 'every commit' }
  const shared = { better: 'less', of: 'figure' } as const
  const what = `of a job on ${storeName}, POST to recorded end`
  const medianOf = (figureIn: (run: Run) => number) =>
    shown(spread(runs.slice(1).map(figureIn)).median)
  // On MongoDB the CPU depends on the speed of the engine, which decides how full the batches are.
  // So it is printed without a bound.
  const cpuBounds =
    engine === 'sqlite' ? { mustReach: 2.2, aim: 1.6 } : { mustReach: null, aim: null }
  return [
    {
      ...figureOf(
        {
          ...{ ...shared, row: 'h', what: `store commands ${what}`, unit: 'commands' },
          ...{ mustReach: 0.2, aim: 0.05 },
        },
        side,
        runs.map(({ commands }) => ({ value: commands.api + commands.worker })),
      ),
      delivery,
      notes: [
        `commands a job: API ${medianOf(({ commands }) => commands.api)}, ` +
          `worker ${medianOf(({ commands }) => commands.worker)}`,
      ],
    },
    {
      ...figureOf(
        {
          ...{ ...shared, row: 'i', what: `CPU of API and worker ${what}`, ...cpuBounds },
          unit: 'times what it costs to sign and send',
        },
        side,
        runs.map(({ cpuUs, bareUs }) => ({ value: (cpuUs.api + cpuUs.worker) / bareUs, cpuUs })),
      ),
      delivery,
      notes: [`to sign and send with no queue cost ${medianOf(({ bareUs }) => bareUs)} µs a job`],
    },
  ]
}

/**
 * Uses a deployment of its own: the counts that its processes report at their end are the commands
 * of this run.
 */
async function playOnce(
  bench: Bench,
  engine: StoreEngine,
  sink: Sink,
  count: number,
  delivery: DeliveryCheck,
): Promise<Omit<Run, 'bareUs'>> {
  const store = await openStore(bench, engine)
  const posthorn = await startPosthorn({ storeUrl: store.url, folder: bench.folder })
  await posthorn.register(ENDPOINT, { url: sink.url })
  const warmUp = Math.ceil(count * WARM_UP_SHARE)
  await postAndDeliver(posthorn, sink, warmUp, delivery)
  const cpuUs = await postAndDeliver(posthorn, sink, count, delivery)
  const { api, worker } = await posthorn.stop()
  await store.close()
  const jobs = warmUp + count
  return {
    storeName: store.name,
    commands: { api: api / jobs, worker: worker / jobs },
    cpuUs,
  }
}

/** A measure of the speed of the machine in this run. */
async function bareLoopUs(sink: Sink, count: number): Promise<number> {
  const loop = startChild('bare-loop.ts', [sink.url])
  await nextMessage(loop)
  let us = 0
  for (const amount of [Math.ceil(count * WARM_UP_SHARE), count]) {
    const arrived = sink.expect(amount)
    loop.process.send({ send: amount })
    us = (await nextMessage(loop)).cpuUs
    await arrived
  }
  loop.process.disconnect()
  return us
}

/** Microseconds per job, by process: from the first POST until the last outcome is stored. */
async function postAndDeliver(
  posthorn: Posthorn,
  sink: Sink,
  count: number,
  delivery: DeliveryCheck,
): Promise<{ api: number; worker: number }> {
  delivery.accepted += count
  const before = posthorn.cpuUs()
  const arrived = sink.expect(count)
  const poster = startChild('poster.ts', [posthorn.apiUrl, String(count)])
  const { refused } = await nextMessage(poster)
  if (refused > 0) throw new Error(`${refused} of ${count} were refused`)
  const { distinct, doubles } = await arrived
  delivery.delivered += distinct
  delivery.doubles += doubles
  await posthorn.untilDone()
  const after = posthorn.cpuUs()
  return {
    api: (after.api - before.api) / count,
    worker: (after.worker - before.worker) / count,
  }
}
