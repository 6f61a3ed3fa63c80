// The sink as the rows use it: one process for all of them.
import { type Child, nextMessage, startChild } from './processes.ts'

export interface Sink {
  url: string
  child: Child
  /** Resolves when this many different ids have come since the last call. */
  expect(count: number): Promise<Arrived>
  /** Like expect(), with the time of each arrival. */
  expectTimes(count: number): Promise<Arrived & { arrivals: Map<string, number> }>
  stop(): void
}

export interface Arrived {
  /** From the first arrival to the last one. */
  seconds: number
  distinct: number
  doubles: number
}

export async function startSink(): Promise<Sink> {
  const child = startChild('sink.ts', [])
  const { port } = await nextMessage(child)
  const ask = (order: object) => {
    const reply = nextMessage(child)
    child.process.send(order)
    return reply
  }
  return {
    url: `http://127.0.0.1:${port}/`,
    child,
    expect: (count) => ask({ expect: count }),
    async expectTimes(count) {
      const { arrivals, ...rest } = await ask({ expect: count, arrivals: true })
      return { ...rest, arrivals: new Map(arrivals) }
    },
    stop: () => {
      child.process.kill()
    },
  }
}
