// The worker process: claims, delivers, settles, and sweeps up what was left behind.
import { readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import closeWithGrace from 'close-with-grace'
import { type Config, fromSetting, newWorkerId } from '../src/config.ts'
import { createLogger, flushLog } from '../src/log.ts'
import { openStore } from '../src/store/open-store.ts'
import { VERSION } from '../src/version.ts'
import { createAddressPolicy } from '../src/webhook/address-policy.ts'
import { createSender } from '../src/webhook/send.ts'
import { deliverJob } from './deliver-job.ts'
import { DeliveryLoop } from './delivery-loop.ts'
import { createEndpointCache } from './endpoint-cache.ts'
import { LeaseRenewal } from './lease-renewal.ts'
import { createSettler } from './settler.ts'
import { Sweeper } from './sweeper.ts'

/** After the grace: time to store what was interrupted. */
const SETTLE_DEADLINE_MS = 5_000
const STOP_CHECK_MS = 20

/** Starts the worker; resolves with its id once it polls. Throws when it can not start. */
export async function startWorker(config: Config): Promise<string> {
  const workerId = config.WORKER_ID ?? newWorkerId()
  const log = createLogger('worker', config.LOG_LEVEL)
  const allowedTargets = config.ALLOWED_TARGETS ?? []
  const policyFor = (allowLoopback: boolean) =>
    fromSetting('ALLOWED_TARGETS', () => createAddressPolicy({ allowedTargets, allowLoopback }))
  const policies = { local: policyFor(true), other: policyFor(false) }
  let policy = policies.other
  const store = await openStore(config.STORE_URL, {
    retentionMs: config.RETENTION,
    retentionDeadMs: config.RETENTION_DEAD,
    encryptionKeys: config.ENCRYPTION_KEY,
  })
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
  })
  const settler = createSettler(store, log)
  const leases = new LeaseRenewal(store, config.LEASE_DURATION, log)
  const parts = { clock: store.clock, sender, leases, settle: settler.settle, workerId, log }
  const loop = new DeliveryLoop({
    store,
    endpoints,
    deliver: (...attempt) => deliverJob(parts, ...attempt),
    workerId,
    concurrency: config.WORKER_CONCURRENCY,
    leaseMs: config.LEASE_DURATION,
    pollIntervalMs: config.POLL_INTERVAL,
    log,
  })
  const sweeper = new Sweeper(
    store,
    { intervalMs: config.SWEEP_INTERVAL, leaseMs: config.LEASE_DURATION },
    log,
  )
  leases.start()
  loop.start()
  sweeper.start()
  log.info({ workerId, version: VERSION, allowedTargets }, 'worker.started')

  const delay = config.SHUTDOWN_GRACE + 2 * SETTLE_DEADLINE_MS
  closeWithGrace({ delay }, async ({ err, signal }) => {
    if (err) log.fatal({ err }, 'worker.crashed')
    else log.info({ signal, inFlight: loop.unsettledCount }, 'worker.stopping')
    await stopDelivering(loop, leases, config.SHUTDOWN_GRACE)
    await sweeper.stop()
    log.info({ storeCommands: store.commandCount }, 'worker.stopped')
    await sender.close()
    await store.close()
    await flushLog(log)
  })
  return workerId
}

/** No claim any more; what is in flight may finish within the grace, the rest is given back. */
async function stopDelivering(
  loop: DeliveryLoop,
  leases: LeaseRenewal,
  graceMs: number,
): Promise<void> {
  await loop.stop()
  await untilIdle(loop, graceMs)
  leases.abortAll('interrupted')
  await untilIdle(loop, SETTLE_DEADLINE_MS)
  leases.stop()
}

async function untilIdle(loop: DeliveryLoop, deadlineMs: number): Promise<void> {
  const untilMs = performance.now() + deadlineMs
  while (loop.unsettledCount > 0 && performance.now() < untilMs) await sleep(STOP_CHECK_MS)
}
