// The settings of each peer: as installed, and as the page named here recommends for speed. All
// other settings have the peer's defaults.
import { CONNECTIONS } from '../load.ts'

export type PeerName = 'bullmq' | 'graphile-worker' | 'pg-boss' | 'agenda'

export interface PeerFacts {
  title: string
  /** When an accepted job is safe on disk, with the server as bench/servers.ts starts it. */
  durability: 'every commit' | 'every second'
  /** The settings of each mode, as the table shows them. */
  modes: Record<string, string>
}

/** How many jobs a peer delivers at the same time: as many as there are connections. */
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

/**
 * Page "Performance" of worker.graphile.org/docs, but with more jobs at the same time than its 24,
 * because these wait for an HTTP response. maxPoolSize is concurrentJobs + 1, as on that page.
 */
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

/**
 * Page "Workers" of pgboss.io/api. As installed it takes one job every two seconds, which is too
 * slow for a comparison. There are two workers, so that one fetches while the other one sends its
 * batch.
 */
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

/**
 * Options of the constructor: README of agenda, and docs of @agendajs/mongo-backend. The change
 * stream that they also offer wakes up an idle Agenda; a backlog does not need it. Scans more often
 * than once a second overlap and slow down a backlog.
 */
export const AGENDA: Record<string, object> = {
  installed: {},
  best: {
    maxConcurrency: CONCURRENCY,
    defaultConcurrency: CONCURRENCY,
    processEvery: 1_000,
    removeOnComplete: true,
  },
}
