// The log: JSON lines on stdout, pretty on a terminal. No payload, no secret, no response body.
import { setTimeout as sleep } from 'node:timers/promises'
import pino, { type DestinationStream, type Logger } from 'pino'
import { isColorSupported, prettyFactory } from 'pino-pretty'

/** What must never be printed, should a careless line ever hold it. */
const REDACTED_PATHS = ['secret', 'secrets', 'headers', 'payload', 'key', 'authorization']

/** What waits for a reader that does not read; beyond it lines are dropped. */
const MAX_WAITING_BYTES = 8 * 1_048_576
const FLUSH_DEADLINE_MS = 1_000
/** Lines are written together: a write to the system costs more than ten of them. */
const GATHER_BYTES = 8_192
const GATHER_MS = 10

/** @param name which process speaks: `api` or `worker` */
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

/** What a terminal obeys or hides, and pino-pretty leaves as it is in what others have said. */
const OBEYED = /[\u007f-\u009f\p{Cf}\p{Zl}\p{Zp}]/gu

type Destination = DestinationStream & { flush(done?: (error?: Error) => void): void }

/** Not a stream of pino-pretty: that would wait without bound for a terminal that is stopped. */
function prettyLines(): Destination {
  const destination = lines()
  const prettify = prettyFactory({
    translateTime: 'HH:MM:ss.l',
    ignore: 'process',
    messageFormat: '{process} {msg}',
    colorize: isColorSupported,
  })
  return {
    write: (line) => void destination.write(prettify(line).replace(OBEYED, ' ')),
    flush: (done) => destination.flush(done),
  }
}

/** To be awaited before the process exits; gives up on a reader that does not read. */
export async function flushLog(log: Logger): Promise<void> {
  const flushed = new Promise<void>((resolve) => log.flush(() => resolve()))
  await Promise.race([flushed, sleep(FLUSH_DEADLINE_MS)])
}

/** Written aside: a write that waits for the reader would stop every delivery. */
function lines(): Destination {
  const destination = pino.destination({
    dest: 1,
    sync: false,
    minLength: GATHER_BYTES,
    maxLength: MAX_WAITING_BYTES,
  })
  // No reader (EPIPE), no terminal (EIO), no room (ENOSPC): the lines wait, and are dropped beyond
  // the bound. The process goes on.
  destination.on('error', () => {})
  // At exit pino would write what is left, and with a reader that is gone would try for ever.
  process.prependOnceListener('exit', () => destination.destroy())
  flushSoon(destination)
  return destination
}

/** pino's own periodicFlush would wake an idle process for nothing. */
function flushSoon(destination: ReturnType<typeof pino.destination>): void {
  const write = destination.write.bind(destination)
  let timer: NodeJS.Timeout | null = null
  destination.write = (line) => {
    if (timer === null) {
      timer = setTimeout(() => {
        timer = null
        destination.flush()
      }, GATHER_MS)
    }
    return write(line)
  }
}

// Many lines share a millisecond under load; its text is made once.
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
