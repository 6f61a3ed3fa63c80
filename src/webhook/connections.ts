// The connections to endpoints: one for each attempt in flight, kept briefly for the next attempt.
// undici's Pool is not used: it queues requests, scans its connections, and cannot end a request
// that still waits for its connection. A Client for each attempt can be destroyed at any time.
import type { Socket } from 'node:net'
import { Client } from 'undici'
import type { AddressPolicy } from './address-policy.ts'
import type { Dial, Target } from './dial.ts'
import { filterInterimResponses, type InterimFilter } from './interim-responses.ts'

export interface Connection {
  client: Client
  origin: string
  target: Target
  /** null: not connected yet. */
  socket: Socket | null
  /** The filter of the socket. */
  interim: InterimFilter | null
  /** Ends the connection, or stops opening it. */
  disconnect: () => void
  /** The policy that allowed the connection. */
  policy: AddressPolicy | null
}

export interface Connections {
  /** Returns a connection to this origin (`http://host:port`), an idle one if there is one. */
  take(origin: string): Connection
  /** Returns a new connection. */
  open(origin: string): Connection
  /** Returns a connection for reuse, after a response that was read to its end. */
  release(connection: Connection): void
  /** Ends the connection at once, whatever its state. */
  destroy(connection: Connection): void
  close(): Promise<void>
}

/**
 * Servers close an idle connection after 2 to 5 s. If that happens during a request, the request
 * must be sent a second time.
 */
const IDLE_MS = 1_000
/** A connection is closed this long before the time that the server declares in Keep-Alive. */
const IDLE_MARGIN_MS = 500
const MAX_RESPONSE_HEADER_BYTES = 16 * 1_024

/** @param maxIdle limit of idle connections to all origins together */
export function createConnections(
  dial: Dial,
  policy: () => AddressPolicy,
  maxIdle: number,
): Connections {
  const idle = createIdleConnections()
  const open = new Set<Connection>()

  function take(origin: string): Connection {
    let connection = idle.take(origin)
    // The policy may have changed since the connection was opened. If it no longer allows the
    // address, the connection is not used.
    while (connection !== undefined && !isStillAllowed(connection, policy())) {
      destroy(connection)
      connection = idle.take(origin)
    }
    return connection ?? openNew(origin)
  }

  function openNew(origin: string): Connection {
    const connection = newConnection(origin, dial, policy)
    // The server closed the idle connection, or its idle time ended. Without this the client would
    // open a new connection by itself on its next use.
    connection.client.on('disconnect', () => {
      if (idle.remove(connection)) destroy(connection)
    })
    open.add(connection)
    return connection
  }

  function release(connection: Connection): void {
    const { socket } = connection
    // If the server responded before all of the request was written, the next request would wait
    // behind the rest, perhaps forever, because the server may never read it.
    const isUsable = socket !== null && !socket.destroyed && socket.writableLength === 0
    if (isUsable && idle.count() < maxIdle) idle.add(connection)
    else destroy(connection)
  }

  function destroy(connection: Connection): void {
    open.delete(connection)
    connection.disconnect()
    void connection.client.destroy()
  }

  async function close(): Promise<void> {
    const closed = [...open].map(({ socket }) => untilClosed(socket))
    for (const connection of open) {
      idle.remove(connection)
      destroy(connection)
    }
    await Promise.all(closed)
  }

  return { take, open: openNew, release, destroy, close }
}

function newConnection(origin: string, dial: Dial, policy: () => AddressPolicy): Connection {
  const target = targetOf(origin)
  const client = new Client(origin, {
    pipelining: 1,
    allowH2: false,
    // undici would start these timers for each part of a response. The deadline of the whole
    // attempt applies instead.
    headersTimeout: 0,
    bodyTimeout: 0,
    keepAliveTimeout: IDLE_MS,
    keepAliveMaxTimeout: IDLE_MS,
    keepAliveTimeoutThreshold: IDLE_MARGIN_MS,
    maxHeaderSize: MAX_RESPONSE_HEADER_BYTES,
    connect: (_options, done) => {
      connection.policy = policy()
      connection.disconnect = dial(target, (error, socket) => {
        if (error !== null) {
          done(error, null)
          return
        }
        connection.socket = socket
        connection.interim = filterInterimResponses(socket)
        connection.disconnect = () => socket.destroy()
        done(null, socket)
      })
    },
  })
  const connection: Connection = {
    ...{ client, origin, target, socket: null, interim: null, policy: null },
    disconnect() {},
  }
  return connection
}

function isStillAllowed(connection: Connection, policy: AddressPolicy): boolean {
  if (connection.policy === policy) return true
  const ip = connection.socket?.remoteAddress
  if (ip === undefined) return false
  if (!policy.judgeAddress(ip, connection.target.port, connection.target.hostname).allowed)
    return false
  connection.policy = policy
  return true
}

interface IdleConnections {
  /** Takes the connection that was used last: the server is the least likely to have closed it. */
  take(origin: string): Connection | undefined
  add(connection: Connection): void
  /** Returns whether the connection was idle. */
  remove(connection: Connection): boolean
  count(): number
}

function createIdleConnections(): IdleConnections {
  const byOrigin = new Map<string, Connection[]>()
  let count = 0

  function take(origin: string): Connection | undefined {
    const connections = byOrigin.get(origin)
    const connection = connections?.pop()
    if (connection === undefined) return undefined
    if (connections?.length === 0) byOrigin.delete(origin)
    count -= 1
    return connection
  }

  function add(connection: Connection): void {
    const connections = byOrigin.get(connection.origin)
    if (connections === undefined) byOrigin.set(connection.origin, [connection])
    else connections.push(connection)
    count += 1
  }

  function remove(connection: Connection): boolean {
    const connections = byOrigin.get(connection.origin) ?? []
    const at = connections.indexOf(connection)
    if (at < 0) return false
    connections.splice(at, 1)
    if (connections.length === 0) byOrigin.delete(connection.origin)
    count -= 1
    return true
  }

  return { take, add, remove, count: () => count }
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
