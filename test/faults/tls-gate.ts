// A TLS proxy in front of the receiver that can hold connections. A request on a held connection
// has not been sent yet.
import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createServer as createTlsServer } from 'node:tls'

export interface TlsGate {
  url: string
  /** The value for EXTRA_CA_CERTS. */
  certificatePath: string
  /** From now on connections are accepted, but nothing is sent to them. */
  hold(): void
  heldCount(): number
  /** Closes held connections, and lets new ones through. */
  open(): void
  /** Continues held connections, and lets new ones through. */
  letThrough(): void
  close(): Promise<void>
}

/** @param targetUrl where requests are forwarded, in plain HTTP */
export async function openGate(targetUrl: string): Promise<TlsGate> {
  const folder = mkdtempSync(join(tmpdir(), 'posthorn-gate-'))
  const certificatePath = join(folder, 'cert.pem')
  const keyPath = join(folder, 'key.pem')
  makeCertificate(keyPath, certificatePath)
  const target = Number(new URL(targetUrl).port)
  const sockets = new Set<Socket>()
  const held = new Set<Socket>()
  let isHolding = false

  const secure = createTlsServer(
    { key: readFileSync(keyPath), cert: readFileSync(certificatePath) },
    (client) => {
      const upstream = connect(target, '127.0.0.1')
      sockets.add(upstream)
      client.pipe(upstream).pipe(client)
      for (const [one, other] of [
        [client, upstream],
        [upstream, client],
      ] as const) {
        // Each end may be killed at any time, on purpose.
        one.on('error', () => other.destroy())
        one.on('close', () => other.destroy())
      }
    },
  )
  secure.on('tlsClientError', () => {})
  const server = createServer((socket) => {
    sockets.add(socket)
    socket.on('error', () => {})
    socket.on('close', () => {
      sockets.delete(socket)
      held.delete(socket)
    })
    if (isHolding) held.add(socket)
    else secure.emit('connection', socket)
  })
  await listening(server)

  return {
    url: `https://127.0.0.1:${(server.address() as AddressInfo).port}`,
    certificatePath,
    hold() {
      isHolding = true
    },
    heldCount: () => held.size,
    open() {
      isHolding = false
      for (const socket of held) socket.destroy()
    },
    letThrough() {
      isHolding = false
      for (const socket of held) secure.emit('connection', socket)
      held.clear()
    },
    async close() {
      const closed = new Promise((resolve) => server.close(resolve))
      for (const socket of sockets) socket.destroy()
      await closed
      rmSync(folder, { recursive: true })
    },
  }
}

function listening(server: Server): Promise<void> {
  return new Promise((resolve) => {
    server.listen(0, '127.0.0.1', resolve)
  })
}

function makeCertificate(keyPath: string, certificatePath: string): void {
  execFileSync(
    'openssl',
    ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes'].concat(
      ['-keyout', keyPath, '-out', certificatePath, '-days', '2', '-subj', '/CN=gate'],
      ['-addext', 'subjectAltName=IP:127.0.0.1'],
    ),
    { stdio: 'pipe' },
  )
}
