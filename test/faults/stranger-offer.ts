// Hostile clients without a key. They run in a process of their own, so that their cost does not
// affect the client and the receiver of the round.
import { connect, type Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { BODIES, JUNK, pipelined } from '../hostile/strangers.ts'
import { nowMs } from './history.ts'

export type StrangerKind =
  | 'bodies'
  | 'unfinished bodies'
  | 'pipelines'
  | 'unread answers'
  | 'junk'
  | 'connections'

export interface StrangerOrder {
  kind: StrangerKind
  port: number
  durationMs: number
}

export interface StrangerReport {
  opened: number
  sentBytes: number
  /** Responses that were read, by status. */
  answered: Record<string, number>
  /** Connections that the API has closed. */
  ended: number
}

interface Attack {
  /** Connections at the same time. */
  connections: number
  /** The time until a closed connection is opened again. */
  againMs: number
  /** What the i-th connection sends; null: nothing. */
  bytes: (i: number) => Buffer | null
  reads: boolean
}

const TOKEN_ROUTES = ['complete', 'fail', 'heartbeat'].map((verb) => `POST /jobs/none/${verb}`)
const ROUTES = [...TOKEN_ROUTES, 'POST /jobs', 'POST /jobs/batch', 'GET /', 'GET /health/live']
const bodies = ROUTES.flatMap((line) => Object.values(BODIES).map((build) => build(line)))
const junk = Object.values(JUNK)
const PIPELINES = ['/', '/health/live', '/openapi.json', '/jobs'].map((path) =>
  pipelined(`GET ${path}`).subarray(0, 40_000_000 / 300),
)
const BUNDLE = Buffer.from(
  'GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: localhost\r\n\r\n'.repeat(8),
)
const nth = (all: Buffer[]) => (i: number) => all[i % all.length] as Buffer

const ATTACKS: Record<StrangerKind, Attack> = {
  bodies: { connections: 4, againMs: 200, reads: true, bytes: nth(bodies) },
  'unfinished bodies': {
    ...{ connections: 64, againMs: 1_000, reads: true },
    bytes: (i) => nth(bodies)(i).subarray(0, -10),
  },
  pipelines: { connections: 300, againMs: 1_000, reads: false, bytes: nth(PIPELINES) },
  'unread answers': { connections: 300, againMs: 1_000, reads: false, bytes: () => BUNDLE },
  junk: { connections: 4, againMs: 200, reads: true, bytes: nth(junk) },
  connections: { connections: 3_000, againMs: 2_000, reads: true, bytes: () => null },
}
/** They do not all open at once: the attack would be over before anything is measured. */
const OPENED_AT_ONCE = 20
const OPEN_EVERY_MS = 20

async function attack({ kind, port, durationMs }: StrangerOrder): Promise<StrangerReport> {
  const { connections, againMs, bytes, reads } = ATTACKS[kind]
  const report: StrangerReport = { opened: 0, sentBytes: 0, answered: {}, ended: 0 }
  const sockets = new Set<Socket>()
  const untilMs = nowMs() + durationMs
  let isOver = false

  function open(): void {
    const sent = bytes(report.opened++)
    const socket = connect(port, '127.0.0.1')
    sockets.add(socket)
    if (reads) {
      socket.once('data', (chunk) => {
        const status = chunk.toString('latin1', 9, 12)
        report.answered[status] = (report.answered[status] ?? 0) + 1
      })
    } else {
      socket.pause()
    }
    socket.on('error', () => {})
    socket.on('close', () => {
      sockets.delete(socket)
      if (isOver) return
      report.ended++
      setTimeout(() => !isOver && open(), againMs)
    })
    if (sent === null) return
    socket.write(sent, () => {
      report.sentBytes += sent.length
      // A connection that does not read never notices that it was closed.
      if (!reads) setTimeout(() => socket.resume(), againMs / 2)
    })
  }

  while (nowMs() < untilMs) {
    const missing = report.opened < connections ? connections - report.opened : 0
    for (let i = 0; i < Math.min(missing, OPENED_AT_ONCE); i++) open()
    await sleep(OPEN_EVERY_MS)
  }
  isOver = true
  for (const socket of sockets) socket.destroy()
  return report
}

process.once('message', async (order: StrangerOrder) => {
  const report = await attack(order)
  // The channel is closed already if the round has ended before.
  process.send?.(report, () => process.connected && process.disconnect())
})
