// Whole systems under measurement, from POST to delivery: Posthorn, and a peer behind its
// application.
import { compare, type Sample, shown, type Terms } from '../compare.ts'
import { ENDPOINT, MAX_LAG_MS } from '../load.ts'
import type { PeerName } from '../peers/settings.ts'
import { startPeer } from '../peers/start.ts'
import { startPosthorn } from '../posthorn.ts'
import { type Child, cpuUsOf, nextMessage, startChild } from '../processes.ts'
import type { Order, Tally } from '../round-trips.ts'
import { type Bench, type DeliveryCheck, type Result, type StoreEngine, spread } from '../row.ts'
import type { Server } from '../servers.ts'
import { openStore } from '../stores.ts'

/** The process that posts and receives. */
export interface Trips {
  sinkUrl: string
  child: Child
  play(order: Order): Promise<Tally>
  stop(): void
}

export interface System {
  /** Name, with version, settings and store. */
  name: string
  durability: string
  apiUrl: string
  /** CPU so far by process, in microseconds. */
  cpuUs(): Record<string, number>
  /** Over all measurements. */
  delivery: DeliveryCheck
  stop(): Promise<void>
}

/** A warm-up before the measurement, so that code is compiled and connections are open. */
const WARM_UP_SECONDS = 2
const WARM_UP_PACE = { outstanding: 100 }

export async function startTrips(): Promise<Trips> {
  const child = startChild('round-trips.ts', [])
  const { url } = await nextMessage(child)
  return {
    ...{ sinkUrl: url, child },
    play(order) {
      const reply = nextMessage(child)
      child.process.send(order)
      return reply
    },
    stop: () => child.process.disconnect(),
  }
}

export async function startPosthornSystem(
  bench: Bench,
  engine: StoreEngine,
  { sinkUrl }: Trips,
): Promise<System> {
  const store = await openStore(bench, engine)
  const posthorn = await startPosthorn({ storeUrl: store.url, folder: bench.folder })
  await posthorn.register(ENDPOINT, { url: sinkUrl })
  return {
    ...{ name: `Posthorn on ${store.name}`, durability: 'every commit' },
    ...{ apiUrl: posthorn.apiUrl, delivery: { accepted: 0, delivered: 0, doubles: 0 } },
    cpuUs: () => ({ ...posthorn.cpuUs() }),
    async stop() {
      await posthorn.stop()
      await store.close()
    },
  }
}

/** The peer's worker with its best settings, and the application that adds jobs. */
export async function startPeerSystem(
  peerName: PeerName,
  server: Server,
  { sinkUrl }: Trips,
): Promise<System> {
  const peer = await startPeer(peerName, 'best', { sinkUrl, serverUrl: server.url })
  const app = startChild(`peers/${peerName}-app.ts`, [server.url])
  const { url } = await nextMessage(app)
  await peer.go()
  return {
    ...{ name: `${peer.name} on ${server.version}`, durability: peer.durability },
    ...{ apiUrl: url, delivery: { accepted: 0, delivered: 0, doubles: 0 } },
    cpuUs: () => ({ api: cpuUsOf(app), worker: cpuUsOf(peer.child), server: server.cpuUs() }),
    async stop() {
      app.process.disconnect()
      peer.stop()
    },
  }
}

export interface TripTerms extends Terms {
  order: Omit<Order, 'apiUrl'>
  /** Which part of a tally is compared. */
  reading(tally: Tally): number
}

/** Warms up both systems, measures in pairs, and stops both. */
export async function compareTrips(
  bench: Bench,
  trips: Trips,
  { order, reading, ...terms }: TripTerms,
  [ours, theirs]: [System, System],
): Promise<Result> {
  const tallies = new Map<System, Tally[]>()
  const sideOf = (system: System) => ({
    ...{ name: system.name, durability: system.durability },
    async measure() {
      const { sample, tally } = await measureTrips(trips, system, order, reading)
      tallies.set(system, [...(tallies.get(system) ?? []), tally])
      return sample
    },
  })
  for (const { apiUrl } of [ours, theirs]) {
    await trips.play({ apiUrl, seconds: WARM_UP_SECONDS * bench.scale, pace: WARM_UP_PACE })
  }
  const result = await compare(bench, terms, sideOf(ours), sideOf(theirs))
  for (const system of [ours, theirs]) await system.stop()
  const notes = [...tallies].map(([system, all]) => noteOn(system, all.slice(1)))
  return { ...result, delivery: ours.delivery, notes: [...notes, ...doubtsAbout(theirs)] }
}

async function measureTrips(
  trips: Trips,
  system: System,
  order: TripTerms['order'],
  reading: TripTerms['reading'],
): Promise<{ sample: Sample; tally: Tally }> {
  const before = { ...system.cpuUs(), load: cpuUsOf(trips.child) }
  const tally = await trips.play({ ...order, apiUrl: system.apiUrl })
  const after: Record<string, number> = { ...system.cpuUs(), load: cpuUsOf(trips.child) }
  if (tally.refused > 0) throw new Error(`${system.name} refused ${tally.refused} jobs`)
  system.delivery.accepted += tally.accepted
  system.delivery.delivered += tally.delivered
  system.delivery.doubles += tally.doubles
  const cpuUs = Object.entries(before).map(([process, us]) => [
    process,
    ((after[process] ?? 0) - us) / tally.delivered,
  ])
  return { sample: { value: reading(tally), cpuUs: Object.fromEntries(cpuUs) }, tally }
}

/** Medians of the samples that count. */
function noteOn({ name }: System, tallies: Tally[]): string {
  const median = (of: (tally: Tally) => number) => shown(spread(tallies.map(of)).median)
  const rate = median(({ inTime, seconds }) => inTime / seconds)
  const p50 = median(({ p50LagMs }) => p50LagMs)
  const p99 = median(({ p99LagMs }) => p99LagMs)
  const late = median(({ inTime, delivered }) => 100 * (1 - inTime / delivered))
  return `${name}: ${rate} jobs/s, lag p50 ${p50} ms, p99 ${p99} ms, ${late} % over ${MAX_LAG_MS} ms`
}

function doubtsAbout({ name, delivery }: System): string[] {
  const { accepted, delivered, doubles } = delivery
  if (accepted === delivered && doubles === 0) return []
  return [`${name}: ${accepted} accepted, ${delivered} delivered, ${doubles} twice`]
}
