// The settings of every peer: as installed, and as the page named beside them documents for speed.
// What is not named here is the peer's own default.
import { CONNECTIONS } from '../load.ts'

export type PeerName = 'bullmq' | 'graphile-worker' | 'pg-boss' | 'agenda'

export interface PeerFacts {
  title: string
  /** When what it takes is safe on disk, with the server as bench/servers.ts starts it. */
  durability: 'every commit' | 'every second'
  /** What it is asked to do in each mode, as the table says it. */
  modes: Record<string, string>
}

/** How many jobs a peer has under way at once: as many as there are connections to send them. */
const CONCURRENCY = CONNECTIONS

export const PEERS: Record<PeerName, PeerFacts> = {
  bullmq: {
    title: 'BullMQ',
    durability: 'every second',
    modes: { installed: 'as installed', best: `concurrency ${CONCURRENCY}, done jobs removed` },
  },
  'graphile-worker': {
    title: 'Graphile Worker',
    durability: 'every commit',
    modes: {
      installed: 'as installed',
      unbatched: `concurrentJobs ${CONCURRENCY}`,
      best: `concurrentJobs ${CONCURRENCY}, localQueue, batched completion`,
    },
  },
  'pg-boss': {
    title: 'pg-boss',
    durability: 'every commit',
    modes: { best: 'batches, burst, notify' },
  },
  agenda: {
    title: 'Agenda',
    durability: 'every commit',
    modes: { installed: 'as installed', best: `concurrency ${CONCURRENCY}, processEvery 1 s` },
  },
}

/** Pages "Concurrency" (its example) and "Auto-removal of jobs" of docs.bullmq.io/guide/workers. */
export const BULLMQ: Record<
  string,
  { concurrency?: number; removeOnComplete?: { count: number } }
> = {
  installed: {},
  best: { concurrency: CONCURRENCY, removeOnComplete: { count: 0 } },
}

/** Page "Performance" of worker.graphile.org/docs, with more jobs at once than its 24: these wait
 * for an HTTP answer. maxPoolSize is concurrentJobs + 1, as there. */
export const GRAPHILE: Record<string, object> = {
  installed: {},
  unbatched: { concurrentJobs: CONCURRENCY, maxPoolSize: CONCURRENCY + 1 },
  best: {
    concurrentJobs: CONCURRENCY,
    maxPoolSize: CONCURRENCY + 1,
    localQueue: { size: 500 },
    completeJobBatchDelay: 0,
    failJobBatchDelay: 0,
  },
}

/** Page "Workers" of pgboss.io/api. As installed it takes one job every two seconds, which is no
 * speed to compare with. Two workers, so that one fetches while the other's batch is sent. */
export const PG_BOSS = {
  best: {
    instance: { useListenNotify: true },
    queue: { notify: true },
    work: {
      batchSize: 2 * CONCURRENCY,
      localConcurrency: 2,
      pollingIntervalSeconds: 0.5,
      burstWhenBatchFull: true,
    },
  },
}

/** Options of the constructor, README of agenda and docs of @agendajs/mongo-backend. The change
 * stream that they also offer wakes an idle Agenda; a backlog does not need it. Scans more often
 * than each second overlap and slow a backlog down. */
export const AGENDA: Record<string, object> = {
  installed: {},
  best: {
    maxConcurrency: CONCURRENCY,
    defaultConcurrency: CONCURRENCY,
    processEvery: 1_000,
    removeOnComplete: true,
  },
}
