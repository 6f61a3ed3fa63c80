// A disk that takes some time for each document, like a MongoDB with a slow disk, a lagging
// secondary or a busy neighbour. All connections share it, and take turns of one document.
import { setTimeout as sleep } from 'node:timers/promises'
import { BSON } from 'mongodb'
import { answerTo, requestIdOf } from './wire-messages.ts'

export interface SlowDisk {
  /** Sets the milliseconds for each document from now on; 0: no delay. */
  setDelay(msPerDocument: number): void
  /** How many documents requests have asked it to write so far, whatever the delay. */
  readonly documentCount: number
  /**
   * Resolves with whether the disk had time for all documents before the deadline of the request.
   */
  write(request: WriteRequest, abandoned: AbortSignal): Promise<boolean>
}

interface Write {
  left: number
  /** By the monotonic clock. */
  endsAtMs: number
  abandoned: AbortSignal
  resolve: (isWritten: boolean) => void
}

export function createSlowDisk(): SlowDisk {
  let msPerDocument = 0
  const waiting: Write[] = []
  let total = 0
  let isWriting = false

  async function writeAll(): Promise<void> {
    isWriting = true
    let freeAtMs = performance.now()
    while (waiting.length > 0) {
      const write = waiting.shift() as Write
      // A mongod also drops a write whose deadline has passed or whose client is gone.
      const isOver = performance.now() > write.endsAtMs || write.abandoned.aborted
      if (write.left > 0 && msPerDocument > 0 && !isOver) {
        freeAtMs = Math.max(freeAtMs, performance.now()) + msPerDocument
        const leftMs = freeAtMs - performance.now()
        if (leftMs > 1) await sleep(leftMs)
        write.left -= 1
        waiting.push(write)
      } else write.resolve(!isOver)
    }
    isWriting = false
  }

  return {
    get documentCount() {
      return total
    },
    setDelay(ms) {
      msPerDocument = ms
    },
    write({ documentCount, maxTimeMs }, abandoned) {
      total += documentCount
      if (documentCount === 0 || msPerDocument === 0) return Promise.resolve(true)
      return new Promise((resolve) => {
        const endsAtMs = performance.now() + maxTimeMs
        waiting.push({ left: documentCount, endsAtMs, abandoned, resolve })
        if (!isWriting) void writeAll()
      })
    },
  }
}

const OP_MSG = 2013
const HEADER_BYTES = 16
const FLAG_BYTES = 4

export interface WriteRequest {
  documentCount: number
  /** Infinity: the request sets no limit. */
  maxTimeMs: number
}

/**
 * How many documents a request of the MongoDB protocol writes. A statement that updates or deletes
 * many documents counts as one: on a slow disk the flush is slow, and a statement is flushed once.
 */
export function writeRequestOf(message: Buffer): WriteRequest {
  let count = 0
  let maxTimeMs = Number.POSITIVE_INFINITY
  if (message.readInt32LE(12) !== OP_MSG) return { documentCount: 0, maxTimeMs }
  let at = HEADER_BYTES + FLAG_BYTES
  while (at < message.length) {
    const kind = message[at]
    const size = message.readInt32LE(at + 1)
    const section = message.subarray(at + 1, at + 1 + size)
    if (kind === 0) {
      const command = BSON.deserialize(section)
      count += writtenByCommand(command)
      maxTimeMs = command.maxTimeMS ?? maxTimeMs
    } else if (kind === 1) count += writtenBySequence(section)
    else break
    at += 1 + size
  }
  return { documentCount: count, maxTimeMs }
}

export interface ServerError {
  code: number
  codeName: string
  errmsg: string
}

/** The error of a server that dropped a request because its time was over. */
export const OVER_TIME: ServerError = {
  ...{ code: 50, codeName: 'MaxTimeMSExpired' },
  errmsg: 'operation exceeded time limit',
}

/** The response of a server that refuses a request. */
export function errorAnswerTo(message: Buffer, error: ServerError): Buffer {
  return answerTo(requestIdOf(message), { ok: 0, ...error })
}

function writtenByCommand(command: Record<string, unknown>): number {
  if ('findAndModify' in command) return 1
  const list = command.documents ?? command.updates ?? command.deletes
  return Array.isArray(list) ? list.length : 0
}

/** A sequence of documents outside the command: its size, the name of its list, the documents. */
function writtenBySequence(section: Buffer): number {
  let count = 0
  const nameEnd = section.indexOf(0, 4)
  for (let at = nameEnd + 1; at < section.length; at += section.readInt32LE(at)) count += 1
  return count
}
