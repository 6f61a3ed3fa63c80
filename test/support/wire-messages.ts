// Messages of the MongoDB protocol, as far as the proxies of the tests read and write them
// (mongodb.com/docs/manual/reference/mongodb-wire-protocol).
import { BSON, type Document } from 'mongodb'

const OP_REPLY = 1
const OP_MSG = 2013
const HEADER_BYTES = 16
const FLAG_BYTES = 4
/** The bytes of the flags, the cursor, its start, and the number of documents that follow. */
const REPLY_FIELDS_BYTES = 20
/** Every value keeps its BSON type. */
const AS_SENT = { promoteValues: false, promoteLongs: false, bsonRegExp: true } as const

/** The id of a request. Its response contains the same id. */
export function requestIdOf(message: Buffer): number {
  return message.readInt32LE(4)
}

export function answeredIdOf(message: Buffer): number {
  return message.readInt32LE(8)
}

/** Calls `onMessage` with each whole message of a stream. */
export function splitMessages(onMessage: (message: Buffer) => void): (chunk: Buffer) => void {
  let unread = Buffer.alloc(0)
  return (chunk) => {
    unread = Buffer.concat([unread, chunk])
    while (unread.length >= 4 && unread.length >= unread.readInt32LE(0)) {
      const length = unread.readInt32LE(0)
      onMessage(unread.subarray(0, length))
      unread = unread.subarray(length)
    }
  }
}

/** The command in a message, without documents that follow it; null: an old kind of message. */
export function commandIn(message: Buffer): Document | null {
  const body = bodyOf(message)
  return body === null ? null : BSON.deserialize(body.bytes, AS_SENT)
}

/** The same message with another command, or a response with another document. */
export function withBody(message: Buffer, document: Document): Buffer {
  const body = bodyOf(message)
  if (body === null) throw new Error('not a message with a body')
  const before = message.subarray(0, body.start)
  const after = message.subarray(body.start + body.bytes.length)
  return withLength(Buffer.concat([before, BSON.serialize(document), after]))
}

/** A response to the request with this id. */
export function answerTo(requestId: number, document: Document): Buffer {
  const head = Buffer.alloc(HEADER_BYTES + FLAG_BYTES + 1)
  head.writeInt32LE(requestId, 8)
  head.writeInt32LE(OP_MSG, 12)
  return withLength(Buffer.concat([head, BSON.serialize(document)]))
}

/**
 * Where the first document of a message is. A command comes before the documents that follow it.
 */
function bodyOf(message: Buffer): { start: number; bytes: Buffer } | null {
  const operation = message.readInt32LE(12)
  if (operation !== OP_MSG && operation !== OP_REPLY) return null
  // The first byte of a section of OP_MSG is its kind.
  const fields = operation === OP_MSG ? FLAG_BYTES + 1 : REPLY_FIELDS_BYTES
  const start = HEADER_BYTES + fields
  if (operation === OP_MSG && message[start - 1] !== 0) return null
  return { start, bytes: message.subarray(start, start + message.readInt32LE(start)) }
}

function withLength(message: Buffer): Buffer {
  message.writeInt32LE(message.length, 0)
  return message
}
