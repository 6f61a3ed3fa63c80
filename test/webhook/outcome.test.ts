// The meaning of each response and each error, row by row of the delivery contract.
import { describe, expect, it } from 'vitest'
import {
  AddressRefused,
  HandshakeFailed,
  outcomeOfError,
  outcomeOfResponse,
} from '../../src/webhook/outcome.ts'

const NOW = Date.UTC(2026, 10, 24, 8, 30, 0)
const DAY_MS = 86_400_000

const NO_RETRY = { 'posthorn-no-retry': 'true' }
const AFTER_2 = { 'retry-after': '2' }

describe('outcomeOfResponse', () => {
  it.each([
    [200, {}, 'succeeded'],
    [201, {}, 'succeeded'],
    [202, {}, 'succeeded'],
    [204, {}, 'succeeded'],
    [299, {}, 'succeeded'],
    [200, NO_RETRY, 'succeeded'],
    [200, AFTER_2, 'succeeded'],
    [301, {}, 'http_error'],
    [304, {}, 'http_error'],
    [307, { location: 'http://127.0.0.1/' }, 'http_error'],
    [302, NO_RETRY, 'rejected'],
    [400, {}, 'rejected'],
    [413, {}, 'rejected'],
    [414, {}, 'rejected'],
    [415, {}, 'rejected'],
    [422, {}, 'rejected'],
    [410, {}, 'rejected'],
    [410, NO_RETRY, 'rejected'],
    [429, {}, 'throttled'],
    [429, AFTER_2, 'throttled'],
    [429, { ...NO_RETRY, ...AFTER_2 }, 'rejected'],
    [503, AFTER_2, 'throttled'],
    [503, {}, 'http_error'],
    [503, { ...NO_RETRY, ...AFTER_2 }, 'rejected'],
    [401, {}, 'http_error'],
    [403, {}, 'http_error'],
    [404, {}, 'http_error'],
    [405, {}, 'http_error'],
    [408, {}, 'http_error'],
    [409, {}, 'http_error'],
    [418, {}, 'http_error'],
    [500, {}, 'http_error'],
    [500, NO_RETRY, 'rejected'],
    [500, { 'posthorn-no-retry': 'TRUE ' }, 'rejected'],
    [500, { 'posthorn-no-retry': 'false' }, 'http_error'],
    [500, { 'posthorn-no-retry': ['true', 'true'] }, 'rejected'],
    [502, {}, 'http_error'],
    [599, {}, 'http_error'],
    [999, {}, 'http_error'],
  ])('%i with %j is %s', (status, headers, outcome) => {
    const meaning = outcomeOfResponse(status, headers, NOW)
    expect(meaning.outcome).toBe(outcome)
    expect(meaning.message).toContain(String(status))
  })

  it.each([
    [400, {}, 'retry', 'http_error'],
    [410, {}, 'retry', 'http_error'],
    [429, AFTER_2, 'retry', 'http_error'],
    [410, {}, 'final', 'rejected'],
    [429, AFTER_2, 'final', 'rejected'],
    [500, {}, 'final', 'rejected'],
    [302, {}, 'final', 'rejected'],
    [503, {}, 'throttle', 'throttled'],
    [400, {}, 'throttle', 'throttled'],
    [400, NO_RETRY, 'retry', 'rejected'],
    [429, NO_RETRY, 'throttle', 'rejected'],
  ] as const)('%i with %j is, where the endpoint says %s, %s', (status, headers, says, outcome) => {
    const meaning = outcomeOfResponse(status, headers, NOW, { [status]: says, 599: 'retry' })
    expect(meaning).toMatchObject({ outcome, isGone: false })
    expect(outcomeOfResponse(418, {}, NOW, { [status]: says }).outcome).toBe('http_error')
  })

  it.each([
    [429, 'key', true],
    [429, ' KEY ', true],
    [503, 'key', true],
    [429, 'endpoint', false],
    [429, '', false],
    [400, 'key', false],
    [500, 'key', false],
    [200, 'key', false],
  ])('%i with posthorn-throttle-scope "%s": the key alone rests: %j', (status, scope, expected) => {
    const headers = { ...AFTER_2, 'posthorn-throttle-scope': scope }
    const { throttlesKey, message } = outcomeOfResponse(status, headers, NOW)
    expect(throttlesKey).toBe(expected)
    expect(message.includes('posthorn-throttle-scope: key')).toBe(expected)
  })

  it('throttles the key alone by a status that the endpoint says throttles, too', () => {
    const headers = { 'posthorn-throttle-scope': 'key' }
    const statuses = { 400: 'throttle', 429: 'retry' } as const
    expect(outcomeOfResponse(400, headers, NOW, statuses).throttlesKey).toBe(true)
    expect(outcomeOfResponse(429, headers, NOW, statuses).throttlesKey).toBe(false)
  })

  it.each([
    ['0', null],
    ['120', 120_000],
    [' 7 ', 7_000],
    ['315360000', DAY_MS],
    ['99999999999999999999999999', DAY_MS],
    ['Tue, 24 Nov 2026 08:31:30 GMT', 90_000],
    ['Tuesday, 24-Nov-26 08:31:30 GMT', 90_000],
    ['Tue Nov 24 08:31:30 2026', 90_000],
    ['Tue, 24 Nov 2026 08:00:00 GMT', null],
    ['Fri, 31 Dec 1999 23:59:59 GMT', null],
    ['00', null],
    ['Tue, 24 Nov 2036 08:30:00 GMT', DAY_MS],
    ['', null],
    ['-5', null],
    ['1.5', null],
    ['1e3', null],
    ['soon', null],
    ['2026-11-25', null],
    ['tomorrow 5', null],
    ['Tue, 99 Foo 2026 08:31:30 GMT', null],
  ])('Retry-After "%s" means %s ms', (value, expected) => {
    for (const status of [429, 503, 500]) {
      const { retryAfterMs } = outcomeOfResponse(status, { 'retry-after': value }, NOW)
      expect(retryAfterMs).toBe(expected)
    }
  })

  it('takes the first of several Retry-After, and none from a response that ends the job', () => {
    expect(outcomeOfResponse(429, { 'retry-after': ['3', '9'] }, NOW).retryAfterMs).toBe(3_000)
    expect(outcomeOfResponse(422, AFTER_2, NOW).retryAfterMs).toBeNull()
    expect(outcomeOfResponse(200, AFTER_2, NOW).retryAfterMs).toBeNull()
  })
})

describe('a redirect', () => {
  it.each([301, 302, 307, 308])('of %i shows where it leads', (status) => {
    const { message } = outcomeOfResponse(status, { location: 'https://new.example/hook' }, NOW)
    expect(message).toBe(
      `the endpoint responded with ${status}, a redirect to https://new.example/hook; redirects are not followed`,
    )
  })

  it.each([
    ['https://u:p@new.example/x?token=secret', 'https://…@new.example/x?…'],
    ['https://u:p@q@new.example', 'https://…@new.example'],
    ['//u:p@new.example/x#token=secret', '//…@new.example/x#…'],
    ['https:\\\\u:p@new.example', 'https:\\\\…@new.example'],
    ['/sign-in?next=/hook&token=secret', '/sign-in?…'],
    ['https://new.example/@team/a', 'https://new.example/@team/a'],
  ])('to %s is shown without credentials', (location, shown) => {
    const { message } = outcomeOfResponse(302, { location }, NOW)
    expect(message).toBe(
      `the endpoint responded with 302, a redirect to ${shown}; redirects are not followed`,
    )
  })

  it('is no other status, and none without a target', () => {
    expect(outcomeOfResponse(304, {}, NOW).message).toBe('the endpoint responded with 304')
    for (const status of [201, 400, 503]) {
      const { message } = outcomeOfResponse(status, { location: '/x' }, NOW)
      expect(message).toBe(`the endpoint responded with ${status}`)
    }
  })
})

describe('outcomeOfError', () => {
  it.each([
    [error('ECONNREFUSED'), 'connect_error'],
    [error('ECONNRESET'), 'connect_error'],
    [error('EPIPE'), 'connect_error'],
    [error('EHOSTUNREACH'), 'connect_error'],
    [error('ENETUNREACH'), 'connect_error'],
    [error('ETIMEDOUT'), 'connect_error'],
    [error('UND_ERR_SOCKET', 'other side closed'), 'connect_error'],
    [error('SOMETHING_NEW'), 'connect_error'],
    [error('ENOTFOUND'), 'dns_error'],
    [error('EAI_AGAIN'), 'dns_error'],
    [Object.assign(error('EBUSY'), { syscall: 'getaddrinfo' }), 'dns_error'],
    [new HandshakeFailed(error('CERT_HAS_EXPIRED')), 'tls_error'],
    [new HandshakeFailed(error('DEPTH_ZERO_SELF_SIGNED_CERT')), 'tls_error'],
    [error('ERR_TLS_CERT_ALTNAME_INVALID'), 'tls_error'],
    [error('ERR_SSL_TLSV13_ALERT_CERTIFICATE_REQUIRED'), 'tls_error'],
    [error('EPROTO'), 'tls_error'],
    [error('UND_ERR_HEADERS_OVERFLOW'), 'protocol_error'],
    [error('UND_ERR_RES_CONTENT_LENGTH_MISMATCH'), 'protocol_error'],
    [error('UND_ERR_SOCKET', 'bad upgrade'), 'protocol_error'],
  ])('%s is %s', (given, outcome) => {
    const meaning = outcomeOfError(given)
    expect(meaning.outcome).toBe(outcome)
    expect(meaning.errorCode).toBe((given as NodeJS.ErrnoException).code)
    expect(meaning.message).not.toBe('')
  })

  it('gives the policy’s own sentence when it refused the address', () => {
    expect(outcomeOfError(new AddressRefused('10.0.0.1 is a private address'))).toEqual({
      outcome: 'blocked',
      errorCode: 'ADDRESS_REFUSED',
      message: '10.0.0.1 is a private address',
    })
  })

  it.each([
    ['Expected HTTP/, RTSP/ or ICE/', 'its status line is malformed'],
    ['Invalid header token', 'it has a malformed header'],
    ["Content-Length can't be present with Transfer-Encoding", 'its length is declared twice or'],
  ])('says in words of its own what the parser means by "%s"', (text, detail) => {
    const parserError = Object.assign(new Error(text), { name: 'HTTPParserError' })
    const { outcome, errorCode, message } = outcomeOfError(parserError)
    expect({ outcome, errorCode }).toEqual({
      outcome: 'protocol_error',
      errorCode: 'HTTP_PARSER_ERROR',
    })
    expect(message).toContain(`the response is not valid HTTP: ${detail}`)
    expect(message).not.toContain(text)
  })

  it.each([
    Object.assign(error('ERR_ASSERTION', 'assert(!this.paused)'), { name: 'AssertionError' }),
    error('SOMETHING_NEW', 'a text of a library'),
    error('UND_ERR_HEADERS_OVERFLOW', 'a text of a library'),
    new HandshakeFailed(error('CERT_HAS_EXPIRED', 'a text of a library')),
    new HandshakeFailed(error('ERR_SSL_SOMETHING_NEW', 'a text of a library')),
    new Error('a text of a library'),
  ])('shows no text of a library: %o', (given) => {
    const { message } = outcomeOfError(given)
    expect(message).not.toMatch(/assert|a text of a library/)
    expect(message).not.toBe('')
  })

  it('says for which names a certificate is', () => {
    const cert = { subjectaltname: 'DNS:other.example' }
    const mismatch = Object.assign(error('ERR_TLS_CERT_ALTNAME_INVALID'), { host: 'a.b', cert })
    expect(outcomeOfError(new HandshakeFailed(mismatch)).message).toBe(
      'no TLS connection could be made: its certificate is for DNS:other.example, not for a.b (ERR_TLS_CERT_ALTNAME_INVALID)',
    )
  })

  it('keeps a long text of the receiver’s short', () => {
    const cert = { subjectaltname: 'DNS:a, '.repeat(10_000) }
    const mismatch = Object.assign(error('ERR_TLS_CERT_ALTNAME_INVALID'), { host: 'a.b', cert })
    expect(outcomeOfError(new HandshakeFailed(mismatch)).message.length).toBeLessThan(450)
    const headers = { location: `/${'x'.repeat(10_000)}` }
    expect(outcomeOfResponse(301, headers, NOW).message.length).toBeLessThan(400)
  })
})

function error(code: string, message = `it failed: ${code}`): Error {
  return Object.assign(new Error(message), { code })
}
