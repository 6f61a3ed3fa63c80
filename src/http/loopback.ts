// Which requests a process without API_KEYS accepts: those from this machine that do not come from
// a web page.
import type { FastifyRequest } from 'fastify'
import { AppError } from '../errors.ts'
import { forbidden } from './access.ts'

/** Whether a name or address, as in HOST or a Host header, can only be this machine. */
export function isLoopbackName(host: string): boolean {
  const name = host.toLowerCase()
  return name === 'localhost' || name === '::1' || name === '[::1]' || isLoopbackV4(name)
}

function isLoopbackV4(name: string): boolean {
  return /^127\.\d{1,3}\.\d{1,3}\.\d{1,3}$/.test(name)
}

/**
 * Without API_KEYS a request needs no key, so a page in the user's browser must not reach the API:
 * neither through a name that was rebound to 127.0.0.1 (Host), nor from another site (Origin; Fetch
 * Metadata, w3.org/TR/fetch-metadata).
 */
export function refuseWebPages(request: Pick<FastifyRequest, 'headers' | 'raw'>): void {
  const { host = '' } = request.headers
  // If there are several Host headers, Node shows the first one. RFC 9112, section 3.2, requires an
  // error.
  if (countOf('host', request.raw.rawHeaders) > 1) {
    const message = 'duplicate header'
    throw new AppError('invalid_request', `header/host: ${message}`, {
      errors: [{ path: 'header/host', message }],
    })
  }
  if (!isLoopbackName(host.replace(/:\d*$/, ''))) {
    throw forbidden(
      'in local mode the Host must be localhost, 127.0.0.0/8 or [::1]; set API_KEYS to listen elsewhere',
    )
  }
  const { origin } = request.headers
  if (origin !== undefined && origin !== `http://${host}`) {
    throw forbidden('in local mode the Origin must be that of the API itself')
  }
  const site = request.headers['sec-fetch-site']
  if (site === 'cross-site' || site === 'same-site') {
    throw forbidden('in local mode no other site may send requests')
  }
}

/** @param rawHeaders alternating names and values, as received */
function countOf(name: string, rawHeaders: string[]): number {
  let count = 0
  for (let i = 0; i < rawHeaders.length; i += 2) {
    const one = rawHeaders[i] as string
    if (one.length === name.length && one.toLowerCase() === name) count++
  }
  return count
}
