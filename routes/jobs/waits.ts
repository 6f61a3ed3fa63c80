// GET ?wait: all who wait in this process share one look-up, and hold no connection of the store.
import type { Socket } from 'node:net'
import type { Store } from '../../src/store/store.ts'

/** How often the jobs waited for are looked up while somebody waits. */
const LOOK_INTERVAL_MS = 50
const MAX_IDS_PER_LOOK = 1_000
/** However many wait, looking for them takes at most a fifth of this process's time. */
const REST_PER_LOOK = 4
/** A store that was away is not made to look slow. */
const MAX_LOOK_INTERVAL_MS = 1_000
/** Beyond this a wait ends at once: the answer is then the job as it stands. */
const MAX_WAITS = 10_000

export interface JobWaits {
  /**
   * Resolves when the job is final or gone, the time is over, the one who asked has left, or the
   * process stops.
   */
  untilFinal(id: string, waitMs: number, asker: Socket): Promise<void>
  stop(): void
}

export function createJobWaits(store: Pick<Store, 'finalAmong'>): JobWaits {
  const endsById = new Map<string, Set<() => void>>()
  let waitCount = 0
  let timer: NodeJS.Timeout | null = null
  let isStopped = false

  async function look(): Promise<void> {
    const startedAtMs = performance.now()
    const ids = [...endsById.keys()]
    for (let i = 0; i < ids.length; i += MAX_IDS_PER_LOOK) {
      // A store that does not answer ends no wait; each has its own deadline.
      const final = await store.finalAmong(ids.slice(i, i + MAX_IDS_PER_LOOK)).catch(() => [])
      for (const id of final) endsById.get(id)?.forEach((end) => void end())
    }
    const restMs = Math.min(
      MAX_LOOK_INTERVAL_MS,
      Math.max(LOOK_INTERVAL_MS, REST_PER_LOOK * (performance.now() - startedAtMs)),
    )
    timer = endsById.size === 0 ? null : setTimeout(() => void look(), restMs)
  }

  return {
    untilFinal(id, waitMs, asker) {
      if (isStopped || waitCount >= MAX_WAITS || waitMs === 0) return Promise.resolve()
      return new Promise((resolve) => {
        const ends = endsById.get(id) ?? new Set()
        const end = () => {
          clearTimeout(deadline)
          asker.off('close', end)
          ends.delete(end)
          if (ends.size === 0) endsById.delete(id)
          waitCount--
          resolve()
        }
        const deadline = setTimeout(end, waitMs)
        asker.once('close', end)
        ends.add(end)
        endsById.set(id, ends)
        waitCount++
        timer ??= setTimeout(() => void look(), 0)
      })
    },
    stop() {
      isStopped = true
      if (timer !== null) clearTimeout(timer)
      for (const ends of [...endsById.values()]) for (const end of [...ends]) end()
    },
  }
}
