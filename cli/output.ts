// The standard output and error of a process. The reader may be gone (EPIPE), may not read, the
// disk behind them may be full (ENOSPC), the terminal closed (EIO): none of that ends a server, nor
// a command in the middle of its work.
import { EXIT } from './exit.ts'
import { harmless } from './terminal-text.ts'

/** What waits for a reader that does not read; beyond it text is dropped. */
const MAX_WAITING_BYTES = 8 * 1_048_576

export function print(text: string): void {
  write(process.stdout, text)
}

/** What is no result: hints, progress, errors. */
export function printAside(text: string): void {
  write(process.stderr, text)
}

function write(stream: NodeJS.WriteStream, text: string): void {
  if (stream.writableLength < MAX_WAITING_BYTES) stream.write(harmless(text))
}

/**
 * To be called before anything is written: an error of these streams that nobody listens to would
 * end the process. A command whose result could not be written fails, unless its reader, like
 * `head`, had seen enough.
 */
export function outliveReaders(isServer: boolean): void {
  process.stderr.on('error', () => {})
  let isReported = false
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (isServer || isReported || error.code === 'EPIPE') return
    isReported = true
    process.exitCode = EXIT.failed
    printAside(`The result could not be written: ${error.message}.\n`)
  })
}
