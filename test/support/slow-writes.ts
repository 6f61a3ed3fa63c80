// A disk that takes its time for every document written: what a MongoDB with a slow disk, a lagging
// secondary or a noisy neighbour is like. All connections share it, one document of each in turn.
import { setTimeout as sleep } from 'node:timers/promises'
import { BSON } from 'mongodb'
import { answerTo, requestIdOf } from './wire-messages.ts'

export interface SlowDisk {
  /** Milliseconds for each document from now on; 0: as fast as the server behind. */
  setDelay(msPerDocument: number): void
  /** Documents that requests asked it to write so far, whatever the delay. */
  readonly documentCount: number
  /** Whether the disk had time for so many documents before the request's own time was over. */
  write(request: WriteRequest, abandoned: AbortSignal): Promise<boolean>
}

interface Write {
  left: number
  /** Monotonic. */
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
      // As a mongod does: what is over its time, or whose client is gone, is given up.
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
  /** Infinity: the request sets none. */
  maxTimeMs: number
}

/**
 * How many documents a request of the MongoDB protocol writes. A statement that updates or deletes
 * many counts as one: what is slow on a slow disk is to flush, and a statement is flushed once.
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

/** Of a server that gave up a request, since its time was over. */
export const OVER_TIME: ServerError = {
  ...{ code: 50, codeName: 'MaxTimeMSExpired' },
  errmsg: 'operation exceeded time limit',
}

/** The answer of a server that refuses a request. */
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
