#!/usr/bin/env node
// The posthorn command: which process to be, and how each failure to start is told.
import { ConfigError, readConfig } from '../src/config.ts'
import { StoreUnavailable, StoreUnusable } from '../src/store/store.ts'
import { VERSION } from '../src/version.ts'

const USAGE = `posthorn ${VERSION}: a job queue over HTTP

  posthorn start     one API and one worker, restarted when they crash; reads .env
  posthorn api       the API: checks, stores, answers
  posthorn worker    a worker: claims, delivers, settles

Settings come from the environment (README has the table): STORE_URL, HOST, PORT, API_KEYS, …
For instance: PORT=9000 posthorn start
`

const EXIT_FAILED = 1
const EXIT_WRONG_SETTINGS = 2

const commands: Record<string, () => Promise<void>> = {
  async start() {
    const { start } = await import('./start.ts')
    await start()
  },
  async api() {
    const { startApi } = await import('../routes/server.ts')
    tellParent({ url: await startApi(readConfig(process.env)) })
  },
  async worker() {
    const { startWorker } = await import('../workers/main.ts')
    tellParent({ workerId: await startWorker(readConfig(process.env)) })
  },
}

/** Under `posthorn start`: says that this process is up, and ends with its parent. */
function tellParent(ready: Record<string, string>): void {
  if (process.send === undefined) return
  process.send(ready)
  process.once('disconnect', () => process.kill(process.pid, 'SIGTERM'))
}

async function main(words: string[]): Promise<void> {
  const [word = 'help', ...rest] = words
  const command = Object.hasOwn(commands, word) ? commands[word] : undefined
  if (word === 'help' || word === '--help' || word === '-h') {
    process.stdout.write(USAGE)
  } else if (word === '--version') {
    process.stdout.write(`${VERSION}\n`)
  } else if (command === undefined || rest.length > 0) {
    process.stderr.write(`posthorn does not know "${words.join(' ')}".\n\n${USAGE}`)
    process.exit(EXIT_WRONG_SETTINGS)
  } else {
    await command()
  }
}

/** A sentence for what a person can mend; the whole error for what only we can. */
function tellFailure(error: unknown): never {
  if (error instanceof ConfigError) {
    process.stderr.write(`posthorn can not start with these settings:\n${error.message}\n`)
    process.exit(EXIT_WRONG_SETTINGS)
  }
  const isKnown = error instanceof StoreUnusable || error instanceof StoreUnavailable
  const code = (error as NodeJS.ErrnoException | undefined)?.code
  if (isKnown) process.stderr.write(`posthorn can not start: ${error.message}\n`)
  else if (code === 'EADDRINUSE' || code === 'EACCES' || code === 'EADDRNOTAVAIL') {
    process.stderr.write(
      `posthorn can not listen there: ${(error as Error).message}. Set HOST and PORT to a free address.\n`,
    )
  } else {
    process.stderr.write(
      `posthorn failed to start: ${error instanceof Error ? error.stack : error}\n`,
    )
  }
  process.exit(EXIT_FAILED)
}

main(process.argv.slice(2)).catch(tellFailure)
