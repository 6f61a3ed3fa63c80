// The receiver of a fault run. It logs each delivery, responds as planned, and lets a round delay
// responses.
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo, Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { Webhook } from 'standardwebhooks'
import { type Delivery, type GroupNotice, nowMs } from './history.ts'
import { hashOf, partsOf, readPayload, resultText } from './work-payload.ts'

/** A status, or what happens to the connection instead of a response. */
export type Reply = number | 'reset' | 'hang'

export interface WorkReceiver {
  /** The base URL without a trailing slash. The path is the name of the endpoint. */
  url: string
  /** In the order in which their headers were received. */
  deliveries: Delivery[]
  /**
   * Sets the secret that verifies deliveries of this endpoint. There are several during a rotation.
   */
  trust(endpoint: string, ...secrets: string[]): void
  /** Decides the response: undefined keeps the plan; a promise delays it. */
  answerWith(script: (delivery: Delivery) => Reply | undefined | Promise<Reply | undefined>): void
  close(): Promise<void>
}

/**
 * Node accepts one connection of a listener in each turn of its event loop. When the receiver was
 * busy, 94 connections of one claim waited up to 6 s in the kernel with their requests, and
 * the worker that had sent them was long dead.
 */
const LISTENERS = 16

export async function startWorkReceiver(port = 0): Promise<WorkReceiver> {
  const deliveries: Delivery[] = []
  const sockets = new Map<Socket, { requestCount: number }>()
  const secretsOf = new Map<string, Webhook[]>()
  let script: Parameters<WorkReceiver['answerWith']>[0] = () => undefined

  async function receive(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const beganAtMs = nowMs()
    const connection = sockets.get(request.socket) ?? { requestCount: 0 }
    const requestOnConnection = ++connection.requestCount
    const body = await wholeBody(request)
    if (body === null) return
    const endpoint = (request.url ?? '/').slice(1)
    const plan = readPayload(partsOf(body).payload)
    const delivery = deliveryOf(request, body, endpoint, { beganAtMs, requestOnConnection })
    delivery.workNumber = plan?.workNumber ?? -1
    delivery.notice = plan === null ? readNotice(body) : null
    delivery.signature = isSigned(request, body, secretsOf.get(endpoint) ?? [])
    deliveries.push(delivery)
    watchEnd(response, delivery)
    const taken = await script(delivery)
    if (taken === undefined && plan?.answerAfterMs) await sleep(plan.answerAfterMs)
    reply(response, delivery, taken ?? (delivery.attempt <= (plan?.failures ?? 0) ? 500 : 200))
  }
  const servers: Server[] = []
  for (let i = 0; i < LISTENERS; i++) {
    const server = createServer(receive)
    server.on('connection', (socket) => {
      sockets.set(socket, { requestCount: 0 })
      socket.on('close', () => sockets.delete(socket))
      // An error is expected here: senders are killed on purpose.
      socket.on('error', () => {})
    })
    const address = { host: '127.0.0.1', port: portOf(servers[0]) ?? port, reusePort: true }
    await new Promise<void>((resolve) => server.listen(address, resolve))
    servers.push(server)
  }

  return {
    url: `http://127.0.0.1:${portOf(servers[0])}`,
    deliveries,
    trust(endpoint, ...secrets) {
      secretsOf.set(
        endpoint,
        secrets.map((secret) => new Webhook(secret)),
      )
    },
    answerWith(next) {
      script = next
    },
    async close() {
      const closed = servers.map((server) => new Promise((resolve) => server.close(resolve)))
      for (const socket of sockets.keys()) socket.destroy()
      await Promise.all(closed)
    },
  }
}

function portOf(server: Server | undefined): number | undefined {
  return (server?.address() as AddressInfo | undefined)?.port
}

function deliveryOf(
  request: IncomingMessage,
  body: Buffer,
  endpoint: string,
  arrival: Pick<Delivery, 'beganAtMs' | 'requestOnConnection'>,
): Delivery {
  const { headers } = request
  const { payload, inputs } = partsOf(body)
  return {
    jobId: String(headers['webhook-id']),
    workNumber: -1,
    endpoint,
    fence: Number(headers['posthorn-fence']),
    attempt: Number(headers['posthorn-attempt']),
    bodyHash: hashOf(payload),
    inputs,
    ...arrival,
    timestampSeconds: Number(headers['webhook-timestamp']),
    signature: 'invalid',
    status: null,
    answeredAtMs: null,
    brokenOffAtMs: null,
    isHostile: false,
    notice: null,
  }
}

function readNotice(body: Buffer): GroupNotice | null {
  const { groupId, counts } = JSON.parse(body.toString())
  return groupId === undefined ? null : { groupId, counts }
}

/**
 * Verifies with the library of Standard Webhooks, but without the timestamp, which the checker
 * checks.
 */
function isSigned(request: IncomingMessage, body: Buffer, trusted: Webhook[]): 'valid' | 'invalid' {
  const { headers } = request
  const at = new Date(Number(headers['webhook-timestamp']) * 1_000)
  const given = String(headers['webhook-signature']).split(' ')
  const expected = trusted.map((one) =>
    one.sign(String(headers['webhook-id']), at, body.toString()),
  )
  return expected.some((signature) => given.includes(signature)) ? 'valid' : 'invalid'
}

function watchEnd(response: ServerResponse, delivery: Delivery): void {
  response.on('finish', () => {
    delivery.answeredAtMs = nowMs()
  })
  response.on('close', () => {
    if (delivery.answeredAtMs === null) delivery.brokenOffAtMs = nowMs()
  })
}

function reply(response: ServerResponse, delivery: Delivery, given: Reply): void {
  if (given === 'hang' || response.destroyed) return
  if (given === 'reset') {
    response.destroy()
    return
  }
  delivery.status = given
  response.writeHead(given)
  response.end(resultText(delivery.workNumber))
}

/** Returns null if the sender aborted. */
async function wholeBody(request: IncomingMessage): Promise<Buffer | null> {
  const chunks: Buffer[] = []
  try {
    for await (const chunk of request) chunks.push(chunk)
    return Buffer.concat(chunks)
  } catch {
    return null
  }
}
