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
  const overdue = createAnswerDeadline(answerMs)
  server.on('request', ({ socket }, response) => {
    const answers = owed.get(socket)
    answers?.add(response)
    response.on('prefinish', () => overdue.begin(response))
    response.on('close', () => {
      overdue.end(response)
      answers?.delete(response)
    })
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

/**
 * Node has a deadline for requests, and none for those who do not read what they asked for. One
 * timer serves all: the answers stand in the order in which their time is over.
 */
function createAnswerDeadline(answerMs: number) {
  const untilMs = new Map<ServerResponse, number>()
  let timer: NodeJS.Timeout | null = null

  function look(): void {
    timer = null
    const nowMs = performance.now()
    for (const [{ req }, endsAtMs] of untilMs) {
      if (endsAtMs > nowMs) {
        lookIn(endsAtMs - nowMs)
        return
      }
      req.socket.destroy()
    }
  }

  function lookIn(ms: number): void {
    if (timer === null) timer = setTimeout(look, ms).unref()
  }

  return {
    /** The answer is complete: its reader may take it until the deadline. */
    begin(response: ServerResponse): void {
      untilMs.set(response, performance.now() + answerMs)
      lookIn(answerMs)
    },
    end(response: ServerResponse): void {
      untilMs.delete(response)
    },
  }
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
