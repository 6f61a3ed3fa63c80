// Row f: the memory of a worker with a long backlog, compared with one that has almost none, after
// the same number of deliveries.
import { readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { compare, type Sample } from '../compare.ts'
import { ENDPOINT } from '../load.ts'
import { type Posthorn, startPosthorn } from '../posthorn.ts'
import type { Child } from '../processes.ts'
import type { Bench, DeliveryCheck, Result, Row } from '../row.ts'
import { type Sink, startSink } from '../sink-child.ts'
import { openStore } from '../stores.ts'

const BACKLOG = 1_000_000
/** Deliveries of each sample; all samples together use only a small part of the backlog. */
const DELIVERIES = 20_000
/** How many jobs are queued where almost none should be. */
const LITTLE = 1_000
const LOOK_INTERVAL_MS = 20

interface Side {
  posthorn: Posthorn
  sink: Sink
}

export const memoryRow: Row = {
  name: 'f',
  title: 'memory of a worker in front of a long backlog, against one with none',
  async play(bench) {
    const backlog = Math.ceil(BACKLOG * bench.scale)
    const deliveries = Math.max(LITTLE, Math.ceil(DELIVERIES * bench.scale))
    if (backlog <= deliveries * bench.pairs) throw new Error('the backlog would come to its end')
    const delivery: DeliveryCheck = { accepted: 0, delivered: 0, doubles: 0 }
    const long = await start(bench)
    const short = await start(bench)
    try {
      await long.posthorn.ask('POST', `/endpoints/${ENDPOINT}/pause`)
      await long.posthorn.enqueue(backlog)
      const result = await compare(
        bench,
        {
          ...{ row: 'f', what: 'memory of a worker on SQLite', unit: 'MiB', better: 'less' },
          ...{ mustReach: 1.3, aim: 1.1 },
        },
        {
          ...{ name: `with a backlog of ${backlog}`, durability: 'every commit' },
          measure: () => afterSomeOfMany(long, deliveries),
        },
        {
          ...{ name: `with a backlog of at most ${LITTLE}`, durability: 'every commit' },
          measure: () => afterLittleByLittle(short, deliveries, delivery),
        },
      )
      return [withNotes(result, deliveries, delivery)]
    } finally {
      await Promise.all([long, short].map(({ posthorn }) => posthorn.stop()))
      for (const { sink } of [long, short]) sink.stop()
    }
  },
}

/** A sink for each, so that late deliveries of the paused one do not count for the other. */
async function start(bench: Bench): Promise<Side> {
  const sink = await startSink()
  const { url } = await openStore(bench, 'sqlite')
  const posthorn = await startPosthorn({ storeUrl: url, folder: bench.folder })
  await posthorn.register(ENDPOINT, { url: sink.url })
  return { posthorn, sink }
}

function withNotes(result: Result, deliveries: number, delivery: DeliveryCheck): Result {
  return {
    ...result,
    delivery,
    notes: [
      `resident memory after each ${deliveries} deliveries of the same worker; SQLite's page ` +
        'cache, at most 16 MiB a process, is in it; the deliveries counted here are those of the ' +
        'short backlog, because the long one does not end',
    ],
  }
}

async function afterSomeOfMany({ posthorn, sink }: Side, count: number): Promise<Sample> {
  const arrived = sink.expect(count)
  await posthorn.ask('POST', `/endpoints/${ENDPOINT}/resume`)
  await arrived
  const value = residentMib(posthorn.workers[0] as Child)
  await posthorn.ask('POST', `/endpoints/${ENDPOINT}/pause`)
  await untilNoneRuns(posthorn)
  return { value }
}

async function afterLittleByLittle(
  { posthorn, sink }: Side,
  count: number,
  delivery: DeliveryCheck,
): Promise<Sample> {
  for (let done = 0; done < count; done += LITTLE) {
    const size = Math.min(LITTLE, count - done)
    const arrived = sink.expect(size)
    await posthorn.enqueue(size)
    delivery.accepted += size
    const { distinct, doubles } = await arrived
    delivery.delivered += distinct
    delivery.doubles += doubles
  }
  const value = residentMib(posthorn.workers[0] as Child)
  await posthorn.untilDone()
  return { value }
}

async function untilNoneRuns(posthorn: Posthorn): Promise<void> {
  for (;;) {
    const { counts } = (await posthorn.ask('GET', `/endpoints/${ENDPOINT}`)) as {
      counts: { running: number }
    }
    if (counts.running === 0) return
    await sleep(LOOK_INTERVAL_MS)
  }
}

/** Resident memory of a process (Linux). */
function residentMib({ process: { pid } }: Child): number {
  const [, kib] = /^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8')) ?? []
  if (kib === undefined) throw new Error('the system does not tell the memory of a process')
  return Number(kib) / 1_024
}
