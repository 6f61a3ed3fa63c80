// A TCP proxy in front of MongoDB. It cuts or stalls connections, or loses a single response:
// faults that a server never has at the right moment by itself.
import { once } from 'node:events'
import { connect, createServer, type Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { databaseUrl } from './mongo.ts'
import { freePort } from './mongo-server.ts'
import {
  createSlowDisk,
  errorAnswerTo,
  OVER_TIME,
  type ServerError,
  type SlowDisk,
  writeRequestOf,
} from './slow-writes.ts'
import { splitMessages } from './wire-messages.ts'

export interface MongoProxy {
  /** The URL of the same database, through the proxy. */
  url: string
  /** Ends all connections and accepts no new ones. */
  cut(): void
  /** Accepts everything and responds to nothing. */
  stall(): void
  /** Reads no more bytes of what is being sent. */
  stopReading(): void
  /** Delays every response by this time. */
  slow(delayMs: number): void
  /** Responds to every write with this error, instead of the server. */
  refuseWrites(error: ServerError): void
  /** Lets new connections through again. Stalled connections never respond. */
  restore(): void
  /** The next request that contains this text reaches the server, and then its connection ends. */
  loseAnswerTo(text: string): void
  /** The next request that contains this text reaches the server, and no later request does. */
  cutAfter(text: string): void
  /** How many responses were lost in this way. */
  lostAnswers(): number
  stop(): Promise<void>
}

type Mode = 'open' | 'cut' | 'stalled'

/** @param disk the disk that every write waits for; proxies of one server may share it */
export async function startMongoProxy(
  targetUrl: string,
  disk: SlowDisk = createSlowDisk(),
): Promise<MongoProxy> {
  const target = firstHostOf(targetUrl)
  const sockets = new Set<Socket>()
  let mode: Mode = 'open'
  let loseNext: string | null = null
  let cutsAfterNext = false
  let lostAnswers = 0
  let delayMs = 0
  let refusal: ServerError | null = null

  const cut = () => {
    mode = 'cut'
    for (const socket of sockets) socket.destroy()
  }
  const server = createServer((client) => {
    if (mode === 'cut') return client.destroy()
    const upstream = connect(target)
    let isLosing = false
    let isBlackHole = false
    let sent = Promise.resolve()
    let received = Promise.resolve()
    const gone = new AbortController()

    /** Whether these bytes are passed on. A connection that lost some bytes passes no others on. */
    const getsThrough = () => {
      if (mode === 'stalled') isBlackHole = true
      return !isBlackHole
    }
    /** Responses keep their order, whatever the delay is now. */
    const answer = (chunk: Buffer) => {
      const dueAtMs = performance.now() + delayMs
      sent = sent.then(async () => {
        const leftMs = dueAtMs - performance.now()
        if (leftMs > 0) await sleep(leftMs)
        client.write(chunk)
      })
    }
    for (const socket of [client, upstream]) {
      sockets.add(socket)
      socket.setNoDelay(true)
      // Each end may be closed at any time, on purpose.
      socket.on('error', () => {})
      socket.on('close', () => {
        sockets.delete(socket)
        gone.abort()
        client.destroy()
        upstream.destroy()
      })
    }
    const request = (message: Buffer) => {
      if (loseNext !== null && message.includes(loseNext)) {
        loseNext = null
        isLosing = true
      }
      received = received.then(async () => {
        const write = writeRequestOf(message)
        if (refusal !== null && write.documentCount > 0) {
          client.write(errorAnswerTo(message, refusal))
          return
        }
        const isWritten = await disk.write(write, gone.signal)
        if (gone.signal.aborted) return
        if (isWritten) upstream.write(message)
        else client.write(errorAnswerTo(message, OVER_TIME))
      })
    }
    const read = splitMessages(request)
    client.on('data', (chunk) => {
      if (getsThrough()) read(chunk)
    })
    upstream.on('data', (chunk) => {
      if (!getsThrough()) return
      if (!isLosing) return answer(chunk)
      lostAnswers += 1
      if (cutsAfterNext) cut()
      else client.destroy()
    })
  })
  server.listen(await freePort(), '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as { port: number }
  const database = /^[^/]+\/\/[^/]+\/([^?]*)/.exec(targetUrl)?.[1] ?? ''
  return {
    url: `${databaseUrl(`mongodb://127.0.0.1:${port}`, database)}?directConnection=true`,
    cut,
    stall() {
      mode = 'stalled'
    },
    stopReading() {
      for (const socket of sockets) socket.pause()
    },
    slow(forMs) {
      delayMs = forMs
    },
    refuseWrites(error) {
      refusal = error
    },
    restore() {
      mode = 'open'
      delayMs = 0
      refusal = null
    },
    loseAnswerTo(text) {
      loseNext = text
      cutsAfterNext = false
    },
    cutAfter(text) {
      loseNext = text
      cutsAfterNext = true
    },
    lostAnswers: () => lostAnswers,
    async stop() {
      for (const socket of sockets) socket.destroy()
      server.close()
      await once(server, 'close')
    },
  }
}

function firstHostOf(url: string): { host: string; port: number } {
  const [, host, port = '27017'] = /^mongodb:\/\/(?:[^@/]*@)?([^:/,]+)(?::(\d+))?/.exec(url) ?? []
  if (host === undefined) throw new Error('the proxy needs a mongodb:// URL with a host')
  return { host, port: Number(port) }
}
