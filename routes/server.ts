// The API process: validates, stores and responds; it delivers nothing.
import { readFileSync } from 'node:fs'
import type { FastifyInstance } from 'fastify'
import type { Logger } from 'pino'
import { type Config, ConfigError, fromSetting } from '../src/config.ts'
import { listenAt } from '../src/http/listening.ts'
import { isLoopbackName } from '../src/http/loopback.ts'
import { createLogger } from '../src/log.ts'
import { type ApiMetrics, createApiMetrics } from '../src/stats/metrics.ts'
import { MinuteStatReports } from '../src/stats/minute-stat-reports.ts'
import { createMinuteStatsBuffer } from '../src/stats/minute-stats-buffer.ts'
import { stopOnSignal } from '../src/stop-on-signal.ts'
import { openStore } from '../src/store/open-store.ts'
import type { Store } from '../src/store/store.ts'
import { Upkeep } from '../src/upkeep/upkeep.ts'
import { VERSION } from '../src/version.ts'
import { createAddressPolicy } from '../src/webhook/address-policy.ts'
import { createSender } from '../src/webhook/send.ts'
import { buildApp } from './app.ts'

/** Test pings are rare. */
const PING_CONNECTIONS = 10
/** How long a stopping API lets requests finish before it closes their connections. */
const CLOSE_DEADLINE_MS = 5_000
const STOP_DEADLINE_MS = 2 * CLOSE_DEADLINE_MS
/**
 * Node does not close a connection after a response that was sent while the server closes. This
 * check closes it.
 */
const IDLE_CHECK_MS = 50

/**
 * Starts the API; resolves with its URL once it listens. Throws if it cannot start.
 *
 * @param mayCreate false: a store that is missing or has an older schema is an error
 */
export async function startApi(config: Config, { mayCreate = true } = {}): Promise<string> {
  const log = createLogger('api', config.LOG_LEVEL)
  const localMode = config.API_KEYS === null
  refuseOpenDoor(config.HOST, localMode)
  const allowedTargets = config.ALLOWED_TARGETS ?? []
  const policy = fromSetting('ALLOWED_TARGETS', () =>
    createAddressPolicy({ allowedTargets, allowLoopback: localMode }),
  )
  const store = await openStore(config.STORE_URL, {
    retentionMs: config.RETENTION,
    retentionDeadMs: config.RETENTION_DEAD,
    encryptionKeys: config.ENCRYPTION_KEY,
    ...{ outbox: config.OUTBOX, changeStream: config.CHANGE_STREAM === 'on' },
    warn: (fields, message) => log.warn(fields, message),
    error: (fields, message) => log.error(fields, message),
    mayCreate,
  })
  let publicUrl = config.PUBLIC_URL
  await store.writeApiMode({ localMode, publicUrl })
  const certificatesPath = config.EXTRA_CA_CERTS
  const sender = fromSetting('EXTRA_CA_CERTS', () =>
    createSender({
      connections: PING_CONNECTIONS,
      policy: () => policy,
      extraCaCerts: certificatesPath === null ? null : readFileSync(certificatesPath, 'utf8'),
      now: () => store.clock.now(),
    }),
  )
  const minuteStats = createMinuteStatsBuffer()
  const metrics = createApiMetrics(() => store.commandCount)
  const app = await buildApp({
    store,
    policy,
    sender,
    minuteStats,
    publicUrl: () => publicUrl,
    // Fastify's own lines at level info add nothing to those of Posthorn.
    log: log.child({}, { level: log.isLevelEnabled('warn') ? 'warn' : log.level }),
    attemptLog: log,
    apiKeys: config.API_KEYS ?? [],
    maxBodyBytes: config.MAX_BODY_BYTES,
    version: VERSION,
    metrics,
  })
  const { HOST: host, PORT: port } = config
  const url = await listenAt({ host, portSetting: 'PORT' }, () => app.listen({ host, port }))
  if (publicUrl === null && localMode) {
    await store.writeApiMode({ localMode, publicUrl: url })
    publicUrl = url
  }
  const reports = new MinuteStatReports(store, minuteStats, log)
  const upkeep = createUpkeep(config, store, metrics, log)
  for (const part of [reports, upkeep]) part.start()
  stopOnSignal({
    log,
    withinMs: STOP_DEADLINE_MS,
    async stop({ err, signal }) {
      if (err) log.fatal({ err }, 'api.crashed')
      await Promise.all([closeApp(app, log), upkeep.stop()])
      await reports.stop()
      await sender.close()
      log.info({ signal, storeCommands: store.commandCount }, 'api.stopped')
      await store.close()
    },
    unfinished: () => ({ detail: 'the store did not accept the last reports' }),
  })
  // This line is logged last: a program that reads it may stop the process at once.
  log.info({ url, localMode, allowedTargets, publicUrl }, 'api.listening')
  return url
}

/** An API can do the upkeep, because a system whose endpoints are all pulled needs no worker. */
function createUpkeep(config: Config, store: Store, metrics: ApiMetrics, log: Logger): Upkeep {
  const role = { name: 'api', isStandby: true, lacksKey: () => false }
  const { onSwept, onOutbox } = metrics
  return new Upkeep(store, config, { ...role, onSwept, onOutbox }, log)
}

function refuseOpenDoor(host: string, localMode: boolean): void {
  if (!localMode || isLoopbackName(host)) return
  throw new ConfigError(
    `HOST is "${host}", which others can reach, but no API key is set. Set API_KEYS to a key of your ` +
      'own (for instance: API_KEYS=$(openssl rand -hex 24)), or leave HOST at 127.0.0.1.',
  )
}

/**
 * Closes the listeners and ends all waits at once, then closes each connection when it is idle. At
 * the deadline it closes all of them.
 */
async function closeApp(app: FastifyInstance, log: Logger): Promise<void> {
  const idleTimer = setInterval(() => app.server.closeIdleConnections(), IDLE_CHECK_MS)
  const deadlineTimer = setTimeout(() => {
    log.warn('api.closing_connections')
    app.server.closeAllConnections()
  }, CLOSE_DEADLINE_MS)
  await app.close()
  clearInterval(idleTimer)
  clearTimeout(deadlineTimer)
}
