// The connections to endpoints: one line for each attempt in flight, kept a moment for the next.
// undici's Pool is not used: it queues, scans, and gives no way to end a request that still waits
// for its connection. A line of its own for each attempt can be cut at any moment.
import type { Socket } from 'node:net'
import { Client } from 'undici'
import type { AddressPolicy } from './address-policy.ts'
import type { Dial, Target } from './dial.ts'
import { type AnswerFilter, filterAnswers } from './interim-answers.ts'

export interface Line {
  client: Client
  origin: string
  target: Target
  /** Connected; null before that. */
  socket: Socket | null
  /** Of that connection. */
  answers: AnswerFilter | null
  /** Ends the connection or the attempt at one. */
  hangUp: () => void
  /** The policy that allowed the connection. */
  policy: AddressPolicy | null
}

export interface Lines {
  /** A line to this origin (`http://host:port`), an idle one if there is one. */
  take(origin: string): Line
  /** A line that was never used. */
  open(origin: string): Line
  /** After an answer that was read to its end. */
  giveBack(line: Line): void
  /** Ends the line at once, whatever it does. */
  cut(line: Line): void
  close(): Promise<void>
}

/** Receivers close an idle connection after 2 to 5 s; one that dies in use costs a second send. */
const IDLE_MS = 1_000
/** Stay this much under what a receiver names in Keep-Alive. */
const IDLE_MARGIN_MS = 500
const MAX_ANSWER_HEADER_BYTES = 16 * 1_024

/** @param maxIdle how many lines wait for their next request, over all origins */
export function createLines(dial: Dial, policy: () => AddressPolicy, maxIdle: number): Lines {
  const idle = createIdleLines()
  const open = new Set<Line>()

  function take(origin: string): Line {
    let line = idle.take(origin)
    // A connection opened under a wider policy ends here, before anything more is sent on it.
    while (line !== undefined && !isStillAllowed(line, policy())) {
      cut(line)
      line = idle.take(origin)
    }
    return line ?? openLine(origin)
  }

  function openLine(origin: string): Line {
    const line = newLine(origin, dial, policy)
    // The receiver closed it, or its time was over. In use it would connect anew by itself.
    line.client.on('disconnect', () => {
      if (idle.remove(line)) cut(line)
    })
    open.add(line)
    return line
  }

  function giveBack(line: Line): void {
    const { socket } = line
    // Answered before all of the request had left: the next one would wait behind the rest of it,
    // for ever if the receiver does not mean to read that.
    const isUsable = socket !== null && !socket.destroyed && socket.writableLength === 0
    if (isUsable && idle.count() < maxIdle) idle.add(line)
    else cut(line)
  }

  function cut(line: Line): void {
    open.delete(line)
    line.hangUp()
    void line.client.destroy()
  }

  async function close(): Promise<void> {
    const closed = [...open].map(({ socket }) => untilClosed(socket))
    for (const line of open) {
      idle.remove(line)
      cut(line)
    }
    await Promise.all(closed)
  }

  return { take, open: openLine, giveBack, cut, close }
}

function newLine(origin: string, dial: Dial, policy: () => AddressPolicy): Line {
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
      line.hangUp = dial(target, (error, socket) => {
        if (error !== null) {
          done(error, null)
          return
        }
        line.socket = socket
        line.answers = filterAnswers(socket)
        line.hangUp = () => socket.destroy()
        done(null, socket)
      })
    },
  })
  const line: Line = {
    ...{ client, origin, target, socket: null, answers: null, policy: null },
    hangUp() {},
  }
  return line
}

function isStillAllowed(line: Line, policy: AddressPolicy): boolean {
  if (line.policy === policy) return true
  const ip = line.socket?.remoteAddress
  if (ip === undefined) return false
  if (!policy.judgeAddress(ip, line.target.port, line.target.hostname).allowed) return false
  line.policy = policy
  return true
}

interface IdleLines {
  /** The one used last: its connection is the least likely to be closed by the receiver. */
  take(origin: string): Line | undefined
  add(line: Line): void
  /** false: it was not idle. */
  remove(line: Line): boolean
  count(): number
}

function createIdleLines(): IdleLines {
  const byOrigin = new Map<string, Line[]>()
  let count = 0

  function take(origin: string): Line | undefined {
    const lines = byOrigin.get(origin)
    const line = lines?.pop()
    if (line === undefined) return undefined
    if (lines?.length === 0) byOrigin.delete(origin)
    count -= 1
    return line
  }

  function add(line: Line): void {
    const lines = byOrigin.get(line.origin)
    if (lines === undefined) byOrigin.set(line.origin, [line])
    else lines.push(line)
    count += 1
  }

  function remove(line: Line): boolean {
    const lines = byOrigin.get(line.origin) ?? []
    const at = lines.indexOf(line)
    if (at < 0) return false
    lines.splice(at, 1)
    if (lines.length === 0) byOrigin.delete(line.origin)
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
