// What a connection may do before, after and beside requests: how slow it may be, and what is said
// to one that does not speak HTTP.
import type { IncomingMessage, Server, ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import { clientErrorBytes, refusedConnectBytes } from './problem.ts'

export interface ConnectionLimits {
  /** From the first byte of a request to its last. */
  requestMs: number
  /** From the moment an answer is complete until its reader has taken it. */
  answerMs: number
  /** How often the deadline of requests is looked at. */
  checkMs: number
}

export const CONNECTION_LIMITS: ConnectionLimits = {
  requestMs: 30_000,
  answerMs: 60_000,
  checkMs: 5_000,
}

/** How long a connection that was told to go may take to do so. */
const GOODBYE_MS = 1_000

/** The answers that each connection is still owed. */
const owed = new WeakMap<Socket, Set<ServerResponse>>()
/** Those that were refused already: whatever else they send is not of interest. */
const refused = new WeakSet<Socket>()

export function watchConnections(server: Server, { requestMs, answerMs }: ConnectionLimits): void {
  // Of two deadlines Node takes the longer one for whole requests, whichever that is: left at its
  // default of a minute, the one for headers would be the one for bodies too.
  server.headersTimeout = requestMs
  server.on('connection', (socket) => owed.set(socket, new Set()))
  server.on('request', (request, response) => {
    watchAnswer(request.socket, response, answerMs)
  })
  // Node would answer an Expect that it does not know by itself, and not with a problem.
  server.on('checkExpectation', (request, response) => server.emit('request', request, response))
  // Node would close without a word. It lets go of the socket: an error that nobody hears ends us.
  server.on('connect', (_request: IncomingMessage, socket: Socket) => {
    socket.on('error', () => socket.destroy())
    refused.add(socket)
    afterAnswers([...(owed.get(socket) ?? [])], () => sayGoodbye(socket, refusedConnectBytes()))
  })
}

/** Node has a deadline for requests, and none for those who do not read what they asked for. */
function watchAnswer(socket: Socket, response: ServerResponse, answerMs: number): void {
  const answers = owed.get(socket)
  answers?.add(response)
  let timer: NodeJS.Timeout | undefined
  response.once('prefinish', () => {
    timer = setTimeout(() => socket.destroy(), answerMs).unref()
  })
  response.once('close', () => {
    clearTimeout(timer)
    answers?.delete(response)
  })
}

/** For what is not HTTP: a problem, after the answers to what came before it, and the end. */
export function refuseConnection(error: Error & { code?: string }, socket: Socket): void {
  if (error.code === 'ECONNRESET' || !socket.writable) {
    socket.destroy()
    return
  }
  if (refused.has(socket)) return
  refused.add(socket)
  const open = [...(owed.get(socket) ?? [])]
  // Of the wrong one itself, when it was answered before its body turned out to be wrong.
  const isAnswered = open.some(({ req, headersSent }) => !req.complete && headersSent)
  const before = open.filter(({ req }) => req.complete)
  afterAnswers(before, () => sayGoodbye(socket, isAnswered ? '' : clientErrorBytes(error)))
}

function afterAnswers(answers: ServerResponse[], then: () => void): void {
  const last = answers.at(-1)
  if (last === undefined) then()
  else last.once('close', then)
}

/** Not at once: a reset would take the answer away from whoever has not read it yet. */
function sayGoodbye(socket: Socket, bytes: string): void {
  if (!socket.writable) {
    socket.destroy()
    return
  }
  socket.end(bytes)
  setTimeout(() => socket.destroy(), GOODBYE_MS).unref()
}
