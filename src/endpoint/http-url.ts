// URLs of endpoints and of Posthorn itself, as people write them. The URL parser alone takes more:
// it reads `http:x`, `http://@x` and `http:\\x` as http://x, drops line ends, and takes
// `http://a,http:` for a host.
import { isIP } from 'node:net'

const WRITTEN = /^https?:\/\/[^/?#@\\]+([/?#]|$)/i
/** White space, control characters and the backslash: none of them belongs in a URL (RFC 3986). */
const FOREIGN = /[\s\\\p{Cc}]/u

/** Labels of a DNS name as the URL parser leaves them; the underscore is common in networks. */
const HOST_NAME = /^(?!-)[a-z0-9_-]{1,63}(?<!-)(\.(?!-)[a-z0-9_-]{1,63}(?<!-))*\.?$/
/** Longest host name of DNS, with a dot at its end. */
const MAX_HOST_LENGTH = 254

/** Whether this is the host of a URL, as the URL parser returned it: a DNS name or an address. */
export function isHostName(host: string): boolean {
  if (isIP(host.replace(/^\[(.*)\]$/, '$1')) !== 0) return true
  return host.length <= MAX_HOST_LENGTH && HOST_NAME.test(host)
}

/** An absolute http or https URL without user and password; null: anything else. */
export function parseHttpUrl(text: string): URL | null {
  if (!WRITTEN.test(text) || FOREIGN.test(text)) return null
  const url = URL.parse(text)
  return url !== null && isHostName(url.hostname) ? url : null
}

/** Why the text is not such a URL, as a sentence; null if it is one. */
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
