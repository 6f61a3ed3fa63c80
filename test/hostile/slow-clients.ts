// Clients that are slow on purpose: they keep a connection open and send or read almost nothing.
import { connect, type Socket } from 'node:net'
import { until } from '../support/until.ts'

/** Where in a request a client is slow. */
export const SLOW_KINDS = ['silent', 'headers', 'body', 'reading'] as const
export type SlowKind = (typeof SLOW_KINDS)[number]

export interface SlowClients {
  openCount(): number
  /** The bytes that came back on each connection. */
  answers: Map<Socket, Buffer[]>
  close(): void
}

const DRIP_SLICES = 50
/** One large response may fit into the buffers of the kernel for a connection. */
const PIPELINED = 4

const STARTS: Record<SlowKind, (path: string) => string> = {
  silent: () => '',
  headers: () => 'POST /jobs HTTP/1.1\r\nHost: localhost\r\nX-Slow: ',
  body: () =>
    'POST /jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n' +
    'Content-Length: 100000\r\n\r\n{',
  reading: (path) => `GET ${path} HTTP/1.1\r\nHost: localhost\r\n\r\n`.repeat(PIPELINED),
}

/**
 * Opens `count` connections and sends one byte on each every `dripMs`.
 *
 * @param path what clients that read slowly request
 */
export async function openSlowClients(
  url: string,
  counts: Partial<Record<SlowKind, number>>,
  { dripMs, path = '/' }: { dripMs: number; path?: string },
): Promise<SlowClients> {
  const { hostname, port } = new URL(url)
  const answers = new Map<Socket, Buffer[]>()
  const dripping: Socket[] = []
  let open = 0
  let slice = 0
  for (const [kind, count] of Object.entries(counts) as [SlowKind, number][]) {
    for (let i = 0; i < count; i++) {
      const socket = connect(Number(port), hostname)
      const chunks: Buffer[] = []
      answers.set(socket, chunks)
      socket.on('connect', () => {
        open++
        socket.write(STARTS[kind](path))
        if (kind === 'headers' || kind === 'body') dripping.push(socket)
      })
      if (kind === 'reading') socket.pause()
      else socket.on('data', (chunk) => chunks.push(chunk))
      // An error is expected here: the server disconnects these clients.
      socket.on('error', () => {})
      socket.on('close', () => open--)
    }
  }
  // The connections are not all opened at once: such a burst would be a load of its own.
  const timer = setInterval(() => {
    slice = (slice + 1) % DRIP_SLICES
    for (let i = slice; i < dripping.length; i += DRIP_SLICES) {
      if (dripping[i]?.writable) dripping[i]?.write(' ')
    }
  }, dripMs / DRIP_SLICES)
  await until(() => open === answers.size)
  return {
    openCount: () => open,
    answers,
    close() {
      clearInterval(timer)
      for (const socket of answers.keys()) socket.destroy()
    },
  }
}
