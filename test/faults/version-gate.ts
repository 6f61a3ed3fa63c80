// A door before the receiver that reads from each request of which version of its endpoint it is,
// three times over: by URL, by header, and by the deadline that its timeout led to.
import { createServer, type IncomingMessage, request, type ServerResponse } from 'node:http'
import type { AddressInfo, Socket } from 'node:net'
import { nowMs } from './history.ts'

/** One request, as it was seen here. */
export interface VersionSeen {
  jobId: string
  beganAtMs: number
  byPath: number
  byHeader: number
  byTimeout: number
}

export interface VersionGate {
  seen: VersionSeen[]
  /** Of an endpoint: all that differs between versions. */
  settingsOf(version: number): { url: string; headers: Record<string, string>; timeout: string }
  close(): Promise<void>
}

/** Versions are apart by far more than any request is on its way; the largest timeout is 15 min. */
const TIMEOUT_STEP_S = 10
const VERSIONS = 80
const VERSION_HEADER = 'x-version'

/** @param targetUrl where requests are sent on */
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

/** In the form in which the API takes it: largest unit first. */
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
    // Timeouts come round again: of those that have this one, the version of the path.
    byTimeout: step === byPath % VERSIONS ? byPath : step,
  }
}

function forward(targetUrl: string, incoming: IncomingMessage, response: ServerResponse): void {
  const upstream = request(targetUrl, { method: 'POST', headers: incoming.headers }, (answer) => {
    response.writeHead(answer.statusCode as number)
    answer.pipe(response)
  })
  // A sender that breaks off is seen as that by the receiver, and the other way round.
  upstream.on('error', () => response.destroy())
  response.on('close', () => upstream.destroy())
  incoming.pipe(upstream)
}
