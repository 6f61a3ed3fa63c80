// The posthorn command as a user types it: real processes and their output. A command that is
// called within this process takes a tenth of the CPU time.
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { vi } from 'vitest'
import { errorMessage } from '../../cli/exit.ts'
import { printError } from '../../cli/output.ts'
import { runCommand } from '../../cli/run-command.ts'
import { NODE_FLAGS, posthornScript } from '../support/process.ts'
import { until } from '../support/until.ts'

const DEADLINE_MS = 30_000

interface Typed {
  child: ChildProcess
  stdout: () => string
  stderr: () => string
  /** Resolves once the command has printed this, on either stream. */
  printed(text: string | RegExp): Promise<void>
  /** Sends a signal to the command. */
  signal(signal: NodeJS.Signals): void
  /** Resolves with the exit code. Rejects if the command does not end in time. */
  ended(): Promise<number | null>
}

interface Ended {
  code: number | null
  stdout: string
  stderr: string
}

export interface Shell {
  /** The working directory of the commands, with their files. */
  folder: string
  env: Record<string, string>
  /** Starts `posthorn WORDS`. Its input ends after `input`. */
  start(words: string[], more?: { env?: Record<string, string>; input?: string }): Typed
  /** Does the same, and resolves once the command has ended. */
  run(words: string[], more?: { env?: Record<string, string>; input?: string }): Promise<Ended>
  /**
   * Runs a command that needs no input, signals or working directory, without a process: each
   * command runs as a process in examples.test.ts.
   */
  call(words: string[], more?: { env?: Record<string, string> }): Promise<Ended>
  /** Runs a line in bash, with `posthorn` on the PATH. */
  line(text: string, env?: Record<string, string>): Typed
  /** Runs several lines. The first one that fails ends the script. */
  script(text: string, env?: Record<string, string>): Typed
  write(name: string, text: string | Uint8Array): string
  /** Ends all commands that still run. */
  close(): Promise<void>
}

/** @param env variables of every command, such as POSTHORN_URL */
export function openShell(env: Record<string, string> = {}): Shell {
  const folder = mkdtempSync(join(tmpdir(), 'posthorn-cli-'))
  const command = join(folder, 'posthorn')
  const { cli, cache } = posthornScript()
  writeFileSync(command, `#!/bin/sh\nexec "${process.execPath}" "${cli}" "$@"\n`)
  chmodSync(command, 0o700)
  const running: ChildProcess[] = []
  const base = { NODE_COMPILE_CACHE: cache, ...env }

  function begin(file: string, words: string[], more: Record<string, string>, input = ''): Typed {
    const path = [folder, process.env.PATH].join(delimiter)
    const child = spawn(file, words, { env: { PATH: path, ...base, ...more }, cwd: folder })
    running.push(child)
    child.stdin.on('error', () => {})
    child.stdin.end(input)
    return watched(child)
  }

  const shell: Shell = {
    folder,
    env: base,
    start: (words, more = {}) =>
      begin(process.execPath, [...NODE_FLAGS, cli, ...words], more.env ?? {}, more.input),
    async run(words, more) {
      const typed = shell.start(words, more)
      return { code: await typed.ended(), stdout: typed.stdout(), stderr: typed.stderr() }
    },
    call: (words, more = {}) => called(words, { ...env, ...more.env }),
    // exec makes the command replace bash, so that it gets the signals.
    line: (text, more = {}) =>
      begin('bash', ['--norc', '-c', text.replace(/(^|\s)posthorn /, '$1exec posthorn ')], more),
    script: (text, more = {}) => begin('bash', ['--norc', '-ec', text], more),
    write(name, text) {
      const file = join(folder, name)
      writeFileSync(file, text)
      return file
    },
    async close() {
      for (const child of running) if (isRunning(child)) child.kill('SIGKILL')
      await Promise.all(running.filter(isRunning).map((child) => once(child, 'exit')))
      rmSync(folder, { recursive: true, force: true })
    },
  }
  return shell
}

async function called(words: string[], env: Record<string, string>): Promise<Ended> {
  const ended: Ended = { code: null, stdout: '', stderr: '' }
  const spies = (['stdout', 'stderr'] as const).map((name) =>
    vi.spyOn(process[name], 'write').mockImplementation((text) => {
      ended[name] += text
      return true
    }),
  )
  for (const [name, value] of Object.entries(env)) vi.stubEnv(name, value)
  vi.stubEnv('FORCE_COLOR', undefined)
  try {
    ended.code = await runCommand(words)
  } catch (error) {
    const { text, exitCode } = errorMessage(error, false)
    printError(text)
    ended.code = exitCode
  } finally {
    vi.unstubAllEnvs()
    for (const spy of spies) spy.mockRestore()
  }
  return ended
}

function isRunning(child: ChildProcess): boolean {
  return child.exitCode === null && child.signalCode === null
}

function watched(child: ChildProcess): Typed {
  const texts = { stdout: '', stderr: '' }
  for (const name of ['stdout', 'stderr'] as const) {
    child[name]?.setEncoding('utf8').on('data', (chunk: string) => {
      texts[name] += chunk
    })
  }
  let isClosed = false
  child.once('close', () => {
    isClosed = true
  })
  const all = () => texts.stdout + texts.stderr
  return {
    child,
    stdout: () => texts.stdout,
    stderr: () => texts.stderr,
    async printed(text) {
      await until(() => {
        if (new RegExp(text).test(all())) return true
        if (isClosed) throw new Error(`ended without printing ${text}: ${all()}`)
        return false
      }, DEADLINE_MS)
    },
    signal: (signal) => void child.kill(signal),
    async ended() {
      await until(() => isClosed, DEADLINE_MS).catch(() => {
        throw new Error(`did not end; it printed ${all()}`)
      })
      return child.exitCode
    },
  }
}
