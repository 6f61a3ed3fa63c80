// A TCP server that behaves as badly as a test wants. receiver.ts is the server that uses HTTP
// correctly.

import type { AddressInfo } from 'node:net'
import { createServer, type Server, type Socket } from 'node:net'

export interface RawServer {
  port: number
  url: string
  connectionCount(): number
  /** Connections that are open now. */
  openCount(): number
  /** All received bytes, over all connections, as latin1. */
  received(): string
  close(): Promise<void>
}

/**
 * @param behave called once for each connection, after its first bytes
 * @param place an address other than a free port of 127.0.0.1
 */
export async function startRawServer(
  behave: (socket: Socket) => void,
  { host = '127.0.0.1', port: wanted = 0 } = {},
): Promise<RawServer> {
  const sockets = new Set<Socket>()
  let connectionCount = 0
  let received = ''
  const server: Server = createServer((socket) => {
    connectionCount += 1
    sockets.add(socket)
    socket.on('close', () => sockets.delete(socket))
    // In many tests the other side aborts, so an error is expected.
    socket.on('error', () => {})
    socket.once('data', () => behave(socket))
    socket.on('data', (chunk) => {
      received += chunk.toString('latin1')
    })
  })
  await new Promise<void>((resolve) => {
    server.listen(wanted, host, resolve)
  })
  const { port } = server.address() as AddressInfo
  return {
    port,
    url: `http://${host}:${port}/`,
    connectionCount: () => connectionCount,
    openCount: () => sockets.size,
    received: () => received,
    async close() {
      const closed = new Promise((resolve) => server.close(resolve))
      for (const socket of sockets) socket.destroy()
      await closed
    },
  }
}

/** Writes this text again and again until the connection is closed. */
export function writeForEver(socket: Socket, text: string, everyMs: number): void {
  const timer = setInterval(() => socket.write(text), everyMs)
  socket.on('close', () => clearInterval(timer))
}
