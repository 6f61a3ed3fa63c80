// Lets an OpenTelemetry SDK end after Posthorn has. The documented one shuts down in a handler of
// SIGTERM: spans of attempts that end within SHUTDOWN_GRACE would come too late for it.
import { setTimeout as sleep } from 'node:timers/promises'
import { flushSpans } from './tracing.ts'

const SIGNALS = ['SIGTERM', 'SIGINT'] as const
/** A collector that is away must not hold the process. */
const DEADLINE_MS = 3_000

type Handler = (signal: NodeJS.Signals) => unknown

/**
 * To be called before Posthorn handles signals itself: handlers that are there were installed by
 * what the user has loaded (`node --import`).
 *
 * @returns to be awaited at the end: exports spans, and calls these handlers
 */
export function deferSdkShutdown(): (signal: NodeJS.Signals | undefined) => Promise<void> {
  const deferred = new Map<string, Handler[]>()
  for (const signal of SIGNALS) {
    const handlers = process.listeners(signal) as Handler[]
    deferred.set(signal, handlers)
    for (const handler of handlers) process.removeListener(signal, handler)
  }
  return async (signal) => {
    const handlers = signal === undefined ? [] : (deferred.get(signal) ?? [])
    const ended = async () => {
      await flushSpans()
      await Promise.all(handlers.map((handler) => handler(signal as NodeJS.Signals)))
    }
    // What fails here is the SDK's own, and says so itself.
    await Promise.race([ended().catch(() => {}), sleep(DEADLINE_MS, undefined, { ref: false })])
  }
}
