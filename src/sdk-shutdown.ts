// Makes an OpenTelemetry SDK shut down after Posthorn. The documented setup shuts it down in a
// handler of SIGTERM: spans of attempts that end within SHUTDOWN_GRACE would come too late.
import { setTimeout as sleep } from 'node:timers/promises'
import { flushSpans } from './tracing.ts'

const SIGNALS = ['SIGTERM', 'SIGINT'] as const
/** A collector that does not respond must not delay the end of the process for longer. */
const DEADLINE_MS = 3_000

type Handler = (signal: NodeJS.Signals) => unknown

/**
 * Removes the signal handlers that exist. Call it before Posthorn installs its own: until then only
 * modules that the user has loaded (`node --import`) have installed handlers.
 *
 * @returns a function to await at the end: it exports the spans and calls these handlers
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
    // A failure here is ignored: it belongs to the SDK, which reports it.
    await Promise.race([ended().catch(() => {}), sleep(DEADLINE_MS, undefined, { ref: false })])
  }
}
