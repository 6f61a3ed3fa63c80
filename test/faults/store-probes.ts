// Sends all kinds of requests to the API while its store is away. Each must get a correct response
// soon.
import { setTimeout as sleep } from 'node:timers/promises'
import type { Fixture } from './fixture.ts'
import { nowMs } from './history.ts'

interface Probe {
  method: string
  path: string
  /**
   * The request concerns the process only, so that an outage of the store does not excuse a
   * failure.
   */
  isOfProcess?: boolean
}

export interface StoreProbes {
  /** The longest wait for a response, for each kind of request, in milliseconds. */
  longestMs: Map<string, number>
  /** How many responses were 503. */
  refusedCount(): number
  stop(): Promise<void>
}

const PAUSE_MS = [50, 250] as const
const PROBED = 'probed'

/** @param jobId a stored job */
export async function startStoreProbes(fixture: Fixture, jobId: string): Promise<StoreProbes> {
  await fixture.register(PROBED)
  const probes: Probe[] = [
    { method: 'GET', path: `/jobs/${jobId}` },
    { method: 'GET', path: '/jobs?limit=5' },
    { method: 'GET', path: `/endpoints/${PROBED}` },
    { method: 'GET', path: '/stats' },
    { method: 'GET', path: '/health/ready' },
    { method: 'GET', path: '/health/live', isOfProcess: true },
    // This is a write that changes nothing for the jobs of the round.
    { method: 'POST', path: `/endpoints/${PROBED}/pause` },
  ]
  let isOver = false
  const longestMs = new Map<string, number>()
  let refusedCount = 0

  async function ask(probe: Probe): Promise<void> {
    const { method, path, isOfProcess = false } = probe
    const sentAtMs = nowMs()
    const answer = await fixture.client.request(method, path)
    const name = `${method} ${path.replace(jobId, ':id')}`
    longestMs.set(name, Math.max(longestMs.get(name) ?? 0, nowMs() - sentAtMs))
    if (answer === null) return fixture.complain(`${method} ${path} was not answered`)
    const { status, headers } = answer
    if (status === 200) return
    if (status !== 503 || isOfProcess) {
      fixture.complain(`${method} ${path} was answered by ${status}`)
    } else if (path !== '/health/ready' && headers['retry-after'] === undefined) {
      fixture.complain(`${method} ${path} was answered by 503 without Retry-After`)
    }
    refusedCount += 1
  }

  const ended = Promise.all(
    probes.map(async (probe) => {
      while (!isOver) {
        await ask(probe)
        await sleep(fixture.random.between(...PAUSE_MS))
      }
    }),
  )
  return {
    longestMs,
    refusedCount: () => refusedCount,
    async stop() {
      isOver = true
      await ended
    },
  }
}
