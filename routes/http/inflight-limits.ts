// Limits the memory that the API uses for all clients together: for requests without a response,
// their bodies, and responses that were not read yet. A thousand clients that are each within their
// limits can be too many together. The API then refuses requests, large ones first.
import type { Server } from 'node:http'
import type { Socket } from 'node:net'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import { AppError } from '../../src/errors.ts'

declare module 'fastify' {
  interface FastifyRequest {
    reservation: Reservation | null
  }
}

export interface InflightLimits {
  /** Includes waits, of which there are at most 20,000 (jobs/waits.ts). */
  requests: number
  /** Enough for two of the largest bodies. */
  bodyBytes: number
  responseBytes: number
  /**
   * Responses of routes that need no key: clients without a key must not use the memory of others.
   */
  openResponseBytes: number
}

export const INFLIGHT_LIMITS: InflightLimits = {
  requests: 50_000,
  bodyBytes: 128 * 1_048_576,
  responseBytes: 128 * 1_048_576,
  openResponseBytes: 32 * 1_048_576,
}

const KINDS = ['requests', 'bodyBytes', 'responseBytes', 'openResponseBytes'] as const
const NOTHING: InflightLimits = {
  requests: 0,
  bodyBytes: 0,
  responseBytes: 0,
  openResponseBytes: 0,
}

/**
 * Larger bodies and responses are refused once half of the limit is used, so that small ones always
 * have room.
 */
const SMALL_BYTES = 65_536
const RETRY_AFTER_SECONDS = '1'

/**
 * Counts further bytes of the body of a request.
 *
 * @param soFar the size of the body including these bytes
 * @throws AppError overloaded
 */
export type CountBody = (request: FastifyRequest, bytes: number, soFar: number) => void

/** The amounts counted for one request, until its response is sent or its connection is closed. */
export interface Reservation extends InflightLimits {
  /** The reservations of the same connection; null: this reservation has ended. */
  siblings: Reservation[] | null
}

export interface Inflight {
  open(socket: Socket): Reservation
  /**
   * @param soFar the size of the body or response including this amount. Throws AppError
   * overloaded.
   */
  add(reservation: Reservation, what: keyof InflightLimits, amount: number, soFar: number): void
  end(reservation: Reservation): void
}

/**
 * Must be called before the routes are registered: a hook applies only to routes registered later.
 */
export function limitInflight(app: FastifyInstance, inflight: Inflight): CountBody {
  app.decorateRequest('reservation', null)
  app.addHook('onRequest', (request, reply, done) => {
    const reservation = inflight.open(request.raw.socket)
    request.reservation = reservation
    reply.raw.on('close', () => inflight.end(reservation))
    inflight.add(reservation, 'requests', 1, 0)
    done()
  })
  app.addHook('onSend', (request, reply, payload, done) => {
    const reservation = request.reservation
    const isSized = typeof payload === 'string' || Buffer.isBuffer(payload)
    // Responses with an error are always sent.
    if (reservation === null || !isSized || reply.statusCode >= 400) {
      done(null, payload)
      return
    }
    const bytes = Buffer.byteLength(payload)
    try {
      const isOpen = request.routeOptions.config.open === true
      inflight.add(reservation, isOpen ? 'openResponseBytes' : 'responseBytes', bytes, bytes)
    } catch (error) {
      // These headers belong to the response that is not sent.
      for (const name of ['etag', 'location']) reply.removeHeader(name)
      throw error
    }
    done(null, payload)
  })
  return ({ reservation }, bytes, soFar) => {
    if (reservation !== null) inflight.add(reservation, 'bodyBytes', bytes, soFar)
  }
}

export function countInflight(server: Server, limits: InflightLimits): Inflight {
  const sum: InflightLimits = { ...NOTHING }
  const reservationsOf = new WeakMap<Socket, Reservation[]>()
  // Node reports the close of a connection only to its current response, not to the responses
  // queued behind it.
  server.on('connection', (socket) => {
    // Each pending request adds a listener. The number of requests is limited in connections.ts.
    socket.setMaxListeners(0)
    const reservations: Reservation[] = []
    reservationsOf.set(socket, reservations)
    socket.once('close', () => {
      reservationsOf.delete(socket)
      for (const reservation of reservations.splice(0)) end(reservation)
    })
  })

  function end(reservation: Reservation): void {
    const { siblings } = reservation
    if (siblings === null) return
    const at = siblings.indexOf(reservation)
    if (at >= 0) siblings.splice(at, 1)
    reservation.siblings = null
    for (const what of KINDS) sum[what] -= reservation[what]
  }

  return {
    open(socket) {
      const siblings = reservationsOf.get(socket) ?? null
      const reservation: Reservation = { ...NOTHING, siblings }
      siblings?.push(reservation)
      return reservation
    },
    add(reservation, what, amount, soFar) {
      if (reservation.siblings === null) return
      const most = soFar > SMALL_BYTES ? limits[what] / 2 : limits[what]
      if (sum[what] + amount > most) throw tooMuch()
      sum[what] += amount
      reservation[what] += amount
    },
    end,
  }
}

function tooMuch(): AppError {
  return new AppError('overloaded', 'the server is at its memory limit; retry later', {
    headers: { 'retry-after': RETRY_AFTER_SECONDS },
  })
}
