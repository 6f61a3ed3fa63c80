// One process of Posthorn, started as a user would start it.
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { until } from './until.ts'

const CLI = join(import.meta.dirname, '../../cli/posthorn.ts')
/** A cache of compiled code: without it a third of each start would be compilation. */
export const COMPILE_CACHE = join(tmpdir(), 'posthorn-compile-cache')
/** The variables with the paths of bundle.ts. Absent: the command runs from the source. */
export const BUNDLE = { cli: 'POSTHORN_TEST_BUNDLE', cache: 'POSTHORN_TEST_BUNDLE_CACHE' }
/**
 * A start makes much garbage: in the usual new space, to collect it takes a tenth of the start. The
 * fault suite, which is not run by vitest, measures the memory of processes as users start them.
 */
export const NODE_FLAGS = process.env.VITEST === undefined ? [] : ['--min-semi-space-size=16']
const START_DEADLINE_MS = 60_000
const STOP_DEADLINE_MS = 35_000

interface LogLine {
  msg: string
  [field: string]: unknown
}

/** One process of Posthorn, with everything that it has logged so far. */
export interface Process {
  child: ChildProcess
  log: LogLine[]
  stderr: () => string
  /** Waits for the first log line with this msg, and returns it. */
  logged(msg: string): Promise<LogLine>
  kill(signal: NodeJS.Signals): void
  /** Stops the process with this signal. Resolves with its exit code. */
  stop(signal?: NodeJS.Signals): Promise<number | null>
}

export function runPosthorn(words: string[], env: Record<string, string>, cwd?: string): Process {
  const { cli, cache } = posthornScript()
  const child = spawn(process.execPath, [...NODE_FLAGS, cli, ...words], {
    env: { PATH: process.env.PATH as string, NODE_COMPILE_CACHE: cache, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
    ...(cwd === undefined ? {} : { cwd }),
  })
  const log: LogLine[] = []
  let stderr = ''
  createInterface({ input: child.stdout as NodeJS.ReadableStream }).on('line', (line) => {
    log.push(JSON.parse(line) as LogLine)
  })
  child.stderr?.on('data', (chunk: Buffer) => {
    stderr += chunk.toString()
  })
  const exited = once(child, 'exit')
  return {
    child,
    log,
    stderr: () => stderr,
    async logged(msg) {
      await until(() => {
        if (child.exitCode !== null && !log.some((line) => line.msg === msg)) {
          throw new Error(`posthorn ${words.join(' ')} ended with ${child.exitCode}: ${stderr}`)
        }
        return log.some((line) => line.msg === msg)
      }, START_DEADLINE_MS)
      return log.find((line) => line.msg === msg) as LogLine
    },
    kill(signal) {
      child.kill(signal)
    },
    async stop(signal = 'SIGTERM') {
      if (child.exitCode === null && child.signalCode === null) {
        child.kill(signal)
        const timer = setTimeout(() => child.kill('SIGKILL'), STOP_DEADLINE_MS)
        await exited
        clearTimeout(timer)
      }
      return child.exitCode
    },
  }
}

/** The script of the posthorn command, and the folder for its compiled code. */
export function posthornScript(): { cli: string; cache: string } {
  const { [BUNDLE.cli]: cli = CLI, [BUNDLE.cache]: cache = COMPILE_CACHE } = process.env
  return { cli, cache }
}
