// Sends enqueues to an API at a rate that it cannot keep up with. It runs in a process of its own,
// so that its cost does not affect the receiver. It writes pipelined requests to raw sockets,
// because only these are cheap enough to offer ten times as many requests as the API can accept.
import { connect, type Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { nowMs } from './history.ts'
import { payloadText } from './work-payload.ts'

export interface OfferOrder {
  port: number
  apiKey: string
  endpoint: string
  firstWorkNumber: number
  connections: number
  /** Limit of requests without a response, on each connection. */
  mostOpen: number
  /** null: each request follows the response to the last one. */
  perSecond: number | null
  durationMs: number
  /** How long the process waits for responses after the last request. */
  patienceMs: number
}

export interface OfferReport {
  /** Requests that the rate required, but that no connection could send. */
  unsentCount: number
  accepted: { workNumber: number; jobId: string; sentAtMs: number; endedAtMs: number }[]
  /** Requests that were sent and got no response. */
  unanswered: { workNumber: number; sentAtMs: number; endedAtMs: number }[]
  refusedCount: number
  /** How many requests were refused without Retry-After. */
  curtCount: number
  /** Statuses that are neither 2xx nor a refusal. */
  otherStatuses: number[]
  beganAtMs: number
  /** When the last request was sent. */
  endedAtMs: number
}

const TICK_MS = 5
const REFUSALS = [429, 503]
const MOST_OTHER_STATUSES = 20

interface Line {
  socket: Socket
  /** Open requests in the order in which they were sent. Responses have the same order. */
  open: { workNumber: number; sentAtMs: number }[]
  unread: string
}

/** Sends the requests of one order. It keeps only open and accepted requests in memory. */
async function offer(order: OfferOrder): Promise<OfferReport> {
  const report: OfferReport = {
    ...{ unsentCount: 0, accepted: [], unanswered: [], refusedCount: 0, curtCount: 0 },
    ...{ otherStatuses: [], beganAtMs: 0, endedAtMs: 0 },
  }
  let nextWorkNumber = order.firstWorkNumber
  let isOver = false

  function send(line: Line, count: number): void {
    let text = ''
    for (let i = 0; i < count; i++) {
      const workNumber = nextWorkNumber++
      line.open.push({ workNumber, sentAtMs: nowMs() })
      text += requestText(order, workNumber)
    }
    line.socket.write(text)
  }

  const lines = await Promise.all(
    Array.from({ length: order.connections }, () =>
      openLine(order.port, report, (line) => {
        if (order.perSecond === null && !isOver) send(line, 1)
      }),
    ),
  )
  report.beganAtMs = nowMs()
  const endsAtMs = report.beganAtMs + order.durationMs
  if (order.perSecond === null) for (const line of lines) send(line, 1)
  let offeredCount = 0
  for (let turn = 0; nowMs() < endsAtMs; await sleep(TICK_MS)) {
    if (order.perSecond === null) continue
    const wanted = Math.floor(((nowMs() - report.beganAtMs) / 1_000) * order.perSecond)
    const share = Math.ceil((wanted - offeredCount) / lines.length)
    for (let i = 0; i < lines.length && offeredCount < wanted; i++) {
      const line = lines[turn++ % lines.length] as Line
      const count = Math.min(share, order.mostOpen - line.open.length, wanted - offeredCount)
      if (count <= 0 || line.socket.destroyed) continue
      send(line, count)
      offeredCount += count
    }
    report.unsentCount += wanted - offeredCount
    offeredCount = wanted
  }
  isOver = true
  report.endedAtMs = nowMs()
  const patientUntilMs = report.endedAtMs + order.patienceMs
  while (lines.some(({ open }) => open.length > 0) && nowMs() < patientUntilMs) await sleep(TICK_MS)
  for (const { socket, open } of lines) {
    socket.destroy()
    report.unanswered.push(...open.map((one) => ({ ...one, endedAtMs: nowMs() })))
  }
  return report
}

function requestText({ apiKey, endpoint }: OfferOrder, workNumber: number): string {
  const body = `{"endpoint":"${endpoint}","payload":${payloadText(workNumber, {})}}`
  return (
    `POST /jobs HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer ${apiKey}\r\n` +
    `content-type: application/json\r\nidempotency-key: work-${workNumber}\r\n` +
    `content-length: ${body.length}\r\n\r\n${body}`
  )
}

function openLine(
  port: number,
  report: OfferReport,
  onAnswer: (line: Line) => void,
): Promise<Line> {
  const socket = connect(port, '127.0.0.1').setEncoding('latin1').setNoDelay()
  const line: Line = { socket, open: [], unread: '' }
  socket.on('data', (text: string) => {
    line.unread += text
    for (let answer = nextAnswer(line); answer !== null; answer = nextAnswer(line)) {
      note(report, line, answer)
      onAnswer(line)
    }
  })
  // The open requests of the connection are reported as unanswered.
  socket.on('error', () => socket.destroy())
  return new Promise((resolve, reject) => {
    socket.once('connect', () => resolve(line))
    socket.once('close', () => reject(new Error('a connection was refused')))
  })
}

interface Answer {
  head: string
  body: string
}

/** The next response; null: it is not complete yet. */
function nextAnswer(line: Line): Answer | null {
  const headEnd = line.unread.indexOf('\r\n\r\n')
  if (headEnd === -1) return null
  const head = line.unread.slice(0, headEnd).toLowerCase()
  const length = Number(/\r\ncontent-length: (\d+)/.exec(head)?.[1])
  const end = headEnd + 4 + length
  if (line.unread.length < end) return null
  const body = line.unread.slice(headEnd + 4, end)
  line.unread = line.unread.slice(end)
  return { head, body }
}

function note(report: OfferReport, line: Line, { head, body }: Answer): void {
  const asked = line.open.shift()
  if (asked === undefined) throw new Error('an answer to nothing that was asked')
  const status = Number(head.slice(9, 12))
  if (status === 201 || status === 200) {
    const jobId = /"id":"([^"]+)"/.exec(body)?.[1] ?? ''
    report.accepted.push({ ...asked, jobId, endedAtMs: nowMs() })
  } else if (REFUSALS.includes(status)) {
    report.refusedCount += 1
    if (!/\r\nretry-after: \d+/.test(head)) report.curtCount += 1
    // The store may have made the write although it did not respond.
    if (body.includes('store_unavailable')) {
      report.unanswered.push({ ...asked, endedAtMs: nowMs() })
    }
  } else if (report.otherStatuses.length < MOST_OTHER_STATUSES) {
    report.otherStatuses.push(status)
  }
}

process.once('message', async (order: OfferOrder) => {
  const report = await offer(order)
  process.send?.(report, () => process.disconnect())
})
