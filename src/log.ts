// The log: JSON lines on stdout, formatted on a terminal. Payloads, secrets and response bodies
// must not be logged.
import { setTimeout as sleep } from 'node:timers/promises'
import pino, { type DestinationStream, type Logger } from 'pino'
import { isColorSupported, prettyFactory } from 'pino-pretty'

/** Fields that are redacted if a log line contains them by mistake. */
const REDACTED_PATHS = ['secret', 'secrets', 'headers', 'payload', 'key', 'authorization']

/** Limit of lines that wait for a slow reader, in bytes. Beyond it lines are dropped. */
const MAX_WAITING_BYTES = 8 * 1_048_576
const FLUSH_DEADLINE_MS = 1_000
/** Lines are written in batches: a system call costs more than ten lines. */
const GATHER_BYTES = 8_192
const GATHER_MS = 10

/** @param name the process that logs: `api` or `worker` */
export function createLogger(name: string, level: string): Logger {
  return pino(
    {
      level,
      base: { process: name },
      redact: REDACTED_PATHS,
      timestamp: isoTime,
      formatters: { level: (label) => ({ level: label }) },
    },
    process.stdout.isTTY ? prettyLines() : lines(),
  )
}

/**
 * Characters that a terminal interprets or hides. pino-pretty does not escape them in text that
 * comes from outside.
 */
const UNSAFE = /[\u007f-\u009f\p{Cf}\p{Zl}\p{Zp}]/gu

type Destination = DestinationStream & { flush(done?: (error?: Error) => void): void }

/**
 * A stream of pino-pretty is not used: it would wait without limit for a terminal that is stopped.
 */
function prettyLines(): Destination {
  const destination = lines()
  const prettify = prettyFactory({
    translateTime: 'HH:MM:ss.l',
    ignore: 'process',
    messageFormat: '{process} {msg}',
    colorize: isColorSupported,
  })
  return {
    write: (line) => void destination.write(prettify(line).replace(UNSAFE, ' ')),
    flush: (done) => destination.flush(done),
  }
}

/** Await this before the process exits. It gives up after a second if the reader does not read. */
export async function flushLog(log: Logger): Promise<void> {
  const flush = () => new Promise<void>((resolve) => log.flush(() => resolve()))
  // The first flush ends with the write in progress, the second one writes the lines that came
  // meanwhile.
  const flushed = flush().then(flush)
  await Promise.race([flushed, sleep(FLUSH_DEADLINE_MS)])
}

/** The destination is asynchronous: a write that waits for the reader would stop every delivery. */
function lines(): Destination {
  const destination = pino.destination({
    dest: 1,
    sync: false,
    minLength: GATHER_BYTES,
    maxLength: MAX_WAITING_BYTES,
  })
  // No reader (EPIPE), no terminal (EIO), no space (ENOSPC): lines wait, are dropped beyond the
  // limit, and the process continues.
  destination.on('error', () => {})
  // At exit pino would write the remaining lines. If the reader is gone, it would retry forever.
  process.prependOnceListener('exit', () => destination.destroy())
  flushSoon(destination)
  return destination
}

/** Flushes after a write: pino's own periodicFlush would wake an idle process needlessly. */
function flushSoon(destination: ReturnType<typeof pino.destination>): void {
  const write = destination.write.bind(destination)
  let timer: NodeJS.Timeout | null = null
  let waitingBytes = 0
  const arm = () => {
    if (timer !== null) return
    timer = setTimeout(() => {
      timer = null
      destination.flush()
    }, GATHER_MS)
  }
  destination.write = (line) => {
    waitingBytes += Buffer.byteLength(line)
    arm()
    return write(line)
  }
  destination.on('write', (byteCount: number) => {
    waitingBytes -= byteCount
  })
  destination.on('drop', (line: string) => {
    waitingBytes -= Buffer.byteLength(line)
  })
  // A flush during a write does nothing, so lines that came during the write would wait for the
  // next line.
  destination.on('drain', () => {
    if (waitingBytes > 0) arm()
  })
}

// Under load many lines share a millisecond, so its text is cached.
let lastMs = 0
let lastText = ''

function isoTime(): string {
  const nowMs = Date.now()
  if (nowMs !== lastMs) {
    lastMs = nowMs
    lastText = `,"time":"${new Date(nowMs).toISOString()}"`
  }
  return lastText
}
