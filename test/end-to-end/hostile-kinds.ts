// Receivers that misbehave, and the expected outcome of an attempt at each of them.
import type { Socket } from 'node:net'
import { gzipSync } from 'node:zlib'
import { writeForEver } from '../webhook/raw-server.ts'

export interface HostileKind {
  /** null: no process listens. */
  behave: ((socket: Socket) => void) | null
  outcome: string
  statusCode: number | null
  /** null: a response came and counts. */
  errorCode: RegExp | null
  /** The receiver keeps the attempt open until its deadline. */
  holds?: true
  isTls?: true
}

/** Bytes that no log line may contain, in whatever form the receiver sends them. */
export const CANARY = 'canary-5f1d'
const CONTROLS = `\x1b[31m\x07\x9b2J\x7f${CANARY}`

const OK = 'HTTP/1.1 200 OK\r\n'
const DRIP_MS = 20
const READS_LATER_MS = 200
const CHUNK = Buffer.alloc(64 * 1_024, 'x')
const BOMB = gzipSync(Buffer.alloc(64 * 1_048_576))

const unanswered = { statusCode: null }
const answered = (outcome: string, statusCode: number) => ({ outcome, statusCode, errorCode: null })
const timedOut = { ...unanswered, outcome: 'timeout', errorCode: null, holds: true } as const
const notHttp = { ...unanswered, outcome: 'protocol_error', errorCode: /^HTTP_PARSER_ERROR$/ }
const CUT_OFF = /^(ECONNRESET|UND_ERR_SOCKET)$/

/** By the name of their endpoint. */
export const HOSTILE_KINDS: Record<string, HostileKind> = {
  refuses: {
    ...{ behave: null, ...unanswered },
    ...{ outcome: 'connect_error', errorCode: /^ECONNREFUSED$/ },
  },
  hangs: { ...timedOut, behave: () => {} },
  'hangs-in-tls': { ...timedOut, behave: () => {}, isTls: true },
  'drips-a-status': {
    ...timedOut,
    behave: (socket) => writeForEver(socket, '\r\n', DRIP_MS),
  },
  'drips-headers': {
    ...timedOut,
    behave(socket) {
      socket.write(`${OK}x: `)
      writeForEver(socket, 'x', DRIP_MS)
    },
  },
  'drips-interim-answers': {
    ...timedOut,
    behave: (socket) => writeForEver(socket, 'HTTP/1.1 102 Processing\r\n\r\n', DRIP_MS),
  },
  'drips-a-body': { ...answered('succeeded', 200), holds: true, behave: dripBody(OK) },
  'drips-a-bad-body': {
    ...answered('http_error', 500),
    holds: true,
    behave: dripBody('HTTP/1.1 500 No\r\n'),
  },
  'pours-interim-answers': {
    ...{ ...unanswered, outcome: 'protocol_error', errorCode: /^INTERIM_ANSWERS_OVERFLOW$/ },
    behave: (socket) => pour(socket, 'HTTP/1.1 102 Processing\r\n\r\n'.repeat(2_000)),
  },
  'pours-headers': {
    ...{ ...unanswered, outcome: 'protocol_error', errorCode: /^UND_ERR_HEADERS_OVERFLOW$/ },
    behave(socket) {
      socket.write(OK)
      pour(socket, `x: ${'x'.repeat(1_000)}\r\n`.repeat(60))
    },
  },
  'has-no-end': {
    ...answered('succeeded', 200),
    behave(socket) {
      socket.write(`${OK}\r\n`)
      pour(socket, CHUNK)
    },
  },
  'answers-a-gigabyte': {
    ...answered('http_error', 500),
    behave(socket) {
      socket.write(`HTTP/1.1 500 No\r\ncontent-length: ${2 ** 30}\r\n\r\n`)
      pour(socket, CHUNK)
    },
  },
  'is-a-gzip-bomb': {
    ...answered('succeeded', 200),
    behave(socket) {
      socket.write(`${OK}content-encoding: gzip\r\ncontent-length: ${BOMB.length}\r\n\r\n`)
      socket.write(BOMB)
    },
  },
  'is-reset-at-once': {
    ...{ ...unanswered, outcome: 'connect_error', errorCode: CUT_OFF },
    behave: (socket) => socket.resetAndDestroy(),
  },
  'ends-in-its-headers': {
    ...{ ...unanswered, outcome: 'connect_error', errorCode: CUT_OFF },
    behave: (socket) => socket.end(`${OK}x: `),
  },
  'ends-in-its-body': {
    ...answered('succeeded', 200),
    behave: (socket) => socket.end(`${OK}content-length: 100\r\n\r\n{"a`),
  },
  'is-garbage': { ...notHttp, behave: (socket) => socket.write(`${CONTROLS}\r\n\r\n`, 'latin1') },
  'is-another-protocol': { ...notHttp, behave: (socket) => socket.write('SSH-2.0-OpenSSH\r\n') },
  'answers-controls': {
    ...answered('http_error', 500),
    behave(socket) {
      const body = Buffer.from(`\0\r\n{"level":60,"msg":"${CONTROLS}"}\n`)
      socket.write(
        `HTTP/1.1 500 ${CANARY}\r\nx: ${CANARY}\r\ncontent-length: ${body.length}\r\n\r\n`,
      )
      socket.write(body)
    },
  },
  'answers-before-it-reads': {
    ...answered('rejected', 413),
    behave(socket) {
      socket.pause()
      socket.write('HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n')
      // A paused socket would never report the end of the connection.
      setTimeout(() => socket.resume(), READS_LATER_MS)
    },
  },
  'redirects-to-itself': {
    ...answered('http_error', 307),
    behave: (socket) => socket.write(redirectTo('/')),
  },
}

/** A redirect without a body. */
export function redirectTo(location: string): string {
  return `HTTP/1.1 307 Elsewhere\r\nlocation: ${location}\r\ncontent-length: 0\r\n\r\n`
}

function dripBody(head: string) {
  return (socket: Socket): void => {
    socket.write(`${head}content-length: 100000\r\n\r\n`)
    writeForEver(socket, 'x', DRIP_MS)
  }
}

/** Sends as fast as the other side reads. */
function pour(socket: Socket, bytes: string | Buffer): void {
  function more(): void {
    while (!socket.destroyed && socket.write(bytes));
  }
  socket.on('drain', more)
  more()
}
