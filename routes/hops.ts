// How many deliveries led to a request: an endpoint may be this very API, and then a job that
// enqueues another one would go round for ever (the idea of CDN-Loop, RFC 8586).
import { AppError } from '../src/errors.ts'
import { HOPS_HEADER, MAX_HOPS } from '../src/job/job.ts'

/** 0: no delivery did. Throws AppError invalid_request beyond MAX_HOPS. */
export function hopsOf(headers: Record<string, unknown>): number {
  const text = headers[HOPS_HEADER]
  if (text === undefined) return 0
  const hops = typeof text === 'string' && /^\d{1,9}$/.test(text) ? Number(text) : null
  if (hops !== null && hops <= MAX_HOPS) return hops
  const message =
    hops === null
      ? 'expected the value of a delivery, a whole number'
      : `${hops} deliveries led to this request, and at most ${MAX_HOPS} may: its endpoint may lead back here`
  throw new AppError('invalid_request', `${HOPS_HEADER}: ${message}`, {
    errors: [{ path: `header/${HOPS_HEADER}`, message }],
  })
}
