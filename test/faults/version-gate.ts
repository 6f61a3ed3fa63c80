// A proxy in front of the receiver. It reads the version of the endpoint from each request in three
// ways: from the URL, from a header, and from the deadline that the timeout of the version led to.
import { createServer, type IncomingMessage, request, type ServerResponse } from 'node:http'
import type { AddressInfo, Socket } from 'node:net'
import { nowMs } from './history.ts'

/** A request as the proxy received it. */
export interface VersionSeen {
  jobId: string
  beganAtMs: number
  byPath: number
  byHeader: number
  byTimeout: number
}

export interface VersionGate {
  seen: VersionSeen[]
  /** The settings that differ between versions of an endpoint. */
  settingsOf(version: number): { url: string; headers: Record<string, string>; timeout: string }
  close(): Promise<void>
}

/**
 * The timeouts of versions differ by far more than the travel time of a request. The largest
 * timeout is 15 min.
 */
const TIMEOUT_STEP_S = 10
const VERSIONS = 80
const VERSION_HEADER = 'x-version'

/** @param targetUrl where requests are forwarded */
export async function openVersionGate(targetUrl: string): Promise<VersionGate> {
  const seen: VersionSeen[] = []
  const sockets = new Set<Socket>()
  const server = createServer((incoming, response) => {
    seen.push(versionSeen(incoming))
    forward(targetUrl, incoming, response)
  })
  server.on('connection', (socket) => {
    sockets.add(socket)
    socket.on('close', () => sockets.delete(socket))
  })
  await new Promise<void>((resolve) => {
    server.listen(0, '127.0.0.1', resolve)
  })
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  return {
    seen,
    settingsOf: (version) => ({
      url: `${url}/${version}`,
      headers: { [VERSION_HEADER]: `${version}` },
      timeout: timeoutText(version),
    }),
    async close() {
      const closed = new Promise((resolve) => server.close(resolve))
      for (const socket of sockets) socket.destroy()
      await closed
    },
  }
}

/** The timeout in the form that the API accepts: largest unit first. */
function timeoutText(version: number): string {
  const seconds = ((version % VERSIONS) + 1) * TIMEOUT_STEP_S
  const minutes = Math.floor(seconds / 60)
  const rest = seconds % 60
  return `${minutes > 0 ? `${minutes}m` : ''}${rest > 0 ? `${rest}s` : ''}`
}

function versionSeen({ url = '/', headers }: IncomingMessage): VersionSeen {
  const byPath = Number(url.slice(1))
  const leftMs = Date.parse(String(headers['posthorn-deadline'])) - Date.now()
  const step = Math.round(leftMs / 1_000 / TIMEOUT_STEP_S) - 1
  return {
    jobId: String(headers['webhook-id']),
    beganAtMs: nowMs(),
    byPath,
    byHeader: Number(headers[VERSION_HEADER]),
    // Timeouts repeat. So if the version of the path has this timeout, it is the version that is
    // meant.
    byTimeout: step === byPath % VERSIONS ? byPath : step,
  }
}

function forward(targetUrl: string, incoming: IncomingMessage, response: ServerResponse): void {
  const upstream = request(targetUrl, { method: 'POST', headers: incoming.headers }, (answer) => {
    response.writeHead(answer.statusCode as number)
    answer.pipe(response)
  })
  // If one side aborts, the other side sees that.
  upstream.on('error', () => response.destroy())
  response.on('close', () => upstream.destroy())
  incoming.pipe(upstream)
}
