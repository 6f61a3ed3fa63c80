// The protocol of the processes of all peers. They handle one order at a time: { enqueue: n }, {
// go: true }, { halt: true }.
import { createSender, type Sender } from '../deliver.ts'
import { PAYLOAD } from '../load.ts'

export interface Peer {
  /** Adds this many jobs in the fastest way that the peer has. */
  enqueue(count: number): Promise<void>
  /** Starts or resumes deliveries. */
  go(): Promise<void>
  /** Resolves once nothing is being delivered and no further delivery will start. */
  halt(): Promise<void>
}

/** The arguments of a peer's process. */
export interface PeerWords {
  /** URL of its Redis, PostgreSQL or MongoDB. */
  serverUrl: string
  mode: string
  sender: Sender
}

/** Jobs in a bulk request: as many as POST /jobs/batch of Posthorn accepts. */
const BULK = 1_000

export const QUEUE = 'sink'
/** An object, as users of these queues have it. Each queue serializes it in its own way. */
export const payload: object = JSON.parse(PAYLOAD)

export function peerWords(): PeerWords {
  const [sinkUrl, serverUrl, mode] = process.argv.slice(2) as [string, string, string]
  return { serverUrl, mode, sender: createSender(sinkUrl) }
}

/** Splits the jobs to add into bulk requests. */
export function bulks<T>(count: number, one: T): T[][] {
  const full = Math.ceil(count / BULK)
  return Array.from({ length: full }, (_, i) => Array(Math.min(BULK, count - i * BULK)).fill(one))
}

export function answerOrders(peer: Peer): void {
  process.on('message', async (order: { enqueue?: number; go?: true; halt?: true }) => {
    if (order.enqueue !== undefined) {
      await peer.enqueue(order.enqueue)
      process.send?.({ enqueued: order.enqueue })
    } else if (order.go) {
      await peer.go()
      process.send?.({ going: true })
    } else {
      await peer.halt()
      process.send?.({ halted: true })
    }
  })
  process.once('disconnect', () => process.exit(0))
  process.send?.({ ready: true })
}
