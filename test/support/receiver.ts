// A real HTTP receiver for tests. It records every request, and responds by a script.
import {
  createServer,
  type IncomingHttpHeaders,
  type IncomingMessage,
  type ServerResponse,
} from 'node:http'
import type { AddressInfo, Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'

export interface ReceivedRequest {
  method: string
  path: string
  /** Names in lower case. */
  headers: IncomingHttpHeaders
  /** The raw bytes. */
  body: Buffer
  /** By the monotonic clock: when the last byte of the request had arrived. */
  atMs: number
}

export interface Answer {
  status?: number
  headers?: Record<string, string | string[]>
  body?: string | Uint8Array
  /** The delay of the response. */
  delayMs?: number
}

/** `hang`: no response until the receiver closes. A number is a status. */
export type Reply = number | Answer | 'hang'
/** A list has one reply for each request. Its last reply is for all further requests. */
export type Script =
  | Reply
  | Reply[]
  | ((request: ReceivedRequest, index: number) => Reply | Promise<Reply>)

export interface Receiver {
  /** Without a trailing slash. */
  url: string
  /** In the order of arrival. */
  requests: ReceivedRequest[]
  /** TCP connections so far. */
  connectionCount(): number
  /** TCP connections that are open now. */
  openConnectionCount(): number
  /** Changes the script, from the next request on. */
  answerWith(script: Script): void
  /** Resolves once the condition holds. Throws if it does not hold by the deadline. */
  waitFor(condition: (requests: ReceivedRequest[]) => boolean, deadlineMs?: number): Promise<void>
  close(): Promise<void>
}

const DEFAULT_DEADLINE_MS = 5_000
const LOOK_AGAIN_MS = 50

/** Listens on a free port of 127.0.0.1. */
export async function startReceiver(script: Script = 200): Promise<Receiver> {
  const requests: ReceivedRequest[] = []
  const sockets = new Set<Socket>()
  const watchers = new Set<() => void>()
  let connectionCount = 0
  let current = script
  let scriptStartedAt = 0

  const server = createServer(async (incoming, outgoing) => {
    const body = await wholeBody(incoming)
    if (body === null) return
    const request: ReceivedRequest = {
      method: incoming.method ?? '',
      path: incoming.url ?? '',
      headers: incoming.headers,
      body,
      atMs: performance.now(),
    }
    const index = requests.push(request) - 1 - scriptStartedAt
    for (const look of watchers) look()
    await reply(outgoing, await replyTo(current, request, index))
  })
  server.on('connection', (socket) => {
    connectionCount += 1
    sockets.add(socket)
    socket.on('close', () => sockets.delete(socket))
    // In some tests the sender aborts, so an error is expected.
    socket.on('error', () => {})
  })
  await new Promise<void>((resolve) => {
    server.listen(0, '127.0.0.1', resolve)
  })

  async function waitFor(
    condition: (requests: ReceivedRequest[]) => boolean,
    deadlineMs = DEFAULT_DEADLINE_MS,
  ): Promise<void> {
    const untilMs = performance.now() + deadlineMs
    while (!condition(requests)) {
      const leftMs = untilMs - performance.now()
      if (leftMs <= 0) {
        throw new Error(`not so within ${deadlineMs} ms; ${requests.length} requests came`)
      }
      await nextRequest(watchers, Math.min(leftMs, LOOK_AGAIN_MS))
    }
  }

  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    requests,
    connectionCount: () => connectionCount,
    openConnectionCount: () => sockets.size,
    answerWith(next) {
      current = next
      scriptStartedAt = requests.length
    },
    waitFor,
    async close() {
      const closed = new Promise((resolve) => server.close(resolve))
      for (const socket of sockets) socket.destroy()
      await closed
    },
  }
}

/** null: the sender aborted. */
async function wholeBody(incoming: IncomingMessage): Promise<Buffer | null> {
  const chunks: Buffer[] = []
  try {
    for await (const chunk of incoming) chunks.push(chunk)
    return Buffer.concat(chunks)
  } catch {
    return null
  }
}

async function replyTo(script: Script, request: ReceivedRequest, index: number): Promise<Reply> {
  if (typeof script === 'function') return script(request, index)
  if (Array.isArray(script)) return script[Math.min(index, script.length - 1)] ?? 200
  return script
}

async function reply(outgoing: ServerResponse, given: Reply): Promise<void> {
  if (given === 'hang') return
  const {
    status = 200,
    headers = {},
    body,
    delayMs = 0,
  } = typeof given === 'number' ? { status: given } : given
  if (delayMs > 0) await sleep(delayMs)
  outgoing.writeHead(status, headers)
  outgoing.end(body)
}

/**
 * Resolves when a request comes or the time is over: a condition may depend on more than requests.
 */
function nextRequest(watchers: Set<() => void>, waitMs: number): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(look, waitMs)
    function look(): void {
      clearTimeout(timer)
      watchers.delete(look)
      resolve()
    }
    watchers.add(look)
  })
}
