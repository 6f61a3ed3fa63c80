// A TCP proxy in front of MongoDB that changes the replies to chosen commands, as if the server
// were of another kind or had other members, users or plans.
import { once } from 'node:events'
import { connect, createServer, type Socket } from 'node:net'
import { BSON, type Document } from 'mongodb'

/** Returns the reply to a command, or another reply instead of it. */
export type Rewrite = (reply: Document, command: Document) => Document | Promise<Document>

export interface RewritingProxy {
  /** The URL of this database, through the proxy. */
  url(database: string, query?: string): string
  /** The command of each request since the start. */
  commands: Document[]
  stop(): Promise<void>
}

/**
 * From github.com/mongodb/specifications, OP_MSG: a header, flags, and the kind of the first
 * section.
 */
const HEADER_BYTES = 16
const BODY_AT = HEADER_BYTES + 4 + 1
const OP_MSG = 2013

/** @param rewrites by name of the command. The hello of the driver itself is never changed. */
export async function startRewritingProxy(
  target: string,
  rewrites: Record<string, Rewrite>,
): Promise<RewritingProxy> {
  const { hostname, port } = new URL(target)
  const sockets = new Set<Socket>()
  const commands: Document[] = []
  const server = createServer((client) => {
    const upstream = connect({ host: hostname, port: Number(port) })
    const pending = new Map<number, Document>()
    let sent = Promise.resolve()
    for (const [socket, other] of [
      [client, upstream],
      [upstream, client],
    ] as const) {
      sockets.add(socket)
      socket.setNoDelay(true)
      socket.on('error', () => {})
      socket.on('close', () => {
        sockets.delete(socket)
        other.destroy()
      })
    }
    eachMessage(client, (message) => {
      const command = bodyOf(message)
      // Commands of the driver itself have no session.
      if (command?.lsid !== undefined) {
        commands.push(command)
        pending.set(message.readInt32LE(4), command)
      }
      upstream.write(message)
    })
    eachMessage(upstream, (message) => {
      const command = pending.get(message.readInt32LE(8))
      pending.delete(message.readInt32LE(8))
      const rewrite = rewrites[Object.keys(command ?? {})[0] ?? '']
      sent = sent.then(async () => {
        if (command === undefined || rewrite === undefined) return void client.write(message)
        const reply = await rewrite(bodyOf(message) as Document, command)
        client.write(withBody(message, reply))
      })
    })
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const own = (server.address() as { port: number }).port
  return {
    url: (database, query = '') =>
      `mongodb://127.0.0.1:${own}/${database}?directConnection=true${query}`,
    commands,
    async stop() {
      for (const socket of sockets) socket.destroy()
      server.close()
      await once(server, 'close')
    },
  }
}

function eachMessage(socket: Socket, take: (message: Buffer) => void): void {
  let unread = Buffer.alloc(0)
  socket.on('data', (chunk) => {
    unread = Buffer.concat([unread, chunk])
    while (unread.length >= 4 && unread.length >= unread.readInt32LE(0)) {
      const length = unread.readInt32LE(0)
      take(unread.subarray(0, length))
      unread = unread.subarray(length)
    }
  })
}

/** null: a message of another kind, such as the first one of a connection. */
function bodyOf(message: Buffer): Document | null {
  if (message.readInt32LE(12) !== OP_MSG) return null
  const size = message.readInt32LE(BODY_AT)
  return BSON.deserialize(message.subarray(BODY_AT, BODY_AT + size), { promoteBuffers: true })
}

function withBody(message: Buffer, body: Document): Buffer {
  const bytes = Buffer.from(BSON.serialize(body))
  const changed = Buffer.concat([message.subarray(0, BODY_AT), bytes])
  changed.writeInt32LE(changed.length, 0)
  // Removes the flag of a checksum, which would be wrong now.
  changed.writeInt32LE(changed.readInt32LE(HEADER_BYTES) & ~1, HEADER_BYTES)
  return changed
}
