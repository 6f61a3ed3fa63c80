// The worker process: opens the store, runs a worker (worker.ts) with its port, and stops both on a
// signal.
import { type Config, newWorkerId } from '../src/config.ts'
import type { HealthServer, HealthServerParts } from '../src/http/health-server.ts'
import { createLogger } from '../src/log.ts'
import { stopOnSignal } from '../src/stop-on-signal.ts'
import { openStore } from '../src/store/open-store.ts'
import { VERSION } from '../src/version.ts'
import { createWorker } from './worker.ts'

/**
 * After the grace period: the time to store the outcomes of interrupted attempts. More than a write
 * to the store may take, and the default grace with it is less than the 30 s that Kubernetes waits.
 */
const STOP_OVERRUN_MS = 3_000
const UNSTORED =
  'the store did not accept the outcomes of these attempts; their leases expire and the jobs are sent again'

/** Starts the worker. Resolves with its id once it polls; throws if it cannot start. */
export async function startWorker(config: Config): Promise<string> {
  const workerId = config.WORKER_ID ?? newWorkerId()
  const log = createLogger('worker', config.LOG_LEVEL)
  const store = await openStore(config.STORE_URL, {
    retentionMs: config.RETENTION,
    retentionDeadMs: config.RETENTION_DEAD,
    encryptionKeys: config.ENCRYPTION_KEY,
    outbox: config.OUTBOX,
    changeStream: config.CHANGE_STREAM === 'on',
    warn: (fields, message) => log.warn(fields, message),
    error: (fields, message) => log.error(fields, message),
    mayCreate: false,
    reencrypts: false,
  })
  const worker = createWorker(config, store, { workerId, log })
  let isStopping = false
  const port = await openPort(config, {
    apiKeys: config.API_KEYS ?? [],
    metrics: worker.metrics.text,
    storeReady: () => store.ready(),
    isStopping: () => isStopping,
    lacksKey: worker.lacksKey,
    log,
  })
  worker.start()
  stopOnSignal({
    log,
    withinMs: config.SHUTDOWN_GRACE + STOP_OVERRUN_MS,
    async stop({ err, signal }) {
      isStopping = true
      if (err) log.fatal({ err }, 'worker.crashed')
      else log.info({ signal, inFlight: worker.unsettledCount() }, 'worker.stopping')
      await worker.stop()
      await port?.close()
      log.info({ storeCommands: store.commandCount }, 'worker.stopped')
      await store.close()
    },
    unfinished: () => ({ outcomes: worker.unsettledCount(), detail: UNSTORED }),
  })
  // Logged last: a reader of this line may send the stop signal at once.
  const allowedTargets = config.ALLOWED_TARGETS ?? []
  log.info({ workerId, version: VERSION, allowedTargets, url: port?.url }, 'worker.started')
  return workerId
}

/** Fastify takes 12 MB, which a worker without a port does not need. */
async function openPort(
  { HOST: host, WORKER_PORT: port }: Config,
  parts: Omit<HealthServerParts, 'host' | 'port'>,
): Promise<HealthServer | null> {
  if (port === null) return null
  const { startHealthServer } = await import('../src/http/health-server.ts')
  return startHealthServer({ host, port, ...parts })
}
