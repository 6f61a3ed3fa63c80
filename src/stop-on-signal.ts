// Stops a process of Posthorn on a signal or a crash, within a limited time: a container runtime
// kills a process that takes longer, and then nothing is logged.
import { setTimeout as sleep } from 'node:timers/promises'
import closeWithGrace from 'close-with-grace'
import type { Logger } from 'pino'
import { flushLog } from './log.ts'
import { deferSdkShutdown } from './sdk-shutdown.ts'

/**
 * Signals that the system sends to a process whose own instruction failed. Posthorn keeps their
 * default action, which ends the process: a handler would return to the same instruction and fail
 * again, forever.
 */
const CRASH_SIGNALS = ['SIGILL', 'SIGTRAP', 'SIGABRT', 'SIGBUS', 'SIGFPE', 'SIGSEGV'] as const
/** The least time for an OpenTelemetry SDK to export its spans; the log is flushed meanwhile. */
const LAST_MS = 1_000

export interface StopParts {
  log: Logger
  /** Limit of `stop`. The process ends within a second more. */
  withinMs: number
  /** Called once; `err` is what the process crashed with. */
  stop(cause: { err?: unknown; signal?: NodeJS.Signals | undefined }): Promise<void>
  /** Describes the work that was not done; logged if the time is over before `stop` has ended. */
  unfinished(): object
}

/**
 * The exit code is 0, or 1 after a crash or if the time was over before `stop` had ended.
 * Must be called once, after an OpenTelemetry SDK has installed its handlers.
 */
export function stopOnSignal({ log, withinMs, stop, unfinished }: StopParts): void {
  const endSdk = deferSdkShutdown()
  closeWithGrace({ delay: false, skip: [...CRASH_SIGNALS] }, async ({ err, signal }) => {
    const endsAtMs = performance.now() + withinMs
    const stopped = stop({ err, signal }).then(() => true)
    const isStopped = await Promise.race([stopped, sleep(withinMs, false)])
    if (!isStopped) log.error({ withinMs, ...unfinished() }, 'stop.timed_out')
    const leftMs = Math.max(LAST_MS, endsAtMs - performance.now())
    await Promise.all([Promise.race([endSdk(signal), sleep(leftMs)]), flushLog(log)])
    if (!isStopped) process.exit(1)
  })
}
