// A load of an even pace, whatever becomes of the store: some clients, each waiting for its answer.
import { setTimeout as sleep } from 'node:timers/promises'
import type { Fixture } from './fixture.ts'
import type { Engine } from './history.ts'
import type { Accepted, WorkRequest } from './work-client.ts'

export interface SteadyLoad {
  /** Enqueues that are not answered yet. */
  pendingCount(): number
  accepted: Accepted[]
  /** Resolves when the last one is answered. */
  stop(): Promise<void>
}

/** Some 100 jobs a second; the stand-in for MongoDB, at 10 ms for a write, is given fewer. */
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

  // Settled, not failed: whatever went wrong is thrown by stop, where somebody waits for it.
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
