// Child processes of the benchmark: started with a channel for messages, and measured by their CPU.
import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, openSync, readFileSync } from 'node:fs'
import { join } from 'node:path'

const CLOCK_TICKS_PER_SECOND = 100

export interface Child {
  process: ChildProcess
  /** File of its log. A pipe would cost the benchmark CPU that it is supposed to measure. */
  logPath: string
}

const running = new Set<ChildProcess>()

/** Ends with the benchmark if the benchmark is interrupted. */
export function endWithRun(child: ChildProcess): void {
  running.add(child)
  child.once('exit', () => running.delete(child))
}

export function endAll(): void {
  for (const child of running) child.kill('SIGKILL')
}

/** A script of this folder, or a command of posthorn. */
export function startChild(
  script: string,
  words: string[],
  { env = {}, logPath = '/dev/null' }: { env?: NodeJS.ProcessEnv; logPath?: string } = {},
): Child {
  const log = openSync(logPath, 'a')
  const child = fork(join(import.meta.dirname, script), words, {
    env: { ...process.env, ...env },
    stdio: ['ignore', log, 'inherit', 'ipc'],
  })
  closeSync(log)
  child.setMaxListeners(0)
  endWithRun(child)
  return { process: child, logPath }
}

// biome-ignore lint/suspicious/noExplicitAny: each child says something else
export async function nextMessage({ process: child }: Child): Promise<any> {
  const [message] = await Promise.race([
    once(child, 'message'),
    once(child, 'exit').then(([code]) => {
      throw new Error(`a process of the benchmark ended with ${code}`)
    }),
  ])
  return message
}

/** Stops it; resolves with the last line of its log. */
export async function stopChild({
  process: child,
  logPath,
}: Child): Promise<Record<string, number>> {
  const exited = once(child, 'exit')
  child.kill('SIGTERM')
  await exited
  return JSON.parse(readFileSync(logPath, 'utf8').trimEnd().split('\n').at(-1) ?? '{}')
}

/** CPU of a process so far, in microseconds (Linux; elsewhere 0). */
export function cpuUsOf({ process: child }: Child): number {
  try {
    const fields = readFileSync(`/proc/${child.pid}/stat`, 'utf8').split(') ')[1]?.split(' ') ?? []
    return (Number(fields[11]) + Number(fields[12])) * (1_000_000 / CLOCK_TICKS_PER_SECOND)
  } catch {
    return 0
  }
}

/**
 * CPU so far of a process and all its descendants, ended ones included, in microseconds (Linux;
 * elsewhere 0).
 */
export function cpuUsOfTree(pid: number): number {
  try {
    const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]?.split(' ') ?? []
    // User and system time of the process, then the same of its children that ended.
    const ticks = fields.slice(11, 15).reduce((sum, field) => sum + Number(field), 0)
    const children = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim().split(' ')
    const below = children
      .filter((child) => child !== '')
      .map((child) => cpuUsOfTree(Number(child)))
    return below.reduce((sum, us) => sum + us, ticks * (1_000_000 / CLOCK_TICKS_PER_SECOND))
  } catch {
    return 0
  }
}
