// The connections to endpoints: one for each attempt in flight, kept a moment for the next.
// undici's Pool is not used: it queues, scans, and gives no way to end a request that still waits
// for its connection. A Client for each attempt can be destroyed at any moment.
import type { Socket } from 'node:net'
import { Client } from 'undici'
import type { AddressPolicy } from './address-policy.ts'
import type { Dial, Target } from './dial.ts'
import { type AnswerFilter, filterAnswers } from './interim-answers.ts'

export interface Connection {
  client: Client
  origin: string
  target: Target
  /** Connected; null before that. */
  socket: Socket | null
  /** Of that connection. */
  answers: AnswerFilter | null
  /** Ends the connection or the attempt at one. */
  disconnect: () => void
  /** The policy that allowed the connection. */
  policy: AddressPolicy | null
}

export interface Connections {
  /** A connection to this origin (`http://host:port`), an idle one if there is one. */
  take(origin: string): Connection
  /** A connection that was never used. */
  open(origin: string): Connection
  /** After an answer that was read to its end. */
  release(connection: Connection): void
  /** Ends the connection at once, whatever it does. */
  destroy(connection: Connection): void
  close(): Promise<void>
}

/** Receivers close an idle connection after 2 to 5 s; one that dies in use costs a second send. */
const IDLE_MS = 1_000
/** Stay this much under what a receiver names in Keep-Alive. */
const IDLE_MARGIN_MS = 500
const MAX_ANSWER_HEADER_BYTES = 16 * 1_024

/** @param maxIdle how many connections wait for their next request, over all origins */
export function createConnections(
  dial: Dial,
  policy: () => AddressPolicy,
  maxIdle: number,
): Connections {
  const idle = createIdleConnections()
  const open = new Set<Connection>()

  function take(origin: string): Connection {
    let connection = idle.take(origin)
    // A connection opened under a wider policy ends here, before anything more is sent on it.
    while (connection !== undefined && !isStillAllowed(connection, policy())) {
      destroy(connection)
      connection = idle.take(origin)
    }
    return connection ?? openNew(origin)
  }

  function openNew(origin: string): Connection {
    const connection = newConnection(origin, dial, policy)
    // The receiver closed it, or its time was over. In use it would connect anew by itself.
    connection.client.on('disconnect', () => {
      if (idle.remove(connection)) destroy(connection)
    })
    open.add(connection)
    return connection
  }

  function release(connection: Connection): void {
    const { socket } = connection
    // Answered before all of the request had left: the next one would wait behind the rest of it,
    // for ever if the receiver does not mean to read that.
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
    // The total deadline rules; undici's own would each start anew.
    headersTimeout: 0,
    bodyTimeout: 0,
    keepAliveTimeout: IDLE_MS,
    keepAliveMaxTimeout: IDLE_MS,
    keepAliveTimeoutThreshold: IDLE_MARGIN_MS,
    maxHeaderSize: MAX_ANSWER_HEADER_BYTES,
    connect: (_options, done) => {
      connection.policy = policy()
      connection.disconnect = dial(target, (error, socket) => {
        if (error !== null) {
          done(error, null)
          return
        }
        connection.socket = socket
        connection.answers = filterAnswers(socket)
        connection.disconnect = () => socket.destroy()
        done(null, socket)
      })
    },
  })
  const connection: Connection = {
    ...{ client, origin, target, socket: null, answers: null, policy: null },
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
  /** The one used last: its connection is the least likely to be closed by the receiver. */
  take(origin: string): Connection | undefined
  add(connection: Connection): void
  /** false: it was not idle. */
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
