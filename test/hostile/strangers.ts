// Requests that a client without a key may send: a megabyte of each kind that costs a server the
// most.
import { readdirSync, readFileSync } from 'node:fs'
import { connect } from 'node:net'

export const MEGABYTE = 1_048_576
/** After this time, a connection without input counts as silent. */
const SILENCE_MS = 2_000

const head = (line: string, fields: string[]) =>
  [`${line} HTTP/1.1`, 'Host: localhost', ...fields, '', ''].join('\r\n')

/** Bodies of a megabyte, behind any request line. */
export const BODIES: Record<string, (line: string, fields?: string[]) => Buffer> = {
  'unknown keys': (line, fields = []) => {
    const keys = Array.from({ length: 80_000 }, (_, i) => `"${i.toString(36)}_":0`)
    const body = `{${keys.join(',')}}`.padEnd(MEGABYTE - 1_000)
    const length = `Content-Length: ${body.length}`
    return Buffer.from(head(line, [...fields, 'Content-Type: application/json', length]) + body)
  },
  'chunks of a byte': (line, fields = []) => chunked(line, fields, '1\r\n \r\n'),
  'large chunks': (line, fields = []) => chunked(line, fields, `4000\r\n${' '.repeat(16_384)}\r\n`),
}

function chunked(line: string, fields: string[], chunk: string): Buffer {
  const all = [...fields, 'Content-Type: application/json', 'Transfer-Encoding: chunked']
  const chunks = chunk.repeat(Math.floor(MEGABYTE / chunk.length))
  return Buffer.from(`${head(line, all) + chunks}0\r\n\r\n`)
}

/** A megabyte of requests, one after the other; the client reads no response in between. */
export function pipelined(line: string, fields: string[] = []): Buffer {
  const one = head(line, fields)
  return Buffer.from(one.repeat(Math.floor(MEGABYTE / one.length)))
}

/** A megabyte that is not HTTP, or almost not. */
export const JUNK: Record<string, Buffer> = {
  'requests as short as can be': Buffer.from('GET / HTTP/1.1\r\n\r\n'.repeat(MEGABYTE / 18)),
  'empty lines': Buffer.from('\r\n'.repeat(MEGABYTE / 2) + head('GET /', [])),
  'one letter': Buffer.alloc(MEGABYTE, 'x'),
  zeros: Buffer.alloc(MEGABYTE),
  'short header fields': Buffer.from(`GET / HTTP/1.1\r\n${'a: b\r\n'.repeat(MEGABYTE / 6)}`),
  'one header field': Buffer.from(`GET / HTTP/1.1\r\na: ${'b'.repeat(MEGABYTE)}`),
  'chunk extensions': Buffer.from(
    head('POST /jobs', ['Transfer-Encoding: chunked']) +
      `1;${'a'.repeat(1_000)}\r\nx\r\n`.repeat(1_000),
  ),
  trailers: Buffer.from(
    `${head('POST /jobs', ['Transfer-Encoding: chunked'])}0\r\n${'a: b\r\n'.repeat(MEGABYTE / 6)}`,
  ),
}

/**
 * Sends on a connection of its own. Resolves with the first status, or null, when the connection is
 * closed.
 */
export function sendAlone(url: string, bytes: Buffer): Promise<number | null> {
  const { hostname, port } = new URL(url)
  return new Promise((resolve) => {
    const socket = connect(Number(port), hostname)
    let text = ''
    socket.setTimeout(SILENCE_MS, () => socket.destroy())
    socket.on('data', (chunk) => {
      text = text === '' ? chunk.toString('latin1') : text
      // The server may have had the cost without reading the rest.
      setImmediate(() => socket.destroy())
    })
    socket.on('error', () => {})
    socket.on('close', () => resolve(text === '' ? null : Number(text.slice(9, 12))))
    socket.write(bytes)
  })
}

/** CPU that all threads of a process have used, in ms. Linux only. */
export function cpuMs(pid: number): number {
  const folder = `/proc/${pid}/task`
  const times = readdirSync(folder).map((thread) => {
    const text = readFileSync(`${folder}/${thread}/schedstat`, 'latin1')
    return Number(text.split(' ', 1)[0]) / 1e6
  })
  return times.reduce((sum, ms) => sum + ms, 0)
}

/**
 * Returns the bytes for a client that reads nothing before it has sent everything. Rejects if the
 * connection is reset.
 */
export function sendThenRead(url: string, bytes: Buffer): Promise<string> {
  const { hostname, port } = new URL(url)
  return new Promise((resolve, reject) => {
    const socket = connect(Number(port), hostname)
    socket.pause()
    let text = ''
    socket.on('data', (chunk) => {
      text += chunk.toString('latin1')
    })
    socket.on('error', reject)
    socket.on('close', () => resolve(text))
    socket.write(bytes, (error) => {
      if (!error) socket.resume()
    })
  })
}

/** Returns how much a client may send, in pieces, until it is disconnected. */
export function sendForEver(url: string, start: Buffer, piece: Buffer): Promise<number> {
  const { hostname, port } = new URL(url)
  return new Promise((resolve) => {
    // The client continues to send after the server has ended its side.
    const socket = connect({ port: Number(port), host: hostname, allowHalfOpen: true })
    let sent = 0
    function next(error?: Error | null): void {
      if (error || socket.destroyed) return
      sent += piece.length
      socket.write(piece, next)
    }
    socket.on('data', () => {})
    socket.on('error', () => {})
    socket.on('close', () => resolve(sent))
    socket.write(start, next)
  })
}
