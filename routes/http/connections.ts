// The limits of a connection: its deadlines, the number of its requests in progress, the number of
// connections without a valid key, and the response to input that is not HTTP.
import type { IncomingMessage, Server, ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import {
  clientErrorResponse,
  type RawResponse,
  refusedConnectResponse,
  tooManyPendingResponse,
} from '../../src/http/problem.ts'

export interface ConnectionLimits {
  /** From the first byte of a request to its last byte. */
  requestMs: number
  /** From the moment a response is complete until the client has read it. */
  responseMs: number
  /** How often the deadline of requests is checked. */
  checkMs: number
  /** Requests on one connection whose responses are not complete. */
  pending: number
  /** Like `pending`, but for a connection that has not shown a valid key. */
  pendingUnauthenticated: number
  /**
   * Connections that have not shown a valid key. Beyond this limit the oldest of them is closed.
   */
  unauthenticated: number
  unauthenticatedOfAddress: number
  /** Limit of all connections. It leaves room for every request that waits (jobs/waits.ts). */
  connections: number
}

export const CONNECTION_LIMITS: ConnectionLimits = {
  requestMs: 30_000,
  responseMs: 60_000,
  checkMs: 5_000,
  pending: 100,
  pendingUnauthenticated: 8,
  unauthenticated: 2_000,
  unauthenticatedOfAddress: 1_000,
  connections: 25_000,
}

/** After its last response, a connection is closed once it is silent for this long. */
const LINGER_MS = 1_000
/**
 * How much a connection may send after its last response, and for how long. A client that exceeds
 * these limits apparently does not read.
 */
const MAX_DISCARDED_BYTES = 32 * 1_048_576
const MAX_DISCARD_MS = 30_000
/** Returned from a callback of Node's parser, this value stops it in the middle of its input. */
const STOP_PARSING = -1

interface Connection {
  socket: Socket
  address: string
  /** The latest request on this connection. */
  request: IncomingMessage | null
  /** Requests whose responses are not complete, in order. No Set: see createResponseDeadline. */
  pending: ServerResponse[]
  /**
   * Called when the connection shows a valid key: it no longer counts as one without a key. null:
   * it has shown a valid key.
   */
  markAuthenticated: (() => void) | null
  /** Nothing more is read from the connection. */
  isClosing: boolean
  /** The connection has sent more requests at once than allowed. */
  isOverLimit: boolean
  onRefused: (status: number) => void
}

const connections = new WeakMap<Socket, Connection>()
/** Connections that were refused already: further errors on them are ignored. */
const refused = new WeakSet<Socket>()
/** Connections after their last response: input from them is read and dropped. */
const discarding = new WeakSet<Socket>()

/** @param onRefused called with the status of each response that comes from no route */
export function watchConnections(
  server: Server,
  limits: ConnectionLimits,
  onRefused: (status: number) => void,
): void {
  // For whole requests Node uses the longer of two deadlines. With Node's default of a minute, the
  // deadline for headers would also apply to bodies.
  server.headersTimeout = limits.requestMs
  server.maxConnections = limits.connections
  const unauthenticated = trackUnauthenticated(limits)
  server.on('connection', (socket) => {
    const connection: Connection = {
      ...{ socket, address: socket.remoteAddress ?? '', pending: [] },
      ...{ request: null, markAuthenticated: null, isClosing: false, isOverLimit: false },
      onRefused,
    }
    connections.set(socket, connection)
    lingerWithUnreadBody(connection)
    limitParser(connection, limits)
    unauthenticated.add(connection)
  })
  const overdue = createResponseDeadline(limits.responseMs)
  // This listener comes before Fastify's own, which may respond at once.
  server.prependListener('request', (request, response) => {
    const { socket } = request
    const connection = connections.get(socket)
    if (connection !== undefined) {
      connection.pending.push(response)
      connection.request = request
    }
    // No route reads the body of a GET or HEAD.
    if (request.method === 'GET' || request.method === 'HEAD') ignoreBody(request, response)
    let deadline: Deadline | null = null
    response.on('prefinish', () => {
      deadline = overdue.begin(socket)
    })
    response.on('close', () => {
      if (deadline !== null) overdue.end(deadline)
      const { pending = [] } = connection ?? {}
      const at = pending.indexOf(response)
      if (at >= 0) pending.splice(at, 1)
    })
  })
  // Node itself would respond to an unknown Expect header, but not with a problem document.
  server.on('checkExpectation', (request, response) => server.emit('request', request, response))
  // Node would close the connection without a response. It removes its error listener from the
  // socket, and an error without a listener would end the process.
  server.on('connect', (_request: IncomingMessage, socket: Socket) => {
    socket.on('error', () => socket.destroy())
    refused.add(socket)
    afterResponses(pendingOn(socket), () => refuse(socket, refusedConnectResponse()))
  })
}

/** A request on this connection was accepted, so it no longer counts as one without a key. */
export function trustConnection(socket: Socket): void {
  connections.get(socket)?.markAuthenticated?.()
}

/**
 * Does not read the body of this request, and closes the connection after the response. Otherwise a
 * client without a key could make Node parse any amount, one byte in each chunk. Must be called
 * before the headers of the response are sent.
 */
export function ignoreBody({ headers, socket }: IncomingMessage, response: ServerResponse): void {
  const hasBody =
    headers['transfer-encoding'] !== undefined || Number(headers['content-length'] ?? 0) > 0
  const connection = connections.get(socket)
  if (!hasBody || connection === undefined || connection.isClosing) return
  connection.isClosing = true
  response.setHeader('connection', 'close')
}

/**
 * Node closes a connection after its last response. If the client still sends a body, which was too
 * large or came with a wrong key, the close would be a reset, and a client that sends everything
 * before it reads would get a broken pipe instead of the response (RFC 9112, section 9.6).
 */
function lingerWithUnreadBody(connection: Connection): void {
  const { socket } = connection
  const destroySoon = socket.destroySoon.bind(socket)
  socket.destroySoon = () => {
    if (connection.request?.complete === false) closeAfterLinger(socket)
    else destroySoon()
  }
}

/**
 * Node reads 64 KiB at a time, which may contain 3,600 requests, or a body in 10,000 chunks, and
 * parses all of it. The only way to stop the parser is an error from the callback that announces a
 * request. Node passes this error to refuseConnection.
 */
function limitParser(connection: Connection, limits: ConnectionLimits): void {
  const { parser } = connection.socket as Socket & { parser?: Parser }
  if (parser === undefined) return
  const { onIncoming } = parser
  parser.onIncoming = (request, keepAlive) => {
    const isUnauthenticated = connection.markAuthenticated !== null
    const most = isUnauthenticated ? limits.pendingUnauthenticated : limits.pending
    connection.isOverLimit = connection.pending.length >= most
    if (connection.isOverLimit) return STOP_PARSING
    const result = onIncoming(request, keepAlive)
    return connection.isClosing ? STOP_PARSING : result
  }
}

/** The part of Node's own parser that this file uses. Node does not document it. */
interface Parser {
  onIncoming(request: IncomingMessage, keepAlive: boolean): number
}

/**
 * Connections without a key, oldest first. Beyond a limit the oldest one is closed. A new
 * connection is never refused, because a client with a key shows it at once and is then not counted
 * here.
 */
function trackUnauthenticated(limits: ConnectionLimits) {
  const unauthenticated = new Set<Connection>()
  const byAddress = new Map<string, Set<Connection>>()

  function closeOldest(of: Set<Connection>, most: number): void {
    for (const { socket, markAuthenticated } of of) {
      if (of.size <= most) return
      markAuthenticated?.()
      socket.destroy()
    }
  }

  return {
    add(connection: Connection): void {
      const { address, socket } = connection
      const ofAddress = byAddress.get(address) ?? new Set()
      connection.markAuthenticated = () => {
        connection.markAuthenticated = null
        unauthenticated.delete(connection)
        ofAddress.delete(connection)
        if (ofAddress.size === 0) byAddress.delete(address)
      }
      byAddress.set(address, ofAddress.add(connection))
      unauthenticated.add(connection)
      socket.once('close', () => connection.markAuthenticated?.())
      closeOldest(ofAddress, limits.unauthenticatedOfAddress)
      closeOldest(unauthenticated, limits.unauthenticated)
    },
  }
}

/** The deadline of a response, as a member of a list in which it is between two others. */
interface Deadline {
  socket: Socket | null
  endsAtMs: number
  earlier: Deadline
  later: Deadline
}

function emptyList(): Deadline {
  const list = { socket: null, endsAtMs: 0 } as Deadline
  return Object.assign(list, { earlier: list, later: list })
}

/**
 * Node has a deadline for requests, but none for clients that do not read their responses. One
 * timer is enough for all, because the responses are in the order of their deadlines.
 *
 * Their list is not a Map. V8 leaves each former table of a Map or Set behind as garbage that
 * points to the next one. Once one is old, a collection of young objects takes the rest for live:
 * all requests would then become old, with all that they point to.
 */
function createResponseDeadline(responseMs: number) {
  const list = emptyList()
  let timer: NodeJS.Timeout | null = null

  function look(): void {
    timer = null
    const nowMs = performance.now()
    for (let one = list.later; one !== list; one = one.later) {
      if (one.endsAtMs > nowMs) {
        lookIn(one.endsAtMs - nowMs)
        return
      }
      one.socket?.destroy()
    }
  }

  function lookIn(ms: number): void {
    if (timer === null) timer = setTimeout(look, ms).unref()
  }

  return {
    /** A response is complete: the client may read it until the deadline. */
    begin(socket: Socket): Deadline {
      const endsAtMs = performance.now() + responseMs
      const deadline = { socket, endsAtMs, earlier: list.earlier, later: list }
      list.earlier.later = deadline
      list.earlier = deadline
      lookIn(responseMs)
      return deadline
    },
    end(deadline: Deadline): void {
      deadline.earlier.later = deadline.later
      deadline.later.earlier = deadline.earlier
      // It must not keep its neighbours alive.
      deadline.earlier = deadline
      deadline.later = deadline
    },
  }
}

/** For input that is not HTTP: sends a problem after the earlier responses, and closes. */
export function refuseConnection(error: Error & { code?: string }, socket: Socket): void {
  if (discarding.has(socket)) return
  const { isClosing = false, isOverLimit = false } = connections.get(socket) ?? {}
  // Further input is not read until the last response is sent.
  if (isClosing || isOverLimit) {
    detachParser(socket)
    socket.pause()
  }
  // The last response closes the connection.
  if (isClosing) return
  if (error.code === 'ECONNRESET' || !socket.writable) {
    socket.destroy()
    return
  }
  if (refused.has(socket)) return
  refused.add(socket)
  const open = pendingOn(socket)
  if (isOverLimit) {
    afterResponses(open, () => refuse(socket, tooManyPendingResponse()))
    return
  }
  // True if the malformed request itself has a response, sent before its body turned out to be
  // malformed.
  const hasResponded = open.some(({ req, headersSent }) => !req.complete && headersSent)
  const before = open.filter(({ req }) => req.complete)
  afterResponses(before, () => {
    if (hasResponded) closeAfterLinger(socket)
    else refuse(socket, clientErrorResponse(error))
  })
}

function pendingOn(socket: Socket): ServerResponse[] {
  return [...(connections.get(socket)?.pending ?? [])]
}

function afterResponses(responses: ServerResponse[], then: () => void): void {
  const last = responses.at(-1)
  if (last === undefined) then()
  else last.once('close', then)
}

function refuse(socket: Socket, { status, bytes }: RawResponse): void {
  if (socket.writable) connections.get(socket)?.onRefused(status)
  closeAfterLinger(socket, bytes)
}

/**
 * Does not close at once: after a reset, a client that has not read the response yet would lose it.
 */
function closeAfterLinger(socket: Socket, bytes = ''): void {
  if (!socket.writable) {
    socket.destroy()
    return
  }
  socket.end(bytes)
  discardInput(socket)
}

/** Keeps reading without a parser until the client closes, is silent, or has sent too much. */
function discardInput(socket: Socket): void {
  discarding.add(socket)
  const endsAtMs = performance.now() + MAX_DISCARD_MS
  const timer = setTimeout(() => socket.destroy(), LINGER_MS).unref()
  let leftBytes = MAX_DISCARDED_BYTES
  detachParser(socket)
  socket.on('data', (chunk: Buffer) => {
    leftBytes -= chunk.length
    if (leftBytes < 0 || performance.now() > endsAtMs) socket.pause()
    else timer.refresh()
  })
  socket.once('close', () => clearTimeout(timer))
  socket.resume()
}

/**
 * Makes the stream get the data: Node's parser bypasses the stream until the stream has a listener
 * for data. Must be called before pause(): a pause of the parser would end only with the parser.
 */
function detachParser(socket: Socket): void {
  socket.on('data', () => {})
  socket.removeAllListeners('data')
}
