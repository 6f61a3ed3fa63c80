// What the API holds for all clients together: requests that are not answered, bodies they came
// with, answers that nobody has taken yet. Each client by itself is within its limits, and a
// thousand of them are not: whatever would be too much is refused, the large ones first.
import type { Server } from 'node:http'
import type { Socket } from 'node:net'
import type { Readable } from 'node:stream'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import { AppError } from '../../src/errors.ts'

declare module 'fastify' {
  interface FastifyRequest {
    heldShare: Share | null
  }
}

export interface HeldLimits {
  /** Waits included, of which there are 20,000 at most (jobs/waits.ts). */
  requests: number
  /** Room for two of the largest. */
  bodyBytes: number
  answerBytes: number
  /** Of routes that need no key: clients without one must not take up the room of the others. */
  openAnswerBytes: number
}

export const HELD_LIMITS: HeldLimits = {
  requests: 50_000,
  bodyBytes: 128 * 1_048_576,
  answerBytes: 128 * 1_048_576,
  openAnswerBytes: 32 * 1_048_576,
}

const KINDS = ['requests', 'bodyBytes', 'answerBytes', 'openAnswerBytes'] as const
const NOTHING: HeldLimits = { requests: 0, bodyBytes: 0, answerBytes: 0, openAnswerBytes: 0 }

/** Larger ones are refused from half of the limit on, so that they never keep out the others. */
const SMALL_BYTES = 65_536
const RETRY_AFTER_SECONDS = '1'

/** Reads a body whole. Rejects with AppError payload_too_large or overloaded. */
export type BodyReader = (request: FastifyRequest, stream: Readable) => Promise<Buffer>

/** What one request has of it, until it is answered or its connection is gone. */
interface Share extends HeldLimits {
  /** Those of the same connection; null: it is over. */
  siblings: Set<Share> | null
}

interface Held {
  begin(socket: Socket): Share
  /** @param soFar how large the thing is that grows. Throws AppError overloaded. */
  take(share: Share, what: keyof HeldLimits, amount: number, soFar: number): void
  end(share: Share): void
}

/** Must be called before the routes are registered: a hook holds for what comes after it. */
export function limitHeld(app: FastifyInstance, limits: HeldLimits): BodyReader {
  const held = countHeld(app.server, limits)
  app.decorateRequest('heldShare', null)
  app.addHook('onRequest', (request, reply, done) => {
    const share = held.begin(request.raw.socket)
    request.heldShare = share
    reply.raw.on('close', () => held.end(share))
    held.take(share, 'requests', 1, 0)
    done()
  })
  app.addHook('onSend', (request, reply, payload, done) => {
    const share = request.heldShare
    const isSized = typeof payload === 'string' || Buffer.isBuffer(payload)
    // Whoever is refused is to hear so.
    if (share === null || !isSized || reply.statusCode >= 400) {
      done(null, payload)
      return
    }
    const bytes = Buffer.byteLength(payload)
    try {
      const isOpen = request.routeOptions.config.open === true
      held.take(share, isOpen ? 'openAnswerBytes' : 'answerBytes', bytes, bytes)
    } catch (error) {
      // They are the answer's that is not sent.
      for (const name of ['etag', 'location']) reply.removeHeader(name)
      throw error
    }
    done(null, payload)
  })
  return (request, stream) => {
    const share = request.heldShare
    return readWhole(request, stream, (bytes, soFar) => {
      if (share !== null) held.take(share, 'bodyBytes', bytes, soFar)
    })
  }
}

function countHeld(server: Server, limits: HeldLimits): Held {
  const sum: HeldLimits = { ...NOTHING }
  const sharesOf = new WeakMap<Socket, Set<Share>>()
  // Node tells a response that its connection is gone, but not those that were to come after it.
  server.on('connection', (socket) => {
    // One for each request on it that waits for its end; their number is limited here.
    socket.setMaxListeners(0)
    const shares = new Set<Share>()
    sharesOf.set(socket, shares)
    socket.once('close', () => {
      sharesOf.delete(socket)
      for (const share of shares) end(share)
    })
  })

  function end(share: Share): void {
    if (share.siblings === null) return
    share.siblings.delete(share)
    share.siblings = null
    for (const what of KINDS) sum[what] -= share[what]
  }

  return {
    begin(socket) {
      const siblings = sharesOf.get(socket) ?? null
      const share: Share = { ...NOTHING, siblings }
      siblings?.add(share)
      return share
    },
    take(share, what, amount, soFar) {
      if (share.siblings === null) return
      const most = soFar > SMALL_BYTES ? limits[what] / 2 : limits[what]
      if (sum[what] + amount > most) throw tooMuch()
      sum[what] += amount
      share[what] += amount
    },
    end,
  }
}

function tooMuch(): AppError {
  return new AppError('overloaded', 'the server is at its memory limit; retry later', {
    headers: { 'retry-after': RETRY_AFTER_SECONDS },
  })
}

/** Fastify would do this by itself, but tells nobody of what it holds meanwhile. */
function readWhole(
  request: FastifyRequest,
  stream: Readable,
  take: (bytes: number, soFar: number) => void,
): Promise<Buffer> {
  const limitBytes = request.routeOptions.bodyLimit
  if (Number(request.headers['content-length']) > limitBytes)
    return Promise.reject(tooLarge(limitBytes))
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = []
    let length = 0
    let isOver = false
    function onData(chunk: Buffer): void {
      if (isOver) return
      length += chunk.length
      try {
        if (length > limitBytes) throw tooLarge(limitBytes)
        take(chunk.length, length)
        chunks.push(chunk)
      } catch (error) {
        fail(error)
      }
    }
    function fail(error: unknown): void {
      if (isOver) return
      isOver = true
      // What still comes is let go by; the answer closes the connection.
      stream.resume()
      reject(error)
    }
    function onEnd(): void {
      isOver = true
      resolve(Buffer.concat(chunks, length))
    }
    function onClose(): void {
      // An error costs more than all the rest of this.
      if (isOver) return
      fail(new AppError('invalid_request', 'the body ended before all of it had come'))
    }
    stream.on('data', onData).on('end', onEnd).on('error', fail).on('close', onClose)
  })
}

function tooLarge(limitBytes: number): AppError {
  const detail = `the body is larger than ${limitBytes} bytes, the limit of this route`
  return new AppError('payload_too_large', detail)
}
