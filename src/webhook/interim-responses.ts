// Tolerates interim responses (1xx) that the request did not ask for. RFC 9110, section 15.2: a
// client must be able to parse and ignore them. undici ignores all but 100 (Continue), for which it
// ends the connection, and no setting changes that. So a 100 becomes a 102 before undici reads it.
import type { Socket } from 'node:net'

export interface InterimFilter {
  /** Called when a request is written: the next bytes are the status line of its response. */
  expectResponse(): void
}

/**
 * The status line up to the code. # matches any byte; the last two digits are compared separately.
 */
const BEGINNING = Buffer.from('HTTP/1.1 1##')
const ANY = 0x23
const CR = 0x0d
const LF = 0x0a
const ZERO = 0x30
const TWO = 0x32

/** Where in the stream of responses the next byte is. */
type Place =
  /** In the first bytes of a status line. */
  | 'beginning'
  /** In the rest of an interim response, which an empty line ends. */
  | 'interim'
  /** In a final response, or in bytes that are not HTTP: nothing is changed from here on. */
  | 'final'

/** Reads each byte once and keeps none, so the chunks may be split anywhere. */
export function filterInterimResponses(socket: Socket): InterimFilter {
  let place: Place = 'final'
  /**
   * Length of the current line, without line ends: the status line, or a line of an interim
   * response.
   */
  let length = 0
  let isHundred = false

  function scan(bytes: Uint8Array): void {
    for (let i = 0; i < bytes.length && place !== 'final'; i++) {
      const byte = bytes[i] as number
      if (place === 'interim') passInterim(byte)
      else if (length > 0 || (byte !== CR && byte !== LF)) passBeginning(bytes, i)
    }
  }

  function passBeginning(bytes: Uint8Array, i: number): void {
    const byte = bytes[i] as number
    const expected = BEGINNING[length] as number
    if (expected !== ANY && byte !== expected) {
      place = 'final'
      return
    }
    length += 1
    if (length === BEGINNING.length - 1) isHundred = byte === ZERO
    if (length < BEGINNING.length) return
    if (isHundred && byte === ZERO) bytes[i] = TWO
    place = 'interim'
  }

  function passInterim(byte: number): void {
    if (byte === CR) return
    if (byte !== LF) {
      length += 1
      return
    }
    if (length === 0) place = 'beginning'
    length = 0
  }

  const { push } = socket
  // Every byte passes here once, over TLS too, before any reader gets it.
  socket.push = (chunk, encoding) => {
    if (place !== 'final' && chunk instanceof Uint8Array) scan(chunk)
    return push.call(socket, chunk, encoding)
  }
  return {
    expectResponse() {
      place = 'beginning'
      length = 0
    },
  }
}
