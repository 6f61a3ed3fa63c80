// Row b: one worker delivers a backlog over HTTP, signed, compared with a loop that signs and sends
// without a queue.
import { compare, type Sample, type Side } from '../compare.ts'
import { ENDPOINT } from '../load.ts'
import { type Posthorn, startPosthorn } from '../posthorn.ts'
import { type Child, cpuUsOf, nextMessage, startChild } from '../processes.ts'
import type { Bench, DeliveryCheck, Result, Row } from '../row.ts'
import { type Sink, startSink } from '../sink-child.ts'
import { openStore } from '../stores.ts'

const BACKLOG = 20_000

export const backlogRow: Row = {
  name: 'b-bare',
  title: 'a backlog delivered, signed, by one worker, against the bare loop',
  async play(bench) {
    const count = Math.ceil(BACKLOG * bench.scale)
    const sink = await startSink()
    const loop = startChild('bare-loop.ts', [sink.url])
    await nextMessage(loop)
    try {
      const { result } = await againstBacklog(bench, sink, count, {
        ...{ row: 'b', what: `${count} jobs on SQLite`, mustReach: 0.65, aim: 0.85 },
        theirs: {
          ...{ name: 'sign and send, no queue', durability: 'none' },
          measure: () => bareLoop(loop, sink, count),
        },
      })
      return [result]
    } finally {
      loop.process.disconnect()
      sink.stop()
    }
  },
}

interface BacklogTerms {
  row: string
  what: string
  mustReach: number | null
  aim: number | null
  theirs: Side
}

/**
 * Compares the delivery of a backlog by Posthorn, on SQLite with one worker, with whatever `theirs`
 * measures.
 */
async function againstBacklog(
  bench: Bench,
  sink: Sink,
  count: number,
  { theirs, ...terms }: BacklogTerms,
): Promise<{ result: Result; commandsPerJob: number }> {
  const store = await openStore(bench, 'sqlite')
  const posthorn = await startPosthorn({ storeUrl: store.url, folder: bench.folder })
  const delivery: DeliveryCheck = { accepted: 0, delivered: 0, doubles: 0 }
  await posthorn.register(ENDPOINT, { url: sink.url })
  const result = await compare(
    bench,
    { ...terms, unit: 'jobs/s', better: 'more' },
    {
      ...{ name: 'Posthorn', durability: 'every commit' },
      measure: () => deliverBacklog(posthorn, sink, count, delivery),
    },
    theirs,
  )
  const commands = await posthorn.stop()
  const commandsPerJob = (commands.api + commands.worker) / delivery.accepted
  return { result: { ...result, delivery }, commandsPerJob }
}

/**
 * Measures from the first arrival to the last one, and the CPU from when the endpoint is resumed.
 */
export async function deliverBacklog(
  posthorn: Posthorn,
  sink: Sink,
  count: number,
  delivery: DeliveryCheck,
): Promise<Sample> {
  await posthorn.ask('POST', `/endpoints/${ENDPOINT}/pause`)
  await posthorn.enqueue(count)
  delivery.accepted += count
  const before = posthorn.cpuUs()
  const sinkBefore = cpuUsOf(sink.child)
  const arrived = sink.expect(count)
  await posthorn.ask('POST', `/endpoints/${ENDPOINT}/resume`)
  const { seconds, distinct, doubles } = await arrived
  delivery.delivered += distinct
  delivery.doubles += doubles
  const after = posthorn.cpuUs()
  return {
    value: count / seconds,
    cpuUs: {
      worker: (after.worker - before.worker) / count,
      sink: (cpuUsOf(sink.child) - sinkBefore) / count,
    },
  }
}

/** Uses one process for all samples, so that it is as warm as the worker. */
async function bareLoop(loop: Child, sink: Sink, count: number): Promise<Sample> {
  const arrived = sink.expect(count)
  loop.process.send({ send: count })
  const { cpuUs } = await nextMessage(loop)
  const { seconds } = await arrived
  return { value: count / seconds, cpuUs: { loop: cpuUs } }
}
