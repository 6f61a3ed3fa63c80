// The log: JSON lines on stdout, pretty on a terminal. No payload, no secret, no response body.
import pino, { type Logger } from 'pino'
import pretty from 'pino-pretty'

/** What must never be printed, should a careless line ever hold it. */
const REDACTED_PATHS = ['secret', 'secrets', 'headers', 'payload', 'key', 'authorization']

/** @param name which process speaks: `api`, `worker` or `posthorn` */
export function createLogger(name: string, level: string): Logger {
  return pino(
    {
      level,
      base: { process: name },
      redact: REDACTED_PATHS,
      timestamp: isoTime,
      formatters: { level: (label) => ({ level: label }) },
    },
    process.stdout.isTTY
      ? pretty({
          translateTime: 'HH:MM:ss.l',
          ignore: 'process',
          messageFormat: '{process} {msg}',
        })
      : // A write that waits for the reader would stop every delivery.
        pino.destination({ dest: 1, sync: false }),
  )
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
