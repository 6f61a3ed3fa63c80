// Child processes of the benchmark: started with a channel, asked by messages, measured by their CPU.
import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'

const CLOCK_TICKS_PER_SECOND = 100

/** A script of this folder, or a command of posthorn. */
export function startChild(
  script: string,
  words: string[],
  env: NodeJS.ProcessEnv = {},
): ChildProcess {
  return fork(join(import.meta.dirname, script), words, {
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'inherit', 'ipc'],
  })
}

// biome-ignore lint/suspicious/noExplicitAny: each child says something else
export async function nextMessage(child: ChildProcess): Promise<any> {
  const [message] = await Promise.race([
    once(child, 'message'),
    once(child, 'exit').then(([code]) => {
      throw new Error(`a process of the benchmark ended with ${code}`)
    }),
  ])
  return message
}

/** Asks it to stop; resolves with what it logged on stopping. */
export async function stopChild(
  child: ChildProcess,
  stoppedLine: string,
): Promise<Record<string, number>> {
  const lines: string[] = []
  let rest = ''
  child.stdout?.on('data', (chunk: Buffer) => {
    const parts = (rest + chunk.toString()).split('\n')
    rest = parts.pop() as string
    lines.push(...parts.filter((line) => line.includes(stoppedLine)))
  })
  const exited = once(child, 'exit')
  child.kill('SIGTERM')
  await exited
  return JSON.parse(lines.at(-1) ?? '{}')
}

/** CPU of a process so far, in microseconds (Linux; elsewhere 0). */
export function cpuUsOf(child: ChildProcess): number {
  try {
    const fields = readFileSync(`/proc/${child.pid}/stat`, 'utf8').split(') ')[1]?.split(' ') ?? []
    return (Number(fields[11]) + Number(fields[12])) * (1_000_000 / CLOCK_TICKS_PER_SECOND)
  } catch {
    return 0
  }
}
