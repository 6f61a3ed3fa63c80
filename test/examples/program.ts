// One program of the examples, started by the line that its page prints, in a process of its own.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { until } from '../support/until.ts'

export const ROOT = join(import.meta.dirname, '../..')
/** A compiler may have to start first, on a busy machine. */
const START_DEADLINE_MS = 90_000
const STOP_DEADLINE_MS = 10_000

export interface Program {
  url: string
  printed(): string
  /** Sends a signal to the program and all its children. */
  signal(signal: NodeJS.Signals): void
  /** Ends the program and all its children. */
  stop(signal?: NodeJS.Signals): Promise<void>
}

/** Resolves once it has printed the port that it listens on. */
export async function startProgram(
  line: string,
  env: Record<string, string>,
  cwd = ROOT,
): Promise<Program> {
  const { PATH, HOME } = process.env as Record<string, string>
  const child = spawn('bash', ['-c', line], {
    cwd,
    env: { PATH, HOME, PORT: '0', ...env } as Record<string, string>,
    stdio: ['ignore', 'pipe', 'pipe'],
    // The program has a process group of its own, so that the children of a shell or npm end with
    // it.
    detached: true,
  })
  const closed = once(child, 'close')
  let printed = ''
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (chunk: Buffer) => {
      printed += chunk.toString()
    })
  }
  function send(signal: NodeJS.Signals): void {
    try {
      process.kill(-(child.pid as number), signal)
    } catch (error) {
      // The program has ended already.
      if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error
    }
  }
  async function stop(signal: NodeJS.Signals = 'SIGKILL'): Promise<void> {
    send(signal)
    const timer = setTimeout(() => send('SIGKILL'), STOP_DEADLINE_MS)
    await closed
    clearTimeout(timer)
  }
  const port = () => /listening on port (\d+)/.exec(printed)?.[1]
  try {
    await until(() => {
      if (child.exitCode !== null) throw new Error(`it ended with ${child.exitCode}: ${printed}`)
      return port() !== undefined
    }, START_DEADLINE_MS)
  } catch (error) {
    await stop()
    throw new Error(`${line}\n${printed}`, { cause: error })
  }
  return { url: `http://127.0.0.1:${port()}`, printed: () => printed, signal: send, stop }
}

/** The shell blocks of a page of the examples, in order. */
export function blocksOf(page: string): string[] {
  const text = readFileSync(join(ROOT, 'examples', page), 'utf8')
  return [...text.matchAll(/```sh\n(.*?)```/gs)].map((match) => (match[1] as string).trim())
}
