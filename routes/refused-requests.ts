// The log of refused keys and tokens: a line each, but so few at a time that a flood of wrong keys
// fills no disk.
import type { FastifyRequest } from 'fastify'
import type { AppError } from '../src/errors.ts'

const MAX_LINES = 10
const WINDOW_MS = 10_000

/** What of an error is about the right to ask: 401 and 403. */
export function isRefusal({ status }: AppError): boolean {
  return status === 401 || status === 403
}

/** Logs a refused request, unless enough were logged a moment ago; the next line says how many. */
export function createRefusalLog(): (request: FastifyRequest, error: AppError) => void {
  let windowEndsAtMs = 0
  let lineCount = 0
  let unloggedCount = 0

  return (request, error) => {
    const nowMs = performance.now()
    if (nowMs >= windowEndsAtMs) {
      windowEndsAtMs = nowMs + WINDOW_MS
      lineCount = 0
    }
    if (lineCount >= MAX_LINES) {
      unloggedCount++
      return
    }
    lineCount++
    request.log.warn(
      {
        status: error.status,
        reason: error.message,
        method: request.method,
        // Not the URL: a token may stand in it.
        route: request.routeOptions.url ?? null,
        address: request.ip,
        keyId: request.storedKey?.id ?? null,
        requestId: request.id,
        unloggedCount,
      },
      'request.refused',
    )
    unloggedCount = 0
  }
}
