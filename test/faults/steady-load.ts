// A load at a steady pace, whatever happens to the store: some clients, each of which waits for its
// response.
import { setTimeout as sleep } from 'node:timers/promises'
import type { Fixture } from './fixture.ts'
import type { Engine } from './history.ts'
import type { Accepted, WorkRequest } from './work-client.ts'

export interface SteadyLoad {
  /** Enqueues without a response so far. */
  pendingCount(): number
  accepted: Accepted[]
  /** Resolves when the last one has its response. */
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

  // Settled, not failed: stop() throws the errors, because it is awaited.
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
