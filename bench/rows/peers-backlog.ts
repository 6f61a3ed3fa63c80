// Row b compared with the peers: the same backlog, sent by each in its own way with the same pool,
// signature and sink.
import { compare, type Sample } from '../compare.ts'
import { ENDPOINT } from '../load.ts'
import type { PeerName } from '../peers/settings.ts'
import { type RunningPeer, startPeer } from '../peers/start.ts'
import { startPosthorn } from '../posthorn.ts'
import { cpuUsOf } from '../processes.ts'
import type { Bench, DeliveryCheck, Result, Row, StoreEngine } from '../row.ts'
import { type Server, startPostgres, startRedis } from '../servers.ts'
import { type Sink, startSink } from '../sink-child.ts'
import { openStore, sharedMongo } from '../stores.ts'
import { deliverBacklog } from './backlog.ts'

interface Backlog {
  mode: string
  count: number
  mustReach: number | null
  aim: number | null
  /** The limit for sides that are slow. */
  maxPairs?: number
}

interface Contest {
  peer: PeerName
  engine: StoreEngine
  /** A database for each backlog, so that none finds jobs of another. */
  startServer(): Promise<Server>
  backlogs: Backlog[]
  notes?: string[]
}

const NOTHING_PROMISED = { mustReach: null, aim: null }
/** Two pairs that count, because the largest backlog would take most of the time of the run. */
const FEW_PAIRS = 3
/** With a stand-in engine only small backlogs are meaningful. */
const STAND_IN_MAX_BACKLOG = 10_000
/** A limit, because a job that a peer lost never arrives. */
const BACKLOG_DEADLINE_MS = 900_000

export const bullmqRow: Row = {
  name: 'b-bullmq',
  title: 'a backlog delivered, signed, against BullMQ on Redis',
  play: (bench) =>
    playAll(bench, {
      ...{ peer: 'bullmq', engine: 'sqlite', startServer: () => startRedis(bench.folder) },
      backlogs: [
        { mode: 'installed', count: 1_000, ...NOTHING_PROMISED },
        { mode: 'best', count: 1_000, mustReach: 1.8, aim: 2.5 },
        { mode: 'best', count: 10_000, mustReach: 1.8, aim: 2.5 },
        { mode: 'best', count: 100_000, mustReach: 1.8, aim: 2.5, maxPairs: FEW_PAIRS },
      ],
    }),
}

export const graphileRow: Row = {
  name: 'b-graphile',
  title: 'a backlog delivered, signed, against Graphile Worker on PostgreSQL',
  play: (bench) =>
    playAll(bench, {
      ...{ peer: 'graphile-worker', engine: 'sqlite', startServer: startPostgres },
      backlogs: [
        { mode: 'installed', count: 1_000, ...NOTHING_PROMISED },
        { mode: 'unbatched', count: 10_000, mustReach: 4, aim: 8 },
        { mode: 'best', count: 10_000, mustReach: 1.5, aim: 2 },
      ],
    }),
}

export const pgBossRow: Row = {
  name: 'b-pg-boss',
  title: 'a backlog delivered, signed, against pg-boss on PostgreSQL',
  play: (bench) =>
    playAll(bench, {
      ...{ peer: 'pg-boss', engine: 'sqlite', startServer: startPostgres },
      backlogs: [{ mode: 'best', count: 10_000, mustReach: 1.5, aim: 2 }],
      notes: ['as installed, pg-boss takes one job every two seconds: not measured'],
    }),
}

export const agendaRow: Row = {
  name: 'b-agenda',
  title: 'a backlog delivered, signed, against Agenda on the same MongoDB',
  async play(bench) {
    if (!bench.stores.includes('mongo')) return []
    const running = await sharedMongo()
    const isStandIn = running.engine === 'secantusd-rs'
    const backlogs: Backlog[] = [
      { mode: 'installed', count: 1_000, ...NOTHING_PROMISED, maxPairs: FEW_PAIRS },
      { mode: 'best', count: 1_000, mustReach: 3, aim: 5 },
      { mode: 'best', count: 10_000, mustReach: 8, aim: 20, maxPairs: 2 },
      { mode: 'best', count: 100_000, mustReach: 100, aim: 200, maxPairs: 2 },
    ]
    return playAll(bench, {
      ...{ peer: 'agenda', engine: 'mongo' },
      async startServer() {
        const { name, url } = await openStore(bench, 'mongo')
        // Both sides use this server, so its CPU cannot be attributed to one. It keeps running for
        // the next row.
        return { url, version: name, cpuUs: () => 0, stop: async () => {} }
      },
      backlogs: backlogs.filter(({ count }) => !isStandIn || count <= STAND_IN_MAX_BACKLOG),
      notes: isStandIn
        ? [`${running.engine} stands in for mongod; larger backlogs need mongod`]
        : [],
    })
  },
}

async function playAll(bench: Bench, contest: Contest): Promise<Result[]> {
  const results: Result[] = []
  for (const backlog of contest.backlogs) {
    const server = await contest.startServer()
    const sink = await startSink()
    try {
      results.push(await playOne(bench, contest, backlog, { server, sink }))
    } finally {
      sink.stop()
      await server.stop()
    }
  }
  return results
}

async function playOne(
  bench: Bench,
  { peer: peerName, engine, notes = [] }: Contest,
  { mode, count: fullCount, maxPairs = Number.POSITIVE_INFINITY, ...bounds }: Backlog,
  { server, sink }: { server: Server; sink: Sink },
): Promise<Result> {
  const count = Math.ceil(fullCount * bench.scale)
  const peer = await startPeer(peerName, mode, { sinkUrl: sink.url, serverUrl: server.url })
  const store = await openStore(bench, engine)
  const posthorn = await startPosthorn({ storeUrl: store.url, folder: bench.folder })
  const delivery: DeliveryCheck = { accepted: 0, delivered: 0, doubles: 0 }
  const theirs: DeliveryCheck = { accepted: 0, delivered: 0, doubles: 0 }
  await posthorn.register(ENDPOINT, { url: sink.url })
  const result = await compare(
    { ...bench, pairs: Math.min(bench.pairs, maxPairs) },
    {
      ...{ row: 'b', what: `${count} jobs on ${store.name}`, unit: 'jobs/s', better: 'more' },
      ...bounds,
    },
    {
      ...{ name: 'Posthorn', durability: 'every commit' },
      measure: () => deliverBacklog(posthorn, sink, count, delivery),
    },
    {
      ...{ name: `${peer.name} on ${server.version}`, durability: peer.durability },
      measure: () => deliverTheirs(peer, { server, sink, count }, theirs),
    },
  )
  peer.stop()
  await posthorn.stop()
  await store.close()
  return { ...result, delivery, notes: [...notes, ...doubtsAbout(peer.name, theirs)] }
}

/** Does for a peer what deliverBacklog() does for Posthorn. */
async function deliverTheirs(
  peer: RunningPeer,
  { server, sink, count }: { server: Server; sink: Sink; count: number },
  delivery: DeliveryCheck,
): Promise<Sample> {
  await peer.halt()
  await peer.enqueue(count)
  delivery.accepted += count
  const cpuUs = () => ({
    worker: cpuUsOf(peer.child),
    sink: cpuUsOf(sink.child),
    server: server.cpuUs(),
  })
  const before = cpuUs()
  const arrived = within(BACKLOG_DEADLINE_MS, sink.expect(count), `${peer.name} lost a job`)
  await peer.go()
  const { seconds, distinct, doubles } = await arrived
  delivery.delivered += distinct
  delivery.doubles += doubles
  const after = cpuUs()
  return {
    value: count / seconds,
    cpuUs: {
      worker: (after.worker - before.worker) / count,
      sink: (after.sink - before.sink) / count,
      // The CPU of a server that both sides use is not counted.
      ...(after.server > 0 ? { server: (after.server - before.server) / count } : {}),
    },
  }
}

function doubtsAbout(name: string, { accepted, delivered, doubles }: DeliveryCheck): string[] {
  if (accepted === delivered && doubles === 0) return []
  return [`${name}: ${accepted} enqueued, ${delivered} delivered, ${doubles} twice`]
}

async function within<T>(deadlineMs: number, promise: Promise<T>, otherwise: string): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(otherwise)), deadlineMs)
  })
  return Promise.race([promise, late]).finally(() => clearTimeout(timer))
}
