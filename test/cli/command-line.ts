// The posthorn command as a user types it: real processes, and what they printed.
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { until } from '../support/until.ts'

const CLI = join(import.meta.dirname, '../../cli/posthorn.ts')
const COMPILE_CACHE = join(tmpdir(), 'posthorn-compile-cache')
const DEADLINE_MS = 30_000

interface Typed {
  child: ChildProcess
  stdout: () => string
  stderr: () => string
  /** Resolves once it has printed this, to whichever stream. */
  printed(text: string | RegExp): Promise<void>
  /** Sends it a signal. */
  signal(signal: NodeJS.Signals): void
  /** Its exit code; rejects when it does not end in time. */
  ended(): Promise<number | null>
}

export interface Shell {
  /** Where commands run, and their files are. */
  folder: string
  env: Record<string, string>
  /** `posthorn WORDS`, its input ended. */
  start(words: string[], more?: { env?: Record<string, string>; input?: string }): Typed
  /** The same, once it has ended. */
  run(
    words: string[],
    more?: { env?: Record<string, string>; input?: string },
  ): Promise<{ code: number | null; stdout: string; stderr: string }>
  /** A line as bash reads it, with `posthorn` on the path. */
  line(text: string, env?: Record<string, string>): Typed
  /** Several lines, which end where one fails. */
  script(text: string, env?: Record<string, string>): Typed
  write(name: string, text: string | Uint8Array): string
  /** Ends what still runs. */
  close(): Promise<void>
}

/** @param env of every command, such as POSTHORN_URL */
export function openShell(env: Record<string, string> = {}): Shell {
  const folder = mkdtempSync(join(tmpdir(), 'posthorn-cli-'))
  const command = join(folder, 'posthorn')
  writeFileSync(command, `#!/bin/sh\nexec "${process.execPath}" "${CLI}" "$@"\n`)
  chmodSync(command, 0o700)
  const running: ChildProcess[] = []
  const base = { NODE_COMPILE_CACHE: COMPILE_CACHE, ...env }

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
      begin(process.execPath, [CLI, ...words], more.env ?? {}, more.input),
    async run(words, more) {
      const typed = shell.start(words, more)
      return { code: await typed.ended(), stdout: typed.stdout(), stderr: typed.stderr() }
    },
    // exec: a signal is for the command, not for bash.
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
