// HTTP as bytes: sends what no well-behaved client would send, and returns the exact response.
import { connect } from 'node:net'

export interface RawAnswer {
  status: number
  /** Names in lower case. */
  headers: Record<string, string>
  body: string
}

const HANGING_MS = 10_000

/**
 * Writes the bytes and collects the response until the server closes the connection. Rejects if the
 * server does not: the request must ask for the close, or be invalid.
 */
export function exchange(url: string, bytes: string | Buffer): Promise<Buffer> {
  const { hostname, port } = new URL(url)
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = []
    const socket = connect({ port: Number(port), host: hostname })
    const timer = setTimeout(() => {
      socket.destroy()
      reject(new Error(`hangs after ${JSON.stringify(Buffer.concat(chunks).toString('latin1'))}`))
    }, HANGING_MS)
    socket.on('data', (chunk) => chunks.push(chunk))
    // With a reset after its response, a server refuses the rest of the request.
    socket.on('error', () => {})
    socket.on('close', () => {
      clearTimeout(timer)
      resolve(Buffer.concat(chunks))
    })
    socket.write(bytes)
  })
}

/** All responses in the bytes, in order, without those of status 1xx. */
export function answersIn(bytes: Buffer): RawAnswer[] {
  const answers: RawAnswer[] = []
  let text = bytes.toString('latin1')
  while (text !== '') {
    const headEnd = text.indexOf('\r\n\r\n')
    const head = /^HTTP\/1\.1 (\d{3}) [^\r\n]*((?:\r\n[^\r\n]+)*)$/.exec(text.slice(0, headEnd))
    if (headEnd < 0 || head === null) throw new Error(`no answer of HTTP: ${JSON.stringify(text)}`)
    const lines = (head[2] as string).split('\r\n').slice(1)
    const headers = Object.fromEntries(
      lines.map((line) => {
        const colon = line.indexOf(':')
        return [line.slice(0, colon).toLowerCase(), line.slice(colon + 1).trim()]
      }),
    )
    const status = Number(head[1])
    const bodyEnd = headEnd + 4 + Number(headers['content-length'] ?? 0)
    const body = Buffer.from(text.slice(headEnd + 4, bodyEnd), 'latin1').toString()
    if (status >= 200) answers.push({ status, headers, body })
    text = text.slice(bodyEnd)
  }
  return answers
}
