// Assembles a worker from its parts: delivery loop, lease renewal, upkeep and reports.
import { readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Logger } from 'pino'
import { type Config, fromSetting } from '../src/config.ts'
import type { Lease } from '../src/job/job.ts'
import { createAttemptCounts } from '../src/stats/attempt-counts.ts'
import { createWorkerMetrics, type WorkerMetrics } from '../src/stats/metrics.ts'
import { MinuteStatReports } from '../src/stats/minute-stat-reports.ts'
import { createMinuteStatsBuffer } from '../src/stats/minute-stats-buffer.ts'
import type { HeartbeatResult, Store } from '../src/store/store.ts'
import { StoreUnavailable } from '../src/store/store-errors.ts'
import { Upkeep } from '../src/upkeep/upkeep.ts'
import { VERSION } from '../src/version.ts'
import { createAddressPolicy } from '../src/webhook/address-policy.ts'
import { createSender } from '../src/webhook/send.ts'
import { deliverJob } from './deliver-job.ts'
import { DeliveryLoop } from './delivery-loop.ts'
import { createEndpointCache } from './endpoint-cache.ts'
import { createHealthReports } from './health-reports.ts'
import { LeaseRenewal } from './lease-renewal.ts'
import { createOwnFaults } from './own-faults.ts'
import { createSettler } from './settler.ts'
import { WorkerReports } from './worker-reports.ts'
import { createWritePacer } from './write-pacer.ts'

const STOP_CHECK_MS = 20

export interface Worker {
  metrics: WorkerMetrics
  /** Attempts in flight, or ended with an outcome that is not stored yet. */
  unsettledCount(): number
  /** This worker has found an endpoint that none of its keys decrypts. */
  lacksKey(): boolean
  start(): void
  /**
   * Waits for attempts within the grace period, interrupts the rest, stores their outcomes, and
   * writes all reports. While the store is unavailable it does not resolve: the caller limits it.
   */
  stop(): Promise<void>
}

/** @throws ConfigError if ALLOWED_TARGETS or EXTRA_CA_CERTS cannot be used */
export function createWorker(
  config: Config,
  store: Store,
  { workerId, log }: { workerId: string; log: Logger },
): Worker {
  const surroundings = watchSurroundings(config, store)
  const { sender, endpoints, publicUrl } = surroundings
  const { LEASE_DURATION: leaseMs, WORKER_CONCURRENCY: concurrency } = config
  const metrics = createWorkerMetrics({
    concurrency,
    unsettledCount: () => loop.unsettledCount,
    unstoredCount: () => loop.unstoredCount,
    commandCount: () => store.commandCount,
  })
  const minuteStats = createMinuteStatsBuffer()
  const countEnd = createAttemptCounts({ minuteStats, metrics, log })
  // Counts the attempts and jobs that the sweep of this process ends.
  store.onEnd(countEnd)
  const pacer = createWritePacer(concurrency)
  const leases = new LeaseRenewal(store, leaseMs, log)
  const settler = createSettler({
    ...{ store, pacer, log, afterRenewals: () => leases.written() },
    onBatch: (size) => metrics.onBatch('settle', size),
  })
  const ownFaults = createOwnFaults(concurrency, log)
  const health = createHealthReports(store, endpoints.forget, log)
  const delivery = {
    ...{ clock: store.clock, sender, leases, settle: settler.settle, health, countEnd, metrics },
    ...{ issueToken: store.attemptTokens.issue, publicUrl, workerId, log, ownFaults },
    release: (lease: Lease) => store.release([lease]),
    endOf: (lease: Lease) => endOf(store, lease),
  }
  const loop: DeliveryLoop = new DeliveryLoop({
    ...{ store, endpoints, workerId, concurrency, leaseMs, pacer, leases, log },
    affordable: settler.affordable,
    deliver: (...attempt) => deliverJob(delivery, ...attempt),
    pollIntervalMs: config.POLL_INTERVAL,
    slots: ownFaults.slots,
    onClaimed: (jobCount) => metrics.onBatch('claim', jobCount),
  })
  const { onSwept, onOutbox } = metrics
  const lacksKey = () => loop.lacksKey
  const role = { name: workerId, isStandby: false, lacksKey }
  const upkeep = new Upkeep(store, config, { ...role, onSwept, onOutbox }, log)
  const statReports = new MinuteStatReports(store, minuteStats, log)
  const self = { id: workerId, version: VERSION, startedAt: store.clock.now(), concurrency }
  const keyIds = () => store.encryptionKeyIds()
  const report = () => ({ ...self, inFlight: loop.inFlightCount, keyIds: keyIds() })
  const reports = new WorkerReports(store, report, log)
  return {
    metrics,
    ...{ unsettledCount: () => loop.unsettledCount, lacksKey },
    start() {
      for (const part of [leases, loop, upkeep, statReports, reports]) part.start()
    },
    async stop() {
      // Both stop at the same time: the upkeep may wait for the store, and the worker must not
      // claim jobs meanwhile. Another process takes over the upkeep while the last attempts end.
      const delivered = stopDelivering(loop, leases, config.SHUTDOWN_GRACE)
      await Promise.all([upkeep.stop(), delivered])
      await health.drained()
      for (const part of [statReports, reports]) await part.stop()
      await sender.close()
    },
  }
}

/** Why a lease ended. It no longer holds the job, so this heartbeat writes nothing. */
async function endOf(store: Store, lease: Lease): Promise<HeartbeatResult['kind']> {
  const none = { progress: null, extendMs: null, completionTimeoutMs: 0 }
  try {
    return (await store.heartbeat(lease, none)).kind
  } catch (error) {
    // The store is unavailable, and the lease was lost because of that.
    if (!(error instanceof StoreUnavailable)) throw error
    return 'lease_lost'
  }
}

/** The sender and the endpoint cache: both depend on the mode and the URL that the API stored. */
function watchSurroundings(config: Config, store: Store) {
  const allowedTargets = config.ALLOWED_TARGETS ?? []
  const policyFor = (allowLoopback: boolean) =>
    fromSetting('ALLOWED_TARGETS', () => createAddressPolicy({ allowedTargets, allowLoopback }))
  const policies = { local: policyFor(true), other: policyFor(false) }
  let policy = policies.other
  let publicUrl = config.PUBLIC_URL
  const certificatesPath = config.EXTRA_CA_CERTS
  const sender = fromSetting('EXTRA_CA_CERTS', () =>
    createSender({
      connections: config.WORKER_CONCURRENCY,
      policy: () => policy,
      extraCaCerts: certificatesPath === null ? null : readFileSync(certificatesPath, 'utf8'),
      now: () => store.clock.now(),
    }),
  )
  const endpoints = createEndpointCache(store, (mode) => {
    policy = mode?.localMode ? policies.local : policies.other
    publicUrl = mode?.publicUrl ?? config.PUBLIC_URL
  })
  return { sender, endpoints, publicUrl: () => publicUrl }
}

/** Stops claiming, waits for attempts within the grace period, and interrupts the rest. */
async function stopDelivering(
  loop: DeliveryLoop,
  leases: LeaseRenewal,
  graceMs: number,
): Promise<void> {
  const graceEndsAtMs = performance.now() + graceMs
  // A claim in progress can take longer than the grace period. It starts no more attempts.
  const claimed = loop.stop()
  await untilIdle(loop, graceEndsAtMs)
  leases.abortAll('interrupted')
  await untilIdle(loop, Number.POSITIVE_INFINITY)
  await claimed
  leases.stop()
}

/** @param untilMs monotonic */
async function untilIdle(loop: DeliveryLoop, untilMs: number): Promise<void> {
  while (loop.unsettledCount > 0 && performance.now() < untilMs) await sleep(STOP_CHECK_MS)
}
