// The connections to endpoints: one line for each attempt in flight, kept for a moment for the next.
// undici's Pool is not used: it queues, scans, and gives no way to end a request that still waits for
// its connection. A line of its own for each attempt can be cut at any moment.
import type { Socket } from 'node:net'
import { Client } from 'undici'
import type { AddressPolicy } from './address-policy.ts'
import type { Dial, Target } from './dial.ts'

export interface Line {
  client: Client
  target: Target
  /** Connecting or connected; null before the first request. */
  socket: Socket | null
  /** The policy that allowed the connection. */
  policy: AddressPolicy | null
  isIdle: boolean
}

export interface Lines {
  /** A line to this origin (`http://host:port`), an idle one if there is one. */
  take(origin: string): Line
  /** After an answer that was read to its end. */
  giveBack(origin: string, line: Line): void
  /** Ends the line at once, whatever it does. */
  cut(line: Line): void
  close(): Promise<void>
}

/** Receivers close an idle connection after 2 to 5 s; one that dies in use costs an attempt. */
const IDLE_MS = 1_000
/** Stay this much under what a receiver names in Keep-Alive. */
const IDLE_MARGIN_MS = 500
const MAX_ANSWER_HEADER_BYTES = 16 * 1_024

/** @param maxIdle how many lines wait for their next request, over all origins */
export function createLines(dial: Dial, policy: () => AddressPolicy, maxIdle: number): Lines {
  const idleByOrigin = new Map<string, Line[]>()
  const open = new Set<Line>()
  let idleCount = 0

  function take(origin: string): Line {
    let line = takeIdle(origin)
    // A connection opened under a wider policy ends here, before anything more is sent on it.
    while (line !== undefined && !isStillAllowed(line)) {
      cut(line)
      line = takeIdle(origin)
    }
    return line ?? openLine(origin)
  }

  /** The one used last: its connection is the least likely to be closed by the receiver. */
  function takeIdle(origin: string): Line | undefined {
    const idle = idleByOrigin.get(origin)
    const line = idle?.pop()
    if (line === undefined) return undefined
    if (idle?.length === 0) idleByOrigin.delete(origin)
    idleCount -= 1
    line.isIdle = false
    return line
  }

  function isStillAllowed(line: Line): boolean {
    const now = policy()
    if (line.policy === now) return true
    const ip = line.socket?.remoteAddress
    if (ip === undefined) return false
    if (!now.judgeAddress(ip, line.target.port, line.target.hostname).allowed) return false
    line.policy = now
    return true
  }

  function openLine(origin: string): Line {
    const target = targetOf(origin)
    const client = new Client(origin, {
      pipelining: 1,
      allowH2: false,
      // The total deadline rules; undici's own would each start anew.
      headersTimeout: 0,
      bodyTimeout: 0,
      keepAliveTimeout: IDLE_MS,
      keepAliveMaxTimeout: IDLE_MS,
      keepAliveTimeoutThreshold: IDLE_MARGIN_MS,
      maxHeaderSize: MAX_ANSWER_HEADER_BYTES,
      connect: (_options, done) => {
        line.policy = policy()
        line.socket = dial(target, (error, socket) => {
          if (error === null) done(null, socket as Socket)
          else done(error, null)
        })
      },
    })
    const line: Line = { client, target, socket: null, policy: null, isIdle: false }
    client.on('disconnect', () => {
      if (line.isIdle) forget(origin, line)
    })
    open.add(line)
    return line
  }

  /** The receiver closed it, or its time was over. */
  function forget(origin: string, line: Line): void {
    const idle = idleByOrigin.get(origin) ?? []
    const at = idle.indexOf(line)
    if (at >= 0) {
      idle.splice(at, 1)
      idleCount -= 1
    }
    if (idle.length === 0) idleByOrigin.delete(origin)
    cut(line)
  }

  function giveBack(origin: string, line: Line): void {
    const isUsable = line.socket !== null && !line.socket.destroyed
    if (!isUsable || idleCount >= maxIdle) {
      cut(line)
      return
    }
    line.isIdle = true
    idleCount += 1
    const idle = idleByOrigin.get(origin)
    if (idle === undefined) idleByOrigin.set(origin, [line])
    else idle.push(line)
  }

  function cut(line: Line): void {
    open.delete(line)
    line.isIdle = false
    line.socket?.destroy()
    void line.client.destroy()
  }

  async function close(): Promise<void> {
    const closed = [...open].map(({ socket }) => untilClosed(socket))
    for (const line of open) cut(line)
    idleByOrigin.clear()
    idleCount = 0
    await Promise.all(closed)
  }

  return { take, giveBack, cut, close }
}

function targetOf(origin: string): Target {
  const url = new URL(origin)
  const isTls = url.protocol === 'https:'
  const port = url.port === '' ? (isTls ? 443 : 80) : Number(url.port)
  return { hostname: url.hostname.replace(/^\[(.*)\]$/, '$1'), port, isTls }
}

function untilClosed(socket: Socket | null): Promise<void> {
  if (socket === null || socket.closed) return Promise.resolve()
  return new Promise((resolve) => {
    socket.once('close', () => resolve())
  })
}
