// A load that some clients send, whatever happens to the store. Each client waits for its response
// before it sends the next request.
import { setTimeout as sleep } from 'node:timers/promises'
import type { Fixture } from './fixture.ts'
import type { Engine } from './history.ts'
import type { Accepted, WorkRequest } from './work-client.ts'

export interface SteadyLoad {
  /** How many enqueues have no response so far. */
  pendingCount(): number
  accepted: Accepted[]
  /** Ends the load. Resolves when the last request has its response. */
  stop(): Promise<void>
}

/** About 100 jobs a second; fewer for the stand-in for MongoDB, which takes 10 ms for a write. */
const CLIENTS: Record<Engine, number> = { sqlite: 8, mongo: 3 }
const PAUSE_MS: Record<Engine, readonly [number, number]> = { sqlite: [40, 120], mongo: [60, 180] }

export function startSteadyLoad(
  fixture: Fixture,
  workOf: () => WorkRequest,
  clients = CLIENTS[fixture.engine],
  pauseMs = PAUSE_MS[fixture.engine],
): SteadyLoad {
  const { client, random } = fixture
  const accepted: Accepted[] = []
  let pendingCount = 0
  let isOver = false

  async function oneClient(): Promise<void> {
    while (!isOver) {
      pendingCount += 1
      try {
        accepted.push(await client.enqueue(workOf()))
      } finally {
        pendingCount -= 1
      }
      await sleep(random.between(...pauseMs))
    }
  }

  // This promise never rejects. stop() awaits it and throws the errors.
  const ended = Promise.allSettled(Array.from({ length: clients }, oneClient))
  return {
    pendingCount: () => pendingCount,
    accepted,
    async stop() {
      isOver = true
      for (const one of await ended) if (one.status === 'rejected') throw one.reason
    },
  }
}
