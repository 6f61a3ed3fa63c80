// Strict checks of the URLs of endpoints and of Posthorn itself. The URL parser alone accepts too
// much: it reads `http:x`, `http://@x` and `http:\\x` as http://x, drops line breaks, and accepts
// `http://a,http:` as a host.
import { isIP } from 'node:net'

const WRITTEN = /^https?:\/\/[^/?#@\\]+([/?#]|$)/i
/** Whitespace, control characters and the backslash: a URL contains none of them (RFC 3986). */
const FOREIGN = /[\s\\\p{Cc}]/u

/**
 * Labels of a DNS name as the URL parser returns them. Internal networks often use the underscore.
 */
const HOST_NAME = /^(?!-)[a-z0-9_-]{1,63}(?<!-)(\.(?!-)[a-z0-9_-]{1,63}(?<!-))*\.?$/
/** The longest DNS host name, with its trailing dot. */
const MAX_HOST_LENGTH = 254

/** Whether a host that the URL parser returned is a DNS name or an IP address. */
export function isHostName(host: string): boolean {
  if (isIP(host.replace(/^\[(.*)\]$/, '$1')) !== 0) return true
  return host.length <= MAX_HOST_LENGTH && HOST_NAME.test(host)
}

/** Parses an absolute http or https URL without user and password; null for anything else. */
export function parseHttpUrl(text: string): URL | null {
  if (!WRITTEN.test(text) || FOREIGN.test(text)) return null
  const url = URL.parse(text)
  return url !== null && isHostName(url.hostname) ? url : null
}

/** Why parseHttpUrl rejects the text, as a sentence; null if it accepts it. */
export function httpUrlProblem(text: string): string | null {
  const url = URL.parse(text)
  if (url === null) return 'it is not an absolute URL'
  if (url.protocol !== 'http:' && url.protocol !== 'https:') {
    return `the scheme "${url.protocol.slice(0, -1)}" is neither http nor https`
  }
  if (url.username !== '' || url.password !== '') {
    return 'a URL must not contain a user name or a password; use a header instead'
  }
  return parseHttpUrl(text) === null ? 'it is not written like https://jobs.example.com/hook' : null
}
